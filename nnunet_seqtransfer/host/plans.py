"""nnU-Net's plans: reading them with checks, and what they say about a source's channels and files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.host.folders import dataset_id, preprocessed_folder
from nnunet_seqtransfer.storage import read_json

DEFAULT_PLANS = "nnUNetPlans"


def plans_path(dataset: str, plans_name: str) -> Path:
    """Where nnU-Net looks for the plans of that name."""
    return preprocessed_folder() / dataset / f"{plans_name}.json"


def read_plans(dataset: str, plans_name: str, configuration: str) -> dict[str, Any]:
    """The plans of a dataset as nnU-Net wrote them, checked for ``configuration``.

    Raises RecordError where the file is missing or broken, DatasetError where the configuration is unknown or is
    one that starts from another configuration's predictions (a cascade).
    """
    path = plans_path(dataset, plans_name)
    remedy = f"run nnUNetv2_plan_and_preprocess -d {dataset_id(dataset)} -c {configuration}"
    if plans_name != DEFAULT_PLANS:
        remedy += " with the planner that writes these plans, or correct -p"
    plans = read_json(path, f"the plans file {plans_name} of {dataset}", remedy)
    configurations = plans.get("configurations")
    if not isinstance(configurations, dict) or "plans_name" not in plans:
        raise DatasetError(f"the plans file lacks its configurations or its name: {path}; {remedy}")
    if configuration not in configurations:
        known = ", ".join(configurations)
        raise DatasetError(f"{dataset} has no configuration {configuration!r} in {plans_name}; choose one of: {known}")
    if "inherits_from" in configurations[configuration] or "data_identifier" not in configurations[configuration]:
        raise DatasetError(
            f"configuration {configuration!r} builds on another configuration (a cascade), which a transfer chain "
            "does not support; choose 2d, 3d_fullres or 3d_lowres"
        )
    return plans


def data_folder(dataset: str, plans: dict[str, Any], configuration: str) -> Path:
    """The folder of the preprocessed cases of (dataset, plans, configuration)."""
    return preprocessed_folder() / dataset / str(plans["configurations"][configuration]["data_identifier"])


def normalization(channels: Sequence[str], median_relative_size_after_cropping: float) -> tuple[list[str], list[bool]]:
    """Normalisation scheme, and whether it is confined to the non-zero mask, for each channel.

    The rule of nnU-Net's ExperimentPlanner: the channel's name decides the scheme; the mask is used where cropping
    to non-zero voxels leaves less than 3/4 of the median image.
    """
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import (  # noqa: PLC0415 - slow import
        get_normalization_scheme,
    )

    schemes = [get_normalization_scheme(channel) for channel in channels]
    masked = median_relative_size_after_cropping < 3 / 4
    use_mask = [masked and bool(s.leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true) for s in schemes]
    return [scheme.__name__ for scheme in schemes], use_mask


def reader_writer(dataset_json: dict[str, Any], example: Path) -> str:
    """The name of the nnU-Net class that reads files such as ``example``. Raises DatasetError where none can."""
    from nnunetv2.imageio.reader_writer_registry import (  # noqa: PLC0415 - slow import
        determine_reader_writer_from_dataset_json,
    )

    try:
        return str(determine_reader_writer_from_dataset_json(dataset_json, str(example), verbose=False).__name__)
    except RuntimeError:
        raise DatasetError(f"nnU-Net cannot read {example}; check the file and file_ending in dataset.json") from None
