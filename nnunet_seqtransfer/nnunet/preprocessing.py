"""Preprocess single cases with nnU-Net, in memory or to disk, and read cases back."""

import contextlib
import io
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import DatasetError, raise_collected, reason_of
from nnunet_seqtransfer.nnunet.datasets import RawCase
from nnunet_seqtransfer.nnunet.image_formats import make_reader, require_whole
from nnunet_seqtransfer.nnunet.integrity import Declared, ReadCase, judge_case, label_faults
from nnunet_seqtransfer.storage import is_whole_archive

_END_OF_PICKLE = b"."


@dataclass(frozen=True)
class CaseData:
    """Arrays of one case, with axes as nnU-Net stores them."""

    images: NDArray[np.float32]
    "Shape (channels, x, y, z); 2-D images have x = 1."
    segmentation: NDArray[np.int16]
    "Shape (x, y, z); -1 marks voxels outside the non-zero region, which nnU-Net treats as background."


def preprocess_case(
    identifier: str, case: RawCase, plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]
) -> CaseData:
    """Crop, normalise and resample one raw case with nnU-Net's preprocessor, in memory.

    Raises DatasetError or Problems, naming file and value, if the case cannot be read, or is not as dataset.json says.
    """
    manager, settings = _managers(plans, configuration)
    read = read_arrays(identifier, case, plans["image_reader_writer"])
    _require_sound(identifier, case, read, Declared.by(plans["dataset_name"], dataset_json))
    try:
        # as run_case does after reading
        with contextlib.redirect_stdout(io.StringIO()):
            data, segmentation, _ = settings.preprocessor_class(verbose=False).run_case_npy(
                read.images, read.labels, read.image_properties, manager, settings, dataset_json
            )
    except Exception as error:  # whatever nnU-Net's preprocessor stumbles over
        raise DatasetError(
            f"case {identifier} of {plans['dataset_name']} cannot be preprocessed ({reason_of(error)}): "
            f"{case.images[0]} with {case.label}; look at these files, an image without content fails so"
        ) from error
    return CaseData(data.astype(np.float32, copy=False), segmentation[0].astype(np.int16))


def preprocess_case_to(
    target: Path, case: RawCase, plans: dict[str, Any], configuration: str, dataset_json: dict[str, Any]
) -> None:
    """Write one preprocessed case as nnU-Net does: ``target`` + .b2nd, _seg.b2nd, .pkl. Raises as `preprocess_case`."""
    manager, settings = _managers(plans, configuration)
    with _naming_case(target.name, case):
        settings.preprocessor_class(verbose=False).run_case_save(
            str(target), [str(image) for image in case.images], str(case.label), manager, settings, dataset_json
        )


def read_raw_case(identifier: str, case: RawCase, reader_writer: str, declared: Declared | None = None) -> CaseData:
    """Read one raw case: intensities as stored, axes z, y, x.

    Raises as `preprocess_case`; without ``declared`` only if the shapes differ or a cast would change the labels.
    """
    read = read_arrays(identifier, case, reader_writer)
    _require_sound(identifier, case, read, declared)
    return CaseData(read.images.astype(np.float32, copy=False), read.labels[0].astype(np.int16))


def read_arrays(identifier: str, case: RawCase, reader_writer: str) -> ReadCase:
    """Read one raw case as nnU-Net's reader does. Raises DatasetError, naming the file, if it cannot be read."""
    reader = make_reader(reader_writer)
    with _naming_case(identifier, case):
        return ReadCase(*reader.read_images([str(image) for image in case.images]), *reader.read_seg(str(case.label)))


def _require_sound(identifier: str, case: RawCase, read: ReadCase, declared: Declared | None) -> None:
    if declared is not None:
        errors, _ = judge_case(case, read, declared)
    else:
        errors = list(label_faults(case.label, read.labels, None))
        if read.images.shape[1:] != read.labels.shape[1:]:
            errors.append(f"shape {read.images.shape[1:]} of {case.images[0]}, {read.labels.shape[1:]} of its label")
    name = f"case {identifier}{f' of {declared.dataset}' if declared is not None else ''}"
    raise_collected([DatasetError(f"{name} has {error}") for error in errors])


def read_raw_labels(
    identifier: str, label: Path, reader_writer: str, declared: Declared | None = None
) -> NDArray[np.int16]:
    """Read the labels in one file, shape (z, y, x). Raises as `read_raw_case`."""
    with _naming_case(identifier, RawCase((), label)):
        segmentation, _ = make_reader(reader_writer).read_seg(str(label))
    raise_collected(
        [DatasetError(f"case {identifier} has {fault}") for fault in label_faults(label, segmentation, declared)]
    )
    return np.asarray(segmentation[0]).astype(np.int16)


def read_spacing(case: RawCase, reader_writer: str) -> tuple[float, ...]:
    """Return the voxel spacing in mm along z, y, x (the axes of `read_raw_case`); z is meaningless for 2-D images."""
    with _naming_case(case.label.name, case):
        _, properties = make_reader(reader_writer).read_seg(str(case.label))
    return tuple(float(value) for value in properties["spacing"])


def load_preprocessed_case(folder: Path, identifier: str) -> CaseData:
    """Load one case from a folder of preprocessed data. Raises DatasetError, naming the files, if it is broken."""
    from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class  # noqa: PLC0415 - slow import

    try:
        data, segmentation, _, _ = infer_dataset_class(str(folder))(str(folder), [identifier]).load_case(identifier)
        return CaseData(np.asarray(data[:], dtype=np.float32), np.asarray(segmentation[0]).astype(np.int16))
    except Exception as error:  # blosc2, pickle and zip readers raise all kinds for a damaged file
        raise DatasetError(
            f"the preprocessed case {identifier} is broken ({reason_of(error)}): {folder / identifier}.*; "
            "delete these files and preprocess the dataset again"
        ) from error


def preprocessed_cases(folder: Path) -> tuple[str, ...]:
    """Return the identifiers of complete cases: image, segmentation and properties are there."""
    # one listing is much faster than three look-ups per case on a network file system
    names = {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
    cases = (name.removesuffix(".pkl") for name in names if name.endswith(".pkl"))
    return tuple(
        sorted(case for case in cases if {f"{case}.b2nd", f"{case}_seg.b2nd"} <= names or f"{case}.npz" in names)
    )


def fullest_folder(base: Path) -> tuple[Path, tuple[str, ...]]:
    """Return the folder with the most complete cases below a dataset's preprocessed data, and these cases."""
    folders = sorted(entry for entry in base.iterdir() if entry.is_dir()) if base.is_dir() else []
    found = [(folder, preprocessed_cases(folder)) for folder in folders]
    return max(found, key=lambda one: len(one[1]), default=(base, ()))


def require_declared(identifier: str, data: CaseData, declared: Declared) -> None:
    """Raise DatasetError if a preprocessed case has other channels or label values than dataset.json declares."""
    highest, channels = int(data.segmentation.max(initial=0)), len(data.images)
    if highest > declared.highest or channels != declared.channels:
        raise DatasetError(
            f"the preprocessed case {identifier} of {declared.dataset} has {channels} channels and label values up to "
            f"{highest}, dataset.json declares {declared.channels} and {declared.highest}; preprocess it again"
        )
    if not all(np.isfinite(image).all() for image in data.images):
        raise DatasetError(
            f"the preprocessed case {identifier} of {declared.dataset} holds NaN or infinite intensities; repair its "
            "image and preprocess it again"
        )


def cut_off_files(folder: Path, identifiers: Iterable[str]) -> dict[str, tuple[Path, ...]]:
    """Return identifier -> truncated files, as a machine crash leaves them. No voxel is read; 2 ms per case.

    nnU-Net would stop in the middle of a training when it draws such a case.
    """
    truncated = {}
    for identifier in identifiers:
        names = (f"{identifier}.b2nd", f"{identifier}_seg.b2nd", f"{identifier}.npz", f"{identifier}.pkl")
        # old nnU-Net versions write .npz, new ones .b2nd
        cut_off = tuple(path for path in map(folder.joinpath, names) if path.is_file() and not _has_its_end(path))
        if cut_off:
            truncated[identifier] = cut_off
    return truncated


def _has_its_end(path: Path) -> bool:
    if path.suffix == ".npz":
        return is_whole_archive(path)
    if path.suffix == ".pkl":  # loading a pickle would run code; the last byte is the STOP instruction
        with path.open("rb") as stream:
            stream.seek(-min(1, path.stat().st_size), os.SEEK_END)
            return stream.read() == _END_OF_PICKLE
    import blosc2  # noqa: PLC0415 - takes half a second

    try:
        blosc2.open(str(path), mode="r")  # fails without the trailer at the end of the file
    except RuntimeError:
        return False
    return True


def resampled_voxels(fingerprint: dict[str, Any], plans: dict[str, Any], configuration: str) -> list[int]:
    """Return the number of voxels per case after resampling, see `resampled_shapes`."""
    return [math.prod(shape) for shape in resampled_shapes(fingerprint, plans, configuration)]


def resampled_shapes(fingerprint: dict[str, Any], plans: dict[str, Any], configuration: str) -> list[tuple[int, ...]]:
    """Return the shape of each case after resampling to the configuration's spacing, axes as preprocessed."""
    spacing = list(plans["configurations"][configuration]["spacing"])
    forward = plans["transpose_forward"]
    shapes = []
    for shape, original in zip(fingerprint["shapes_after_crop"], fingerprint["spacings"], strict=True):
        moved = [original[axis] for axis in forward]
        # A 2-D configuration has two spacings; the slice distance does not change.
        goal = spacing if len(spacing) == len(moved) else [moved[0], *spacing]
        # nnU-Net's compute_new_shape, without its import of torch
        shapes.append(tuple(round(moved[i] / goal[i] * shape[axis]) for i, axis in enumerate(forward)))
    return shapes


def _managers(plans: dict[str, Any], configuration: str) -> tuple[Any, Any]:
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager  # noqa: PLC0415 - imports torch

    manager = PlansManager(plans)
    return manager, manager.get_configuration(configuration)


@contextlib.contextmanager
def _naming_case(identifier: str, case: RawCase) -> Iterator[None]:
    printed = io.StringIO()
    try:
        for path in case.files:
            require_whole(path)
        with contextlib.redirect_stdout(printed):
            yield
    except Exception as error:  # image readers raise all kinds for a damaged file
        if isinstance(error, OSError) and error.errno is not None:  # a full disk, a permission: not the case's fault
            raise
        text = " ".join(printed.getvalue().split())
        if "ERROR! Not all input images" in text:  # nnU-Net's readers print the reason and raise nothing but the type
            reason = text[text.index("Not all input images") :]
            raise DatasetError(f"case {identifier}: {reason}; give all its channels the same grid") from error
        files = " with ".join(str(path) for path in (*case.images[:1], case.label))
        raise DatasetError(
            f"case {identifier} cannot be read ({reason_of(error)}): {files}; restore these files"
        ) from error
