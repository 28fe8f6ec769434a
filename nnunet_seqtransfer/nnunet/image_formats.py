"""Image file formats: nnU-Net's reader for a file, colour formats, 2-D files, truncated files."""

import contextlib
import gzip
import io
import math
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import DatasetError

COLOUR_FORMATS = (".png", ".bmp", ".tif")
"""File endings from which nnU-Net reads three channels if the image has colours."""


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
