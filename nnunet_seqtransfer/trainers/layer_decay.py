"""Learning rates that fall from the heads to the input: parts close to the image change least."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import Optimizer

from nnunet_seqtransfer.trainers.schedule import SCALE
from nnunet_seqtransfer.transfer.tensor_roles import depths


def parameter_groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """The parameters of a bare U-Net by depth, each group with its share of the learning rate, decay ** depth.

    Layer-wise decay is that of ELECTRA (arXiv 2003.10555) and BEiT (arXiv 2106.08254), where a layer's depth is counted
    from the output; `depths` says what it is in a U-Net. The first group are the heads, at the full rate.

    Raises StageError where the network is none of nnU-Net's U-Nets.
    """
    parameters = dict(network.named_parameters())  # lists shared ones once
    of_name = depths(parameters)
    groups: dict[int, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(of_name[name], []).append(parameter)
    return [{"params": groups[depth], SCALE: decay**depth} for depth in sorted(groups)]


def regrouped(optimizer: Optimizer, network: nn.Module, decay: float) -> Optimizer:
    """An optimiser like ``optimizer``, which has not made a step yet, with `parameter_groups` of ``network``.

    Weight decay, momentum and all else are those of ``optimizer``.
    """
    return type(optimizer)(parameter_groups(network, decay), **optimizer.defaults)
