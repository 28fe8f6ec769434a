"""All pairs of tasks, and their resamples, for metrics with and without loops of their own."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.base import BatchMetric, Components
from nnunet_seqtransfer.affinity.bootstrap import (
    all_pairs,
    resample,
    resample_pairs,
    resample_to_target,
    scatter_to_target,
)
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.descriptors import DescriptorMetric
from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.tasks.profiling import Labels, View
from nnunet_seqtransfer.tasks.signature import Signature
from support.made_tasks import reordered, signature_of, task_of

SEED = 4


class Brightness:
    """How much brighter the target is than the source; a third party's metric of two methods, and not symmetric."""

    name = "brightness"
    version = 1
    view: View = "preprocessed"
    combination = Combination({"up": 1.0}, exponent=1.0)

    def profile(self, case: CaseData, labels: Labels) -> dict[str, np.ndarray]:
        return {"mean": np.asarray(case.images.mean(dtype=np.float64))}

    def compare(self, source: Signature, target: Signature) -> Components:
        first, second = (np.mean([profile["mean"] for profile in task.profiles]) for task in (source, target))
        return Components({"up": float(max(0.0, second - first)), "down": float(max(0.0, first - second))})


def tasks(metric: Any) -> list[Signature]:
    settings = [{}, {"contrast": 1}, {"radius": 6, "offset": 1.0}, {"channels": 2, "labels": 2}]
    made = [task_of(metric, 10 * i, f"Dataset00{i}_X", 5, **setting) for i, setting in enumerate(settings)]
    return [*made, replace(made[1], dataset="Dataset009_SamePatients", cases=made[0].cases)]


@pytest.mark.parametrize("metric", [DescriptorMetric(), Brightness()], ids=lambda metric: metric.name)
def test_tables_hold_every_comparison(metric: Any) -> None:
    """Row i, column j of each component is what comparing i with j says."""
    every = tasks(metric)
    table = all_pairs(metric, every)
    for i, source in enumerate(every):
        for j, target in enumerate(every):
            found = {name: values[i, j] for name, values in table.items()}
            assert found == pytest.approx(metric.compare(source, target).distances, abs=1e-9)
    assert (np.diag(next(iter(table.values()))) == 0).all()
    if metric.name == "brightness":
        assert (table["up"] == table["down"].T).all() and not isinstance(metric, BatchMetric)
        assert (table["up"] != table["up"].T).any()


@pytest.mark.parametrize("metric", [DescriptorMetric(), Brightness()], ids=lambda metric: metric.name)
def test_tables_of_resamples_hold_every_resample(metric: Any) -> None:
    """The same for resamples: of all pairs, and of the pairs with the target."""
    every = tasks(metric)
    pairs, to_target = (function(metric, every, SEED, 20) for function in (resample_pairs, resample_to_target))
    for i, source in enumerate(every):
        for j, target in enumerate(every):
            if i == j:
                assert all((values[:, i, i] == 0).all() for values in pairs.values())
                continue
            for name, values in resample(metric, source, target, SEED, 20).items():
                assert pairs[name].dtype == np.float32
                np.testing.assert_allclose(pairs[name][:, i, j], values, rtol=1e-6, atol=1e-9)
                if j == len(every) - 1:
                    np.testing.assert_allclose(to_target[name][:, i], values, atol=1e-12)
    assert all(values.shape == (20, 4) for values in to_target.values())


def distinct_cases(count: int) -> Signature:
    """A task whose case k has the mean k."""
    cases = [CaseData(np.full((1, 4, 4, 4), value, np.float32), np.ones((4, 4, 4), np.int16)) for value in range(count)]
    return signature_of(Brightness(), cases)


def test_cases_are_drawn_with_replacement() -> None:
    """A metric of two methods is given tasks of as many cases, drawn again: each as often as another, on average."""
    means: list[list[int]] = []

    class Watching(Brightness):
        def compare(self, source: Signature, target: Signature) -> Components:
            drawn = [int(profile["mean"]) for profile in source.profiles]
            assert len(source.cases) == len(source.geometry) == len(drawn) == 10
            assert [int(name.split()[-1]) for name in source.cases] == drawn
            means.append(drawn)
            return super().compare(source, target)

    resample(Watching(), distinct_cases(10), distinct_cases(3), SEED, 3000)
    counts = np.asarray([np.bincount(drawn, minlength=10) for drawn in means])
    assert counts.shape == (3000, 10)
    np.testing.assert_allclose(counts.mean(axis=0), 1, atol=0.1)
    np.testing.assert_allclose(counts.var(axis=0), 1, atol=0.3)


def test_the_scatter_of_a_plain_metric_is_that_of_the_mean() -> None:
    """Resampled means of ten cases scatter like the mean of ten cases does."""
    source, target = distinct_cases(10), reordered(distinct_cases(20), [0])
    found = resample(Brightness(), source, target, SEED, 3000)["down"]
    assert found.mean() == pytest.approx(4.5, abs=0.1)
    assert found.std() == pytest.approx(np.arange(10).std() / np.sqrt(10), rel=0.15)


def test_shared_cases_are_drawn_alike() -> None:
    """Two tasks of the same patients get the same ones in each resample: equal values keep their distance of 0."""
    source = distinct_cases(10)
    twin = replace(source, dataset="Dataset002_Twin", digest="twin")
    assert (resample(Brightness(), source, twin, SEED, 200)["up"] == 0).all()
    stranger = replace(twin, cases=tuple(f"other {case}" for case in twin.cases))
    assert (resample(Brightness(), source, stranger, SEED, 200)["up"] > 0).mean() > 0.3


METRIC = DescriptorMetric()


def sources(cases: int = 6) -> list[Signature]:
    """Far, near, as near, and the target."""
    return [
        task_of(METRIC, 0, "Dataset001_Far", cases, contrast=0.5),
        task_of(METRIC, 20, "Dataset002_Near", cases, radius=5),
        task_of(METRIC, 40, "Dataset003_AsNear", cases, radius=5),
        task_of(METRIC, 60, "Dataset004_Target", cases),
    ]


def distances(tasks: list[Signature], combination: Combination = METRIC.combination) -> list[float]:
    return [float(combination.distances(METRIC.compare(task, tasks[-1]).distances)) for task in tasks[:-1]]


def test_the_ranking_and_its_marks() -> None:
    """Nearest first; two samples of the same are marked as not told apart, what is far is not."""
    tasks = sources()
    scatter = scatter_to_target(METRIC, METRIC.combination, tasks, 0)
    assert scatter.ranking == tuple(np.argsort(distances(tasks))) and scatter.ranking[-1] == 0
    assert scatter.indistinct == (True, False)
    assert scatter.low.shape == scatter.high.shape == (3,)
    assert (scatter.low <= distances(tasks)).all() and (distances(tasks) <= scatter.high).all()
    assert (scatter.high - scatter.low)[0] > 0


def test_intervals_are_percentiles_of_the_resamples() -> None:
    """The ends are the 2.5 and 97.5 percentiles of the resampled distances under the weights given."""
    tasks, weights = sources(), Combination({"label": 2.0, "contrast": 0.1}, 2.0)
    scatter = scatter_to_target(METRIC, weights, tasks, 7)
    drawn = weights.distances(resample_to_target(METRIC, tasks, 7))
    assert drawn.shape == (200, 3)
    np.testing.assert_allclose(scatter.low, np.quantile(drawn, 0.025, axis=0))
    np.testing.assert_allclose(scatter.high, np.quantile(drawn, 0.975, axis=0))


def test_more_cases_make_narrower_intervals() -> None:
    """Four times the cases halve an interval, about."""
    widths = []
    for cases in (5, 20):
        tasks = sources(cases)
        scatter = scatter_to_target(METRIC, METRIC.combination, tasks, 0)
        widths.append((scatter.high - scatter.low)[0])
    assert 0.3 < widths[1] / widths[0] < 0.75


@pytest.mark.parametrize("alone", [1, 3])
def test_a_single_case_has_no_interval(alone: int) -> None:
    """Where the source or the target was looked at in one case alone, its ends are infinite and its place unsure."""
    tasks = sources()
    tasks[alone] = reordered(tasks[alone], [2])
    scatter = scatter_to_target(METRIC, METRIC.combination, tasks, 0)
    unknown = [True] * 3 if alone == 3 else [False, True, False]
    assert np.isinf(scatter.low).tolist() == np.isinf(scatter.high).tolist() == unknown
    assert scatter.ranking == tuple(np.argsort(distances(tasks)))
    for place, indistinct in enumerate(scatter.indistinct):
        if unknown[scatter.ranking[place]] or unknown[scatter.ranking[place + 1]]:
            assert indistinct


def test_one_source_has_a_ranking_without_neighbours() -> None:
    """A single source: one place, nothing to mark."""
    scatter = scatter_to_target(METRIC, METRIC.combination, sources()[1:2] + sources()[3:], 0)
    assert (scatter.ranking, scatter.indistinct) == ((0,), ())


def test_equal_sources_are_ranked_by_name() -> None:
    """Where distances are equal the name decides, and the mark says that nothing else does."""
    tasks = sources()
    twin = replace(tasks[0], dataset="Dataset000_Twin")
    scatter = scatter_to_target(METRIC, METRIC.combination, [tasks[0], twin, tasks[-1]], 0)
    assert scatter.ranking == (1, 0) and scatter.indistinct == (True,)


def test_the_target_with_the_same_patients() -> None:
    """A source of the target's own patients is drawn with it: its interval is narrower than with other patients."""
    tasks = sources(8)
    other = replace(tasks[0], cases=tuple(f"x{case}" for case in tasks[0].cases))
    shared = replace(tasks[0], profiles=tuple({**p, "form": p["form"] + 0.5} for p in tasks[-1].profiles))
    shared = replace(shared, cases=tasks[-1].cases, geometry=tasks[-1].geometry)
    scatter = scatter_to_target(METRIC, METRIC.combination, [shared, other, tasks[-1]], 0)
    widths = scatter.high - scatter.low
    assert widths[0] < 1e-3 * widths[1]


def test_intervals_hold_the_distance_of_many_cases() -> None:
    """In about 95 of 100 experiments of ten cases each the interval holds the distance that 120 cases tell."""
    target, source = (
        task_of(METRIC, seed, f"Dataset00{seed % 7}_X", 120, shape=(12, 12, 12), **more)
        for seed, more in ((0, {}), (5000, {"contrast": 1.2, "radius": 3.5}))
    )
    truth = distances([source, target])[0]
    covered = []
    for experiment in range(100):
        places = np.random.default_rng(experiment).choice(120, 20, replace=False)
        drawn = [reordered(source, places[:10].tolist()), reordered(target, places[10:].tolist())]
        scatter = scatter_to_target(METRIC, METRIC.combination, drawn, experiment)
        covered.append(bool(scatter.low[0] <= truth <= scatter.high[0]))
    assert 0.86 <= np.mean(covered) <= 0.995, np.mean(covered)
