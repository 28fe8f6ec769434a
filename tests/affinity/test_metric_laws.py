"""Laws that the distances of every metric obey, on phantoms and on datasets that went through nnU-Net."""

from __future__ import annotations

import functools
import itertools
import json
import re
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_seqtransfer.affinity.base import AffinityMetric, BatchMetric
from nnunet_seqtransfer.affinity.bootstrap import resample, scatter_to_target
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.measure import compute_affinity
from nnunet_seqtransfer.affinity.metrics import find_metric, metric_names
from nnunet_seqtransfer.affinity.sources import AffinityRequest
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.nnunet.plans import data_folder, read_plans
from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.profiling import profile_tasks, request_profile
from nnunet_seqtransfer.tasks.signature import Signature, anonymous, read_signature, write_signature
from nnunet_seqtransfer.tasks.task import load_task
from nnunet_seqtransfer.training.prepare import preprocess_missing
from support.made_tasks import assert_same_profiles, phantom, reordered, signature_of, task_of
from support.world import FAR, FLAT_SOURCE, FLAT_TARGET, NEAR, TARGET, TWO_CHANNELS

EXEMPT = {
    ("published", "channel order"): "its formula knows one channel: the first stands for the images",
    ("published", "intensity scale"): "it reads intensities as stored: 3 x the intensities make about 3 x the scores",
    ("published", "intensity shift"): "principal components are taken of centred volumes: a shift is not seen",
    ("published", "one label in several"): "it merges all labels: how they are told apart is not seen",
    ("published", "inverted contrast"): "the sign of a principal component is free: beyond 0 the distance falls again",
    ("published", "spacing"): "it reads voxels, not millimetres",
    ("published", "small objects"): "SSIM over one window hardly sees objects of 0.01 % of the volume",
    ("published", "two samples of one task"): "the mean over pairs of different cases is above 0 by their scatter",
}
"""(metric, law) -> why the metric's formula breaks the law."""

ROUNDING = 1e-9
Change = Callable[[CaseData], CaseData]


@pytest.fixture(params=metric_names(), scope="module")
def metric(request: pytest.FixtureRequest) -> AffinityMetric:
    return find_metric(request.param)


def skip_if_exempt(metric: AffinityMetric, law: str) -> None:
    if (metric.name, law) in EXEMPT:
        pytest.skip(EXEMPT[metric.name, law])


@functools.cache
def varied_tasks(metric: AffinityMetric) -> list[Signature]:
    """Tasks of all kinds: one and more channels and labels, other sizes, shapes, contrasts, and an empty label."""
    empty = phantom(3, labels=2)
    empty.segmentation[empty.segmentation == 2] = 0
    without = phantom(4, labels=2)
    without.segmentation[:] = 0
    return [
        task_of(metric, 0, "Dataset001_Plain", cases=3),
        task_of(metric, 10, "Dataset002_Large", radius=7),
        task_of(metric, 20, "Dataset003_Dark", contrast=-2),
        task_of(metric, 30, "Dataset004_Channels", channels=3, labels=2),
        task_of(metric, 40, "Dataset005_Labels", channels=2, labels=3),
        task_of(metric, 50, "Dataset006_Shape", shape=(12, 30, 40)),
        signature_of(metric, [phantom(5, labels=2), empty, without], [(1,), (2,)], "Dataset007_SomeEmpty"),
        signature_of(metric, [phantom(5, labels=2)] * 2, [(1, 2), (2,), (9,)], "Dataset008_Regions"),
        task_of(metric, 60, "Dataset009_Filled", radius=99),
        signature_of(metric, [without] * 3, [(1,)], "Dataset010_None"),
    ]


@functools.cache
def flat_tasks(metric: AffinityMetric) -> list[Signature]:
    """2-D tasks: one slice."""
    shape = (1, 40, 44)
    return [
        task_of(metric, 70, "Dataset011_Flat", shape=shape, radius=6),
        task_of(metric, 80, "Dataset012_FlatLarge", shape=shape, radius=9, labels=2),
        task_of(metric, 90, "Dataset013_Rgb", shape=shape, radius=6, channels=3),
    ]


def distance(metric: AffinityMetric, source: Signature, target: Signature) -> float:
    return float(metric.combination.distances(metric.compare(source, target).distances))


def test_every_exemption_is_of_a_metric_that_exists() -> None:
    """The table of exemptions names metrics that are there, and the documentation has the same table."""
    assert {name for name, _ in EXEMPT} <= set(metric_names())
    page = (Path(__file__).parents[2] / "docs" / "method.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \| ([\w ]+) \| (.*) \|$", page, re.MULTILINE)
    assert {(name, law): reason for name, law, reason in rows} == EXEMPT


@functools.cache
def odd_tasks(metric: AffinityMetric) -> list[Signature]:
    """What is unusual, but no error: constant images, one case, one slice, labels that few or no cases hold."""
    flat = [phantom(seed) for seed in range(3)]
    for case in flat:
        case.images[:] = 0
    rare = [phantom(seed, labels=2) for seed in range(5)]
    for case in rare[1:]:
        case.segmentation[case.segmentation == 2] = 0
    touching = [phantom(seed, centre=0.0, radius=6) for seed in range(3)]
    return [
        task_of(metric, 0, "Dataset001_Plain", cases=3),
        signature_of(metric, flat, name="Dataset031_Constant"),
        signature_of(metric, rare, [(1,), (2,)], "Dataset032_Rare"),
        task_of(metric, 30, "Dataset033_Single", cases=1),
        signature_of(metric, touching, name="Dataset034_AtTheBorder"),
        task_of(metric, 40, "Dataset035_LastAxis", shape=(20, 24, 1)),
        task_of(metric, 50, "Dataset036_Thin", shape=(2, 24, 22)),
        signature_of(metric, [phantom(60)] * 4, name="Dataset037_EqualCases"),
        task_of(metric, 70, "Dataset038_Voxel", radius=0.9),
    ]


every_task = pytest.mark.parametrize("tasks", [varied_tasks, flat_tasks, odd_tasks])


@every_task
def test_a_task_is_at_distance_zero_from_itself(metric: AffinityMetric, tasks: Callable) -> None:
    """Exactly zero, whatever the spread of its cases, an empty label or an object without surroundings included."""
    for task in tasks(metric):
        assert distance(metric, task, task) == 0, task.dataset


@every_task
def test_distances_are_finite_symmetric_and_not_negative(metric: AffinityMetric, tasks: Callable) -> None:
    """Between tasks the distance is above zero, finite with all its components and resamples, and the same back."""
    every = tasks(metric)
    for i, a in enumerate(every):
        for b in every[:i]:
            there, back = metric.compare(a, b).distances, metric.compare(b, a).distances
            assert list(there) == list(back) and set(metric.combination.weights) <= set(there)
            assert np.isfinite(list(there.values())).all() and min(there.values()) >= 0
            assert there == pytest.approx(back, abs=ROUNDING), (a.dataset, b.dataset)
            assert tasks is odd_tasks or distance(metric, a, b) > 0, (a.dataset, b.dataset)
            drawn = resample(metric, a, b, 0, 10)
            assert all(np.isfinite(values).all() and (values >= 0).all() for values in drawn.values())


def test_the_order_of_cases_does_not_matter(metric: AffinityMetric) -> None:
    """A task whose cases are listed in another order is the same task."""
    rng = np.random.default_rng(0)
    other = task_of(metric, 100, "Dataset020_Other", channels=2, labels=2)
    for task in varied_tasks(metric):
        shuffled = reordered(task, rng.permutation(len(task.cases)).tolist())
        assert distance(metric, shuffled, other) == pytest.approx(distance(metric, task, other), abs=ROUNDING)
        assert distance(metric, other, shuffled) == pytest.approx(distance(metric, other, task), abs=ROUNDING)


def test_the_order_of_channels_does_not_matter(metric: AffinityMetric) -> None:
    """Channels are matched by what they show: stored in another order, the distance is the same."""
    skip_if_exempt(metric, "channel order")
    cases = [phantom(seed, channels=3, labels=2) for seed in range(3)]
    plain = signature_of(metric, cases)
    moved = signature_of(metric, [replace(case, images=case.images[[2, 0, 1]]) for case in cases])
    for other in varied_tasks(metric):
        assert distance(metric, moved, other) == pytest.approx(distance(metric, plain, other), abs=ROUNDING)
    assert distance(metric, moved, plain) == pytest.approx(0, abs=ROUNDING)


def test_the_numbers_of_labels_do_not_matter(metric: AffinityMetric) -> None:
    """Labels are matched by what they are: numbered or listed in another way, the distance is the same."""
    cases = [phantom(seed, labels=3) for seed in range(3)]
    renumber = np.asarray([0, 7, 3, 5], dtype=np.int16)
    plain = signature_of(metric, cases, [(1,), (2,), (3,)])
    other_numbers = [replace(case, segmentation=renumber[case.segmentation]) for case in cases]
    moved = signature_of(metric, other_numbers, [(5,), (7,), (3,)])
    for other in varied_tasks(metric):
        assert distance(metric, moved, other) == pytest.approx(distance(metric, plain, other), abs=ROUNDING)
    assert distance(metric, moved, plain) == pytest.approx(0, abs=ROUNDING)


def test_one_object_in_several_labels_is_seen(metric: AffinityMetric) -> None:
    """The same voxels told apart into two labels are another task than in one label."""
    skip_if_exempt(metric, "one label in several")
    cases = [phantom(seed, labels=2) for seed in range(3)]
    apart, merged = signature_of(metric, cases), signature_of(metric, cases, [(1, 2)], "Dataset002_Merged")
    assert distance(metric, apart, merged) > 0.01


def test_regions_are_their_voxels(metric: AffinityMetric) -> None:
    """Overlapping regions are compared as the voxels they hold, whatever numbers they are made of."""
    cases = [phantom(seed, labels=3) for seed in range(3)]
    joined = [replace(case, segmentation=np.where(case.segmentation == 3, 2, case.segmentation)) for case in cases]
    regions = signature_of(metric, cases, [(1, 2, 3), (2, 3)])
    same = signature_of(metric, joined, [(1, 2), (2,)], "Dataset002_Joined")
    far = task_of(metric, 200, "Dataset003_Far", radius=7)
    assert distance(metric, regions, far) == pytest.approx(distance(metric, same, far), abs=ROUNDING)


GROWING = {
    "intensity shift": [{"offset": value} for value in (0, 0.2, 0.5, 1, 2, 4)],
    "contrast": [{"contrast": value} for value in (2, 1.5, 1, 0.5, 0)],
    "inverted contrast": [{"contrast": value} for value in (2, 1, 0, -1, -2)],
    "object size": [{"radius": value} for value in (4, 4.5, 5, 6, 7, 8)],
    "object position": [{"centre": value} for value in (0.5, 0.53, 0.58, 0.65, 0.75)],
}
"""Law -> settings of phantoms that lie ever farther from the first."""
CONCERNED = {
    "intensity shift": {"image", "wasserstein"},
    "contrast": {"contrast", "wasserstein"},
    "inverted contrast": {"contrast"},
    "object size": {"label", "dissimilarity"},
    "object position": {"label", "dissimilarity"},
    "spacing": {"geometry"},
}
"""Law -> the components that grow, of those that a metric has."""


def assert_growing(found: Sequence[float]) -> None:
    """From 0 on never smaller, and larger each time once it is above 0, as it is for the last two.

    Differences within the noise of the sample are taken for none: the nearest tasks may be at 0.
    """
    above = [value for value in found if value > 0]
    assert found[0] == 0
    assert list(found) == sorted(found), found
    assert len(set(above)) == len(above) >= 2, found


@pytest.mark.parametrize("law", GROWING)
def test_distances_grow_with_the_difference(metric: AffinityMetric, law: str) -> None:
    """The farther phantoms lie apart in one respect, the larger the distance and the component that is meant for it."""
    skip_if_exempt(metric, law)
    tasks = [task_of(metric, 0, f"Dataset00{i}_X", cases=3, **settings) for i, settings in enumerate(GROWING[law])]
    assert_all_growing(metric, law, tasks)


def test_distances_grow_with_the_spacing(metric: AffinityMetric) -> None:
    """The same voxels at ever larger spacings, along one axis or all, lie ever farther apart."""
    skip_if_exempt(metric, "spacing")
    cases = [phantom(seed) for seed in range(3)]
    for axes in ((1.0, 0.0, 0.0), (1.0, 1.0, 1.0)):
        spacings = [tuple(float(1.3 ** (step * axis)) for axis in axes) for step in range(5)]
        tasks = [signature_of(metric, cases, name=f"Dataset00{i}_X", spacing=s) for i, s in enumerate(spacings)]
        assert_all_growing(metric, "spacing", tasks)


def assert_all_growing(metric: AffinityMetric, law: str, tasks: Sequence[Signature]) -> None:
    assert_growing([distance(metric, tasks[0], task) for task in tasks])
    compared = [metric.compare(tasks[0], task).distances for task in tasks]
    concerned = CONCERNED[law] & set(compared[0])
    assert concerned
    for name in concerned:
        assert_growing([components[name] for components in compared])


@functools.cache
def small_object(seed: int, middle: float, noise: float) -> CaseData:
    """A ball of about 26 voxels, 0.01 % of the volume, on the diagonal; it is moved a little by the seed."""
    rng = np.random.default_rng(seed)
    grid = np.stack(np.meshgrid(*[np.arange(64)] * 3, indexing="ij"), axis=-1)
    mask = np.linalg.norm(grid - (middle + rng.uniform(-1, 1, 3)), axis=-1) < 1.85
    image = rng.normal(0, noise, mask.shape) + 2 * mask
    return CaseData(image[None].astype(np.float32), mask.astype(np.int16))


def small_objects(metric: AffinityMetric, name: str, seed: int, middle: float, noise: float) -> Signature:
    return signature_of(metric, [small_object(seed + case, middle, noise) for case in range(10)], name=name)


@pytest.mark.parametrize(("component", "noise"), [(None, 0.1), ("label", 1.0)])
def test_small_objects_apart_are_farther_than_on_top_of_each_other(
    metric: AffinityMetric, component: str | None, noise: float
) -> None:
    """Objects of 0.01 % that lie apart are farther by five of the wider 95 % interval; labels alone in any noise."""
    skip_if_exempt(metric, "small objects")
    combination = metric.combination if component is None else Combination({component: 1.0}, 2.0)
    disjoint, overlapping, target = (
        small_objects(metric, f"Dataset00{place}_X", 100 * place, middle, noise)
        for place, middle in enumerate((44, 20, 20))
    )
    assert np.mean([small_object(seed, 20, 1).segmentation.sum() for seed in range(9)]) < 1.1e-4 * 64**3
    far, near = (
        float(combination.distances(metric.compare(task, target).distances)) for task in (disjoint, overlapping)
    )
    scatter = scatter_to_target(metric, combination, [disjoint, overlapping, target], 0)
    assert scatter.ranking == (1, 0) and scatter.indistinct == (False,)
    assert scatter.low[0] <= far <= scatter.high[0]
    assert far - near > 5 * (scatter.high - scatter.low).max()


def test_two_samples_of_one_task_are_at_0_but_for_chance(metric: AffinityMetric) -> None:
    """Other cases of the same task: within its interval the distance is 0, though no two cases are equal."""
    skip_if_exempt(metric, "two samples of one task")
    found = []
    for seed in range(0, 200, 20):
        a, b = (task_of(metric, 1000 + seed + half, f"Dataset00{half}_X", cases=8) for half in (0, 8))
        found.append(distance(metric, a, b))
    far = distance(metric, task_of(metric, 0, "Dataset001_A", cases=8), task_of(metric, 8, "Dataset002_B", 8, radius=5))
    assert np.median(found) < 0.1 * far and max(found) < 0.5 * far
    assert found.count(0.0) >= 2, "noise is subtracted without regard to the sign of what is left"


def test_many_at_once_are_one_by_one(metric: AffinityMetric) -> None:
    """Comparing with many tasks at once gives for each what comparing with it alone gives, shared cases included."""
    if not isinstance(metric, BatchMetric):
        pytest.skip(f"{metric.name} compares pair by pair")
    tasks = [*varied_tasks(metric), *(reordered(task, [0]) for task in varied_tasks(metric)[:3])]
    for task in tasks:
        many = metric.compare_many(task, tasks)
        for place, other in enumerate(tasks):
            alone = metric.compare(task, other).distances
            assert {name: values[place] for name, values in many.items()} == pytest.approx(alone, abs=ROUNDING)
        assert all(values.shape == (len(tasks),) for values in many.values())
    assert all(len(values) == 0 for values in metric.compare_many(tasks[0], []).values())


def test_resamples_scatter_around_the_distance(metric: AffinityMetric) -> None:
    """Resampled cases give components around those of the sample; the same seed the same ones, another seed others."""
    a, b = (task_of(metric, seed, f"Dataset00{seed}_X", 8, **more) for seed, more in ((1, {}), (50, {"radius": 6})))
    shared = replace(b, cases=(*a.cases[:4], *b.cases[4:]))
    power = metric.combination.exponent  # squares of debiased lengths are unbiased, their roots are not
    for other in (b, shared):
        drawn = resample(metric, a, other, 0, 4000)
        for name, value in metric.compare(a, other).distances.items():
            found = drawn[name] ** power
            assert found.shape == (4000,) and (found >= 0).all()
            if value == 0 or (found == 0).mean() > 0.001:
                continue  # what is below 0 is cut off
            assert found.mean() == pytest.approx(value**power, abs=5 * found.std() / np.sqrt(4000) + 1e-9), name
        again, another = resample(metric, a, other, 0, 4000), resample(metric, a, other, 1, 4000)
        assert all((again[name] == drawn[name]).all() for name in drawn)
        scattering = [name for name in drawn if drawn[name].std() > 1e-6]
        assert scattering and all((another[name] != drawn[name]).any() for name in scattering)


def test_resamples_of_a_task_and_itself_are_0(metric: AffinityMetric) -> None:
    """Shared cases are drawn alike, so that a task stays at 0 from itself in every resample."""
    for task in (*varied_tasks(metric), *flat_tasks(metric)):
        for name, values in resample(metric, task, task, 3, 20).items():
            np.testing.assert_allclose(values, 0, atol=ROUNDING, err_msg=f"{task.dataset} {name}")


def test_signatures_that_travelled_are_as_good(metric: AffinityMetric, tmp_path: Path) -> None:
    """Without identifiers, through a file, the distances and their resamples are the same, shared cases included."""
    tasks = varied_tasks(metric)
    tasks = [*tasks, replace(tasks[0], dataset="Dataset020_Twin", digest="twin", profiles=tasks[1].profiles[:1] * 3)]
    travelled = []
    for place, task in enumerate(tasks):
        write_signature(tmp_path / f"{place}.npz", anonymous(task))
        travelled.append(read_signature(tmp_path / f"{place}.npz"))
        assert not set(travelled[-1].cases) & set(task.cases) and travelled[-1].keys == task.keys
    for a, b in itertools.product(range(len(tasks)), repeat=2):
        here = metric.compare(tasks[a], tasks[b])
        for one, other in ((travelled[a], tasks[b]), (tasks[a], travelled[b]), (travelled[a], travelled[b])):
            found = metric.compare(one, other)
            assert found.distances == pytest.approx(here.distances, rel=0, abs=1e-12)
            assert found.counterparts == here.counterparts
    for a, b in ((0, len(tasks) - 1), (0, 1)):
        local, away = (resample(metric, some[a], some[b], 0, 30) for some in (tasks, travelled))
        for name, values in local.items():
            np.testing.assert_allclose(away[name], values, rtol=0, atol=1e-12)


def test_profiles_do_not_change_their_case(metric: AffinityMetric) -> None:
    """A profile is a function of a case: computed twice it is equal bit by bit, and the case is as before."""
    case = phantom(0, channels=2, labels=2)
    images, segmentation = case.images.copy(), case.segmentation.copy()
    first, second = (metric.profile(case, ((1,), (2,))) for _ in range(2))
    assert (case.images == images).all() and (case.segmentation == segmentation).all()
    assert_same_profiles([first], [second])
    assert sum(array.nbytes for array in first.values()) < 20e6


def affinity(metric: AffinityMetric, target: str, sources: tuple[str, ...], seed: int = 0) -> Any:
    configuration = "2d" if target == FLAT_TARGET else "3d_fullres"
    request = AffinityRequest(target, sources, "nnUNetPlans", configuration, cases=4, seed=seed, allow_overlap=True)
    return compute_affinity(request, Context(), metric).affinity


def clear_caches(world: Any) -> None:
    for folder in world.preprocessed.glob("*/seqtransfer"):
        shutil.rmtree(folder)


@pytest.mark.parametrize(("target", "sources"), [(TARGET, (NEAR, FAR, TWO_CHANNELS)), (FLAT_TARGET, (FLAT_SOURCE,))])
def test_registered_datasets_obey_the_laws(
    world, metric: AffinityMetric, target: str, sources: tuple[str, ...]
) -> None:
    """Through nnU-Net's preprocessing, in 3-D and 2-D: zero to itself, symmetric, finite, the same with one seed."""
    found = affinity(metric, target, sources)
    matrix = found.matrix()
    assert (np.diag(matrix) == 0).all() and matrix[0, -1] > 0
    assert np.isfinite(matrix).all() and (matrix >= 0).all()
    np.testing.assert_allclose(matrix, matrix.T, atol=ROUNDING)
    clear_caches(world)
    assert affinity(metric, target, sources) == found


def scaled_copy(world: Any, name: str, copy: str) -> None:
    """Registers a copy of a dataset with intensities 3 x + 10; its geometry, and so its fingerprint, is the same."""
    shutil.copytree(world.raw / name, world.raw / copy)
    shutil.copytree(world.preprocessed / name, world.preprocessed / copy)
    for path in (world.raw / copy / "imagesTr").iterdir():
        sitk.WriteImage(sitk.ReadImage(str(path)) * 3 + 10, str(path))


def test_the_scale_of_stored_intensities_does_not_matter(world, metric: AffinityMetric) -> None:
    """Intensities stored as 3 x + 10 are the same to a network behind z-scores, and to the distance within 1e-3."""
    skip_if_exempt(metric, "intensity scale")
    scaled_copy(world, NEAR, "Dataset905_Scaled")
    scaled_copy(world, TARGET, "Dataset906_ScaledTarget")
    shutil.rmtree(world.preprocessed / "Dataset906_ScaledTarget/nnUNetPlans_3d_fullres")
    found = affinity(metric, TARGET, (NEAR, FAR, "Dataset905_Scaled", "Dataset906_ScaledTarget"))
    near, far, scaled, self_scaled, _ = found.matrix()[:, -1]
    assert scaled == pytest.approx(near, abs=1e-3)
    assert found.matrix()[0, 2] < 1e-3
    assert self_scaled < 1e-3
    assert abs(far - near) > 0.05


def requests_of(*sources: str) -> list[Any]:
    plans, target = read_plans(TARGET, "nnUNetPlans", "3d_fullres"), load_task(TARGET)
    tasks = [load_task(source) for source in sources]
    return [request_profile(task, align_plans(plans, target, task), "3d_fullres", 2, 0) for task in tasks]


def test_the_number_of_processes_does_not_matter(world, metric: AffinityMetric) -> None:
    """One process and two give arrays that are equal bit by bit."""
    alone = profile_tasks(requests_of(NEAR, TWO_CHANNELS), metric, 1)
    clear_caches(world)
    together = profile_tasks(requests_of(NEAR, TWO_CHANNELS), metric, 2)
    for a, b in zip(alone, together, strict=True):
        assert a.digest == b.digest
        assert_same_profiles(a.profiles, b.profiles)


def test_preprocessed_in_memory_or_on_disk_is_the_same(world, metric: AffinityMetric) -> None:
    """Signatures from cases preprocessed in memory equal those from the files that a chain preprocesses."""
    (request,) = requests_of(TWO_CHANNELS)
    folder = data_folder(TWO_CHANNELS, request.plans, "3d_fullres")
    assert not folder.exists()
    (memory,) = profile_tasks([request], metric, 1)
    clear_caches(world)
    preprocess_missing(request.task, request.plans, "3d_fullres", 1)
    assert len(list(folder.glob("*.pkl"))) == 6
    (disk,) = profile_tasks(requests_of(TWO_CHANNELS), metric, 1)
    assert memory.digest == disk.digest
    assert_same_profiles(memory.profiles, disk.profiles)


def test_regions_of_a_dataset(world, metric: AffinityMetric) -> None:
    """A dataset with regions is compared by the voxels of its regions."""
    for folder in (world.raw, world.preprocessed):
        path = folder / TWO_CHANNELS / "dataset.json"
        content = json.loads(path.read_text())
        content |= {"labels": {"background": 0, "whole": [1, 2], "core": [1]}, "regions_class_order": [1, 2]}
        path.write_text(json.dumps(content))
    found = affinity(metric, TARGET, (TWO_CHANNELS, NEAR))
    assert found.tasks[0].labels == ("whole", "core")
    assert np.isfinite(found.matrix()).all()


def test_names_are_words_alone(metric: AffinityMetric) -> None:
    """How channels and labels are called decides nothing: it is what they show."""
    plain = task_of(metric, 0, "Dataset001_A", channels=2, labels=2)
    renamed = replace(plain, channels=(" t1W", "T1w "), labels=("organ", "Organ"))
    other = task_of(metric, 20, "Dataset002_B", channels=2, labels=2, radius=5)
    assert metric.compare(renamed, other).distances == metric.compare(plain, other).distances
