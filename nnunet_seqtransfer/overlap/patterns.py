"""Hash ordinal patterns around local image extrema; hashes survive rescaling, turns and crops.

At every strict local maximum or minimum, the neighbourhood is replaced by dense ranks. Ranks do not change under any
increasing intensity map. An inversion turns maxima into minima, so neighbourhoods around minima are negated first.
Turns and flips are undone by the neighbours that share a face with the centre: along each axis the larger one goes to
the positive side, and axes are sorted by it. Positions are not used, so a crop has the same patterns as that part of
the whole image.
"""

import itertools
import math
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

Voxels = NDArray[np.float32]

DISTINCT = 8
"""Minimum distinct values in a neighbourhood; patterns with few grey levels agree by chance."""
RADIUS = {2: 2, 3: 1}
"""Radius by dimension: 5x5 pixels in 2-D and 3x3x3 voxels in 3-D, 25 and 27 values."""
SLAB_VOXELS = 1 << 19
"""Voxels per slab: small enough for the processor cache and little extra memory."""


def ordinal_patterns(image: Voxels) -> NDArray[np.uint64]:
    """Return an image's distinct patterns, ascending; the lowest bit is 1 for a pattern around a minimum.

    Args:
        image: shape (x, y, z). If an axis has fewer than three voxels, the volume is treated as 2-D images in the
            plane spanned by the other axes, as nnU-Net stores them. Voxels next to NaN have no pattern.

    Returns:
        uint64, shape (patterns,); a pattern that occurs around maxima and minima is listed once.
    """
    hashes = np.unique(np.concatenate([np.empty(0, dtype=np.uint64), *(_patterns_in(part) for part in _parts(image))]))
    # hashes that differ only in the lowest bit are one pattern
    first = np.ones(len(hashes), dtype=bool)
    first[1:] = hashes[1:] >> np.uint64(1) != hashes[:-1] >> np.uint64(1)
    return hashes[first]


def _parts(image: Voxels) -> Iterator[Voxels]:
    """Yield the slices if the volume is flat, else slabs that overlap by one neighbourhood."""
    thin = int(np.argmin(image.shape))
    if image.shape[thin] < 3:
        yield from np.moveaxis(image, thin, 0)
        return
    slices = max(1, SLAB_VOXELS // math.prod(image.shape[1:]))
    for start in range(0, len(image) - 2, slices):
        yield image[start : start + slices + 2]


def _patterns_in(image: Voxels) -> NDArray[np.uint64]:
    """Return the hashes in one 2-D image or slab."""
    offsets, symmetries = _neighbourhood(image.ndim)
    radius = RADIUS[image.ndim]
    centres = _candidates(image)
    inside = ((centres >= radius) & (centres < np.asarray(image.shape) - radius)).all(axis=1)
    # flat indices: faster than indexing three axes
    strides = np.asarray([math.prod(image.shape[axis + 1 :]) for axis in range(image.ndim)])
    values = image.reshape(-1)[(centres[inside] @ strides)[:, None] + offsets @ strides]
    values, minimum = _strict(values, offsets)
    turn, unambiguous = _turns(values, offsets)
    values, minimum = values[unambiguous], minimum[unambiguous]
    ranks = _dense_ranks(np.take_along_axis(values, symmetries[turn[unambiguous]], axis=1))
    enough = ranks.max(axis=1, initial=0) + 1 >= DISTINCT
    hashes: NDArray[np.uint64] = (_hash(ranks[enough]) & ~np.uint64(1)) | minimum[enough].astype(np.uint64)
    return hashes


def _candidates(image: Voxels) -> NDArray[np.intp]:
    """Return indices, shape (n, dimensions), for inner voxels that are extrema among their 3x3(x3) neighbours.

    Plateaus are left out. A separable maximum is much faster than comparing all neighbours.
    """
    largest, smallest = image, image
    for axis in range(image.ndim):
        count = largest.shape[axis] - 2
        if count < 1:
            return np.empty((0, image.ndim), dtype=np.intp)
        shifted = [(slice(None),) * axis + (slice(shift, shift + count),) for shift in range(3)]
        largest = np.maximum(np.maximum(largest[shifted[0]], largest[shifted[1]]), largest[shifted[2]])
        smallest = np.minimum(np.minimum(smallest[shifted[0]], smallest[shifted[1]]), smallest[shifted[2]])
    centre = image[(slice(1, -1),) * image.ndim]
    return np.argwhere(((centre == largest) | (centre == smallest)) & (largest != smallest)) + 1


def _strict(values: Voxels, offsets: NDArray[np.intp]) -> tuple[Voxels, NDArray[np.bool_]]:
    """Keep neighbourhoods (n, values) around strict extrema, negate those around minima, and mark the minima."""
    direct = values[:, np.abs(offsets).max(axis=1) == 1]
    centre = values[:, len(offsets) // 2, None]
    maximum = np.asarray((centre > direct).all(axis=1))
    minimum = np.asarray((centre < direct).all(axis=1))
    # the wider 2-D neighbourhood may hold NaN or infinity; ranks would then depend on the sort
    kept = (maximum | minimum) & np.isfinite(values).all(axis=1)
    values, minimum = values[kept], minimum[kept]
    return np.where(minimum[:, None], -values, values), minimum


def _turns(values: Voxels, offsets: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """Return the symmetry that brings each neighbourhood into standard position, and True if it is unambiguous.

    If two deciding values are equal, the position is ambiguous.
    """
    dimensions = offsets.shape[1]
    faces = np.eye(dimensions, dtype=np.intp)
    low, high = (
        np.stack([values[:, (offsets == sign * face).all(axis=1)][:, 0] for face in faces], axis=1) for sign in (-1, 1)
    )
    larger = np.maximum(low, high)
    order = np.argsort(-larger, axis=1)
    ordered = np.take_along_axis(larger, order, axis=1)
    unambiguous = (low != high).all(axis=1) & (ordered[:, 1:] != ordered[:, :-1]).all(axis=1)
    # one bit per axis
    flipped = (high < low) @ (1 << np.arange(dimensions))
    orders = {axes: number for number, axes in enumerate(itertools.permutations(range(dimensions)))}
    lookup = np.zeros((dimensions,) * dimensions, dtype=np.intp)
    for axes, number in orders.items():
        lookup[axes] = number
    return lookup[tuple(order.T)] * (1 << dimensions) + flipped, unambiguous


@cache
def _neighbourhood(dimensions: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return the offsets (values, dimensions), and for each grid symmetry the new value order.

    Symmetries are ordered by axis permutation, then by flip bits.
    """
    radius = RADIUS[dimensions]
    offsets = np.asarray(list(itertools.product(range(-radius, radius + 1), repeat=dimensions)))
    weights = (2 * radius + 1) ** np.arange(dimensions)[::-1]
    symmetries = []
    for axes in itertools.permutations(range(dimensions)):
        for bits in range(1 << dimensions):
            signs = np.asarray([-1 if bits >> axis & 1 else 1 for axis in range(dimensions)])
            turned = np.empty_like(offsets)
            turned[:, axes] = offsets
            symmetries.append((turned * signs + radius) @ weights)
    return offsets, np.asarray(symmetries)


def _dense_ranks(values: Voxels) -> NDArray[np.uint8]:
    """Return each value's rank among the distinct values in its row, from 0."""
    # equal values share a rank, so the order among them does not matter
    order = np.argsort(values, axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    steps = np.zeros(values.shape, dtype=np.uint8)
    np.cumsum(ordered[:, 1:] != ordered[:, :-1], axis=1, dtype=np.uint8, out=steps[:, 1:])
    ranks = np.empty_like(steps)
    np.put_along_axis(ranks, order, steps, axis=1)
    return ranks


def _hash(rows: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Hash each row to 64 bits with the SplitMix64 finaliser (Steele et al. 2014)."""
    padded = np.zeros((len(rows), -(-rows.shape[1] // 8) * 8), dtype=np.uint8)
    padded[:, : rows.shape[1]] = rows
    state: Any = np.zeros(len(rows), dtype=np.uint64)
    for word in padded.view("<u8").T:
        state = (state ^ word) + np.uint64(0x9E3779B97F4A7C15)
        state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state ^= state >> np.uint64(31)
    return np.asarray(state, dtype=np.uint64)
