"""Build the network that nnU-Net builds from plans, or list the tensors and outputs."""

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import CheckpointError, reason_of

if TYPE_CHECKING:
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


def network_tensors(plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]) -> "dict[str, Tensor]":
    """Return names and shapes of all tensors for these plans, on torch's meta device."""
    import torch  # noqa: PLC0415 - planning and parsing need no network

    with torch.device("meta"):
        tensors: dict[str, Tensor] = _build(plans, configuration, dataset_json, initialise=False).state_dict()
    return tensors


def fresh_network(
    plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any], seed: int = 0
) -> "nn.Module":
    """Return the network for these plans on the CPU, initialised by nnU-Net. Equal seeds give equal values."""
    import torch  # noqa: PLC0415

    with torch.random.fork_rng(devices=()):  # leave torch's random numbers as they were
        torch.manual_seed(seed)
        return _build(plans, configuration, dataset_json)


def is_u_net(plans: dict[str, Any], configuration: str) -> bool:
    """Return True if the plans name a U-Net that nnU-Net's planners choose."""
    architecture = plans["configurations"][configuration].get("architecture", {})
    return architecture.get("network_class_name") in U_NETS


def _build(
    plans: dict[str, Any],
    configuration: str,
    dataset_json: dict[str, Any],
    *,
    initialise: bool = True,
    deep_supervision: bool = True,
) -> "nn.Module":
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
        deep_supervision=deep_supervision,
    )
    return network


def predict_cases(
    plans: dict[str, Any],
    configuration: str,
    dataset_json: dict[str, Any],
    checkpoint: dict[str, Any],
    cases: Sequence[Sequence[Path]],
    device: str,
) -> Iterator[NDArray[np.int16]]:
    """Yield the segmentation of each case by nnU-Net's own predictor, shape (z, y, x) as in the image file.

    Nothing is mirrored, as with ``nnUNetv2_predict --disable_tta``.

    Args:
        plans, dataset_json: of the model's folder.
        configuration: the configuration that the model was trained in.
        checkpoint: loaded safely, with ``network_weights``.
        cases: files of each case, one per input channel in the model's order.
        device: cuda, cpu or mps.

    Raises CheckpointError if the plans name a network other than nnU-Net's U-Nets (foreign plans could name any code),
    if the weights do not fit the plans, or if the configuration is a cascade.
    """
    import torch  # noqa: PLC0415 - slow imports
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: PLC0415
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: PLC0415

    manager = PlansManager(plans)
    settings = manager.get_configuration(configuration)
    if settings.previous_stage_name is not None:
        raise CheckpointError(f"{configuration} is a cascade, which needs predictions of its first stage")
    _require_known_layers(settings)
    network = _build(plans, configuration, dataset_json, deep_supervision=False)
    weights = checkpoint["network_weights"]
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the model's plans ({reason_of(error)})") from None
    # nnU-Net expects an index for GPUs
    where = torch.device(device, 0) if device == "cuda" else torch.device(device)
    with contextlib.redirect_stdout(io.StringIO()):
        predictor = nnUNetPredictor(use_mirroring=False, device=where, allow_tqdm=False)
        axes = checkpoint.get("inference_allowed_mirroring_axes")
        trainer = str(checkpoint.get("trainer_name", "nnUNetTrainer"))
        predictor.manual_initialization(network, manager, settings, [weights], dataset_json, trainer, axes)
    for files in cases:
        with contextlib.redirect_stdout(io.StringIO()):
            # without an output folder nnU-Net returns the segmentation in the geometry of the image
            predicted = predictor.predict_from_files_sequential([[str(file) for file in files]], None)
        yield np.asarray(predicted[0]).astype(np.int16)


def _require_known_layers(settings: Any) -> None:
    """Raise CheckpointError unless building the network calls only nnU-Net's U-Nets and torch's layers."""
    kwargs = settings.network_arch_init_kwargs
    layers = [str(kwargs[key]) for key in settings.network_arch_init_kwargs_req_import if kwargs[key] is not None]
    known = all(re.fullmatch(r"torch\.nn(\.modules\.[a-z]+)?\.[A-Z]\w+", name) for name in layers)
    if settings.network_arch_class_name not in U_NETS or not known:
        raise CheckpointError(f"its network is none of nnU-Net's U-Nets ({settings.network_arch_class_name})")
