"""The demo's datasets: one target with few labelled cases, and sources near and far, as nnU-Net wants them stored."""

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
"""Millimetres along x, y and between slices."""

_T1 = {
    "scalp": 0.9,
    "skull": 0.15,
    "fluid": 0.15,
    "grey matter": 0.55,
    "white matter": 0.8,
    "lesion": 0.8,
    "ventricle": 0.15,
    "caudate": 0.56,
    "putamen": 0.56,
    "thalamus": 0.6,
}
_T1_OTHER_SITE = {**_T1, "white matter": 0.75, "lesion": 0.75, "caudate": 0.57, "putamen": 0.57, "thalamus": 0.6}
_T1_LOW_FIELD = {
    "scalp": 0.8,
    "skull": 0.2,
    "fluid": 0.25,
    "grey matter": 0.55,
    "white matter": 0.7,
    "lesion": 0.7,
    "ventricle": 0.25,
    "caudate": 0.57,
    "putamen": 0.57,
    "thalamus": 0.57,
}
_T2 = {
    "scalp": 0.6,
    "skull": 0.1,
    "fluid": 1.0,
    "grey matter": 0.55,
    "white matter": 0.4,
    "lesion": 0.4,
    "ventricle": 1.0,
    "caudate": 0.55,
    "putamen": 0.55,
    "thalamus": 0.5,
}
"""Lesions look like white matter everywhere: who labels them has seen them in another kind of image."""


@dataclass(frozen=True)
class PhantomTask:
    """One dataset."""

    name: str
    "nnU-Net's name, DatasetXXX_Name."
    channel: str
    "Name of its channel."
    labels: tuple[str, ...]
    "Structures that are labelled, 1, 2, ..."
    scanner: Scanner
    "How its images look."
    cases: int
    "Labelled cases to train on."
    tests: int = 0
    "Held-out cases."


TARGET = PhantomTask("Dataset210_StriatumT1", "T1", ("caudate", "putamen"), Scanner(_T1, 0.15, 0.12), 5, 20)
SOURCES = (
    PhantomTask("Dataset201_ThalamusLowField", "T1", ("thalamus",), Scanner(_T1_LOW_FIELD, 0.06, 0.05), 40),
    PhantomTask("Dataset202_StriatumOtherSite", "T1", ("caudate", "putamen"), Scanner(_T1_OTHER_SITE, 0.1, 0.1), 8),
    PhantomTask("Dataset203_UnseenLesionT2", "T2", ("lesion",), Scanner(_T2, 0.05, 0.1), 30),
)


def write_task(raw: Path, task: PhantomTask) -> None:
    """Writes a dataset into nnUNet_raw; dataset.json comes last, so that one without it is known to be unfinished.

    Every case has a generator of its own, seeded by the number of the dataset and of the case: always the same data.
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
    write_json(
        folder / "dataset.json",
        {
            "channel_names": {"0": task.channel},
            "labels": {"background": 0, **label_values(task)},
            "numTraining": task.cases,
            "file_ending": ENDING,
        },
    )


def label_values(task: PhantomTask) -> dict[str, int]:
    """Label -> its value."""
    return {name: value for value, name in enumerate(task.labels, 1)}


def label_image(phantom: Phantom, labels: tuple[str, ...]) -> NDArray[np.uint8]:
    """The structures named by ``labels`` as 1, 2, ... on background 0."""
    image = np.zeros(phantom.image.shape, dtype=np.uint8)
    for value, name in enumerate(labels, 1):
        image[phantom.structures[name]] = value
    return image


def _write(path: Path, slice_: NDArray[np.float32] | NDArray[np.uint8]) -> None:
    """One slice as a NIfTI volume with a third axis of length 1, which nnU-Net treats as a 2-D image."""
    image = sitk.GetImageFromArray(slice_[None])
    image.SetSpacing(SPACING)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)
