"""Sketches: what leaves the patterns of an image as they are, and how well samples of them tell what is shared."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from scipy import ndimage

from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.overlap import patterns as patterns_module
from nnunet_seqtransfer.overlap.matching import _shares
from nnunet_seqtransfer.overlap.patterns import DISTINCT, ordinal_patterns
from nnunet_seqtransfer.overlap.sketch import (
    ALL_LABELS,
    FEWEST,
    LEAST_SURFACE,
    MOST,
    NO_LIMIT,
    TOO_FEW,
    ChannelSketch,
    mask_digests,
    sketch_case,
    sketch_channel,
)

ONE = np.uint64(1)
SYMMETRIES = [
    (axes, flips) for axes in itertools.permutations(range(3)) for flips in itertools.product((1, -1), repeat=3)
]


def scan(seed: int = 0, shape: tuple[int, ...] = (20, 24, 22)) -> np.ndarray:
    """A noisy, slightly smooth volume of whole numbers, as scanners store them."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return np.round(1000 + 400 * ndimage.gaussian_filter(noise, 0.7)).astype(np.float32)


def turned(array: np.ndarray, axes: tuple[int, ...], flips: tuple[int, ...]) -> np.ndarray:
    return np.ascontiguousarray(array.transpose(axes)[tuple(slice(None, None, flip) for flip in flips)])


def slow_count(image: np.ndarray) -> int:
    """Voxel by voxel: strict extrema whose direct neighbours along the axes tell all directions apart."""
    count = 0
    for place in itertools.product(*(range(1, length - 1) for length in image.shape)):
        cube = image[tuple(slice(index - 1, index + 2) for index in place)]
        others = np.delete(cube.reshape(-1), 13)
        if not ((others < cube[1, 1, 1]).all() or (others > cube[1, 1, 1]).all()):
            continue
        sign = 1 if (others < cube[1, 1, 1]).all() else -1
        faces = [(sign * cube[0, 1, 1], sign * cube[2, 1, 1]), (sign * cube[1, 0, 1], sign * cube[1, 2, 1])]
        faces.append((sign * cube[1, 1, 0], sign * cube[1, 1, 2]))
        unambiguous = all(low != high for low, high in faces) and len({max(pair) for pair in faces}) == 3
        count += unambiguous and len(np.unique(cube)) >= DISTINCT
    return count


def test_every_clear_extremum_has_a_pattern() -> None:
    """As many patterns as a slow search finds extrema in a volume in which no two are alike."""
    image = scan()
    assert len(ordinal_patterns(image)) == slow_count(image) > 100


@pytest.mark.parametrize(
    "change",
    [
        lambda image: 3 * image + 7,
        lambda image: (image / image.max()).astype(np.float64).astype(np.float32),
        np.sqrt,
        lambda image: image.astype(np.int16).astype(np.float32),
        lambda image: (image - image.mean()) / image.std(),
    ],
    ids=["scaled", "scaled by its maximum", "root", "int16", "z-score"],
)
def test_increasing_maps_change_nothing(change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Scale, offset, any increasing map and another data type leave the patterns exactly as they are."""
    image = scan()
    assert np.array_equal(ordinal_patterns(change(image).astype(np.float32)), ordinal_patterns(image))


def test_inversion_turns_maxima_into_minima_and_changes_nothing_else() -> None:
    """The inverted image has the same patterns, each with the other lowest bit."""
    image = scan()
    found = ordinal_patterns(image)
    assert set(np.unique(found & ONE)) == {0, 1}, "maxima and minima"
    assert np.array_equal(ordinal_patterns(image.max() - image), np.sort(found ^ ONE))


@pytest.mark.parametrize(("axes", "flips"), SYMMETRIES)
def test_turning_and_flipping_changes_nothing(axes: tuple[int, ...], flips: tuple[int, ...]) -> None:
    """All 48 orientations of a volume have the same patterns."""
    image = scan(shape=(12, 14, 13))
    assert np.array_equal(ordinal_patterns(turned(image, axes, flips)), ordinal_patterns(image))


def test_a_crop_has_the_patterns_of_its_place_and_padding_adds_none() -> None:
    """The crop's patterns are a subset of the whole image's; zeros around an image change nothing of those inside."""
    image = scan()
    whole, part = ordinal_patterns(image), ordinal_patterns(image[3:15, 4:20, 2:18])
    assert len(part) > 50 and np.isin(part, whole).all()
    assert np.isin(whole, ordinal_patterns(np.pad(image, 4))).all()


def test_the_slabs_in_which_a_volume_is_looked_at_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slabs of one slice give what the whole volume gives."""
    image = scan()
    expected = ordinal_patterns(image)
    monkeypatch.setattr(patterns_module, "SLAB_VOXELS", 1)
    assert np.array_equal(ordinal_patterns(image), expected)


def test_thin_volumes_are_taken_slice_by_slice() -> None:
    """Two slices, along whichever axis, have the patterns of both images."""
    slices = scan(shape=(2, 40, 50))
    expected = np.union1d(ordinal_patterns(slices[:1]), ordinal_patterns(slices[1:]))
    assert len(expected) > 50
    assert np.array_equal(ordinal_patterns(slices), expected)
    assert np.array_equal(ordinal_patterns(np.moveaxis(slices, 0, 2)), expected)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 2, 2), (3, 3, 3), (1, 4, 50), (1, 1, 200)])
def test_images_without_room_for_a_neighbourhood_have_no_pattern(shape: tuple[int, ...]) -> None:
    """Tiny images are no error, they have a pattern at most where there is room for one."""
    assert len(ordinal_patterns(scan(shape=shape))) <= 1


def test_constant_images_and_voxels_that_are_no_numbers_have_no_pattern() -> None:
    """A constant, NaN everywhere and an image of two values give an empty sketch; NaN in one corner spoils no more."""
    for image in (np.zeros((9, 9, 9)), np.full((9, 9, 9), np.nan), scan(shape=(9, 9, 9)) > 1000):
        sketch = sketch_channel(image.astype(np.float32))
        assert len(sketch.patterns) == 0 and sketch.whole == 0 and sketch.limit == NO_LIMIT
    image = scan()
    image[:4, :4, :4] = np.nan
    image[-1, -1, -1] = np.inf
    assert np.isin(ordinal_patterns(scan()[5:-2]), ordinal_patterns(image)).all()


def test_an_image_of_few_levels_is_known_as_a_whole() -> None:
    """Where there are hardly any patterns, a digest tells equal images apart from others, rescaled or inverted."""
    image = np.digitize(scan(), [900, 1000, 1100]).astype(np.float32)
    whole = sketch_channel(image).whole
    assert len(sketch_channel(image).patterns) < TOO_FEW and whole != 0
    assert sketch_channel(5 * image + 1).whole == sketch_channel(9 - image).whole == whole
    image[4, 4, 4] = (image[4, 4, 4] + 1) % 4
    assert sketch_channel(image).whole not in (whole, 0)


def test_the_size_of_a_sketch_is_bounded() -> None:
    """All patterns of a small image are kept; of a large one a part, the smallest, at most MOST."""
    small, large = scan(shape=(14, 14, 14)), scan(shape=(64, 64, 64))
    assert len(ordinal_patterns(small)) < FEWEST
    assert np.array_equal(sketch_channel(small).patterns, ordinal_patterns(small))
    kept, every = sketch_channel(large), ordinal_patterns(large)
    assert len(every) > len(kept.patterns) and FEWEST <= len(kept.patterns) <= MOST
    assert np.array_equal(kept.patterns, every[every <= np.uint64(kept.limit)])


def test_a_crop_of_48_is_known_in_a_volume_of_256() -> None:
    """The sketches of a crop and of the whole have enough in common, and say that the crop lies inside."""
    image = np.random.default_rng(0).normal(size=(256, 256, 256)).astype(np.float32)
    whole, part = sketch_channel(image), sketch_channel(image[90:138, 30:78, 200:248])
    common = len(np.intersect1d(whole.patterns, part.patterns))
    assert len(whole.patterns) == MOST and common >= 10
    share_of_part, share_of_whole = _shares(common, part, whole)
    assert share_of_part == 1 and share_of_whole < 0.02


@pytest.mark.parametrize("shared", [200, 2_000, 20_000])
def test_shares_estimated_from_sketches_are_those_of_the_sets(shared: int) -> None:
    """Sets with a known common part: the estimate lies within five standard deviations of the truth."""
    rng = np.random.default_rng(shared)
    hashes = rng.integers(0, 2**63, size=100_000, dtype=np.uint64) << ONE
    sets = np.sort(hashes[:30_000]), np.sort(hashes[30_000 - shared : 90_000])
    kept = [
        ChannelSketch(one[:count], int(one[count - 1]) | 1, 0) for one, count in zip(sets, (937, 1875), strict=True)
    ]
    common = len(np.intersect1d(kept[0].patterns, kept[1].patterns))
    sampled = min(channel.limit for channel in kept) / 2**64 * 30_000
    share = _shares(common, *kept)[0] if common else 0.0
    truth = shared / 30_000
    assert abs(share - truth) < 5 * np.sqrt(truth * (1 - truth) / sampled)


def blob(seed: int = 0, shape: tuple[int, ...] = (30, 34, 32)) -> np.ndarray:
    """An irregular object."""
    smooth = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=shape), 3)
    labelled, _ = ndimage.label(smooth > 0)
    return (labelled == np.argmax(np.bincount(labelled.reshape(-1))[1:]) + 1).astype(np.int16)


LABELS = {"a": (1,), "b": (2,), "both": (1, 2)}


@pytest.mark.parametrize(("axes", "flips"), SYMMETRIES)
def test_masks_are_known_wherever_they_lie_and_however_they_are_turned(
    axes: tuple[int, ...], flips: tuple[int, ...]
) -> None:
    """Digests of labels, regions and of all labels together are those of the same object elsewhere."""
    segmentation = blob() + 2 * (blob(1) & ~blob())
    moved = np.pad(turned(segmentation, axes, flips), ((3, 0), (7, 1), (0, 2)))
    expected = mask_digests(segmentation, LABELS)
    assert set(expected) == {*LABELS, ALL_LABELS} and expected["both"] == expected[ALL_LABELS]
    assert len(set(expected.values())) == 3
    assert mask_digests(moved, LABELS) == expected
    renumbered = np.asarray([0, 2, 1], dtype=np.int16)[segmentation]
    assert mask_digests(renumbered, LABELS)["b"] == expected["a"]


def test_one_voxel_makes_another_mask() -> None:
    """A single voxel more is another digest."""
    segmentation = blob()
    changed = segmentation.copy()
    changed[tuple(np.argwhere(segmentation == 0)[500])] = 1
    assert mask_digests(segmentation, {"a": (1,)}) != mask_digests(changed, {"a": (1,)})


def test_masks_too_simple_to_tell_cases_apart_are_left_out() -> None:
    """No digest of an empty mask, a solid box, a few voxels, or of what lies outside of the image (-1)."""
    segmentation = np.full((30, 30, 30), -1, dtype=np.int16)
    segmentation[2:28, 2:28, 2:28] = 0
    assert mask_digests(segmentation, {"a": (1,)}) == {}
    segmentation[5:20, 5:20, 5:20] = 1
    assert mask_digests(segmentation, {"a": (1,)}) == {}
    segmentation[5, 5, 5] = 0
    assert set(mask_digests(segmentation, {"a": (1,)})) == {"a"}
    few = np.zeros_like(segmentation)
    few[5:10, 5:10, 5:10] = 1
    few[5, 5, 5] = 0
    assert np.count_nonzero(few) < LEAST_SURFACE[3] and mask_digests(few, {"a": (1,)}) == {}


def test_a_case_has_a_sketch_per_channel_and_holds_no_voxel() -> None:
    """A case of three channels: a few KB of hashes, channels in their order."""
    images = np.stack([scan(seed) for seed in range(3)])
    sketch = sketch_case(CaseData(images, blob(shape=(20, 24, 22))), {"a": (1,)})
    assert [len(channel.patterns) for channel in sketch.channels] == [len(ordinal_patterns(image)) for image in images]
    assert sum(channel.patterns.nbytes for channel in sketch.channels) < images.nbytes / 10
    assert set(sketch.masks) == {"a"}
