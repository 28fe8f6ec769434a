"""Laws that the distances of every metric obey, on phantoms and on datasets that went through nnU-Net."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_seqtransfer.affinity.compute import AffinityRequest, compute_affinity
from nnunet_seqtransfer.affinity.metric import AffinityMetric, metrics
from nnunet_seqtransfer.chain.preparation import preprocess_missing
from nnunet_seqtransfer.host.plans import data_folder, read_plans
from nnunet_seqtransfer.host.preprocessing import CaseData
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.profile import profile_tasks, request_profile
from nnunet_seqtransfer.tasks.signature import Signature
from nnunet_seqtransfer.tasks.task import load_task

EXEMPT = {
    ("published", "channel order"): "its formula knows one channel: the first stands for the images",
    ("published", "intensity scale"): "it reads intensities as stored: 3 x the intensities make about 3 x the scores",
    ("published", "intensity shift"): "principal components are taken of centred volumes: a shift is not seen",
    ("published", "one label in several"): "it merges all labels: how they are told apart is not seen",
}
"""(metric, law) -> why the metric's formula breaks the law."""

TARGET, NEAR, FAR, TWO_CHANNELS = "Dataset901_Target", "Dataset902_Near", "Dataset903_Far", "Dataset904_TwoChannels"
FLAT_TARGET, FLAT_SOURCE = "Dataset911_FlatTarget", "Dataset912_FlatSource"
ROUNDING = 1e-9
Change = Callable[[CaseData], CaseData]


@pytest.fixture(params=sorted(metrics()), scope="module")
def metric(request: pytest.FixtureRequest) -> AffinityMetric:
    return metrics()[request.param]()


def skip_if_exempt(metric: AffinityMetric, law: str) -> None:
    if (metric.name, law) in EXEMPT:
        pytest.skip(EXEMPT[metric.name, law])


def phantom(
    seed: int, channels: int = 1, labels: int = 1, radius: float = 4.0, contrast: float = 2.0, offset: float = 0.0,
    shape: tuple[int, int, int] = (20, 24, 22), centre: float = 0.5,
) -> CaseData:  # fmt: skip
    """Balls, or discs in one slice, on a ground of normalised noise; radius and position vary a little by the seed."""
    rng = np.random.default_rng(seed)
    size = np.asarray(shape)
    grid = np.stack(np.meshgrid(*[np.arange(length) for length in shape], indexing="ij"), axis=-1)
    segmentation = np.zeros(shape, dtype=np.int16)
    image = rng.normal(0, 0.3, shape)
    middle = (size - 1) * np.asarray([0.5, 0.5, centre]) + rng.uniform(-0.5, 0.5, 3) * (size > 1)
    for label in range(1, labels + 1):
        away = np.where(size > 1, middle + (label - 1) * np.asarray([0, 7, 0]), 0)
        mask = np.linalg.norm(grid - away, axis=-1) < radius * (1 - 0.25 * (label - 1))
        segmentation[mask] = label
        image[mask] += contrast / label
    images = np.stack([(image + offset) * (1 - 0.6 * channel) + 0.2 * channel for channel in range(channels)])
    images += rng.normal(0, 0.02, images.shape)
    return CaseData(images.astype(np.float32), segmentation)


def signature_of(
    metric: AffinityMetric,
    cases: Sequence[CaseData],
    labels: Sequence[tuple[int, ...]] | None = None,
    name: str = "Dataset001_A",
    **changes: Any,
) -> Signature:
    """The signature that `profile_tasks` would make of these cases."""
    values = sorted({int(value) for case in cases for value in np.unique(case.segmentation)} - {0, -1})
    regions = tuple(labels if labels is not None else [(value,) for value in values])
    signature = Signature(
        dataset=name,
        metric=metric.name,
        digest=name,
        channels=tuple(f"channel {index}" for index in range(len(cases[0].images))),
        labels=tuple(f"label {index}" for index in range(len(regions))),
        labelled_cases=len(cases),
        cases=tuple(f"{name} case {index}" for index in range(len(cases))),
        spacing=(1.0, 1.0, 1.0),
        extent=tuple(float(length) for length in cases[0].segmentation.shape),
        profiles=tuple(metric.profile(case, regions) for case in cases),
    )
    return replace(signature, **changes)


def task_of(metric: AffinityMetric, seed: int, name: str, cases: int = 2, **settings: Any) -> Signature:
    return signature_of(metric, [phantom(seed + case, **settings) for case in range(cases)], name=name)


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
    return metric.compare(source, target).distance


def test_every_exemption_is_of_a_metric_that_exists() -> None:
    """The table of exemptions names metrics that are there."""
    assert {name for name, _ in EXEMPT} <= set(metrics())


@pytest.mark.parametrize("tasks", [varied_tasks, flat_tasks])
def test_a_task_is_at_distance_zero_from_itself(metric: AffinityMetric, tasks: Callable) -> None:
    """Exactly zero, whatever the spread of its cases, an empty label or an object without surroundings included."""
    for task in tasks(metric):
        assert distance(metric, task, task) == 0, task.dataset


@pytest.mark.parametrize("tasks", [varied_tasks, flat_tasks])
def test_distances_are_finite_symmetric_and_not_negative(metric: AffinityMetric, tasks: Callable) -> None:
    """Between different tasks the distance is above zero, finite with all its components, and the same back."""
    every = tasks(metric)
    for i, a in enumerate(every):
        for b in every[:i]:
            there, back = metric.compare(a, b), metric.compare(b, a)
            assert np.isfinite([there.distance, *there.components.values()]).all()
            assert there.distance > 0
            assert there.distance == pytest.approx(back.distance, abs=ROUNDING), (a.dataset, b.dataset)
            assert set(there.components) == set(back.components)


def test_the_order_of_cases_does_not_matter(metric: AffinityMetric) -> None:
    """A task whose cases are listed in another order is the same task."""
    rng = np.random.default_rng(0)
    other = task_of(metric, 100, "Dataset020_Other", channels=2, labels=2)
    for task in varied_tasks(metric):
        order = rng.permutation(len(task.cases))
        shuffled = replace(
            task, cases=tuple(task.cases[i] for i in order), profiles=tuple(task.profiles[i] for i in order)
        )
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
    "contrast": [{"contrast": value} for value in (2, 1.5, 1, 0, -1, -2)],
    "object size": [{"radius": value} for value in (4, 4.5, 5, 6, 7, 8)],
    "object position": [{"centre": value} for value in (0.5, 0.53, 0.58, 0.65, 0.75)],
}
"""Law -> settings of phantoms that lie ever farther from the first."""


@pytest.mark.parametrize("law", GROWING)
def test_distances_grow_with_the_difference(metric: AffinityMetric, law: str) -> None:
    """The farther the phantoms lie apart in one respect, the larger the distance, from the first to the last."""
    skip_if_exempt(metric, law)
    tasks = [task_of(metric, 0, f"Dataset00{i}_X", **settings) for i, settings in enumerate(GROWING[law])]
    found = [distance(metric, tasks[0], task) for task in tasks]
    if metric.name == "published" and law == "contrast":
        found = found[:4]  # its scores do not know the sign of a contrast: farther than 0 the distance falls again
    assert found[0] == 0
    assert found == sorted(found), found
    assert len(set(found)) == len(found), found


def test_an_object_that_fills_the_image_differs_from_none(metric: AffinityMetric) -> None:
    """Labels that fill an image and labels that no case holds give a distance, not an error."""
    filled = task_of(metric, 0, "Dataset001_Filled", radius=99)
    nothing = phantom(0)
    nothing.segmentation[:] = 0
    none = signature_of(metric, [nothing] * 3, [(1,)], "Dataset002_None")
    assert distance(metric, none, none) == 0
    assert distance(metric, filled, none) > 0


def test_profiles_do_not_change_their_case(metric: AffinityMetric) -> None:
    """A profile is a function of a case: computed twice it is equal bit by bit, and the case is as before."""
    case = phantom(0, channels=2, labels=2)
    images, segmentation = case.images.copy(), case.segmentation.copy()
    first, second = (metric.profile(case, ((1,), (2,))) for _ in range(2))
    assert (case.images == images).all() and (case.segmentation == segmentation).all()
    assert_same_arrays([first], [second])
    assert sum(array.nbytes for array in first.values()) < 20e6


def assert_same_arrays(a: Sequence[dict[str, Any]], b: Sequence[dict[str, Any]]) -> None:
    assert len(a) == len(b)
    for mine, theirs in zip(a, b, strict=True):
        assert set(mine) == set(theirs)
        for name, array in mine.items():
            assert (array.dtype, array.shape) == (theirs[name].dtype, theirs[name].shape)
            assert array.tobytes() == theirs[name].tobytes(), name


def affinity(metric: AffinityMetric, target: str, sources: tuple[str, ...], seed: int = 0) -> Any:
    configuration = "2d" if target == FLAT_TARGET else "3d_fullres"
    request = AffinityRequest(target, sources, "nnUNetPlans", configuration, cases=4, seed=seed)
    return compute_affinity(request, metric, lambda line: None)


def clear_caches(world: Any) -> None:
    for folder in world.preprocessed.glob("*/seqtransfer"):
        shutil.rmtree(folder)


def test_registered_datasets_obey_the_laws(world, metric: AffinityMetric) -> None:
    """Through nnU-Net's preprocessing: zero to itself, symmetric, finite, and the same again with the same seed."""
    found = affinity(metric, TARGET, (NEAR, FAR, TWO_CHANNELS))
    matrix = found.matrix()
    assert (np.diag(matrix) == 0).all()
    assert np.isfinite(matrix).all() and (matrix >= 0).all()
    np.testing.assert_allclose(matrix, matrix.T, atol=ROUNDING)
    clear_caches(world)
    assert affinity(metric, TARGET, (NEAR, FAR, TWO_CHANNELS)) == found


def test_flat_datasets_obey_the_laws(world, metric: AffinityMetric) -> None:
    """2-D images, three channels against one, go the same way."""
    matrix = affinity(metric, FLAT_TARGET, (FLAT_SOURCE,)).matrix()
    assert (np.diag(matrix) == 0).all()
    assert np.isfinite(matrix).all()
    assert matrix[0, 1] > 0
    assert matrix[0, 1] == pytest.approx(matrix[1, 0], abs=ROUNDING)


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
        assert replace(a, profiles=()) == replace(b, profiles=())
        assert_same_arrays(a.profiles, b.profiles)


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
    assert_same_arrays(memory.profiles, disk.profiles)


def test_an_empty_label_in_some_cases_is_no_obstacle(world, metric: AffinityMetric) -> None:
    """A dataset whose label is empty in some cases is compared like any other."""
    for path in sorted((world.raw / NEAR / "labelsTr").iterdir())[:3]:
        empty = sitk.ReadImage(str(path)) * 0
        sitk.WriteImage(empty, str(path))
    matrix = affinity(metric, TARGET, (NEAR, FAR)).matrix()
    assert (np.diag(matrix) == 0).all()
    assert np.isfinite(matrix).all()


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
