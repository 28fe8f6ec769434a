"""Find the voxels and the surroundings of labelled objects, and describe an object by eight numbers."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

SHELL = 3
"""Width in voxels of the shell that represents the surroundings of an object."""
_WHOLE = 2**18
"""Size up to which all member voxels of a mask are listed; members of larger masks are sampled."""
_GOLDEN = 0.6180339887498949
"""Golden ratio minus 1. Its multiples modulo 1 are evenly spread, and never in step with the rows of an image."""

Mask = NDArray[np.bool_]
Boxes = Sequence[tuple[slice, ...] | None]


def box_around(
    boxes: Boxes, values: tuple[int, ...], shape: tuple[int, ...], shell: int = SHELL
) -> tuple[slice, ...] | None:
    """Return the box around all voxels with these label values and their shell, clipped to the image; None if empty.

    ``boxes`` holds the boxes of the single values from 1 on, see `scipy.ndimage.find_objects`.
    """
    tight = [box for value in values if 0 < value <= len(boxes) and (box := boxes[value - 1]) is not None]
    if not tight:
        return None
    return tuple(
        slice(
            max(0, min(box[axis].start for box in tight) - shell),
            min(length, max(box[axis].stop for box in tight) + shell),
        )
        for axis, length in enumerate(shape)
    )


def holding(segmentation: NDArray[np.int16], values: tuple[int, ...]) -> Mask:
    """Return a mask of the voxels that have one of the values."""
    # np.isin would need eight bytes per voxel. Values are mostly consecutive, also in the union of all labels.
    if tuple(range(values[0], values[-1] + 1)) == values:
        return np.asarray((segmentation >= values[0]) & (segmentation <= values[-1]))
    mask = np.zeros(segmentation.shape, dtype=bool)
    for value in values:
        mask |= segmentation == value
    return mask


@lru_cache(maxsize=8)
def spread_positions(size: int, count: int) -> NDArray[np.intp]:
    """Return ascending positions in ``range(size)``: all, or about ``count`` evenly spread ones. No randomness."""
    if size <= count:
        return np.arange(size)
    positions = np.sort(np.arange(count) * _GOLDEN % 1.0 * size).astype(np.intp)
    positions = positions[np.diff(positions, prepend=-1) > 0]
    positions.setflags(write=False)
    return positions


def coordinates(positions: NDArray[np.intp], shape: tuple[int, ...]) -> tuple[NDArray[np.intp], ...]:
    """Convert flat positions to one array of indices per axis."""
    return tuple(np.unravel_index(positions, shape))


def members(mask: Mask, count: int) -> tuple[NDArray[np.intp], ...]:
    """Return indices of about ``count`` voxels spread over a mask, or of all if it has fewer; one array per axis."""
    flat = mask.reshape(-1)
    if flat.size > _WHOLE and (voxels := int(np.count_nonzero(flat))) > _WHOLE:
        # Listing all members takes eight bytes each. Positions spread over the box hit enough of them.
        positions = spread_positions(flat.size, count * max(1, flat.size // voxels))
        return coordinates(positions[flat[positions]], mask.shape)
    every = np.flatnonzero(flat)
    return coordinates(every[spread_positions(len(every), count)], mask.shape)


def dilated(mask: Mask, width: int = SHELL) -> Mask:
    """Dilate a mask by ``width`` voxels along every axis (a cube as structuring element).

    Each axis grows by doubling steps, which is faster than ``width`` single steps.
    """
    grown = mask
    for axis, length in enumerate(mask.shape):
        reached = 0
        while reached < width and length > 1:
            step = min(reached + 1, width - reached)
            wider = grown.copy()
            if step < length:
                moved, source = np.moveaxis(wider, axis, 0), np.moveaxis(grown, axis, 0)
                moved[step:] |= source[:-step]
                moved[:-step] |= source[step:]
            grown, reached = wider, reached + step
    return grown


def form(mask: Mask, start: tuple[int, ...], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Return eight numbers for size, position and shape of a mask cut out of an image of ``shape`` at ``start``.

    The mask must not be empty. Returned: log10 of the number of voxels; the centroid along the three axes as a share of
    the image; log2 of (standard deviation + 0.5 voxels) along the three axes; log2 of the surface index, surface voxels
    / voxels^(2/3), or / voxels^(1/2) in a single slice. A surface voxel has a face neighbour outside the mask.
    """
    dimensions = max(2, sum(length > 1 for length in shape))
    count = int(np.count_nonzero(mask))
    means, deviations = [], []
    for axis, length in enumerate(mask.shape):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        share = np.count_nonzero(mask, axis=others) / count
        mean = float(share @ np.arange(length))
        means.append((start[axis] + mean + 0.5) / shape[axis])
        deviations.append(np.sqrt(float(share @ (np.arange(length) - mean) ** 2)))
    surface = count - int(np.count_nonzero(interior(mask)))
    spreads = np.log2(np.asarray(deviations) + 0.5)
    return np.asarray(
        [np.log10(count), *means, *spreads, np.log2(surface / count ** (1 - 1 / dimensions))], dtype=np.float32
    )


def interior(mask: Mask) -> Mask:
    """Return the voxels with all face neighbours inside the mask. The border of the array counts as outside.

    Axes with one slice are ignored.
    """
    inside = mask.copy()
    for axis in (axis for axis, length in enumerate(mask.shape) if length > 1):
        moved, source = np.moveaxis(inside, axis, 0), np.moveaxis(mask, axis, 0)
        moved[1:] &= source[:-1]
        moved[:-1] &= source[1:]
        moved[[0, -1]] = False
    return inside
