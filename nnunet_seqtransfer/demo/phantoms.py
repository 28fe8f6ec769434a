"""Brain-like phantoms: axial head slices, drawn from a seed, with masks for their structures."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_seqtransfer.storage import write_json

SIZE = 64
"""Edge length in pixels."""
STRUCTURES = ("lesion", "ventricle", "caudate", "putamen", "thalamus")
"""Structures that can be labelled."""
HEAD_RADIUS = 0.9
"""Mean head radius as a share of half the edge."""
ENLARGED = 4
"""Factor by which tissues are drawn larger and then averaged, so that edges are as soft as a scanner's."""

BOTH_SIDES: Mapping[str, tuple[float, float, float, float, float]] = {
    # centre x (to either side) and y, half axes x and y, tilt in degrees; in head radii, front is at the top
    "ventricle": (0.11, -0.12, 0.08, 0.28, -12.0),
    "caudate": (0.25, -0.28, 0.10, 0.20, -20.0),
    "putamen": (0.48, -0.06, 0.11, 0.27, 14.0),
    "thalamus": (0.18, 0.24, 0.13, 0.17, 30.0),
}
"""Structures on both sides; later ones are drawn over earlier ones."""


@dataclass(frozen=True)
class Scanner:
    """Appearance that one site's scanner gives to tissues."""

    intensities: Mapping[str, float]
    "Tissue -> brightness; air is 0."
    noise: float
    "Standard deviation, same unit as `intensities`."
    bias: float
    "Relative brightness drift over the image."


@dataclass(frozen=True)
class Phantom:
    """One case."""

    image: NDArray[np.float32]
    "Shape (SIZE, SIZE), intensities times 100."
    structures: dict[str, NDArray[np.bool_]]
    "Structure -> mask, shape (SIZE, SIZE)."


def draw_phantom(rng: np.random.Generator, scanner: Scanner) -> Phantom:
    """Draw a head with random proportions, pose and folds. Equal generators draw equal phantoms."""
    x, y = _head_coordinates(rng)
    tissues = _tissues(rng, x, y)
    brightness = np.zeros(x.shape)
    for tissue, mask in tissues.items():
        brightness[mask] = scanner.intensities[tissue]
    image = _shrink(brightness) * _drift(rng, scanner.bias)
    # The magnitude of a complex signal: noise is Rician, as in magnetic resonance images
    real, imaginary = rng.normal(0, scanner.noise, (2, SIZE, SIZE))
    image = np.hypot(image + real, imaginary)
    # a pixel belongs to a structure if more than half of it does
    structures = {name: _shrink(_visible(tissues, name).astype(float)) > 0.5 for name in STRUCTURES}
    return Phantom((100 * image).astype(np.float32), structures)


def _head_coordinates(rng: np.random.Generator) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return x and y in head radii for every fine pixel: turned, shifted, stretched, and gently warped."""
    fine = SIZE * ENLARGED
    axis = (np.arange(fine) + 0.5) / fine * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    dx, dy = rng.normal(0, 0.03, 2)
    turn = math.radians(rng.normal(0, 6))
    x, y = x - dx, y - dy
    x, y = math.cos(turn) * x + math.sin(turn) * y, math.cos(turn) * y - math.sin(turn) * x
    width, length = rng.normal((0.80, 0.95), 0.03) * HEAD_RADIUS
    x = x + _smooth(rng, fine, 0.025)
    y = y + _smooth(rng, fine, 0.025)
    return x / width, y / length


def _smooth(rng: np.random.Generator, fine: int, amplitude: float) -> NDArray[Any]:
    """Return a slowly varying field, shape (fine, fine), with about the given standard deviation."""
    coarse = rng.normal(0, amplitude, (5, 5))
    field: NDArray[Any] = ndimage.zoom(coarse, fine / 5, order=3, mode="nearest", grid_mode=True)
    return field


def _tissues(rng: np.random.Generator, x: NDArray[Any], y: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Return tissue -> mask, in drawing order."""
    radius, angle = np.hypot(x, y), np.arctan2(y, x)
    folds = sum(
        rng.uniform(0.01, 0.03) * np.sin(waves * angle + rng.uniform(0, 2 * math.pi)) for waves in (7, 11, 16, 23)
    )
    tissues = {
        "scalp": radius < 1.0,
        "skull": radius < 0.93,
        "fluid": radius < 0.87,
        "grey matter": radius < 0.83,
        "white matter": radius < 0.70 + folds,
        "lesion": _lesion(rng, x, y),
    }
    for name, (cx, cy, a, b, tilt) in BOTH_SIDES.items():
        grown = rng.normal(1, 0.12, 2)
        jitter = rng.normal(0, 0.015, 2)
        mask = np.zeros_like(x, dtype=bool)
        for side in (-1, 1):  # both sides share pose and size, but are not mirror images
            own = rng.normal(1, 0.06, 2) * grown
            mask |= _ellipse(side * x, y, (cx + jitter[0], cy + jitter[1]), (a * own[0], b * own[1]), tilt)
        tissues[name] = mask
    return tissues


def _lesion(rng: np.random.Generator, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a round spot anywhere in the white matter."""
    where, distance = rng.uniform(0, 2 * math.pi), rng.uniform(0.25, 0.55)
    half_axes = rng.uniform(0.12, 0.22, 2)
    centre = distance * math.cos(where), distance * math.sin(where)
    return _ellipse(x, y, centre, (half_axes[0], half_axes[1]), 0)


def _ellipse(
    x: NDArray[Any], y: NDArray[Any], centre: tuple[float, float], half_axes: tuple[float, float], tilt: float
) -> NDArray[np.bool_]:
    c, s = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    u, v = x - centre[0], y - centre[1]
    inside: NDArray[np.bool_] = ((c * u + s * v) / half_axes[0]) ** 2 + ((c * v - s * u) / half_axes[1]) ** 2 < 1
    return inside


def _visible(tissues: Mapping[str, NDArray[np.bool_]], name: str) -> NDArray[np.bool_]:
    """Return a structure without the parts that are drawn over."""
    later = list(tissues)[list(tissues).index(name) + 1 :]
    covered = np.any([tissues[other] for other in later], axis=0) if later else np.zeros_like(tissues[name])
    return tissues[name] & ~covered


def _shrink(fine: NDArray[Any]) -> NDArray[Any]:
    """Average blocks of ENLARGED x ENLARGED fine pixels."""
    averaged: NDArray[Any] = fine.reshape(SIZE, ENLARGED, SIZE, ENLARGED).mean(axis=(1, 3))
    return averaged


def _drift(rng: np.random.Generator, bias: float) -> NDArray[Any]:
    """Return a smooth factor around 1, like a coil's field."""
    field: NDArray[Any] = np.exp(ndimage.zoom(rng.normal(0, bias, (3, 3)), SIZE / 3, order=2, mode="nearest"))
    return field


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
    "Labelled cases."
    trained: int = 0
    "Cases of the target to train on; the others are held out. 0 for sources, which train on all."


TARGET = PhantomTask("Dataset210_StriatumT1", "T1", ("caudate", "putamen"), Scanner(_T1, 0.15, 0.12), 25, 5)
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
    for index in range(task.cases):
        phantom = draw_phantom(np.random.default_rng((number, index)), task.scanner)
        _write(folder / "imagesTr" / f"{case_name(index)}_0000{ENDING}", phantom.image)
        _write(folder / "labelsTr" / f"{case_name(index)}{ENDING}", label_image(phantom, task.labels))
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


def case_name(index: int) -> str:
    """Return a case's name; ``index`` counts from 0."""
    return f"case{index:02d}"


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
