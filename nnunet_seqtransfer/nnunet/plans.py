"""Read nnU-Net's plans with checks, and choose normalisation and reader as nnU-Net does."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.folders import dataset_id, preprocessed_folder
from nnunet_seqtransfer.storage import read_json

DEFAULT_PLANS = "nnUNetPlans"
DEFAULT_CONFIGURATION = "3d_fullres"
PLANS_ENTRIES = (
    "plans_name",
    "configurations",
    "image_reader_writer",
    "transpose_forward",
    "transpose_backward",
    "foreground_intensity_properties_per_channel",
)
"""Entries of a plans file that we read, besides the configurations."""
CONFIGURATION_ENTRIES = (
    "data_identifier",
    "preprocessor_name",
    "batch_size",
    "patch_size",
    "spacing",
    "normalization_schemes",
    "use_mask_for_norm",
    "resampling_fn_data",
    "resampling_fn_seg",
)
"""Entries of a configuration that we read."""


def plans_path(dataset: str, plans_name: str) -> Path:
    """Return the path of a plans file."""
    return preprocessed_folder() / dataset / f"{plans_name}.json"


def read_plans(dataset: str, plans_name: str, configuration: str) -> dict[str, Any]:
    """Read the plans of a dataset and check them for ``configuration``.

    Raises RecordError if the file is missing or broken. Raises DatasetError if entries are missing, or if the
    configuration is unknown or inherits from another one (as nnU-Net's cascade does).
    """
    path = plans_path(dataset, plans_name)
    remedy = f"run nnUNetv2_plan_and_preprocess -d {dataset_id(dataset)} -c {configuration}"
    if path.is_file():  # nnU-Net's planner reads an existing file first, and fails if it is broken
        remedy = f"delete it and {remedy}"
    if plans_name != DEFAULT_PLANS:
        remedy += " with the planner that writes these plans, or correct -p"
    plans = read_json(path, f"the plans file {plans_name} of {dataset}", remedy)
    _check(plans, dataset, configuration, path, remedy)
    return plans


def read_plans_file(path: Path, configuration: str) -> dict[str, Any]:
    """Read a plans file from elsewhere. Raises as `read_plans`."""
    remedy = "ask for the target's nnUNetPlans.json again"
    plans = read_json(path, "the plans file", remedy)
    _require_entries(plans, ("dataset_name",), path, remedy)
    _check(plans, str(plans["dataset_name"]), configuration, path, remedy)
    return plans


def _check(plans: dict[str, Any], dataset: str, configuration: str, path: Path, remedy: str) -> None:
    _require_entries(plans, PLANS_ENTRIES, path, remedy)
    configurations = plans["configurations"]
    if not isinstance(configurations, dict) or not all(isinstance(entry, dict) for entry in configurations.values()):
        raise DatasetError(f"the plans file is broken (its configurations are no tables): {path}; {remedy}")
    # only the cascade inherits
    usable = [name for name, settings in configurations.items() if "inherits_from" not in settings]
    if configuration not in configurations:
        raise DatasetError(
            f"{dataset} has no configuration {configuration!r} in {path.stem}; choose one of: {', '.join(usable)}"
        )
    if configuration not in usable:
        raise DatasetError(
            f"configuration {configuration!r} inherits from another one, as a cascade does, and chains train no "
            f"cascade: its sources would need predictions of 3d_lowres; choose one of: {', '.join(usable)}"
        )
    _require_entries(configurations[configuration], CONFIGURATION_ENTRIES, path, remedy)


def _require_entries(content: dict[str, Any], needed: Sequence[str], path: Path, remedy: str) -> None:
    missing = [entry for entry in needed if entry not in content]
    if missing:
        raise DatasetError(f"the plans file lacks {', '.join(missing)}: {path}; {remedy}")


def data_folder(dataset: str, plans: dict[str, Any], configuration: str) -> Path:
    """Return the folder with the preprocessed cases of a dataset."""
    return preprocessed_folder() / dataset / str(plans["configurations"][configuration]["data_identifier"])


def normalization(channels: Sequence[str], median_relative_size_after_cropping: float) -> tuple[list[str], list[bool]]:
    """Return, for each channel, the normalisation scheme and whether it uses only the non-zero mask.

    Follows nnU-Net's ExperimentPlanner: the channel name decides the scheme, and the mask is used if cropping to
    non-zero voxels leaves less than 3/4 of the median image.
    """
    from nnunetv2.preprocessing.normalization.map_channel_name_to_normalization import (  # noqa: PLC0415 - slow import
        get_normalization_scheme,
    )

    schemes = [get_normalization_scheme(channel) for channel in channels]
    # the threshold of ExperimentPlanner
    masked = median_relative_size_after_cropping < 3 / 4
    use_mask = [masked and bool(s.leaves_pixels_outside_mask_at_zero_if_use_mask_for_norm_is_true) for s in schemes]
    return [scheme.__name__ for scheme in schemes], use_mask
