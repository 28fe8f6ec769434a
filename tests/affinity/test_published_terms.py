"""The published terms against the published numbers, against SciPy and scikit-learn, and against closed forms."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from nnunetv2.imageio.simpleitk_reader_writer import SimpleITKIO
from scipy.stats import wasserstein_distance
from sklearn.decomposition import PCA

from nnunet_seqtransfer.affinity.published_terms import (
    ALPHA,
    BETA,
    common_grid,
    count_bits,
    global_ssim,
    packed_ssim,
    principal_scores,
    published_distance,
    wasserstein,
    wasserstein_of_ascending,
)
from nnunet_seqtransfer.errors import DatasetError

SHARED = Path(__file__).parents[2].parent / "shared"
REFERENCE = SHARED / "reference" / "published_affinity.json"


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    if not (REFERENCE.is_file() and (SHARED / "data").is_dir()):
        pytest.skip("the reference numbers and their images are not beside the repository (../shared)")
    return json.loads(REFERENCE.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def scores(reference: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: principal_scores(_first_channel(name)) for name in reference["components"]}


@pytest.fixture(scope="module")
def masks(reference: dict[str, Any]) -> dict[str, np.ndarray]:
    return {name: _mask(name) for name in reference["components"]}


def _first_channel(name: str) -> np.ndarray:
    """The float32 volume that nnU-Net's own reader gives, its axes back in the order x, y, z."""
    dataset, case = name.split("/")
    images, _ = SimpleITKIO().read_images([str(SHARED / "data" / dataset / "imagesTr" / f"{case}_0000.nii.gz")])
    return images[0].transpose(2, 1, 0)


def _mask(name: str) -> np.ndarray:
    dataset, case = name.split("/")
    labels, _ = SimpleITKIO().read_seg(str(SHARED / "data" / dataset / "labelsTr" / f"{case}.nii.gz"))
    return labels[0].transpose(2, 1, 0) > 0


def _names(row: dict[str, Any], pair: dict[str, Any]) -> tuple[str, str]:
    return f"{row['task_a']}/{pair['case_a']}", f"{row['task_b']}/{pair['case_b']}"


def test_reference_components(reference: dict[str, Any], scores: dict[str, np.ndarray]) -> None:
    """As many components are kept as the published scripts keep, in every case."""
    assert {name: len(values) / 128**2 for name, values in scores.items()} == reference["components"]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_reference_wasserstein(reference: dict[str, Any], scores: dict[str, np.ndarray], dtype: type) -> None:
    """W of every published pair is reproduced to 1e-6, also from scores stored as float32; zero stays zero."""
    stored = {name: values.astype(dtype) for name, values in scores.items()}
    for row in reference["rows"]:
        for pair in row["pairs"]:
            a, b = _names(row, pair)
            assert wasserstein(stored[a], stored[b]) == pytest.approx(pair["wasserstein"], rel=1e-6, abs=0)


def test_reference_ssim(reference: dict[str, Any], masks: dict[str, np.ndarray]) -> None:
    """S of every published pair is reproduced to rounding."""
    for row in reference["rows"]:
        for pair in row["pairs"]:
            a, b = _names(row, pair)
            assert global_ssim(masks[a], masks[b]) == pytest.approx(pair["ssim"], rel=1e-12)


def test_reference_distance(
    reference: dict[str, Any], scores: dict[str, np.ndarray], masks: dict[str, np.ndarray]
) -> None:
    """The mean W, the mean S and the distance of every published pair of tasks are reproduced."""
    for row in reference["rows"]:
        names = [_names(row, pair) for pair in row["pairs"]]
        mean_wasserstein = float(np.mean([wasserstein(scores[a], scores[b]) for a, b in names]))
        mean_ssim = float(np.mean([global_ssim(masks[a], masks[b]) for a, b in names]))
        assert mean_wasserstein == pytest.approx(row["mean_wasserstein"], rel=1e-9)
        assert mean_ssim == pytest.approx(row["mean_ssim"], rel=1e-12)
        assert published_distance(mean_wasserstein, mean_ssim) == pytest.approx(row["distance"], rel=1e-9)


def _smooth_volume(seed: int = 0) -> np.ndarray:
    """A 128^3 volume that resizing leaves as it is, of a few strong components and some noise."""
    generator = np.random.default_rng(seed)
    components = generator.gamma(2.0, size=(128**2, 5)) @ generator.normal(size=(5, 128))
    return (100 + components + generator.normal(scale=0.1, size=components.shape)).reshape(128, 128, 128)


def test_scores_are_those_of_scikit_learn() -> None:
    """The scores are those of scikit-learn's PCA up to its sign convention, which our own states."""
    volume = _smooth_volume()
    pca = PCA(n_components=0.75).fit(volume.reshape(-1, 128))
    largest = np.take_along_axis(pca.components_, np.abs(pca.components_).argmax(axis=1, keepdims=True), axis=1)
    expected = pca.transform(volume.reshape(-1, 128)) * np.sign(largest[:, 0])
    np.testing.assert_allclose(principal_scores(volume), np.sort(expected.ravel()), atol=1e-9)


def test_scores_follow_the_intensity_scale() -> None:
    """Scores are in units of intensity: they scale with it, and an added constant leaves them."""
    volume = _smooth_volume()[::4, ::4, ::4]
    np.testing.assert_allclose(principal_scores(3 * volume + 50), 3 * principal_scores(volume), atol=1e-9)


def test_scores_ascend_and_leave_the_volume_alone() -> None:
    """Scores are ascending float64 whatever the volume's dtype, and the volume is not written to."""
    volume = np.random.default_rng(1).integers(-500, 500, size=(9, 20, 14), dtype=np.int16)
    before = volume.copy()
    values = principal_scores(volume)
    assert values.dtype == np.float64
    assert (np.diff(values) >= 0).all()
    np.testing.assert_array_equal(values, principal_scores(volume.astype(np.float32)))
    np.testing.assert_array_equal(volume, before)


def test_shrinking_is_anti_aliased() -> None:
    """What alternates from voxel to voxel is averaged away where a volume shrinks, not sampled."""
    volume = np.zeros((384, 4, 4))
    volume[::2] = 1
    sampled = 0.5 * np.sqrt(128)  # the score of a row that is half a unit from the mean in all 128 features
    assert np.median(np.abs(principal_scores(volume))) < 0.05 * sampled


@pytest.mark.parametrize("value", [0, -3, 0.1, 1e30])
def test_constant_volume_scores_zero(value: float) -> None:
    """A constant volume, whose variance cannot be shared out, has one component of zeros."""
    np.testing.assert_array_equal(principal_scores(np.full((7, 8, 9), value)), np.zeros(128**2))


def test_volume_with_equal_rows_scores_zero() -> None:
    """A volume that varies along z alone has no variance between its rows, only rounding, and scores zeros."""
    volume = np.broadcast_to(np.random.default_rng(2).normal(size=33), (20, 21, 33))
    np.testing.assert_array_equal(principal_scores(volume), np.zeros(128**2))


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_single_slice_is_a_matrix(axis: int) -> None:
    """A 2-D image gives 128 scores a component, the same ones whichever axis has length one."""
    image = np.random.default_rng(3).normal(size=(40, 50))
    values = principal_scores(np.expand_dims(image, axis))
    assert len(values) % 128 == 0
    assert 0 < len(values) < 128**2
    np.testing.assert_array_equal(values, principal_scores(image[..., None]))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_numbers_are_needed(value: float) -> None:
    """An image with NaN or infinite intensities is refused in words."""
    volume = np.zeros((4, 4, 4), dtype=np.float32)
    volume[1, 2, 3] = value
    with pytest.raises(DatasetError, match="NaN or infinite"):
        principal_scores(volume)


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 7), (8, 12), (500, 500), (500, 501), (768, 256), (997, 13)])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_wasserstein_equals_scipy(n: int, m: int, dtype: type) -> None:
    """W is SciPy's for equal and unequal lengths, for sorted and unsorted samples, with and without ties."""
    generator = np.random.default_rng(n * 1000 + m)
    for values in (generator.normal(size=n + m), generator.integers(0, 5, size=n + m)):
        a, b = values[:n].astype(dtype), (3 * values[n:] + 1).astype(dtype)
        expected = wasserstein_distance(a.astype(np.float64), b.astype(np.float64))
        assert wasserstein(a, b) == pytest.approx(expected, rel=1e-12, abs=1e-12)
        assert wasserstein(np.sort(b), np.sort(a)) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_wasserstein_of_repeated_sample_is_zero() -> None:
    """A sample and the same sample with every value doubled are one distribution: their distance is exactly zero."""
    values = np.random.default_rng(4).normal(size=99)
    assert wasserstein(values, values) == 0
    assert wasserstein(values, np.repeat(values, 2)) == 0


@pytest.mark.parametrize(("n", "m"), [(5, 5), (6, 9), (7, 64), (16384, 3 * 16384), (5 * 16384, 7 * 16384)])
def test_wasserstein_by_patterns_is_that_by_all_steps(n: int, m: int) -> None:
    """To 1e-12 what sorting the steps of both quantile functions gives, and exactly the same the other way round."""
    generator = np.random.default_rng(n + m)
    a, b = (np.sort(generator.gamma(2.0, size=size)) for size in (n, m))
    steps = np.sort(np.concatenate([np.arange(1, n + 1) * m, np.arange(1, m + 1) * n]))
    gaps = np.abs(a[(steps - 1) // m] - b[(steps - 1) // n])
    expected = float(np.diff(steps, prepend=0) @ gaps / (n * m))
    assert wasserstein_of_ascending(a, b) == pytest.approx(expected, rel=1e-12)
    assert wasserstein_of_ascending(a, b) == wasserstein_of_ascending(b, a) == wasserstein(a[::-1], b)


@pytest.mark.parametrize("voxels", [2, 63, 64, 65, 1000])
@pytest.mark.parametrize("numpy_2", [True, False])
def test_bits_are_counted(voxels: int, numpy_2: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Masks of any size, also those that do not fill their last byte or word; with NumPy 1 by a table."""
    if numpy_2 and not hasattr(np, "bitwise_count"):
        pytest.skip("this NumPy has no bitwise_count")
    if not numpy_2:
        monkeypatch.delattr(np, "bitwise_count", raising=False)
    masks = np.random.default_rng(voxels).random((2, voxels)) < 0.4
    packed = [np.packbits(mask) for mask in masks]
    assert [count_bits(entry) for entry in packed] == [mask.sum() for mask in masks]
    assert packed_ssim(*packed, voxels) == pytest.approx(ssim_from_arrays(*masks), rel=1e-12)


def ssim_from_arrays(mask_a: np.ndarray, mask_b: np.ndarray) -> float:
    (mean_a, mean_b), (variance_a, variance_b) = zip(*((m.mean(), m.var()) for m in (mask_a, mask_b)), strict=True)
    covariance = np.cov(mask_a.ravel(), mask_b.ravel())[0, 1]
    luminance = (2 * mean_a * mean_b + 0.09) / (mean_a**2 + mean_b**2 + 0.09)
    return float(luminance * (2 * covariance + 0.09) / (variance_a + variance_b + 0.09))


def test_ssim_is_its_formula() -> None:
    """S from counts is S from NumPy's means, variances (ddof 0) and covariance (ddof 1)."""
    generator = np.random.default_rng(5)
    mask_a, mask_b = generator.random((11, 12, 13)) < 0.3, generator.random((11, 12, 13)) < 0.6
    assert global_ssim(mask_a, mask_b) == pytest.approx(ssim_from_arrays(mask_a, mask_b), rel=1e-12)


@pytest.mark.parametrize(("share", "about"), [(0.001, 0.978), (0.01, 0.818), (0.05, 0.459)])
def test_ssim_of_small_disjoint_boxes_is_high(share: float, about: float) -> None:
    """Disjoint masks are found alike where they are small: the known weakness of S, kept as published."""
    foreground = round(share * 10**6)
    mask_a, mask_b = np.zeros((2, 100, 100, 100), dtype=bool)
    mask_a.flat[:foreground] = True
    mask_b.flat[-foreground:] = True
    closed_form = (0.09 - 2 * share**2) / (0.09 + 2 * share * (1 - share))
    assert global_ssim(mask_a, mask_b) == pytest.approx(closed_form, rel=1e-6)
    assert closed_form == pytest.approx(about, abs=5e-4)


def test_ssim_of_empty_masks_is_one() -> None:
    """Two empty masks are equal, and the constants keep their quotient defined."""
    assert global_ssim(np.zeros((3, 4, 5), dtype=bool), np.zeros((3, 4, 5), dtype=bool)) == 1


def test_ssim_refuses_unequal_shapes() -> None:
    """Masks that NumPy could broadcast are refused all the same, with both shapes named."""
    with pytest.raises(ValueError, match=r"\(4, 4, 4\) and \(4, 4, 1\)"):
        global_ssim(np.zeros((4, 4, 4), dtype=bool), np.zeros((4, 4, 1), dtype=bool))


def test_common_grid_takes_the_nearest_voxel() -> None:
    """Enlarging by whole numbers repeats voxels, reducing an odd number of times takes the middle one."""
    mask = np.random.default_rng(6).random((4, 5, 6)) < 0.5
    enlarged = common_grid(mask, (12, 15, 18))
    np.testing.assert_array_equal(enlarged, mask.repeat(3, 0).repeat(3, 1).repeat(3, 2))
    np.testing.assert_array_equal(common_grid(enlarged, mask.shape), mask)
    np.testing.assert_array_equal(common_grid(enlarged, mask.shape), enlarged[1::3, 1::3, 1::3])


def test_common_grid_makes_unequal_masks_comparable() -> None:
    """The same box in volumes of other sizes, a single slice among them, lands on the same 128^3 voxels."""
    masks = []
    for shape in ((8, 16, 1), (16, 8, 32), (128, 128, 128)):
        mask = np.zeros(shape, dtype=bool)
        mask[shape[0] // 4 : shape[0] // 2, shape[1] // 2 :] = True
        masks.append(common_grid(mask))
    assert {mask.shape for mask in masks} == {(128, 128, 128)}
    assert masks[0].dtype == np.bool_
    assert global_ssim(masks[0], masks[1]) == global_ssim(masks[2], masks[2])


def test_distance_uses_the_published_weights() -> None:
    """Equal tasks are at distance zero, and each term has its published weight."""
    assert published_distance(0, 1) == 0
    assert published_distance(1, 1) == pytest.approx(ALPHA) == 0.0044
    assert published_distance(0, 0) == pytest.approx(BETA) == 2.4756
