"""What is taken down of a case: against NumPy's quantiles, closed forms, and volumes too large to be looked at."""

from __future__ import annotations

import hashlib
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from nnunet_seqtransfer.affinity import descriptors
from nnunet_seqtransfer.affinity.descriptors import LEVELS, PROJECTION_LEVELS, describe_case, directions
from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from support.made_tasks import phantom


def box_case(inside: float = 1.0, outside: float = 0.0, channels: int = 1) -> CaseData:
    """A box of one intensity on a ground of another."""
    segmentation = np.zeros((16, 18, 20), dtype=np.int16)
    segmentation[5:9, 6:12, 7:14] = 1
    image = np.where(segmentation == 1, inside, outside).astype(np.float32)
    return CaseData(np.stack([image * (channel + 1) for channel in range(channels)]), segmentation)


def test_directions_are_the_same_for_ever() -> None:
    """16 directions of length 1 without a mean, and never others: signatures made anywhere must fit each other."""
    found = directions()
    assert (found.shape, found.dtype) == ((27, 16), np.float32)
    np.testing.assert_allclose(np.linalg.norm(found, axis=0), 1, rtol=1e-6)
    np.testing.assert_allclose(found.sum(axis=0), 0, atol=1e-6)
    overlap = np.abs(found.T @ found - np.eye(16))
    assert overlap.max() < 0.75, "no two of them are nearly the same"
    stored = "0260705537dcefc5"
    rounded = np.round(found.astype(np.float64) * 7e3).astype(np.int32)  # the last bits are the machine's
    assert hashlib.sha256(rounded.astype("<i4").tobytes()).hexdigest()[:16] == stored


@pytest.mark.parametrize("labels", [1, 2])
def test_quantiles_are_numpys(labels: int) -> None:
    """Of images and objects that are looked at whole, the quantiles are NumPy's."""
    case = phantom(0, channels=2, labels=labels)
    assert case.segmentation.size < descriptors.SAMPLED
    found = describe_case(case, tuple((label,) for label in range(1, labels + 1)))
    assert found["intensity"].shape == (2, 50) and found["inside"].shape == (1 + labels, 2, 50)
    for channel, image in enumerate(case.images):
        np.testing.assert_allclose(found["intensity"][channel], np.quantile(image, LEVELS), atol=1e-5)
        masks = [case.segmentation > 0, *(case.segmentation == label for label in range(1, labels + 1))]
        for place, mask in enumerate(masks):
            np.testing.assert_allclose(found["inside"][place, channel], np.quantile(image[mask], LEVELS), atol=1e-5)
            around = ndimage.binary_dilation(mask, np.ones((7, 7, 7))) & ~mask
            expected = np.quantile(image[mask], LEVELS) - np.median(image[around])
            np.testing.assert_allclose(found["relief"][place, channel], expected, atol=1e-5)


def test_structure_is_that_of_every_patch() -> None:
    """Where all patches are looked at, the projections are those of SciPy's correlation, borders repeated."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(9, 10, 11)).astype(np.float32)
    found = describe_case(CaseData(image[None], np.zeros(image.shape, np.int16)), ((1,),))["structure"]
    assert found.shape == (1, 16, 20)
    for number, direction in enumerate(directions().T):
        projected = ndimage.correlate(image.astype(float), direction.reshape(3, 3, 3).astype(float), mode="nearest")
        np.testing.assert_allclose(found[0, number], np.quantile(projected, PROJECTION_LEVELS), atol=1e-4)


def test_structure_does_not_see_an_offset() -> None:
    """Patches are seen without their mean: an offset changes nothing, a factor just that."""
    case = phantom(1)
    labels = ((1,),)
    plain = describe_case(case, labels)["structure"]
    shifted, tripled = (CaseData(images, case.segmentation) for images in (case.images + 5, case.images * 3))
    np.testing.assert_allclose(describe_case(shifted, labels)["structure"], plain, atol=1e-4)
    np.testing.assert_allclose(describe_case(tripled, labels)["structure"], 3 * plain, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("inside", "outside"), [(1.0, 0.0), (-2.0, 1.5), (0.25, 0.25)])
def test_the_relief_of_a_box(inside: float, outside: float) -> None:
    """A box of 1 in 0 stands out by exactly 1, on all levels and in each channel by its own intensities."""
    found = describe_case(box_case(inside, outside, channels=2), ((1,),))
    for channel in range(2):
        factor = channel + 1
        assert (found["inside"][:, channel] == np.float32(inside * factor)).all()
        assert (found["relief"][:, channel] == np.float32((inside - outside) * factor)).all()


def test_the_shell_is_three_voxels_wide() -> None:
    """Intensities up to three voxels away are the surroundings, those beyond are not."""
    case = box_case()
    mask = case.segmentation == 1
    shell = ndimage.binary_dilation(mask, np.ones((7, 7, 7)))
    image = np.where(shell, 3.0, 100.0) - np.where(mask, 1.0, 0.0)
    found = describe_case(CaseData(image[None].astype(np.float32), case.segmentation), ((1,),))
    assert (found["relief"] == -1).all()


@pytest.mark.parametrize("hidden", [-1, 2])
def test_voxels_masked_out_or_ignored_are_no_surroundings(hidden: int) -> None:
    """Voxels outside of the non-zero region (-1), or with a value that no label has, are not in the shell."""
    case = box_case()
    case.segmentation[:, :, 14:] = hidden
    case.segmentation[9:] = hidden
    case.images[0][case.segmentation == hidden] = 1e6
    found = describe_case(case, ((1,),))
    assert (found["relief"] == 1).all()


def test_other_labels_are_surroundings() -> None:
    """An object next to another one is seen against it; the union of both against the ground."""
    case = box_case()
    case.segmentation[5:9, 6:12, 14:17] = 2
    case.images[0][case.segmentation == 2] = 5
    found = describe_case(case, ((1,), (2,)))
    assert np.median(found["relief"][2]) == 5
    assert found["inside"][0].max() == 5 and found["inside"][1].max() == 1


def test_an_object_without_surroundings() -> None:
    """A label that fills the image has intensities and a form, and no relief."""
    case = box_case()
    case.segmentation[:] = 1
    found = describe_case(case, ((1,),))
    assert np.isnan(found["relief"]).all() and not np.isnan(found["inside"]).any() and not np.isnan(found["form"]).any()


def test_a_label_that_the_case_lacks() -> None:
    """NaN in all that is said of it, and only there; of a case without any label nothing but the image is known."""
    found = describe_case(box_case(), ((1,), (2,), (900,)))
    for name in ("inside", "relief", "form"):
        missing = np.isnan(found[name]).reshape(4, -1)
        assert missing.all(axis=1).tolist() == missing.any(axis=1).tolist() == [False, False, True, True]
    nothing = box_case()
    nothing.segmentation[:] = 0
    found = describe_case(nothing, ((1,),))
    assert np.isnan(found["form"]).all() and not np.isnan(found["intensity"]).any()


def test_regions_hold_their_values_in_any_order() -> None:
    """Regions of several values, listed in any order, with gaps, are their voxels."""
    case = phantom(0, labels=3)
    regions = describe_case(case, ((3, 1), (2, 3), (1, 2, 3)))
    for place, values in ((1, (1, 3)), (2, (2, 3)), (3, (1, 2, 3)), (0, (1, 2, 3))):
        merged = CaseData(case.images, np.isin(case.segmentation, values).astype(np.int16))
        alone = describe_case(merged, ((1,),))
        np.testing.assert_array_equal(regions["form"][place], alone["form"][1])
        np.testing.assert_allclose(regions["inside"][place], alone["inside"][1], atol=1e-6)


def test_the_image_is_seen_where_it_is_not_masked_out() -> None:
    """Voxels marked -1 do not count, however few are left; where all are marked, all are looked at."""
    rng = np.random.default_rng(0)
    for kept in (400_000, 3000, 10):
        segmentation = np.full((80, 80, 80), -1, dtype=np.int16)
        segmentation.reshape(-1)[rng.choice(80**3, kept, replace=False)] = 0
        image = np.where(segmentation == 0, rng.normal(1, 1, segmentation.shape), 1e6).astype(np.float32)
        found = describe_case(CaseData(image[None], segmentation), ((1,),))["intensity"][0]
        assert found.max() < 10
        atol = 0.05 if kept > 10_000 else 1e-4
        np.testing.assert_allclose(found[5:-5], np.quantile(image[segmentation == 0], LEVELS)[5:-5], atol=atol)
    everything = CaseData(np.ones((1, 8, 8, 8), np.float32), np.full((8, 8, 8), -1, np.int16))
    assert (describe_case(everything, ((1,),))["intensity"] == 1).all()


def test_large_volumes_are_sampled_well() -> None:
    """Of millions of voxels some ten thousand tell the quantiles to a few hundredths, along any direction of change."""
    shape = (96, 160, 144)
    grid = np.meshgrid(*[np.linspace(-1, 1, length) for length in shape], indexing="ij")
    noise = np.random.default_rng(0).normal(0, 0.2, shape)
    segmentation = (sum(axis**2 for axis in grid) < 0.8).astype(np.int16)
    images = np.stack([np.asarray(axis + noise, dtype=np.float32) for axis in grid])
    found = describe_case(CaseData(images, segmentation), ((1,),))
    assert segmentation.sum() > descriptors.SAMPLED
    for channel, image in enumerate(images):
        np.testing.assert_allclose(found["intensity"][channel], np.quantile(image, LEVELS), atol=0.03)
        np.testing.assert_allclose(
            found["inside"][1, channel], np.quantile(image[segmentation == 1], LEVELS), atol=0.03
        )
        filtered = ndimage.correlate(image, directions()[:, 0].reshape(3, 3, 3), mode="nearest")
        np.testing.assert_allclose(found["structure"][channel, 0], np.quantile(filtered, PROJECTION_LEVELS), atol=0.03)


def test_memory_stays_small() -> None:
    """No copy of the images is made: a profile needs less than a few times its segmentation as booleans."""
    shape = (64, 256, 256)
    case = CaseData(np.zeros((2, *shape), np.float32), np.zeros(shape, np.int16))
    case.segmentation[5:-5, 20:-20, 20:-20] = 1
    tracemalloc.start()
    describe_case(case, ((1,),))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * np.prod(shape), "as much as one of the two channels twice over"


def test_flat_and_rgb_images() -> None:
    """One slice and three channels have the same arrays, finite where the label is."""
    case = phantom(0, shape=(1, 40, 44), channels=3, radius=6)
    found = describe_case(case, ((1,),))
    assert found["intensity"].shape == (3, 50) and found["structure"].shape == (3, 16, 20)
    assert all(np.isfinite(array).all() and array.dtype == np.float32 for array in found.values())
