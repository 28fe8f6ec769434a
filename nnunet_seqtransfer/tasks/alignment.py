"""Adapt the target's plans to a source: geometry and network stay, normalisation becomes the source's own."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_seqtransfer.nnunet.folders import cache_folder
from nnunet_seqtransfer.nnunet.image_formats import reader_writer
from nnunet_seqtransfer.nnunet.plans import normalization
from nnunet_seqtransfer.storage import checksum, found_record, write_record
from nnunet_seqtransfer.tasks.task import Task, other_dimension

READER_FORMAT = 1
READER_KIND = "reader"


def align_plans(target_plans: dict[str, Any], target: Task, source: Task) -> dict[str, Any]:
    """Return plans for ``source`` with the target's architecture, patch size, spacing, batch size and transposition.

    Unlike nnU-Net's move_plans_between_datasets, each channel keeps the source's own normalisation scheme and
    intensity statistics: the number of channels may differ, and so do the intensities.

    Raises DatasetError if one dataset has 2-D images and the other volumes.
    """
    require_same_dimension(target, source)
    return plans_for(target_plans, target.number, source)


def plans_for(target_plans: dict[str, Any], target_number: int, source: Task) -> dict[str, Any]:
    """Return plans like `align_plans` if only the target's plans, not the target, are available."""
    name = f"{target_plans['plans_name']}_for{target_number}"
    plans = deepcopy(target_plans)
    forward = plans["transpose_forward"]
    # fingerprints of old nnU-Net versions lack the entry
    relative_size = float(np.median(source.fingerprint.get("median_relative_size_after_cropping", 1.0)))
    schemes, use_mask = normalization(source.channels, relative_size)
    plans |= {
        "dataset_name": source.dataset,
        "plans_name": name,
        "image_reader_writer": find_reader(source) if source.raw else plans["image_reader_writer"],
        "original_median_spacing_after_transp": _medians(source.fingerprint["spacings"], forward, float),
        "original_median_shape_after_transp": _medians(source.fingerprint["shapes_after_crop"], forward, round),
        "foreground_intensity_properties_per_channel": source.fingerprint[
            "foreground_intensity_properties_per_channel"
        ],
    }
    # a cascade inherits its schemes
    for settings in plans["configurations"].values():
        if "normalization_schemes" in settings:
            settings |= {"normalization_schemes": schemes, "use_mask_for_norm": use_mask}
    for configuration, settings in plans["configurations"].items():
        if "data_identifier" in settings:
            # The digest keeps data of a replanned target apart from data made for the old plans.
            digest = checksum(preprocessing_of(plans, configuration))[:8]
            settings["data_identifier"] = f"{name}_{configuration}_{digest}"
    return plans


def _medians(values: list[list[float]], forward: list[int], kind: Any) -> list[Any]:
    return [kind(value) for value in np.median(np.asarray(values, dtype=float), axis=0)[forward]]


def require_same_dimension(target: Task, source: Task) -> None:
    """Raise DatasetError if one dataset has 2-D images and the other volumes."""
    if target.is_planar != source.is_planar:
        raise other_dimension(source.dataset, source.is_planar, target.dataset)


def preprocessing_of(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """Return all settings that change preprocessed voxels; equal values mean equal voxels."""
    settings = plans["configurations"][configuration]
    return {
        **target_preprocessing_of(plans, configuration),
        **{key: settings[key] for key in ("normalization_schemes", "use_mask_for_norm")},
        "image_reader_writer": plans["image_reader_writer"],
        "intensities": plans["foreground_intensity_properties_per_channel"],
    }


def target_preprocessing_of(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """Return the settings that every source takes from the target: the voxel grid, but no intensities."""
    settings = plans["configurations"][configuration]
    keys = [key for key in settings if key.startswith(("resampling_fn_data", "resampling_fn_seg"))]
    return {
        **{key: settings[key] for key in (*keys, "spacing", "preprocessor_name")},
        "transpose_forward": plans["transpose_forward"],
    }


def find_reader(task: Task) -> str:
    """Return nnU-Net's reader class for a task with raw data, from the cache if possible.

    nnU-Net opens an image to find out, which takes longer than a metric that reads no image.
    Raises DatasetError if no reader fits.
    """
    return _remembered(task) or reader_writer(task.dataset_json, _example(task))


def remember_reader(task: Task, reader: str) -> None:
    """Store the reader for a task until the first image or dataset.json changes."""
    if task.raw and _remembered(task) != reader:
        write_record(_reader_path(task), READER_KIND, READER_FORMAT, {**_reader_inputs(task), "reader": reader})


def _remembered(task: Task) -> str | None:
    content = found_record(_reader_path(task), READER_KIND, READER_FORMAT)
    # everything else in the record must match the current files
    reader = content.pop("reader", None)
    return str(reader) if reader and content == _reader_inputs(task) else None


def _reader_inputs(task: Task) -> dict[str, Any]:
    image = _example(task)
    stat = image.stat()
    chosen = {key: task.dataset_json.get(key) for key in ("file_ending", "overwrite_image_reader_writer")}
    return {"image": image.name, "size": stat.st_size, "time": stat.st_mtime_ns, **chosen}


def _example(task: Task) -> Path:
    return next(iter(task.raw.values())).images[0]


def _reader_path(task: Task) -> Path:
    return cache_folder(task.dataset) / "reader.json"
