"""The metric of a first look: closed forms of its components, what it does not see, and what it reads."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_seqtransfer.affinity.fingerprint import FingerprintMetric, standardised
from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.plans import read_plans
from nnunet_seqtransfer.nnunet.preprocessing import CaseData, read_raw_case
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.profiling import ProfileRequest, preprocessing_for, request_profile
from nnunet_seqtransfer.tasks.signature import Signature, anonymous
from nnunet_seqtransfer.tasks.task import load_task
from support.made_tasks import phantom, reordered, signature_of, task_of
from support.world import NEAR, SHARED, TARGET, World

METRIC = FingerprintMetric()
SHAPE = (20, 24, 22)


def box(start: tuple[int, ...] = (2, 3, 4), size: tuple[int, ...] = (4, 6, 6), label: int = 1) -> CaseData:
    segmentation = np.zeros(SHAPE, dtype=np.int16)
    segmentation[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = label
    return CaseData(np.zeros((1, *SHAPE), dtype=np.float32), segmentation)


def task(cases: list[CaseData], name: str = "Dataset002_B", **settings: Any) -> Signature:
    return signature_of(METRIC, cases, [(1,)], name, **settings)


def squares_between(a: Signature, b: Signature) -> dict[str, float]:
    return {name: value**2 for name, value in METRIC.compare(a, b).distances.items()}


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


def test_labels_are_matched_and_reported() -> None:
    """Labels with other numbers find each other by what they are."""
    cases = [phantom(seed, labels=3) for seed in range(2)]
    forth = signature_of(METRIC, cases, [(1,), (2,), (3,)])
    back = signature_of(METRIC, cases, [(3,), (1,), (2,)], "Dataset002_B")
    assert METRIC.compare(forth, back).counterparts.labels == (
        ("label 0", "label 1"),
        ("label 1", "label 2"),
        ("label 2", "label 0"),
    )


def test_the_thickness_of_single_slices_does_not_matter() -> None:
    """Readers make up a thickness for 2-D images; sizes are in mm^2 and nothing else changes."""
    cases = [phantom(seed, shape=(1, 40, 44), radius=6) for seed in range(2)]
    other = task_of(METRIC, 9, "Dataset009_Other", shape=(1, 40, 44), radius=9)
    thin, thick = (signature_of(METRIC, cases, spacing=(depth, 1.0, 1.0)) for depth in (1.0, 999.0))
    assert METRIC.compare(thin, other).distances == pytest.approx(METRIC.compare(thick, other).distances, abs=1e-12)
    single, doubled = (
        signature_of(METRIC, cases[:1], name=name, spacing=spacing)
        for name, spacing in (("Dataset001_Single", (999.0, 1.0, 1.0)), ("Dataset002_Doubled", (1.0, 2.0, 2.0)))
    )
    expected = {"label": (np.log10(4) ** 2 / 2 + 2 / 4) / 3, "geometry": 1.0, "image": 0.0}
    assert squares_between(single, doubled) == pytest.approx(expected, rel=1e-6)


def with_intensities(name: str, *channels: np.ndarray, cases: int = 1) -> Signature:
    """A task of equal cases with these foreground intensities in a box, and other intensities around it."""
    image = np.full((len(channels), *SHAPE), 1000.0, dtype=np.float32)
    made = box()
    image[:, made.segmentation > 0] = np.stack(channels)
    return task([CaseData(image, made.segmentation)] * cases, name)


def foreground(seed: int, skew: float = 0.0) -> np.ndarray:
    """Intensities of the 144 voxels of a box; ``skew`` stretches the upper half."""
    values = np.random.default_rng(seed).normal(size=144)
    return np.where(values > 0, (1 + skew) * values, values)


def test_the_five_numbers_of_a_channel() -> None:
    """Percentiles and median less the mean over the standard deviation, and the logarithms of both tails."""
    values = foreground(0)
    low, middle, high = np.percentile(values, [0.5, 50, 99.5])
    expected = (np.asarray([low, middle, high]) - values.mean()) / values.std()
    tails = np.log2(1 + np.asarray([low - values.min(), values.max() - high]) / values.std())
    np.testing.assert_allclose(standardised(values), [*expected, *tails], rtol=1e-6)
    assert np.isnan(standardised(values[:0])).all()


@pytest.mark.parametrize("constant", [0.0, 7.0, 1e8])
def test_channels_do_not_know_scale_and_offset(constant: float) -> None:
    """Stored as 3 x + 10 a channel has the same numbers; a constant one has zeros."""
    np.testing.assert_allclose(standardised(3 * foreground(0) + 10), standardised(foreground(0)), atol=1e-9)
    np.testing.assert_array_equal(standardised(np.full(5, constant)), np.zeros(5))


def test_cases_of_other_intensity_scales_are_alike() -> None:
    """Cases stored in units of a thousand times another leave the distance as it is, as z-scores of cases do."""
    cases = [phantom(seed) for seed in range(6)]
    scaled = [replace(case, images=case.images * (1000 if index % 2 else 1)) for index, case in enumerate(cases)]
    one, other = signature_of(METRIC, cases), signature_of(METRIC, scaled, name="Dataset002_Scaled")
    assert METRIC.compare(one, other).distances["image"] == pytest.approx(0, abs=1e-3)


def test_channels_are_matched_and_those_without_a_partner_cost() -> None:
    """The image is the root mean square of the differences of the five numbers, of the best match of channels."""
    first, second = foreground(0), foreground(1, skew=3)
    a = with_intensities("Dataset001_A", first, second)
    assert squares_between(a, with_intensities("Dataset002_B", second, first))["image"] == 0
    alone = METRIC.compare(a, with_intensities("Dataset002_B", second))
    assert alone.counterparts.channels == (("channel 1", "channel 0"),)
    assert alone.distances["image"] ** 2 == pytest.approx((0 + 0.5**2) / 2)
    one, two = (with_intensities(f"Dataset00{i}_X", values) for i, values in enumerate((first, second)))
    difference = standardised(first) - standardised(second)
    assert squares_between(one, two)["image"] == pytest.approx((difference**2).mean(), rel=1e-5)


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
            expected = METRIC.compare(one, other).distances
            assert {name: values[place] for name, values in several.items()} == pytest.approx(expected, abs=1e-12)


def test_travelled_and_reordered_signatures_give_the_same() -> None:
    """Without identifiers, and with cases in another order, a task is at the same distances and scatters alike."""
    tasks = varied()
    for one in tasks:
        for changed in (anonymous(one), reordered(one, range(len(one.cases))[::-1])):
            for other in tasks:
                found = METRIC.compare(changed, other).distances
                assert found == pytest.approx(METRIC.compare(one, other).distances, abs=1e-12)
                drawn, expected = (METRIC.resample(source, other, 5, seed=1) for source in (changed, one))
                for name, values in drawn.items():
                    np.testing.assert_allclose(values, expected[name], atol=1e-7)


def test_resamples_scatter_around_the_distance() -> None:
    """All components scatter with the cases; a task has no distance from itself in any resample."""
    tasks = [
        replace(made, geometry=made.geometry * np.random.default_rng(place).uniform(0.8, 1.2, (len(made.cases), 1, 3)))
        for place, made in enumerate(varied()[:2])
    ]
    drawn, components = METRIC.resample(*tasks, 4000, seed=0), METRIC.compare(*tasks).distances
    for name, values in drawn.items():
        assert values.shape == (4000,) and values.std() > 0
        squared = values**2
        if (values > 0).all():
            assert abs(squared.mean() - components[name] ** 2) < 4 * squared.std() / np.sqrt(4000)
    np.testing.assert_array_equal(drawn["label"], METRIC.resample(*tasks, 4000, seed=0)["label"])
    assert all((values == 0).all() for values in METRIC.resample(tasks[0], tasks[0], 5, seed=0).values())


def request_of(name: str) -> ProfileRequest:
    plans, own, entry = read_plans(TARGET, "nnUNetPlans", "3d_fullres"), load_task(TARGET), load_task(name)
    return request_profile(entry, align_plans(plans, own, entry), "3d_fullres", 3, 0)


def test_axes_are_those_of_the_geometry(world: World) -> None:
    """If nnU-Net transposes axes, images and labels are transposed as spacings are."""
    request = request_of(NEAR)
    turned = replace(request, plans=request.plans | {"transpose_forward": [2, 0, 1]})
    case = request.cases[0]
    raw = read_raw_case(case, request.task.raw[case], request.plans["image_reader_writer"])
    loaded = turned.load(case, "stored")
    np.testing.assert_array_equal(loaded.segmentation, raw.segmentation.transpose(2, 0, 1))
    np.testing.assert_array_equal(loaded.images[0], raw.images[0].transpose(2, 0, 1))
    np.testing.assert_array_equal(request.load(case, "stored").segmentation, raw.segmentation)
    texts = [preprocessing_for(METRIC.view, one.plans, one.configuration) for one in (turned, request)]
    assert texts[0] != texts[1]
    assert loaded.segmentation.shape == tuple(np.round(turned.geometry()[0, 1] / turned.geometry()[0, 0]))


@pytest.mark.parametrize("folder", ["imagesTr", "labelsTr"])
def test_a_broken_file_is_named(world: World, folder: str) -> None:
    """A file that ends early is one line with its path."""
    (path,) = (world.raw / NEAR / folder).glob("case2*")
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(DatasetError, match="case case2 cannot be read") as caught:
        request_of(NEAR).load("case2", "stored")
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.skipif(not (SHARED / "data").is_dir(), reason=f"no real data in {SHARED}")
def test_a_subset_lies_nearest_to_a_dataset_that_mixes_intensity_scales() -> None:
    """Real hippocampi, some stored in units a hundred times others: eight of them are nearer than another dataset."""

    def stored(folder: str, every: int, name: str) -> Signature:
        paths = sorted((SHARED / "data" / folder / "labelsTr").glob("*.nii.gz"))[::every]
        cases = []
        for path in paths[:8]:
            image = path.parents[1] / "imagesTr" / path.name.replace(".nii.gz", "_0000.nii.gz")
            images, labels = (sitk.GetArrayFromImage(sitk.ReadImage(str(one))) for one in (image, path))
            cases.append(CaseData(images[None].astype(np.float32), (labels > 0).astype(np.int16)))
        return task(cases, name)

    whole, subset = (stored("Dataset004_Hippocampus", every, f"Dataset00{every}_Hippo") for every in (5, 9))
    other = stored("Dataset021_OasisHippocampus", 1, "Dataset021_Oasis")
    distances = [METRIC.compare(one, whole).distances["image"] for one in (subset, other)]
    assert distances[0] < 0.1 < distances[1]
