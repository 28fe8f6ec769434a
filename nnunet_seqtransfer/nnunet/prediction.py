"""Predict raw cases with a finished model in this process, without trusting the model's files."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.nnunet.network import U_NETS


def predict_cases(
    plans: dict[str, Any],
    configuration: str,
    dataset_json: dict[str, Any],
    checkpoint: dict[str, Any],
    cases: Sequence[Sequence[Path]],
    device: str,
    *,
    mirroring: bool = False,
) -> Iterator[NDArray[np.int16]]:
    """Yield the segmentation of each case by nnU-Net's own predictor, shape (z, y, x) as in the image file.

    Args:
        plans, dataset_json: of the model's folder.
        configuration: the configuration that the model was trained in.
        checkpoint: loaded safely, with ``network_weights``.
        cases: files of each case, one per input channel in the model's order.
        device: cuda, cpu or mps.
        mirroring: nnU-Net's test time augmentation; False equals ``nnUNetv2_predict --disable_tta``.

    Raises CheckpointError if the plans name a network other than nnU-Net's U-Nets (foreign plans could name any code),
    if the weights do not fit the plans, or if the configuration is a cascade.
    """
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # noqa: PLC0415 - slow imports
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: PLC0415

    manager = PlansManager(plans)
    settings = manager.get_configuration(configuration)
    if settings.previous_stage_name is not None:
        raise CheckpointError(f"{configuration} is a cascade, which needs predictions of its first stage")
    network = _network(manager, settings, dataset_json)
    weights = checkpoint["network_weights"]
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise CheckpointError(f"the weights do not fit the model's plans ({_first_line(error)})") from None
    with _quiet():
        predictor = nnUNetPredictor(use_mirroring=mirroring, device=_device(device), allow_tqdm=False)
        axes = checkpoint.get("inference_allowed_mirroring_axes")
        trainer = str(checkpoint.get("trainer_name", "nnUNetTrainer"))
        predictor.manual_initialization(network, manager, settings, [weights], dataset_json, trainer, axes)
    for files in cases:
        with _quiet():
            # without an output folder nnU-Net returns the segmentation in the geometry of the image
            predicted = predictor.predict_from_files_sequential([[str(file) for file in files]], None)
        yield np.asarray(predicted[0]).astype(np.int16)


def _network(manager: Any, settings: Any, dataset_json: dict[str, Any]) -> Any:
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans  # noqa: PLC0415 - slow imports
    from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels  # noqa: PLC0415

    kwargs = settings.network_arch_init_kwargs
    imports = settings.network_arch_init_kwargs_req_import
    layers = [str(kwargs[key]) for key in imports if kwargs[key] is not None]
    # building a network calls whatever the plans name, so only nnU-Net's U-Nets and torch's layers are allowed
    known = all(re.fullmatch(r"torch\.nn(\.modules\.[a-z]+)?\.[A-Z]\w+", name) for name in layers)
    if settings.network_arch_class_name not in U_NETS or not known:
        raise CheckpointError(f"its network is none of nnU-Net's U-Nets ({settings.network_arch_class_name})")
    return get_network_from_plans(
        settings.network_arch_class_name,
        kwargs,
        imports,
        determine_num_input_channels(manager, settings, dataset_json),
        manager.get_label_manager(dataset_json).num_segmentation_heads,
        deep_supervision=False,
    )


def _device(name: str) -> Any:
    import torch  # noqa: PLC0415 - slow import

    if name == "cpu":
        return torch.device("cpu")
    return torch.device(name, 0) if name == "cuda" else torch.device(name)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Swallow what nnU-Net's predictor prints for each case."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[min(1, len(lines) - 1)][:200]
