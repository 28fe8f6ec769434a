"""The published metric as the command computes it, against reference numbers and against its own claims."""

from __future__ import annotations

import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from nnunet_seqtransfer.affinity import published
from nnunet_seqtransfer.affinity.mean_distance import multipliers
from nnunet_seqtransfer.affinity.memory import Memory, content_key
from nnunet_seqtransfer.affinity.published import PublishedMetric
from nnunet_seqtransfer.affinity.published_terms import common_grid, global_ssim, published_distance, wasserstein
from nnunet_seqtransfer.nnunet.datasets import RawCase
from nnunet_seqtransfer.nnunet.preprocessing import CaseData, read_raw_case
from nnunet_seqtransfer.tasks.signature import Signature, anonymous, read_signature, write_signature
from support.made_tasks import phantom, reordered, signature_of, task_of
from support.world import SHARED

REFERENCE = SHARED / "reference" / "published_affinity.json"
METRIC = PublishedMetric()


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
            components = METRIC.compare(first, second).components
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
    alone = [METRIC.compare(*(stored(name, (case,)) for name in names)).components for case in cases]
    assert together.match == ("same patients",)
    for part in ("wasserstein", "dissimilarity"):
        assert together.components[part] == pytest.approx(np.mean([single[part] for single in alone]))
    assert METRIC.compare(one, anonymous(other)) == METRIC.compare(anonymous(one), anonymous(other)) == together


def test_masks_of_different_shapes_are_compared_on_one_grid() -> None:
    """Unequal mask shapes, which stop the published scripts, give the distance of the resized masks."""

    def with_mask(shape: tuple[int, int, int], name: str) -> Signature:
        segmentation = np.zeros(shape, dtype=np.int16)
        segmentation[: shape[0] // 2] = 1
        return signature_of(METRIC, [CaseData(np.zeros((1, *shape), dtype=np.float32), segmentation)], name=name)

    components = METRIC.compare(with_mask((16, 16, 16), "a"), with_mask((32, 20, 24), "b")).components
    assert components == {"wasserstein": 0, "dissimilarity": pytest.approx(0, abs=1e-5)}


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
            assert found.match == ("same patients" if same else "all pairs of cases",)
            w = np.mean([wasserstein(x["scores"], y["scores"]) for x, y in pairs])
            s = np.mean([unpacked_ssim(x, y) for x, y in pairs])
            assert found.components["wasserstein"] == pytest.approx(w, rel=1e-12)
            assert found.components["dissimilarity"] == pytest.approx(max(0, 1 - s), abs=1e-12)


def unpacked_ssim(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    masks = [np.unpackbits(x["mask"], count=np.prod(x["shape"])).reshape(x["shape"]).astype(bool) for x in (a, b)]
    if masks[0].shape != masks[1].shape:
        masks = [common_grid(mask) for mask in masks]
    return global_ssim(*masks)


def test_many_at_once_are_the_same_as_one_by_one(tasks: list[Signature]) -> None:
    """`compare_many` gives what `compare` gives, bit by bit, either way round; 0 to the task itself."""
    for task in tasks:
        several = METRIC.compare_many(task, tasks)
        for place, other in enumerate(tasks):
            for one in (METRIC.compare(task, other), METRIC.compare(other, task)):
                assert {name: values[place] for name, values in several.items()} == pytest.approx(
                    one.components, rel=1e-14, abs=1e-15
                )
        assert several["wasserstein"][tasks.index(task)] == several["dissimilarity"][tasks.index(task)] == 0


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


def test_resamples_scatter_around_the_distance(tasks: list[Signature]) -> None:
    """Their mean is the mean over the pairs, within four standard errors; same seed same numbers."""
    for a, b in ((tasks[0], tasks[1]), (tasks[0], tasks[2]), (tasks[3], tasks[4])):
        drawn = METRIC.resample(a, b, 4000, seed=1)
        components = METRIC.compare(a, b).components
        for name, values in drawn.items():
            assert values.shape == (4000,) and values.std() > 0
            assert abs(values.mean() - components[name]) < 4 * values.std() / np.sqrt(4000)
            np.testing.assert_array_equal(values, METRIC.resample(a, b, 4000, seed=1)[name])
            assert (values != METRIC.resample(a, b, 4000, seed=2)[name]).any()


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


def test_a_task_and_itself_do_not_scatter(tasks: list[Signature]) -> None:
    """The distance 0 of a task to itself is 0 in every resample."""
    assert all((values == 0).all() for values in METRIC.resample(tasks[0], tasks[0], 7, seed=0).values())


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
