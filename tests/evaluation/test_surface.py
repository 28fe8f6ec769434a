"""Normalised surface distance against closed forms and against a search over all pairs of surface voxels."""

from __future__ import annotations

import math

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_seqtransfer.evaluation.surface import normalised_surface_distance


def box(shape, start, stop):
    mask = np.zeros(shape, dtype=bool)
    mask[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = True
    return mask


@pytest.mark.parametrize("shift", [0, 1, 2, 3])
@pytest.mark.parametrize("tolerance", [0.0, 1.0, 2.0, 5.0])
def test_shifted_squares_have_a_closed_form(shift, tolerance):
    """A square of side s shifted by d <= t along one axis lies wholly within t of itself.

    At t = 0 < d, the surfaces share what the sides along the shift have in common: twice s - d pixels.
    """
    side = 10
    a, b = box((30, 30), (5, 5), (5 + side, 5 + side)), box((30, 30), (5 + shift, 5), (5 + shift + side, 5 + side))
    surface = 4 * (side - 1)
    found = normalised_surface_distance(a, b, (1.0, 1.0), tolerance)
    if shift <= tolerance:
        assert found == 1.0
    elif tolerance == 0:
        assert found == pytest.approx(2 * (side - shift) / surface)
    else:
        assert 2 * (side - shift) / surface < found < 1


@pytest.mark.parametrize(("tolerance", "expected"), [(1.9, 0.0), (2.0, 1.0)])
def test_distances_are_in_millimetres_along_each_axis(tolerance, expected):
    """Two plates one voxel apart along an axis of 2 mm lie 2 mm apart, whatever the spacing of the other axes."""
    a, b = box((6, 9, 8), (2, 0, 0), (3, 9, 8)), box((6, 9, 8), (3, 0, 0), (4, 9, 8))
    assert normalised_surface_distance(a, b, (2.0, 0.5, 0.7), tolerance) == expected


def test_a_shifted_box_in_a_volume_has_a_closed_form():
    """A box 12 x 8 x 6 shifted by 3 voxels of 1 mm along its length, tolerance 2 mm: counted by hand."""
    a, b = box((30, 20, 20), (4, 4, 4), (16, 12, 10)), box((30, 20, 20), (7, 4, 4), (19, 12, 10))
    surface = 12 * 8 * 6 - 10 * 6 * 4
    # Of each box the layer of 8 x 6 voxels that sticks out farthest is 3 mm from the other's end. Its other end lies
    # inside the other box, whose sides are at most 2 mm away: 6 voxels wide, it has no voxel farther than that.
    assert normalised_surface_distance(a, b, (1.0, 1.0, 1.0), 2.0) == pytest.approx(1 - 8 * 6 / surface)


def test_the_distance_equals_a_search_over_all_pairs():
    """Random blobs of anisotropic voxels: the share equals that of a search over all pairs of surface voxels."""
    rng = np.random.default_rng(0)
    spacing = np.array([2.5, 0.8, 1.1])
    for tolerance in (0.9, 1.5, 3.0):
        a, b = (rng.uniform(size=(6, 9, 8)) > 0.6 for _ in range(2))
        surfaces = []
        for mask in (a, b):
            padded = np.pad(mask, 1)
            inner = np.ones_like(mask)
            for axis in range(3):
                for step in (-1, 1):
                    inner &= np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1]
            surfaces.append(np.argwhere(mask & ~inner) * spacing)
        apart = np.linalg.norm(surfaces[0][:, None] - surfaces[1][None], axis=-1)
        within = (apart.min(axis=1) <= tolerance).sum() + (apart.min(axis=0) <= tolerance).sum()
        wanted = within / (len(surfaces[0]) + len(surfaces[1]))
        assert normalised_surface_distance(a, b, spacing, tolerance) == pytest.approx(wanted)
        assert normalised_surface_distance(b, a, spacing, tolerance) == pytest.approx(wanted)


def test_simpleitk_finds_the_same_surface_distances():
    """The greatest tolerance that is still short of 1 is the Hausdorff distance between the surfaces, by SimpleITK."""
    a, b = box((20, 24, 22), (3, 4, 5), (11, 15, 14)), box((20, 24, 22), (5, 8, 5), (14, 17, 18))
    images = []
    for mask in (a, b):
        image = sitk.GetImageFromArray(mask.astype(np.uint8))
        image.SetSpacing((1.0, 1.0, 1.0))
        images.append(sitk.LabelContour(image, fullyConnected=False))
    measure = sitk.HausdorffDistanceImageFilter()
    measure.Execute(*images)
    hausdorff = measure.GetHausdorffDistance()
    assert normalised_surface_distance(a, b, (1, 1, 1), hausdorff) == 1.0
    assert normalised_surface_distance(a, b, (1, 1, 1), hausdorff - 0.01) < 1.0


def test_empty_masks_and_slices():
    """Two empty masks say nothing, one empty is 0; a 2-D image stored as one slice is judged as 2-D."""
    empty, full = np.zeros((5, 6), dtype=bool), np.ones((5, 6), dtype=bool)
    assert math.isnan(normalised_surface_distance(empty, empty, (1, 1), 1))
    assert normalised_surface_distance(empty, full, (1, 1), 1) == 0
    assert normalised_surface_distance(full, empty, (1, 1), 1) == 0
    a, b = box((30, 30), (5, 5), (15, 15)), box((30, 30), (8, 5), (18, 15))
    flat = normalised_surface_distance(a, b, (0.5, 0.5), 0.5)
    assert normalised_surface_distance(a[None], b[None], (999, 0.5, 0.5), 0.5) == flat < 1
