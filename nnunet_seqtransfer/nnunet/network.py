"""The network that nnU-Net would build from plans: its tensors, or the network itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

U_NETS = {
    f"dynamic_network_architectures.architectures.unet.{name}" for name in ("PlainConvUNet", "ResidualEncoderUNet")
}
"""The classes of the U-Nets that nnU-Net's planners choose."""


@dataclass(frozen=True)
class Outputs:
    """What the outputs of a network are for."""

    names: tuple[str, ...]
    "The label or region of each output, in the network's order."
    regions: bool
    "Whether each output stands for itself (sigmoid), as nnU-Net trains regions; else one softmax is over all."


def network_outputs(dataset_json: dict[str, Any]) -> Outputs:
    """What nnU-Net's LabelManager makes of the labels in a dataset.json.

    Labels in the order of their values, background among them; or, where any is a region of several values, regions in
    the order in which they are written (that of ``regions_class_order``), without background. The ignore label has no
    output.
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
    """Names and shapes of all tensors of the network for these plans; no memory is filled (torch's meta device)."""
    with torch.device("meta"):
        tensors: dict[str, Tensor] = _build(plans, configuration, dataset_json, initialise=False).state_dict()
    return tensors


def fresh_network(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any], seed: int = 0) -> nn.Module:
    """The network for these plans on the CPU, initialised as nnU-Net does it; the same for the same seed.

    The state of torch's random number generator is left as it was.
    """
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return _build(plans, configuration, dataset_json, initialise=True)


def is_u_net(plans: dict[str, Any], configuration: str) -> bool:
    """Whether the network of these plans is one of the U-Nets that nnU-Net's planners choose."""
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
