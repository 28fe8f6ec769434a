"""Masks, their shells and their eight numbers against SciPy, and samples of them, spread and always the same."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from nnunet_seqtransfer.tasks import masks
from nnunet_seqtransfer.tasks.masks import coordinates, dilated, form, members, spread_positions

SHAPES = [(9, 10, 11), (1, 14, 13), (12, 1, 3), (2, 2, 2), (3, 20, 4), (1, 1, 9)]


def random_mask(shape: tuple[int, ...], seed: int, share: float = 0.03) -> np.ndarray:
    """A mask of scattered voxels and small blobs, some at the border, never empty."""
    rng = np.random.default_rng(seed)
    mask = rng.random(shape) < share
    mask[tuple(int(rng.integers(length)) for length in shape)] = True
    return mask


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("width", [1, 2, 3, 4, 5, 7])
def test_a_shell_is_a_dilation_by_a_cube(shape: tuple[int, ...], width: int) -> None:
    """Dilation by doubling equals SciPy's by a cube, at borders, along axes shorter than the shell, in one slice."""
    for seed in range(8):
        mask = random_mask(shape, seed)
        before = mask.copy()
        expected = ndimage.binary_dilation(mask, structure=np.ones((2 * width + 1,) * 3))
        assert (dilated(mask, width) == expected).all()
        assert (mask == before).all()


def expected_form(mask: np.ndarray, start: tuple[int, ...], shape: tuple[int, ...]) -> np.ndarray:
    """The eight numbers by SciPy's centre of mass and erosion, over the whole image."""
    image = np.zeros(shape, dtype=bool)
    image[tuple(slice(s, s + length) for s, length in zip(start, mask.shape, strict=True))] = mask
    count = image.sum()
    centre = ndimage.center_of_mass(image)
    deviations = [np.argwhere(image)[:, axis].std() for axis in range(3)]
    cross = ndimage.generate_binary_structure(3, 1)
    for axis, length in enumerate(shape):
        if length == 1:  # a single slice has no neighbours across it
            cross = np.where(np.arange(3).reshape([-1 if i == axis else 1 for i in range(3)]) == 1, cross, False)
    surface = count - ndimage.binary_erosion(image, cross, border_value=0).sum()
    dimensions = max(2, sum(length > 1 for length in shape))
    return np.asarray(
        [
            np.log10(count),
            *((place + 0.5) / length for place, length in zip(centre, shape, strict=True)),
            *np.log2(np.asarray(deviations) + 0.5),
            np.log2(surface / count ** (1 - 1 / dimensions)),
        ]
    )


@pytest.mark.parametrize("shape", SHAPES)
def test_form_is_what_scipy_finds_in_the_whole_image(shape: tuple[int, ...]) -> None:
    """Size, place, spread and surface of a mask cut out of an image are those within the image."""
    for seed in range(8):
        image = ndimage.binary_dilation(random_mask(shape, seed, 0.01), iterations=seed % 3 + 1)
        (box,) = ndimage.find_objects(image.astype(int))
        wider = tuple(slice(max(0, part.start - 3), part.stop + 3) for part in box)
        found = form(image[wider], tuple(part.start for part in wider), shape)
        assert (found.shape, found.dtype) == ((8,), np.float32)
        starts = tuple(part.start for part in wider)
        np.testing.assert_allclose(found, expected_form(image[wider], starts, shape), atol=1e-5)


def test_the_form_of_a_box() -> None:
    """A box of 4 x 5 x 6 at 2, 3, 1 in an image of 20^3: closed forms."""
    mask = np.ones((4, 5, 6), dtype=bool)
    found = form(mask, (2, 3, 1), (20, 20, 20))
    deviations = [np.sqrt((length**2 - 1) / 12) for length in mask.shape]
    surface = 120 - 2 * 3 * 4
    expected = [np.log10(120), 4 / 20, 5.5 / 20, 4 / 20, *np.log2(np.asarray(deviations) + 0.5)]
    np.testing.assert_allclose(found, [*expected, np.log2(surface / 120 ** (2 / 3))], rtol=1e-6)


def test_the_form_of_a_disc_is_that_of_two_dimensions() -> None:
    """In a single slice the surface is the outline: twice as large a square has the same surface index nearly."""
    small, large = (form(np.ones((1, side, side), bool), (0, 5, 5), (1, 400, 400)) for side in (60, 120))
    assert small[7] == pytest.approx(np.log2((4 * 60 - 4) / 60), abs=1e-6)
    assert small[7] == pytest.approx(large[7], abs=0.02)
    assert small[1] == large[1] == 0.5


@pytest.mark.parametrize("size", [0, 1, 5, 100, 101, 150, 1000, 10**6 + 3, 240 * 240 * 155])
@pytest.mark.parametrize("count", [1, 7, 100, 4096])
def test_positions_are_spread_over_the_whole_range(size: int, count: int) -> None:
    """All of a short range; of a long one about as many as asked for, ascending, no wide gap, always alike."""
    positions = spread_positions(size, count)
    assert (positions == spread_positions(size, count)).all()
    if size <= count:
        assert (positions == np.arange(size)).all()
        return
    assert (np.diff(positions) > 0).all() and positions[0] >= 0 and positions[-1] < size
    assert 0.5 * count <= len(positions) <= count
    edges = np.concatenate([[-1], positions, [size]])
    assert np.diff(edges).max() <= 3 * size / count + 1


@pytest.mark.parametrize("row", [16, 144, 160, 233, 240, 256, 377, 610])
def test_positions_fall_on_every_place_of_a_row(row: int) -> None:
    """Sampling does not resonate with the length of an image's rows: all thirds of a row are seen alike."""
    places = spread_positions(row * row * 40, 2**13) % row
    thirds = np.histogram(places, bins=3, range=(0, row))[0] / len(places)
    widths = np.diff(np.ceil(np.linspace(0, row, 4))) / row
    np.testing.assert_allclose(thirds, widths, atol=0.03)


def test_members_are_all_or_spread_over_the_mask() -> None:
    """Fewer voxels than asked for are all listed; of more, as many, all of them inside, each part by its size."""
    mask = random_mask((20, 30, 40), 0, 0.2)
    every = np.argwhere(mask)
    assert (np.stack(members(mask, 10**6), axis=1) == every).all()
    some = members(mask, 500)
    assert mask[some].all() and 450 <= len(some[0]) <= 500
    assert all((a == b).all() for a, b in zip(some, members(mask, 500), strict=True))
    halves = np.histogram(some[0], bins=2, range=(0, 20))[0] / len(some[0])
    expected = [mask[:10].sum() / mask.sum(), mask[10:].sum() / mask.sum()]
    np.testing.assert_allclose(halves, expected, atol=0.02)
    nothing = members(np.zeros((3, 4, 5), bool), 10)
    assert [len(part) for part in nothing] == [0, 0, 0]


@pytest.mark.parametrize("share", [0.2, 0.35, 0.51, 0.7, 1.0])
def test_members_of_huge_masks_are_enough(monkeypatch: pytest.MonkeyPatch, share: float) -> None:
    """Masks too large to be listed are met by positions over the box: about as many, none outside."""
    monkeypatch.setattr(masks, "_WHOLE", 2**12)
    rng = np.random.default_rng(1)
    mask = rng.random((40, 50, 60)) < share
    some = members(mask, 1000)
    assert mask[some].all()
    assert 480 <= len(some[0]) <= 2100
    assert len(np.unique(np.ravel_multi_index(some, mask.shape))) == len(some[0])


def test_coordinates_are_those_of_numpy() -> None:
    """Flat positions and indices say the same place."""
    mask = random_mask((5, 6, 7), 3)
    assert (np.stack(coordinates(np.flatnonzero(mask), mask.shape), axis=1) == np.argwhere(mask)).all()
