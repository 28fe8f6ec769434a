"""Normalised surface distance of two masks: the share of their surfaces that lies within a tolerance of the other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_erosion, distance_transform_edt

Mask = NDArray[np.bool_]


def normalised_surface_distance(
    reference: NDArray[Any], prediction: NDArray[Any], spacing: Sequence[float], tolerance: float
) -> float:
    """(|A within t of B| + |B within t of A|) / (|A| + |B|), A and B being the surface voxels of the masks.

    A surface voxel is one of the mask with a face neighbour outside of it; what lies beyond the image is outside.
    Distances are between centres of voxels. This is the definition of Nikolov et al. (arXiv 1809.04430) with surface
    elements counted as voxels, as Metrics Reloaded does (Maier-Hein et al., Nature Methods 21, 2024).

    Args:
        reference, prediction: boolean or 0 and 1, of one shape with as many axes as ``spacing``; an axis of length 1
            (a 2-D image) is left out.
        spacing: distance between voxels along each axis, in millimetres.
        tolerance: in millimetres, 0 or above.

    Returns 0 to 1; NaN where both masks are empty, as nnU-Net's Dice, and 0 where one is.
    """
    axes = [axis for axis, length in enumerate(reference.shape) if length > 1] or [0]
    shape = [reference.shape[axis] for axis in axes]
    a, b = (np.asarray(mask, dtype=bool).reshape(shape) for mask in (reference, prediction))
    if not a.any() and not b.any():
        return math.nan
    if not a.any() or not b.any():
        return 0.0
    box = _box(a | b)
    surfaces = _surface(a[box]), _surface(b[box])
    sampling = [float(spacing[axis]) for axis in axes]
    within = sum(
        int(np.count_nonzero(distance_transform_edt(~other, sampling=sampling)[own] <= tolerance + 1e-6))
        for own, other in (surfaces, surfaces[::-1])
    )
    return within / sum(int(np.count_nonzero(surface)) for surface in surfaces)


def _box(mask: Mask) -> tuple[slice, ...]:
    """The smallest box around a mask: distances are computed in it alone, which saves most of the time."""
    others = [tuple(other for other in range(mask.ndim) if other != axis) for axis in range(mask.ndim)]
    ends = [np.flatnonzero(mask.any(axis=other))[[0, -1]] for other in others]
    return tuple(slice(int(first), int(last) + 1) for first, last in ends)


def _surface(mask: Mask) -> Mask:
    return np.asarray(mask & ~binary_erosion(mask, border_value=0))
