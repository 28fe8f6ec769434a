"""The tensors of the network that nnU-Net would build from plans."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def network_tensors(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> dict[str, Tensor]:
    """Names and shapes of all tensors of the network for these plans; no memory is filled (torch's meta device)."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans  # noqa: PLC0415 - slow imports
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels  # noqa: PLC0415
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: PLC0415

    manager = PlansManager(plans)
    settings = manager.get_configuration(configuration)
    with torch.device("meta"):
        network = get_network_from_plans(
            settings.network_arch_class_name,
            settings.network_arch_init_kwargs,
            settings.network_arch_init_kwargs_req_import,
            determine_num_input_channels(manager, settings, dataset_json),
            manager.get_label_manager(dataset_json).num_segmentation_heads,
            allow_init=False,
            deep_supervision=True,
        )
    tensors: dict[str, Tensor] = network.state_dict()
    return tensors
