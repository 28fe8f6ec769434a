"""The demo's datasets: a target with few labelled cases, and near and far sources, in nnU-Net's raw format."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from nnunet_seqtransfer.demo.phantoms import Phantom, Scanner, draw_phantom
from nnunet_seqtransfer.storage import write_json

ENDING = ".nii.gz"
SPACING = (3.0, 3.0, 5.0)
"""Millimetres along x and y, and between slices."""

_TISSUES = ("scalp", "skull", "fluid", "grey matter", "white matter", "lesion", "ventricle", "caudate", "putamen",
            "thalamus")  # fmt: skip
# The lesion has the brightness of white matter everywhere: it cannot be seen, and so teaches nothing.
_T1 = dict(zip(_TISSUES, (0.9, 0.15, 0.15, 0.55, 0.8, 0.8, 0.15, 0.56, 0.56, 0.6), strict=True))
_T1_OTHER_SITE = {**_T1, "white matter": 0.75, "lesion": 0.75, "caudate": 0.57, "putamen": 0.57}
_T1_LOW_FIELD = dict(zip(_TISSUES, (0.8, 0.2, 0.25, 0.55, 0.7, 0.7, 0.25, 0.57, 0.57, 0.57), strict=True))
_T2 = dict(zip(_TISSUES, (0.6, 0.1, 1.0, 0.55, 0.4, 0.4, 1.0, 0.55, 0.55, 0.5), strict=True))


@dataclass(frozen=True)
class PhantomTask:
    """One dataset."""

    name: str
    "nnU-Net's name, DatasetXXX_Name."
    channel: str
    "Name of the only channel."
    labels: tuple[str, ...]
    "Labelled structures; their values are 1, 2, ..."
    scanner: Scanner
    "Contrast, noise and bias."
    cases: int
    "Labelled training cases."
    tests: int = 0
    "Held-out cases."


TARGET = PhantomTask("Dataset210_StriatumT1", "T1", ("caudate", "putamen"), Scanner(_T1, 0.15, 0.12), 5, 20)
SOURCES = (
    PhantomTask("Dataset201_ThalamusLowField", "T1", ("thalamus",), Scanner(_T1_LOW_FIELD, 0.06, 0.05), 40),
    PhantomTask("Dataset202_StriatumOtherSite", "T1", ("caudate", "putamen"), Scanner(_T1_OTHER_SITE, 0.1, 0.1), 8),
    PhantomTask("Dataset203_UnseenLesionT2", "T2", ("lesion",), Scanner(_T2, 0.05, 0.1), 30),
)


def write_task(raw: Path, task: PhantomTask) -> None:
    """Write a dataset into nnUNet_raw unless it is there.

    Each case has its own random generator, seeded with dataset number and case number, so the data never change.
    """
    folder = raw / task.name
    if (folder / "dataset.json").is_file():
        return
    number = int(task.name[7:10])
    for index in range(task.cases + task.tests):
        phantom = draw_phantom(np.random.default_rng((number, index)), task.scanner)
        part = "Tr" if index < task.cases else "Ts"
        name = f"case{index:02d}"
        _write(folder / f"images{part}" / f"{name}_0000{ENDING}", phantom.image)
        _write(folder / f"labels{part}" / f"{name}{ENDING}", label_image(phantom, task.labels))
    # last: a dataset without it was interrupted, and is written again
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": task.channel},
            "labels": {"background": 0, **{name: value for value, name in enumerate(task.labels, 1)}},
            "numTraining": task.cases,
            "file_ending": ENDING,
        },
    )


def label_image(phantom: Phantom, labels: tuple[str, ...]) -> NDArray[np.uint8]:
    """Return a label image, shape (SIZE, SIZE): the structures in ``labels`` as 1, 2, ... on background 0."""
    image = np.zeros(phantom.image.shape, dtype=np.uint8)
    for value, name in enumerate(labels, 1):
        image[phantom.structures[name]] = value
    return image


def _write(path: Path, slice_: NDArray[np.float32] | NDArray[np.uint8]) -> None:
    # a third axis of length 1 makes a NIfTI volume that nnU-Net treats as a 2-D image
    image = sitk.GetImageFromArray(slice_[None])
    image.SetSpacing(SPACING)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)
