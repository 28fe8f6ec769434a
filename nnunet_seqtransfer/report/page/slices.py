"""The most telling slices of a case: where the structure is largest, and where the prediction is most wrong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

MARGIN = 0.35
"""Of the structure's extent, shown around it on each side; a guess at how much surrounding a reader needs."""
LEAST = 10
"""Pixels shown around it at least."""
MOST = 420
"""Pixels along the longer side; larger cut-outs lose every second pixel, or more."""


@dataclass(frozen=True, eq=False)
class Slice:
    """One cut through a case."""

    title: str
    "What is special about it."
    place: str
    "Which slice it is, in words; empty for a 2-D image."
    image: NDArray[np.uint8]
    "(height, width), or (height, width, 3) in colours, for the screen."
    reference: NDArray[np.int16]
    "(height, width) label values."
    prediction: NDArray[np.int16]
    "(height, width) label values."
    aspect: float
    "Height of a pixel in widths of a pixel."


def telling_slices(
    images: NDArray[np.float32],
    reference: NDArray[np.int16],
    prediction: NDArray[np.int16],
    spacing: tuple[float, ...],
    *,
    colours: bool,
    ignore: int | None = None,
) -> tuple[Slice, ...]:
    """The largest cross-section, and the slice with most wrong pixels where that is another one.

    Slices are cut across the axis of the widest spacing, the first of equal ones.

    Args:
        images: (channels, z, y, x); the first channel is shown.
        reference: (z, y, x) label values.
        prediction: (z, y, x) label values.
        spacing: (3,) distance of voxels along z, y, x; 2-D images have a single slice.
        colours: whether the first three channels are red, green and blue from 0 to 255.
        ignore: value of the ignore label, whose voxels nobody annotated: they count as neither structure nor wrong.

    Raises ValueError where the shapes do not fit.
    """
    if not images.shape[1:] == reference.shape == prediction.shape:
        raise ValueError(f"image {images.shape[1:]}, reference {reference.shape}, prediction {prediction.shape}")
    axis = 0 if reference.shape[0] == 1 else int(np.argmax(np.asarray(spacing) > max(spacing) * 0.999))
    others = tuple(other for other in range(3) if other != axis)
    known = np.ones(reference.shape, dtype=bool) if ignore is None else reference != ignore
    structure = ((reference > 0) | (prediction > 0)) & known
    sizes = structure.sum(axis=others)
    wrong = ((reference != prediction) & known).sum(axis=others)
    is_flat = reference.shape[axis] == 1
    found = {int(sizes.argmax()): "cut-out around the structure" if is_flat else "largest cross-section"}
    if not is_flat and wrong.any():
        worst = int(wrong.argmax())
        found[worst] = "largest cross-section, and most wrong" if worst in found else "most wrong pixels"
    aspect = spacing[others[0]] / spacing[others[1]]
    levels = None if colours else np.percentile(images[0], (0.5, 99.5))
    shown = images[:3] if colours else images[:1]
    cuts = []
    for place, title in found.items():
        cut = [np.take(array, place, axis=axis) for array in (*shown, reference, prediction, structure)]
        *channels, one, two, around = _flipped(cut, axis)
        where = f"slice {place + 1} of {reference.shape[axis]}" if not is_flat else ""
        grey = _on_screen(np.stack(channels, axis=-1), levels)
        window = _window(around)
        cuts.append(Slice(title, where, grey[window], one[window], two[window], aspect))
    return tuple(cuts)


def _flipped(cut: list[NDArray[Any]], axis: int) -> list[NDArray[Any]]:
    """Cuts along the body's axis with the upper end on top; volumes are stored from the feet up."""
    return [array[::-1] for array in cut] if axis > 0 else cut


def _on_screen(image: NDArray[np.float32], levels: NDArray[np.float64] | None) -> NDArray[np.uint8]:
    """(height, width, channels) intensities as (height, width) grey from 0 to 255, or (height, width, 3) in colours."""
    low, high = (0.0, 255.0) if levels is None else (float(levels[0]), float(levels[1]))
    scaled = np.clip((image - low) / ((high - low) or 1.0) * 255, 0, 255)
    grey: NDArray[np.uint8] = np.nan_to_num(scaled).astype(np.uint8)
    return grey if grey.shape[-1] == 3 else grey[..., 0]


def _window(structure: NDArray[np.bool_]) -> tuple[slice, slice]:
    """The structure with some surrounding, in steps that keep it small; all of the picture where there is none."""
    rows, columns = _around(structure)
    step = max(1, -(-max(rows.stop - rows.start, columns.stop - columns.start) // MOST))
    return slice(rows.start, rows.stop, step), slice(columns.start, columns.stop, step)


def _around(structure: NDArray[np.bool_]) -> tuple[slice, slice]:
    if not structure.any():
        return slice(0, structure.shape[0]), slice(0, structure.shape[1])
    ends = [(int(found.min()), int(found.max()) + 1) for found in np.nonzero(structure)]
    side = max(stop - start for start, stop in ends)
    side += 2 * max(LEAST, round(MARGIN * side))
    windows = []
    for (start, stop), length in zip(ends, structure.shape, strict=True):
        first = max(0, min((start + stop - side) // 2, length - side))
        windows.append(slice(first, min(length, first + side)))
    return windows[0], windows[1]
