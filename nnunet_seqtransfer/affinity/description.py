"""What the default metric takes down of one case: intensities, local structure, and every object with its surroundings.

Intensities are looked at in some ten thousand voxels spread over the image or the object, masks as a whole, and no copy
of the images is made: a case of 512 x 512 x 300 voxels takes no longer than reading it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_seqtransfer.affinity.masks import (
    Boxes,
    box_around,
    coordinates,
    dilated,
    form,
    holding,
    members,
    spread_positions,
)
from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.tasks.profiling import Labels

LEVELS = np.linspace(0.01, 0.99, 50)
"""Quantile levels; the root mean square difference of two quantile functions is their 2-Wasserstein distance (W2)."""
PROJECTION_LEVELS = (np.arange(20) + 0.5) / 20
"""Quantile levels of the projections of patches."""
DIRECTIONS = 16
"""Projections of a patch."""
SAMPLED = 2**15
"""Voxels whose intensities are looked at, in the image and in each object."""
PATCHES = 2**12
"""Patches of 3 x 3 x 3 voxels that are looked at."""

Array = NDArray[np.float32]
Values = tuple[int, ...]


def describe_case(case: CaseData, labels: Labels) -> dict[str, Array]:
    """Descriptors of one case with C channels and L labels, the union of all labels added as the first.

    Returns (all float32, NaN where the case does not hold the label, or the label has no surroundings):
        ``intensity`` (C, 50): quantiles of the normalised intensities.
        ``structure`` (C, 16, 20): quantiles of the projections of patches on `directions`, thus without their mean.
        ``inside`` (1 + L, C, 50): quantiles of the intensities inside the objects.
        ``relief`` (1 + L, C, 50): the same, less the median of the shell around the object.
        ``form`` (1 + L, 8): see `masks.form`.
    """
    images = case.images.reshape(len(case.images), -1)
    sampled = _seen(case.segmentation.reshape(-1))
    patches = _patches(case.segmentation.shape, sampled[:: max(1, len(sampled) // PATCHES)])
    union = tuple(sorted({value for values in labels for value in values}))
    boxes = ndimage.find_objects(case.segmentation)
    objects = [_describe_object(case, values, (0, *union), boxes) for values in (union, *labels)]
    return {
        "intensity": np.stack([_quantiles(image[sampled]) for image in images]),
        "structure": np.stack([_structure(image[patches]) for image in images]),
        "inside": np.stack([inside for inside, _, _ in objects]),
        "relief": np.stack([relief for _, relief, _ in objects]),
        "form": np.stack([shape for _, _, shape in objects]),
    }


def directions() -> Array:
    """(27, 16) directions of unit length, orthogonal to the constant patch, the same for everyone for ever."""
    # Raw bits of PCG64 are the same in every version of NumPy, its normal distribution need not be; twelve uniform
    # numbers add up to nearly a normal one.
    bits = np.asarray(np.random.PCG64(241006892).random_raw(27 * DIRECTIONS * 12)) >> np.uint64(11)
    normal = (bits / 2.0**53).reshape(27, DIRECTIONS, 12).sum(axis=-1)
    centred = normal - normal.mean(axis=0)
    return np.asarray(centred / np.linalg.norm(centred, axis=0), dtype=np.float32)


def _seen(segmentation: NDArray[np.int16]) -> NDArray[np.intp]:
    """Flat positions of about `SAMPLED` voxels spread over those not masked out (-1); any where all are masked out."""
    positions = spread_positions(segmentation.size, SAMPLED)
    seen = positions[segmentation[positions] >= 0]
    if len(seen) < len(positions) // 8:  # little is left of the image: look at that
        every = np.flatnonzero(segmentation >= 0)
        seen = every[spread_positions(len(every), SAMPLED)]
    return seen if len(seen) else positions


def _quantiles(values: NDArray[Any], levels: NDArray[np.float64] = LEVELS) -> Array:
    """Quantiles along the first axis, linear between order statistics; one sort, several times as fast as NumPy's."""
    ordered = np.sort(values, axis=0)
    places = levels * (len(ordered) - 1)
    below = places.astype(np.intp)
    above = np.minimum(below + 1, len(ordered) - 1)
    share = (places - below).astype(np.float32).reshape(-1, *(1,) * (values.ndim - 1))
    # The difference first: where both are equal the quantile is exactly that value.
    return np.asarray(ordered[below] + (ordered[above] - ordered[below]) * share, dtype=np.float32)


def _patches(shape: tuple[int, ...], centres: NDArray[np.intp]) -> NDArray[np.intp]:
    """(n, 27) flat positions of the 3 x 3 x 3 patches around ``centres``; beyond the border the last voxel repeats."""
    x, y, z = (
        np.clip(place[:, None] + np.arange(-1, 2), 0, length - 1)
        for place, length in zip(coordinates(centres, shape), shape, strict=True)
    )
    planes = (x[:, :, None, None] * shape[1] + y[:, None, :, None]) * shape[2]
    return np.asarray(planes + z[:, None, None, :]).reshape(len(centres), 27)


def _structure(patches: Array) -> Array:
    """(16, 20) quantiles of the projections of (n, 27) patches."""
    return _quantiles(patches @ directions(), PROJECTION_LEVELS).T


def _describe_object(case: CaseData, values: Values, known: Values, boxes: Boxes) -> tuple[Array, Array, Array]:
    """Quantiles inside (C, 50), relief (C, 50), and form (8,) of the voxels with these label values."""
    box = box_around(boxes, values, case.segmentation.shape)
    if box is None:
        absent = np.full((len(case.images), len(LEVELS)), np.nan, dtype=np.float32)
        return absent, absent, np.full(8, np.nan, dtype=np.float32)
    segmentation = case.segmentation[box]
    mask = holding(segmentation, values)
    # Voxels that are masked out, or labelled to be ignored, are no surroundings.
    shell = dilated(mask) & ~mask & holding(segmentation, known)
    images = [image[box] for image in case.images]
    within = members(mask, SAMPLED)
    around = members(shell, SAMPLED)
    inside = np.stack([_quantiles(image[within]) for image in images])
    medians = [np.median(image[around]) if len(around[0]) else np.nan for image in images]
    relief = inside - np.asarray(medians, dtype=np.float32)[:, None]
    return inside, relief, form(mask, tuple(part.start for part in box), case.segmentation.shape)
