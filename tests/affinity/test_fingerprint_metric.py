"""The metric without images: closed forms of its components, what it does not see, and what it reads."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.fingerprint import FingerprintMetric, standardised
from nnunet_seqtransfer.affinity.metric import find_metric
from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.plans import read_plans
from nnunet_seqtransfer.nnunet.preprocessing import CaseData, read_raw_case
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.profiling import ProfileRequest, preprocessing_for, profile_tasks, request_profile
from nnunet_seqtransfer.tasks.signature import Signature, anonymous
from nnunet_seqtransfer.tasks.task import load_task
from support.made_tasks import phantom, reordered, signature_of, task_of
from support.world import FAR, FLAT_SOURCE, FLAT_TARGET, NEAR, TARGET, TWO_CHANNELS, World

METRIC = FingerprintMetric()
SHAPE = (20, 24, 22)
PROPERTIES = np.asarray([10.0, 12.0, 4.0, -6.0, 74.0, 2.0, 26.0])
"""Mean, median, std, min, max, and percentiles 0.5 and 99.5."""


def box(start: tuple[int, ...] = (2, 3, 4), size: tuple[int, ...] = (4, 6, 6), label: int = 1) -> CaseData:
    segmentation = np.zeros(SHAPE, dtype=np.int16)
    segmentation[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = label
    return CaseData(np.zeros((1, *SHAPE), dtype=np.float32), segmentation)


def task(cases: list[CaseData], name: str = "Dataset002_B", **settings: Any) -> Signature:
    return signature_of(METRIC, cases, [(1,)], name, **settings)


def squares_between(a: Signature, b: Signature) -> dict[str, float]:
    return {name: value**2 for name, value in METRIC.compare(a, b).components.items()}


def with_intensities(name: str, *channels: np.ndarray) -> Signature:
    return replace(
        task([box()], name), channels=tuple(f"c{i}" for i in range(len(channels))), intensities=np.stack(channels)
    )


def test_it_is_found_by_its_name() -> None:
    """`-m fingerprint` is one of ours, and asks for labels alone."""
    assert isinstance(find_metric("fingerprint"), FingerprintMetric)
    assert METRIC.view == "labels"


def test_spacing_counts_in_the_size_of_objects_and_of_voxels() -> None:
    """The same voxels of 2 x 1 x 3 mm instead of 1 mm: 6 times the volume, spreads and extents 2 and 3 times."""
    found = squares_between(task([box()], "Dataset001_A"), task([box()], spacing=(2.0, 1.0, 3.0)))
    along = np.log2([2, 1, 3]) ** 2
    assert found["label"] == pytest.approx((np.log10(6) ** 2 / 2 + along.sum() / 4) / 3, rel=1e-6)
    assert found["geometry"] == pytest.approx(along.mean())
    assert found["image"] == 0


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_moved_object_is_its_way_over_half_the_diagonal(axis: int) -> None:
    """A shift by 3 voxels: its share of the axis over half the diagonal of the unit cube, a third of the square."""
    start = np.asarray([2, 3, 4]) + 3 * (np.arange(3) == axis)
    found = squares_between(task([box()], "Dataset001_A"), task([box(tuple(start))]))
    assert found == pytest.approx({"label": (3 / SHAPE[axis]) ** 2 / 0.75 / 3, "geometry": 0, "image": 0}, rel=1e-5)


def test_a_longer_object_is_its_size_spread_and_surface() -> None:
    """A box of twice the length: volume and share double, one spread and the surface index change by their formulas."""
    found = squares_between(task([box((2, 3, 4), (4, 6, 6))], "Dataset001_A"), task([box((2, 3, 1), (4, 6, 12))]))

    def spread(length: int) -> float:
        return float(np.log2(np.arange(length).std() + 0.5))

    def surface(*size: int) -> float:
        inner = np.prod([length - 2 for length in size])
        return float(np.log2((np.prod(size) - inner) / np.prod(size) ** (2 / 3)))

    shape = (spread(12) - spread(6)) ** 2 + (surface(4, 6, 12) - surface(4, 6, 6)) ** 2
    assert found["label"] == pytest.approx((np.log10(2) ** 2 + shape / 4) / 3, rel=1e-5)


def test_the_five_numbers_of_a_channel() -> None:
    """Percentiles and median less the mean over the standard deviation, and the logarithms of both tails."""
    (found,) = standardised(PROPERTIES[None])
    np.testing.assert_allclose(found, [-2, 0.5, 4, np.log2(1 + 8 / 4), np.log2(1 + 48 / 4)])


def test_channels_do_not_know_scale_and_offset() -> None:
    """Stored as 3 x + 10 a channel has the same numbers; a constant one has zeros, whatever rounding left of it."""
    scaled = 3 * PROPERTIES + 10
    scaled[2] = 3 * PROPERTIES[2]
    np.testing.assert_allclose(standardised(scaled[None]), standardised(PROPERTIES[None]), atol=1e-12)
    for constant in (np.zeros(7), np.asarray([7, 7, 1e-7, 7, 7, 7, 7.0])):
        np.testing.assert_array_equal(standardised(constant[None]), np.zeros((1, 5)))


def test_channels_are_matched_and_those_without_a_partner_cost() -> None:
    """The image is the root mean square of the differences of the five numbers, of the best match of channels."""
    other = np.asarray([0.0, 0.0, 1.0, -3.0, 3.0, -2.0, 2.0])
    a = with_intensities("Dataset001_A", PROPERTIES, other)
    assert squares_between(a, with_intensities("Dataset002_B", other, PROPERTIES))["image"] == 0
    alone = METRIC.compare(a, with_intensities("Dataset002_B", other))
    assert alone.match[0] == "c1 -> c0"
    assert alone.components["image"] ** 2 == pytest.approx((0 + 0.5**2) / 2)
    one, two = (with_intensities(f"Dataset00{i}_X", numbers) for i, numbers in enumerate((PROPERTIES, other)))
    difference = standardised(PROPERTIES[None]) - standardised(other[None])
    assert squares_between(one, two)["image"] == pytest.approx((difference**2).mean())


def test_labels_are_matched_and_reported() -> None:
    """Labels with other numbers find each other by what they are."""
    cases = [phantom(seed, labels=3) for seed in range(2)]
    forth = signature_of(METRIC, cases, [(1,), (2,), (3,)])
    back = signature_of(METRIC, cases, [(3,), (1,), (2,)], "Dataset002_B")
    assert METRIC.compare(forth, back).match[1:] == ("label 0 -> label 1", "label 1 -> label 2", "label 2 -> label 0")


def test_the_thickness_of_single_slices_does_not_matter() -> None:
    """Readers make up a thickness for 2-D images; sizes are in mm^2 and nothing else changes."""
    cases = [phantom(seed, shape=(1, 40, 44), radius=6) for seed in range(2)]
    other = task_of(METRIC, 9, "Dataset009_Other", shape=(1, 40, 44), radius=9)
    thin, thick = (signature_of(METRIC, cases, spacing=(depth, 1.0, 1.0)) for depth in (1.0, 999.0))
    assert METRIC.compare(thin, other).components == pytest.approx(METRIC.compare(thick, other).components, abs=1e-12)
    single, doubled = (
        signature_of(METRIC, cases[:1], name=name, spacing=spacing)
        for name, spacing in (("Dataset001_Single", (999.0, 1.0, 1.0)), ("Dataset002_Doubled", (1.0, 2.0, 2.0)))
    )
    expected = {"label": (np.log10(4) ** 2 / 2 + 2 / 4) / 3, "geometry": 1.0, "image": 0.0}
    assert squares_between(single, doubled) == pytest.approx(expected, rel=1e-6)


def varied() -> list[Signature]:
    """Tasks with several channels and labels, with spacings of their own, and two that share a patient."""
    first = task_of(METRIC, 30, "Dataset004_First", cases=3, labels=2)
    second = task_of(METRIC, 40, "Dataset005_Second", cases=3, labels=2)
    without = phantom(7)
    without.segmentation[:] = 0
    return [
        task_of(METRIC, 0, "Dataset001_Plain", cases=3),
        task_of(METRIC, 10, "Dataset002_Large", radius=7, channels=2),
        signature_of(METRIC, [phantom(20, labels=3)], name="Dataset003_Fine", spacing=(0.5, 0.7, 2.0)),
        first,
        replace(second, cases=(*second.cases[:2], first.cases[0])),
        signature_of(METRIC, [without, phantom(8)], [(1,)], "Dataset006_SomeEmpty"),
    ]


def test_many_at_once_are_the_same_as_one_by_one() -> None:
    """`compare_many` gives what `compare` gives, whatever the numbers of channels and labels and the shared cases."""
    tasks = varied()
    for one in tasks:
        several = METRIC.compare_many(one, tasks)
        for place, other in enumerate(tasks):
            expected = METRIC.compare(one, other).components
            assert {name: values[place] for name, values in several.items()} == pytest.approx(expected, abs=1e-12)


def test_resamples_move_what_is_known_by_case() -> None:
    """Label and geometry scatter with the cases, around the distance; the image, of all cases at once, does not."""
    tasks = [
        replace(made, geometry=made.geometry * np.random.default_rng(place).uniform(0.8, 1.2, (len(made.cases), 1, 3)))
        for place, made in enumerate(varied()[:2])
    ]
    drawn, components = METRIC.resample(*tasks, 4000, seed=0), METRIC.compare(*tasks).components
    assert all(values.shape == (4000,) for values in drawn.values())
    assert (drawn["image"] == components["image"]).all()
    for name in ("label", "geometry"):
        assert drawn[name].std() > 0
        squared = drawn[name] ** 2
        if (drawn[name] > 0).all():
            assert abs(squared.mean() - components[name] ** 2) < 4 * squared.std() / np.sqrt(4000)
    np.testing.assert_array_equal(drawn["label"], METRIC.resample(*tasks, 4000, seed=0)["label"])
    assert all((values == 0).all() for values in METRIC.resample(tasks[0], tasks[0], 5, seed=0).values())


def test_travelled_and_reordered_signatures_give_the_same() -> None:
    """Without identifiers, and with cases in another order, a task is at the same distances and scatters alike."""
    tasks = varied()
    for one in tasks:
        for changed in (anonymous(one), reordered(one, range(len(one.cases))[::-1])):
            for other in tasks:
                found = METRIC.compare(changed, other).components
                assert found == pytest.approx(METRIC.compare(one, other).components, abs=1e-12)
                drawn, expected = (METRIC.resample(source, other, 5, seed=1) for source in (changed, one))
                for name, values in drawn.items():
                    np.testing.assert_allclose(values, expected[name], atol=1e-7)


def requests_of(target: str, *sources: str) -> list[ProfileRequest]:
    configuration = "2d" if target == FLAT_TARGET else "3d_fullres"
    plans, own = read_plans(target, "nnUNetPlans", configuration), load_task(target)
    tasks = [load_task(source) for source in sources]
    return [request_profile(entry, align_plans(plans, own, entry), configuration, 3, 0) for entry in tasks]


def test_no_image_is_read(world: World) -> None:
    """With images that nobody can read the signatures are made all the same, of volumes, and of RGB images."""
    volumes = requests_of(TARGET, TARGET, NEAR, FAR, TWO_CHANNELS)
    flat = requests_of(FLAT_TARGET, FLAT_TARGET, FLAT_SOURCE)
    for path in world.raw.glob("*/imagesTr/*"):
        path.write_bytes(b"no image")
    for folder in world.preprocessed.glob("*/nnUNetPlans_*"):
        shutil.rmtree(folder)
    signatures = profile_tasks(volumes, METRIC, 1)
    assert [len(made.labels) for made in signatures] == [2, 1, 1, 1]
    components = METRIC.compare_many(signatures[0], signatures[1:])
    assert all(np.isfinite(values).all() for values in components.values())
    assert (components["geometry"] < 0.5).all() and (components["label"] > 0).all()
    assert METRIC.compare(*profile_tasks(flat, METRIC, 1)).components["geometry"] == 0


def test_axes_are_those_of_the_geometry(world: World) -> None:
    """Where nnU-Net transposes axes, labels are transposed as spacings are."""
    (request,) = requests_of(TARGET, NEAR)
    turned = replace(request, plans=request.plans | {"transpose_forward": [2, 0, 1]})
    case = request.cases[0]
    raw = read_raw_case(case, request.task.raw[case], request.plans["image_reader_writer"])
    loaded = turned.load(case, "labels")
    np.testing.assert_array_equal(loaded.segmentation, raw.segmentation.transpose(2, 0, 1))
    np.testing.assert_array_equal(request.load(case, "labels").segmentation, raw.segmentation)
    assert loaded.images.shape == (0, *loaded.segmentation.shape)
    texts = [preprocessing_for(METRIC.view, one.plans, one.configuration) for one in (turned, request)]
    assert texts[0] != texts[1]
    assert loaded.segmentation.shape == tuple(np.round(turned.geometry()[0, 1] / turned.geometry()[0, 0]))


def test_without_raw_data_the_copies_of_the_labels_serve(world: World) -> None:
    """nnU-Net keeps labels as stored beside preprocessed data; where they are missing too, a line says so."""
    (before,) = profile_tasks(requests_of(TARGET, TWO_CHANNELS), METRIC, 1)
    shutil.rmtree(world.raw / TWO_CHANNELS)
    shutil.rmtree(world.preprocessed / TWO_CHANNELS / "seqtransfer")
    (request,) = requests_of(TARGET, TWO_CHANNELS)
    (after,) = profile_tasks([request], METRIC, 1)
    for first, second in zip(before.profiles, after.profiles, strict=True):
        np.testing.assert_array_equal(first["form"], second["form"])
    kept: Path = world.preprocessed / TWO_CHANNELS / "gt_segmentations"
    shutil.rmtree(kept)
    (error,) = profile_tasks(requests_of(TARGET, TWO_CHANNELS), METRIC, 1)
    assert isinstance(error, DatasetError)
    assert f"no labels of {request.cases[0]}" in str(error) and str(kept) in str(error)


def test_a_broken_label_file_is_named(world: World) -> None:
    """A label file that ends early is one line with its path."""
    path = world.raw / NEAR / "labelsTr/case2.nii.gz"
    path.write_bytes(path.read_bytes()[:100])
    (request,) = requests_of(TARGET, NEAR)
    with pytest.raises(DatasetError, match="case case2 cannot be read") as caught:
        request.load("case2", "labels")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
