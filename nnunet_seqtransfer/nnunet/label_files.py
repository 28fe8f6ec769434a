"""Rewrite label files with new label values; header and geometry stay as they are."""

import contextlib
import gzip
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import DatasetError, SeqTransferError, reason_of
from nnunet_seqtransfer.nnunet.image_formats import make_reader
from nnunet_seqtransfer.storage import replacing


@dataclass(frozen=True)
class LabelJob:
    """One label file to rewrite."""

    source: Path
    "Existing label file."
    goal: Path
    "File to write; the format follows from the name."
    values: dict[int, int]
    "Old label value -> new label value, for every value that may occur."
    reader: str
    "Name of nnU-Net's reader class for the dataset, see `image_formats.reader_writer`."


def rewrite_label_file(job: LabelJob) -> None:
    """Write a label file with new values.

    NIfTI files keep every header entry except data type and scaling; other formats use nnU-Net's reader and writer.
    Raises DatasetError, naming the file, if it cannot be read or holds a value that ``job.values`` lacks.
    """
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            if job.goal.name.endswith((".nii", ".nii.gz")):
                _rewrite_nifti(job)
            else:
                _rewrite_other(job)
    except SeqTransferError:  # a full disk: not the fault of this file
        raise
    except Exception as error:  # image readers raise all kinds for a damaged file
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise DatasetError(
            f"the label file {job.source} cannot be used ({reason_of(error)}); restore or correct it"
        ) from error


def _rewrite_nifti(job: LabelJob) -> None:
    import nibabel  # noqa: PLC0415 - slow import

    image: Any = nibabel.load(job.source)
    labels = _with_values(np.asanyarray(image.dataobj), job.values)
    # nibabel keeps the header unchanged only if the affine comes from that same header.
    rewritten = type(image)(labels, image.affine, image.header)
    rewritten.set_data_dtype(labels.dtype)
    content = rewritten.to_bytes()
    with replacing(job.goal) as aside:
        # mtime=0: the same labels give the same bytes
        aside.write_bytes(gzip.compress(content, mtime=0) if job.goal.suffix == ".gz" else content)


def _rewrite_other(job: LabelJob) -> None:
    writer = make_reader(job.reader)
    labels, properties = writer.read_seg(str(job.source))
    if labels.shape[0] != 1:
        raise ValueError(f"it holds {labels.shape[0]} channels, a label file has one")
    rewritten = _with_values(labels[0], job.values)
    with replacing(job.goal) as aside:
        writer.write_seg(rewritten, str(aside), properties)
        spacing = aside.with_suffix(".json")  # nnU-Net's writer for TIFF volumes stores the spacing there
        if spacing.is_file():
            spacing.replace(job.goal.with_suffix(".json"))


def _with_values(labels: NDArray[Any], values: dict[int, int]) -> NDArray[Any]:
    """Return ``labels`` with each value replaced, as uint8 or uint16. Raises ValueError for an unknown value."""
    rewritten = np.zeros(labels.shape, dtype=np.uint8 if max(values.values()) < 255 else np.uint16)
    known = 0
    for old, new in values.items():
        mask = labels == old
        known += int(np.count_nonzero(mask))
        rewritten[mask] = new
    if known < labels.size:
        unknown = labels[~np.isin(labels, list(values))].flat[0]
        raise ValueError(f"it holds the value {unknown:g}, which is none of dataset.json's labels")
    return rewritten
