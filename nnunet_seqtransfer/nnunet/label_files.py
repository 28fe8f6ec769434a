"""Label files with other values in them, everything else as it was: NIfTI header and all, or nnU-Net's own writer."""

from __future__ import annotations

import contextlib
import gzip
import io
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import DatasetError, EnvironmentNotSetError, SeqTransferError
from nnunet_seqtransfer.nnunet.folders import (
    DATASET_NAME,
    dataset_id,
    preprocessed_folder,
    raw_folder,
    results_folder,
)
from nnunet_seqtransfer.storage import replacing


@dataclass(frozen=True)
class LabelJob:
    """One label file to rewrite."""

    source: Path
    "The label file as it is."
    goal: Path
    "Where the rewritten one goes, in the format of its name."
    values: dict[int, int]
    "Label value there -> label value here, for every value that may occur."
    reader: str
    "nnU-Net's reader of the dataset, see `label_reader`."


def label_reader(dataset_json: dict[str, Any], example: Path) -> str:
    """The name of the class that nnU-Net reads and writes this dataset with; ``example`` is one of its images.

    Raises DatasetError where nnU-Net has none for this format.
    """
    from nnunetv2.imageio.reader_writer_registry import (  # noqa: PLC0415 - slow import
        determine_reader_writer_from_dataset_json,
    )

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # where a reader fails, its traceback is printed
            reader = determine_reader_writer_from_dataset_json(dataset_json, str(example), verbose=False)
    except RuntimeError:
        raise DatasetError(f"nnU-Net cannot read {example}; restore this file or convert the dataset") from None
    return str(reader.__name__)


def rewrite_label_file(job: LabelJob) -> None:
    """Writes a label file with other values. Geometry and header stay as they are.

    NIfTI files keep their header with all of its entries but the data type and scaling; other formats go through
    nnU-Net's reader and writer.

    Raises DatasetError, naming the file, where it cannot be read or holds a value that ``job.values`` lacks.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if job.goal.name.endswith((".nii", ".nii.gz")):
                _rewrite_nifti(job)
            else:
                _rewrite_other(job)
    except SeqTransferError:  # a full disk: not the file's fault
        raise
    except Exception as error:  # image readers raise all kinds for a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _broken(job.source, error) from error


def _rewrite_nifti(job: LabelJob) -> None:
    import nibabel  # noqa: PLC0415 - slow import

    image: Any = nibabel.load(job.source)
    labels = _with_values(np.asanyarray(image.dataobj), job.values)
    # Made with the affine of its own header, the image leaves that header alone.
    rewritten = type(image)(labels, image.affine, image.header)
    rewritten.set_data_dtype(labels.dtype)
    content = rewritten.to_bytes()
    with replacing(job.goal) as aside:
        aside.write_bytes(gzip.compress(content, mtime=0) if job.goal.suffix == ".gz" else content)


def _rewrite_other(job: LabelJob) -> None:
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name  # noqa: PLC0415 - slow

    writer = recursive_find_reader_writer_by_name(job.reader)()
    labels, properties = writer.read_seg(str(job.source))
    if labels.shape[0] != 1:
        raise ValueError(f"it holds {labels.shape[0]} channels, a label file has one")
    rewritten = _with_values(labels[0], job.values)
    with replacing(job.goal) as aside:
        writer.write_seg(rewritten, str(aside), properties)
        spacing = aside.with_suffix(".json")  # nnU-Net's writer of TIFF volumes puts the spacing there
        if spacing.is_file():
            spacing.replace(job.goal.with_suffix(".json"))


def _with_values(labels: NDArray[Any], values: dict[int, int]) -> NDArray[Any]:
    """``labels`` with each value replaced, as uint8 or uint16. Raises ValueError for a value that is not expected."""
    rewritten = np.zeros(labels.shape, dtype=np.uint8 if max(values.values()) < 255 else np.uint16)
    known = 0
    for old, new in values.items():
        mask = labels == old
        known += int(np.count_nonzero(mask))
        rewritten[mask] = new
    if known < labels.size:
        strange = labels[~np.isin(labels, list(values))].flat[0]
        raise ValueError(f"it holds the value {strange:g}, which is none of dataset.json's labels")
    return rewritten


def _broken(path: Path, error: Exception) -> DatasetError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    reason = lines[-1][:200] if lines else type(error).__name__
    return DatasetError(f"the label file {path} cannot be used ({reason}); restore or correct it")


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
