"""nnU-Net's plans: reading them with checks, and what they say about a source's channels and files."""

from __future__ import annotations

import contextlib
import io
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
"""What we read of a plans file, beside what is in its configurations."""
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
"""What we read of one of its configurations."""


def plans_path(dataset: str, plans_name: str) -> Path:
    """Where nnU-Net looks for the plans of that name."""
    return preprocessed_folder() / dataset / f"{plans_name}.json"


def read_plans(dataset: str, plans_name: str, configuration: str) -> dict[str, Any]:
    """The plans of a dataset as nnU-Net wrote them, checked for ``configuration``.

    Raises RecordError where the file is missing or broken, DatasetError where it lacks entries, or the configuration
    is unknown or inherits from another one (as nnU-Net's cascade does).
    """
    path = plans_path(dataset, plans_name)
    remedy = f"run nnUNetv2_plan_and_preprocess -d {dataset_id(dataset)} -c {configuration}"
    if path.is_file():  # nnU-Net's planner reads what is there first, and ends with a traceback where it cannot
        remedy = f"delete it and {remedy}"
    if plans_name != DEFAULT_PLANS:
        remedy += " with the planner that writes these plans, or correct -p"
    plans = read_json(path, f"the plans file {plans_name} of {dataset}", remedy)
    _check(plans, dataset, configuration, path, remedy)
    return plans


def read_plans_file(path: Path, configuration: str) -> dict[str, Any]:
    """The plans in a file that came from elsewhere. Raises as `read_plans`."""
    remedy = "have the target's nnUNetPlans.json sent again"
    plans = read_json(path, "the plans file", remedy)
    _require_entries(plans, ("dataset_name",), path, remedy)
    _check(plans, str(plans["dataset_name"]), configuration, path, remedy)
    return plans


def _check(plans: dict[str, Any], dataset: str, configuration: str, path: Path, remedy: str) -> None:
    _require_entries(plans, PLANS_ENTRIES, path, remedy)
    configurations = plans["configurations"]
    if not isinstance(configurations, dict) or not all(isinstance(entry, dict) for entry in configurations.values()):
        raise DatasetError(f"the plans file is broken (its configurations are no tables): {path}; {remedy}")
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
    lacking = [entry for entry in needed if entry not in content]
    if lacking:
        raise DatasetError(f"the plans file lacks {', '.join(lacking)}: {path}; {remedy}")


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
        with contextlib.redirect_stderr(io.StringIO()):  # it prints a traceback for every reader that fails
            return str(determine_reader_writer_from_dataset_json(dataset_json, str(example), verbose=False).__name__)
    except RuntimeError:
        raise DatasetError(f"nnU-Net cannot read {example}; check the file and file_ending in dataset.json") from None
