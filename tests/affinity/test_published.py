"""The published metric as the command computes it, against reference numbers and against its own claims."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import wasserstein_distance
from sklearn.decomposition import PCA

from nnunet_seqtransfer.affinity import published
from nnunet_seqtransfer.affinity.mean_distance import multipliers
from nnunet_seqtransfer.affinity.published import (
    ALPHA,
    BETA,
    Memory,
    PublishedMetric,
    common_grid,
    content_key,
    count_bits,
    packed_ssim,
    principal_scores,
    wasserstein_of_ascending,
)
from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.datasets import RawCase
from nnunet_seqtransfer.nnunet.preprocessing import CaseData, read_raw_case
from nnunet_seqtransfer.tasks.signature import Signature, anonymous, read_signature, write_signature
from support.made_tasks import phantom, reordered, signature_of, task_of
from support.world import SHARED

REFERENCE = SHARED / "reference" / "published_affinity.json"
METRIC = PublishedMetric()


def wasserstein(a: np.ndarray, b: np.ndarray) -> float:
    """W of two samples in any order."""
    return wasserstein_of_ascending(np.sort(a), np.sort(b))


def global_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """S of two masks of equal shape."""
    return packed_ssim(np.packbits(a), np.packbits(b), a.size)


def published_distance(wasserstein: float, ssim: float) -> float:
    """The metric's distance for means of W and S."""
    return float(METRIC.combination.distances({"wasserstein": wasserstein, "dissimilarity": 1 - ssim}))


@cache
def stored_case(dataset: str, case: str) -> CaseData:
    folder = SHARED / "data" / dataset
    raw = RawCase((folder / f"imagesTr/{case}_0000.nii.gz",), folder / f"labelsTr/{case}.nii.gz")
    return read_raw_case(case, raw, "SimpleITKIO")


@cache
def stored(dataset: str, cases: tuple[str, ...]) -> Signature:
    """The signature of cases of a real dataset."""
    made = signature_of(METRIC, [stored_case(dataset, case) for case in cases], [(1,)], dataset)
    return replace(made, cases=cases, digest=dataset + "".join(cases))


@pytest.fixture(scope="module")
def tasks() -> list[Signature]:
    """Tasks of phantoms: plain, with larger objects, another grid, and two that share two of three patients."""
    patients = [phantom(seed, labels=2) for seed in range(40, 43)]
    first = signature_of(METRIC, patients, [(1,)], "Dataset004_First")
    second = signature_of(METRIC, patients, [(2,)], "Dataset005_Second")
    return [
        task_of(METRIC, 0, "Dataset001_Plain", cases=3),
        task_of(METRIC, 10, "Dataset002_Large", cases=4, radius=7),
        task_of(METRIC, 20, "Dataset003_Grid", cases=2, shape=(16, 30, 23)),
        first,
        replace(second, cases=("somebody", *first.cases[:2])),
    ]


@pytest.fixture
def nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_SCORES", "_TERMS", "_GRIDS"):
        monkeypatch.setattr(published, name, Memory(1000))


@pytest.mark.skipif(not REFERENCE.is_file(), reason=f"no reference numbers in {REFERENCE}")
def test_every_pair_of_the_reference_is_met_after_a_round_through_the_cache(tmp_path: Path) -> None:
    """W, SSIM and distance of each pair agree to 1e-6, read by nnU-Net's reader and stored as a signature."""
    for row in json.loads(REFERENCE.read_text())["rows"]:
        distances = []
        for number, pair in enumerate(row["pairs"]):
            files = [tmp_path / f"{number}_{side}.npz" for side in "ab"]
            for path, side in zip(files, "ab", strict=True):
                write_signature(path, stored(row[f"task_{side}"], (pair[f"case_{side}"],)))
            first, second = (read_signature(path) for path in files)
            if first.digest == second.digest:
                continue  # the same case of the same task: 0 by definition
            components = METRIC.compare(first, second).distances
            assert components["wasserstein"] == pytest.approx(pair["wasserstein"], rel=1e-6)
            ssim = min(1.0, pair["ssim"])  # of equal masks it exceeds 1 by 1 / voxels, which a distance cannot
            assert 1 - components["dissimilarity"] == pytest.approx(ssim, rel=1e-6)
            distance = float(METRIC.combination.distances(components))
            assert distance == pytest.approx(published_distance(pair["wasserstein"], ssim), rel=1e-6)
            distances.append(distance)
        if row["task_a"] != row["task_b"]:
            assert len(distances) == len(row["pairs"]), "no pair was left out"


@pytest.mark.skipif(not REFERENCE.is_file(), reason=f"no real data in {SHARED}")
def test_tasks_that_share_patients_are_compared_patient_by_patient() -> None:
    """Equal identifiers pair up as published, also where the signatures have travelled; the mean is returned."""
    cases = ("oasis_1000A", "oasis_1001A")
    names = ("Dataset021_OasisHippocampus", "Dataset022_OasisThalamus")
    one, other = (stored(name, cases) for name in names)
    together = METRIC.compare(one, other)
    alone = [METRIC.compare(*(stored(name, (case,)) for name in names)).distances for case in cases]
    assert together.counterparts.same_cases
    for part in ("wasserstein", "dissimilarity"):
        assert together.distances[part] == pytest.approx(np.mean([single[part] for single in alone]))
    assert METRIC.compare(one, anonymous(other)) == METRIC.compare(anonymous(one), anonymous(other)) == together


def test_every_comparison_is_its_formula(tasks: list[Signature]) -> None:
    """To 1e-12 the means of W and 1 - S over all pairs of volumes, or of the same patients, from unpacked masks."""
    for a in tasks:
        for b in tasks:
            if a is b:
                continue
            every = [(x, y) for x in range(len(a.cases)) for y in range(len(b.cases))]
            same = [(x, y) for x, y in every if a.cases[x] == b.cases[y]]
            pairs = [(a.profiles[x], b.profiles[y]) for x, y in same or every]
            found = METRIC.compare(a, b)
            assert found.counterparts.same_cases == bool(same)
            w = np.mean([wasserstein(x["scores"], y["scores"]) for x, y in pairs])
            s = np.mean([unpacked_ssim(x, y) for x, y in pairs])
            assert found.distances["wasserstein"] == pytest.approx(w, rel=1e-12)
            assert found.distances["dissimilarity"] == pytest.approx(max(0, 1 - s), abs=1e-12)


def unpacked_ssim(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    masks = [np.unpackbits(x["mask"], count=np.prod(x["shape"])).reshape(x["shape"]).astype(bool) for x in (a, b)]
    if masks[0].shape != masks[1].shape:
        masks = [common_grid(mask) for mask in masks]
    return global_ssim(*masks)


def test_nothing_changes_by_being_remembered(tasks: list[Signature], nothing_remembered: None) -> None:
    """Terms that were computed before, or the other way round, are those that are computed anew, bit by bit."""
    a, b = tasks[:2]
    fresh = METRIC.compare(b, a)
    assert METRIC.compare(b, a) == fresh
    published._TERMS = Memory(1)  # each term drives out the one before
    assert METRIC.compare(b, a) == fresh


def test_what_tasks_share_is_computed_once(nothing_remembered: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tasks on the same images share scores and W, tasks with the same masks S, as in the published study."""
    calls: list[str] = []

    def counted(name: str) -> None:
        formula = getattr(published, name)
        monkeypatch.setattr(published, name, lambda *given: (calls.append(name), formula(*given))[1])

    for name in ("principal_scores", "wasserstein_of_ascending", "packed_ssim"):
        counted(name)
    patients, others = ([phantom(seed, labels=2) for seed in seeds] for seeds in ((0, 1), (2, 3, 4)))
    profiles = [[METRIC.profile(case, ((label,),)) for label in (1, 2)] for case in patients]
    assert calls == ["principal_scores"] * 2
    assert all((first["contents"][0] == second["contents"][0]).all() for first, second in profiles)
    sources = [signature_of(METRIC, patients, [(label,)], f"Dataset00{label}_Source") for label in (1, 2)]
    dark = [replace(case, images=-case.images) for case in patients]
    targets = [signature_of(METRIC, cases, [(1,)], f"Target{i}") for i, cases in enumerate((others, patients, dark))]
    calls.clear()
    METRIC.compare_many(targets[0], sources)
    assert (calls.count("wasserstein_of_ascending"), calls.count("packed_ssim")) == (6, 12)
    METRIC.compare_many(targets[0], [targets[1], targets[2]])
    assert (calls.count("wasserstein_of_ascending"), calls.count("packed_ssim")) == (12, 12)


def test_resamples_are_weighted_means(tasks: list[Signature]) -> None:
    """Each is the mean over the pairs weighted by both cases' weights, or by the patient's; keys decide the weights."""
    a, b = tasks[:2]
    weights = [1 + multipliers(task.keys, 5, seed=3) for task in (a, b)]
    terms = np.asarray([[wasserstein(x["scores"], y["scores"]) for y in b.profiles] for x in a.profiles])
    expected = [u @ terms @ v / (u.sum() * v.sum()) for u, v in zip(*weights, strict=True)]
    for other in (b, anonymous(b), reordered(b, [2, 0, 3, 1])):
        np.testing.assert_allclose(METRIC.resample(a, other, 5, seed=3)["wasserstein"], expected, rtol=1e-12)
    first, second = tasks[3:]
    patients = 1 + multipliers(first.keys[:2], 5, seed=3)
    pairs = [unpacked_ssim(first.profiles[i], second.profiles[i + 1]) for i in range(2)]
    found = METRIC.resample(first, second, 5, seed=3)["dissimilarity"]
    np.testing.assert_allclose(found, 1 - patients @ pairs / patients.sum(axis=1), rtol=1e-12)


def test_profiles_hold_masks() -> None:
    """Nobody may send the signatures of this metric away unawares: it says that they hold images' masks."""
    case = phantom(0)
    profile = METRIC.profile(case, ((1,),))
    mask = np.unpackbits(profile["mask"], count=case.segmentation.size).reshape(profile["shape"])
    np.testing.assert_array_equal(mask.transpose(2, 1, 0), case.segmentation == 1)
    assert PublishedMetric.holds_images


def test_a_memory_keeps_the_last_results() -> None:
    """The oldest result goes when the memory is full, and what is gone is computed again."""
    memory: Memory[int] = Memory(2)
    computed: list[int] = []

    def double(value: int) -> int:
        return memory.recall(value, lambda: (computed.append(value), 2 * value)[1])

    assert [double(value) for value in (1, 2, 1, 3, 2, 1)] == [2, 4, 2, 6, 4, 2]
    assert computed == [1, 2, 3, 1]


def test_content_keys_tell_contents_apart() -> None:
    """Equal for equal arrays however they lie in memory, different for another value, shape, dtype or split."""
    values = np.arange(24, dtype=np.float32).reshape(4, 6)
    assert content_key(values) == content_key(np.asfortranarray(values)) == content_key(values.repeat(2, 1)[:, ::2])
    changed = values.copy()
    changed[3, 5] = -1
    others = [changed, values.reshape(6, 4), values.view(np.int32), values.T]
    keys = {content_key(array) for array in (values, *others)}
    assert len(keys | {content_key(values[:2], values[2:]), content_key(values[:1], values[1:])}) == 7


@pytest.fixture(scope="module")
def reference() -> dict[str, Any]:
    if not (REFERENCE.is_file() and (SHARED / "data").is_dir()):
        pytest.skip("the reference numbers and their images are not beside the repository (../shared)")
    return json.loads(REFERENCE.read_text(encoding="utf-8"))


def test_reference_rows(reference: dict[str, Any]) -> None:
    """Number of components, S of each pair, mean W and S and distance of each pair of tasks are those published."""
    cases = {name: stored_case(*name.split("/")) for name in reference["components"]}  # axes back in the order x, y, z
    scores = {name: principal_scores(case.images[0].transpose(2, 1, 0)) for name, case in cases.items()}
    masks = {name: case.segmentation.transpose(2, 1, 0) > 0 for name, case in cases.items()}
    assert {name: len(values) / 128**2 for name, values in scores.items()} == reference["components"]
    for row in reference["rows"]:
        names = [[f"{row[f'task_{side}']}/{pair[f'case_{side}']}" for side in "ab"] for pair in row["pairs"]]
        w = [wasserstein(scores[a], scores[b]) for a, b in names]
        s = [global_ssim(masks[a], masks[b]) for a, b in names]
        assert w == pytest.approx([pair["wasserstein"] for pair in row["pairs"]], rel=1e-6, abs=0)
        assert s == pytest.approx([pair["ssim"] for pair in row["pairs"]], rel=1e-12)
        assert np.mean(w) == pytest.approx(row["mean_wasserstein"], rel=1e-9)
        assert np.mean(s) == pytest.approx(row["mean_ssim"], rel=1e-12)
        assert published_distance(np.mean(w), np.mean(s)) == pytest.approx(row["distance"], rel=1e-9)


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


EQUAL_ROWS = np.broadcast_to(np.random.default_rng(2).normal(size=33), (20, 21, 33))


@pytest.mark.parametrize("volume", [*(np.full((7, 8, 9), value) for value in (0, -3, 0.1, 1e30)), EQUAL_ROWS])
def test_volumes_of_equal_rows_score_zero(volume: np.ndarray) -> None:
    """A volume that is constant or varies along z alone has no variance to share out: one component of zeros."""
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
