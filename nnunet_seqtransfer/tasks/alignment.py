"""The target's plans, made to fit a source: the target's geometry and network, the source's own normalisation."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_seqtransfer.errors import DatasetError, RecordError
from nnunet_seqtransfer.nnunet.folders import cache_folder
from nnunet_seqtransfer.nnunet.plans import normalization, reader_writer
from nnunet_seqtransfer.storage import checksum, read_record, write_record
from nnunet_seqtransfer.tasks.task import Task


def aligned_name(target_plans: dict[str, Any], target_number: int) -> str:
    """The plans name of data made ready for a target: "nnUNetPlans_for4"."""
    return f"{target_plans['plans_name']}_for{target_number}"


def align_plans(target_plans: dict[str, Any], target: Task, source: Task) -> dict[str, Any]:
    """Plans for ``source`` with the architecture, patch size, spacing, batch size and transposition of ``target``.

    Unlike nnU-Net's move_plans_between_datasets, the normalisation schemes and intensity properties of each channel
    are the source's own: the source may have another number of channels, and its clip values, mean and standard
    deviation are those of its own intensities.

    Raises DatasetError where 2-D images meet volumes.
    """
    require_same_dimension(target, source)
    return plans_for(target_plans, target.number, source)


def plans_for(target_plans: dict[str, Any], target_number: int, source: Task) -> dict[str, Any]:
    """The same where nothing but the plans of the target is at hand; see `align_plans`."""
    name = aligned_name(target_plans, target_number)
    plans = deepcopy(target_plans)
    forward = plans["transpose_forward"]
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
    for settings in plans["configurations"].values():
        if "normalization_schemes" in settings:
            settings |= {"normalization_schemes": schemes, "use_mask_for_norm": use_mask}
    for configuration, settings in plans["configurations"].items():
        if "data_identifier" in settings:
            settings["data_identifier"] = f"{name}_{configuration}_{_short_digest(plans, configuration)}"
    return plans


def _short_digest(plans: dict[str, Any], configuration: str) -> str:
    """Tells preprocessed data apart by how they were made: a target planned anew never finds those of its old plans."""
    return checksum(preprocessing_of(plans, configuration))[:8]


def require_same_dimension(target: Task, source: Task) -> None:
    """Raises DatasetError where one of the two has 2-D images and the other has volumes."""
    if target.is_planar != source.is_planar:
        kinds = {True: "2-D images", False: "volumes"}
        raise DatasetError(
            f"{source.dataset} has {kinds[source.is_planar]}, the target {target.dataset} has "
            f"{kinds[target.is_planar]}; leave it out of -s"
        )


def preprocessing_of(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """What of the plans decides how preprocessed voxels look; equal values mean equal voxels."""
    settings = plans["configurations"][configuration]
    keys = [key for key in settings if key.startswith(("resampling_fn_data", "resampling_fn_seg"))]
    keys += ["spacing", "normalization_schemes", "use_mask_for_norm", "preprocessor_name"]
    return {
        **{key: settings[key] for key in keys},
        "transpose_forward": plans["transpose_forward"],
        "image_reader_writer": plans["image_reader_writer"],
        "intensities": plans["foreground_intensity_properties_per_channel"],
    }


def target_preprocessing_of(plans: dict[str, Any], configuration: str) -> dict[str, Any]:
    """What the target's plans decide about the voxels of every source: the grid, not the source's intensities."""
    settings = plans["configurations"][configuration]
    keys = [key for key in settings if key.startswith(("resampling_fn_data", "resampling_fn_seg"))]
    return {
        **{key: settings[key] for key in (*keys, "spacing", "preprocessor_name")},
        "transpose_forward": plans["transpose_forward"],
    }


def _medians(values: list[list[float]], forward: list[int], kind: Any) -> list[Any]:
    return [kind(value) for value in np.median(np.asarray(values, dtype=float), axis=0)[forward]]


FORMAT = 1
KIND = "reader"


def find_reader(task: Task) -> str:
    """Name of the nnU-Net class that reads the images of a task with raw data; nothing is written.

    Raises DatasetError where none of nnU-Net's can.
    """
    return _remembered(task) or reader_writer(task.dataset_json, _example(task))


def remember_reader(task: Task, reader: str) -> None:
    """Writes down the reader of a task, for as long as its first image and its dataset.json stay as they are."""
    if task.raw and _remembered(task) != reader:
        write_record(_path(task), KIND, FORMAT, {**_depends_on(task), "reader": reader})


def _remembered(task: Task) -> str | None:
    if not _path(task).is_file():
        return None
    try:
        content = read_record(_path(task), KIND, FORMAT, "delete it")
    except RecordError:  # found out again
        return None
    reader = content.pop("reader", None)
    return str(reader) if reader and content == _depends_on(task) else None


def _depends_on(task: Task) -> dict[str, Any]:
    image = _example(task)
    stat = image.stat()
    chosen = {key: task.dataset_json.get(key) for key in ("file_ending", "overwrite_image_reader_writer")}
    return {"image": image.name, "size": stat.st_size, "time": stat.st_mtime_ns, **chosen}


def _example(task: Task) -> Path:
    return next(iter(task.raw.values())).images[0]


def _path(task: Task) -> Path:
    return cache_folder(task.dataset) / "reader.json"


OWN = ("data_identifier", "normalization_schemes", "use_mask_for_norm", "median_image_size_in_voxels", "next_stage")
"""Settings of a configuration that a source's stage does not take from its target (see `alignment`), or not use."""


def differences(plans: Mapping[str, Any], others: Mapping[str, Any], configuration: str) -> tuple[str, ...]:
    """Names of the settings in which a source's stage for one target's plans differs from that for another's.

    Without differences both stages are the same training: the same network, batches and spacing, since normalisation
    and intensities are the source's own.
    """
    one, two = (entry["configurations"].get(configuration, {}) for entry in (plans, others))
    names = sorted((set(one) | set(two)) - set(OWN))
    differing = [name for name in names if one.get(name) != two.get(name)]
    return (*differing, *(name for name in ("transpose_forward",) if plans[name] != others[name]))
