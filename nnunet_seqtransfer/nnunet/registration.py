"""What registering a dataset of our own takes: a number that is free, and references that nnU-Net resolves."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from nnunet_seqtransfer.errors import DatasetError, EnvironmentNotSetError
from nnunet_seqtransfer.nnunet.folders import (
    DATASET_NAME,
    dataset_id,
    preprocessed_folder,
    raw_folder,
    results_folder,
)


def datasets_with_number(number: int) -> tuple[str, ...]:
    """Names of all datasets with this number in any of nnU-Net's three folders, where nnU-Net looks a number up."""
    folders = [raw_folder(), preprocessed_folder()]
    with contextlib.suppress(EnvironmentNotSetError):  # nnU-Net does without it until it trains
        folders.append(results_folder())
    names = {entry.name for folder in folders for entry in folder.iterdir() if DATASET_NAME.fullmatch(entry.name)}
    return tuple(sorted(name for name in names if dataset_id(name) == number))


def reference_from(dataset: str, path: Path) -> str:
    """How the dataset.json of ``dataset`` refers to a file of its own or of another dataset, in its entry "dataset".

    Relative to the dataset's folder where the file lies in nnUNet_raw, so that nnUNet_raw can be moved as a whole;
    else absolute. nnU-Net joins folder and reference as text before it looks at the disk, and so does this.

    Raises DatasetError where nnU-Net would take a part of the path for an environment variable.
    """
    raw, absolute = Path(os.path.abspath(raw_folder())), Path(os.path.abspath(path))  # noqa: PTH100
    inside = absolute.is_relative_to(raw)
    reference = Path(os.path.relpath(absolute, raw / dataset)).as_posix() if inside else str(absolute)
    if os.path.expandvars(reference) != reference:
        raise DatasetError(f"nnU-Net would replace the environment variable in the name of {path}; rename this file")
    return reference
