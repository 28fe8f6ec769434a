"""Image files: nnU-Net's reader for a format, 2-D and truncated files, label files with new values."""

import contextlib
import gzip
import io
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import DatasetError, SeqTransferError, reason_of
from nnunet_seqtransfer.storage import replacing

COLOUR_FORMATS = (".png", ".bmp", ".tif")
"""File endings from which nnU-Net reads three channels if the image has colours."""
COLOUR_READER = "NaturalImage2DIO"
"""nnU-Net's reader for photographs. If it reads three channels, they are red, green and blue."""
_PLACE = (("sitk_stuff", ("origin", "direction")), ("nibabel_stuff", ("original_affine",)))
"""Entry of a reader's properties, and the parts of it that say where the image is."""


def reader_writer(dataset_json: dict[str, Any], example: Path) -> str:
    """Return the name of nnU-Net's reader class for files such as ``example``. Raises DatasetError if none fits."""
    from nnunetv2.imageio.reader_writer_registry import (  # noqa: PLC0415 - slow import
        determine_reader_writer_from_dataset_json,
    )

    try:
        with contextlib.redirect_stderr(io.StringIO()):  # nnU-Net prints a traceback for every reader that fails
            return str(determine_reader_writer_from_dataset_json(dataset_json, str(example), verbose=False).__name__)
    except RuntimeError:
        raise DatasetError(
            f"nnU-Net cannot read {example}; restore the file, or correct file_ending in dataset.json"
        ) from None


def make_reader(name: str) -> Any:
    """Return an instance of nnU-Net's reader and writer class ``name``."""
    from nnunetv2.imageio.reader_writer_registry import recursive_find_reader_writer_by_name  # noqa: PLC0415 - slow

    return recursive_find_reader_writer_by_name(name)()


def is_planar_file(image: Path) -> bool | None:
    """Return True for a 2-D image and False for a volume, from the header alone; None if the header does not tell."""
    if image.suffix in COLOUR_FORMATS:
        return True if image.suffix != ".tif" else None  # TIFF files may hold volumes
    import SimpleITK as sitk  # noqa: PLC0415 - slow import

    header = sitk.ImageFileReader()
    header.SetFileName(str(image))
    try:
        header.ReadImageInformation()
    except RuntimeError:  # no format of ITK, or damaged: found out when it is read
        return None
    size = header.GetSize()
    return len(size) < 3 or size[2] == 1


def same_place(image: dict[str, Any], label: dict[str, Any]) -> bool:
    """Return True if a reader's properties of image and label say the same about spacing, origin and direction."""
    pairs = [(image["spacing"], label["spacing"])]
    for entry, names in _PLACE:
        if entry in image:
            pairs += [(image[entry][name], label[entry][name]) for name in names]
    return all(np.shape(one) == np.shape(other) and np.allclose(one, other) for one, other in pairs)


def require_whole(path: Path) -> None:
    """Raise EOFError if a NIfTI file is truncated; ITK's reader would silently fill with zeros."""
    if path.suffix == ".gz":
        with gzip.open(path) as stream:
            # gzip compares length and checksum at the end of the stream
            while stream.read(1 << 20):
                pass
    elif path.suffix == ".nii":
        import nibabel  # noqa: PLC0415 - only for this rare format

        image: Any = nibabel.load(path)
        data = image.dataobj
        if path.stat().st_size < data.offset + math.prod(data.shape) * data.dtype.itemsize:
            raise EOFError("the file ends before its last voxel")


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
