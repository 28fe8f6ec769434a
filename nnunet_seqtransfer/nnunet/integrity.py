"""Check a raw case as nnU-Net's --verify_dataset_integrity does, on arrays that are read only once."""

import contextlib
import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.nnunet.datasets import RawCase, channel_names
from nnunet_seqtransfer.nnunet.image_formats import COLOUR_FORMATS, same_place

_NEAR = 0.05
"""A value this close to a whole number is taken for a label that was resampled or scaled."""
_MOST_VALUES = 5
_REMEDIES = {
    "Shape": "give the label the grid of its images",
    "Spacing": "correct the spacing in the header of the image or the label",
}
"""First word of nnU-Net's reason -> what to do."""


@dataclass(frozen=True)
class Declared:
    """Facts in dataset.json about every case."""

    dataset: str
    "Full dataset name."
    channels: int
    "Number of channels."
    highest: int
    "Highest label value, the ignore label included; all values from 0 are declared, see `dataset_json_problems`."

    @classmethod
    def by(cls, dataset: str, dataset_json: dict[str, Any]) -> "Declared":
        """Return what a dataset.json without problems declares."""
        values = [value if isinstance(value, list) else [value] for value in dataset_json["labels"].values()]
        highest = max(int(part) for group in values for part in group if part is not None)
        return cls(dataset, len(channel_names(dataset_json)), highest)


@dataclass(frozen=True)
class ReadCase:
    """A case as nnU-Net's reader returns it."""

    images: NDArray[Any]
    "Shape (channels, z, y, x), as stored."
    image_properties: dict[str, Any]
    "Spacing and header of the first image."
    labels: NDArray[Any]
    "Shape (1, z, y, x), values as stored."
    label_properties: dict[str, Any]
    "Spacing and header of the label."

    def __call__(self) -> "ReadCase":
        """Stand in for nnU-Net's reader class: its functions instantiate the class and read again."""
        return self

    def read_images(self, _: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return what was read already."""
        return self.images, self.image_properties

    def read_seg(self, _: Any) -> tuple[NDArray[Any], dict[str, Any]]:
        """Return what was read already."""
        return self.labels, self.label_properties


def judge_case(case: RawCase, read: ReadCase, declared: Declared) -> tuple[list[str], list[str]]:
    """Return the faults of a case that was read, one line each without the case's name.

    First reasons to refuse it, with file, value and remedy, then differences that nnU-Net only warns of.
    """
    errors = [*_channel_faults(case, read.images, declared), *label_faults(case.label, read.labels, declared)]
    if not all(np.isfinite(image).all() for image in read.images):
        errors.append(f"NaN or infinite intensities in {_files(case)}; repair the image")
    reasons = [] if _is_aligned(read) else list(_nnunet_reasons(case, read))
    for reason in reasons:
        if not reason.startswith("Warning"):
            text = reason.removeprefix("Error: ")
            remedy = _REMEDIES.get(text.split()[0], "correct these files")
            errors.append(f"{text.rstrip('. ')}; {remedy}")
    return errors, [reason for reason in reasons if reason.startswith("Warning")]


def _channel_faults(case: RawCase, images: NDArray[Any], declared: Declared) -> Iterator[str]:
    if len(images) != declared.channels:
        is_alpha = case.images[0].suffix in COLOUR_FORMATS and len(images) == 4
        yield (
            f"{len(images)} channels in {_files(case)}, dataset.json names {declared.channels}; "
            f"{'remove the alpha channel, or name it too' if is_alpha else 'correct dataset.json or the files'}"
        )


def label_faults(path: Path, labels: NDArray[Any], declared: Declared | None) -> Iterator[str]:
    """Yield why labels, shape (1, z, y, x), cannot be used; without ``declared`` only if a cast would change them."""
    if len(labels) != 1:
        yield f"{len(labels)} channels in {path}, a label file has one{_palette(path)}; save it in grey levels"
        return
    with np.errstate(invalid="ignore"):  # NaN
        whole = labels.astype(np.int16)
    highest = declared.highest if declared is not None else np.iinfo(np.int16).max
    if (whole == labels).all() and whole.min(initial=0) >= 0 and whole.max(initial=0) <= highest:
        return
    found = np.unique(labels[(whole != labels) | (whole < 0) | (whole > highest)])
    named = ", ".join(str(value).removesuffix(".0") for value in found[:_MOST_VALUES])
    more = f" and {len(found) - _MOST_VALUES} more" if len(found) > _MOST_VALUES else ""
    known = f" (declared are 0 to {declared.highest})" if declared is not None else ""
    many = "values" if len(found) > 1 else "value"
    yield f"the {many} {named}{more} in {path}, not declared in dataset.json{known}; {_label_remedy(found)}"


def _label_remedy(found: NDArray[Any]) -> str:
    if np.isnan(found).any():
        return "replace NaN by a label"
    if (found == np.round(found)).all():
        return "declare it in dataset.json, or correct the label file"
    if (np.abs(found - np.round(found)) < _NEAR).all():
        return "nnU-Net would cut the fraction off: round the values and store whole numbers"
    return "store whole numbers; resample labels with nearest neighbours"


def _palette(path: Path) -> str:
    from PIL import Image  # noqa: PLC0415 - few files need it

    with contextlib.suppress(OSError), Image.open(path) as image:
        return ": nnU-Net reads the colours of a palette image, not its values" if image.mode == "P" else ""
    return ""


def _is_aligned(read: ReadCase) -> bool:
    """Return True if nnU-Net's check of the geometry would report nothing. Its import takes seconds."""
    return read.images.shape[1:] == read.labels.shape[1:] and same_place(read.image_properties, read.label_properties)


def _nnunet_reasons(case: RawCase, read: ReadCase) -> Iterator[str]:
    """Yield what nnU-Net prints about shapes and headers, one line each."""
    from nnunetv2.experiment_planning.verify_dataset_integrity import check_cases  # noqa: PLC0415 - imports torch

    finite = ReadCase(np.nan_to_num(read.images[:1]), read.image_properties, read.labels, read.label_properties)
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        try:
            check_cases([str(path) for path in case.images], str(case.label), 1, finite)
        except ValueError as error:  # headers with different numbers of axes
            printed.write(f"Error: Header mismatch ({error}) of {_files(case)} and {case.label}")
    reasons = re.split(r"(?=Error: |Warning: )", printed.getvalue())
    # advice follows in capital letters; the first sentences hold what differs
    yield from (" ".join(reason.split()).partition("This is a warning only")[0] for reason in reasons if reason.strip())


def _files(case: RawCase) -> str:
    return str(case.images[0]) if len(case.images) == 1 else f"{case.images[0].parent}/{case.label.name} (images)"
