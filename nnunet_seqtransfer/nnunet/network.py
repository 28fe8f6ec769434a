"""Build the network that nnU-Net builds from plans, or list the tensors and outputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

U_NETS = {
    f"dynamic_network_architectures.architectures.unet.{name}" for name in ("PlainConvUNet", "ResidualEncoderUNet")
}
"""U-Net classes that nnU-Net's planners choose."""


@dataclass(frozen=True)
class Outputs:
    """Outputs of a network."""

    names: tuple[str, ...]
    "Label or region for each output, in the network's order."
    regions: bool
    "True if outputs are regions with a sigmoid each; False if they are labels under one softmax."


def network_outputs(dataset_json: dict[str, Any]) -> Outputs:
    """Return the outputs that nnU-Net's LabelManager derives from the labels in a dataset.json.

    These are the labels sorted by value, including background. If any label is a region with several values, all are
    regions in the written order (as ``regions_class_order``), without background. The ignore label has no output.
    """
    labels = {
        str(name): [int(part) for part in value] if isinstance(value, list | tuple) else [int(value)]
        for name, value in dataset_json["labels"].items()
        if name != "ignore"
    }
    if any(len(values) > 1 for values in labels.values()):
        return Outputs(tuple(name for name, values in labels.items() if set(values) != {0}), regions=True)
    by_value = {values[0]: name for name, values in labels.items()}
    return Outputs(tuple(by_value[value] for value in sorted(by_value)), regions=False)


def network_tensors(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> dict[str, Tensor]:
    """Return names and shapes of all tensors for these plans, on torch's meta device."""
    with torch.device("meta"):
        tensors: dict[str, Tensor] = _build(plans, configuration, dataset_json, initialise=False).state_dict()
    return tensors


def fresh_network(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any], seed: int = 0) -> nn.Module:
    """Return the network for these plans on the CPU, initialised by nnU-Net. Equal seeds give equal values."""
    with torch.random.fork_rng(devices=()):  # leave torch's random numbers as they were
        torch.manual_seed(seed)
        return _build(plans, configuration, dataset_json, initialise=True)


def is_u_net(plans: dict[str, Any], configuration: str) -> bool:
    """Return True if the plans name a U-Net that nnU-Net's planners choose."""
    architecture = plans["configurations"][configuration].get("architecture", {})
    return architecture.get("network_class_name") in U_NETS


def _build(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any], *, initialise: bool) -> nn.Module:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans  # noqa: PLC0415 - slow imports
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels  # noqa: PLC0415
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: PLC0415

    manager = PlansManager(plans)
    settings = manager.get_configuration(configuration)
    network: nn.Module = get_network_from_plans(
        settings.network_arch_class_name,
        settings.network_arch_init_kwargs,
        settings.network_arch_init_kwargs_req_import,
        determine_num_input_channels(manager, settings, dataset_json),
        manager.get_label_manager(dataset_json).num_segmentation_heads,
        allow_init=initialise,
        deep_supervision=True,
    )
    return network
