"""Intervals and marks of the ranking: closed cases, coverage, and what cannot be known."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.bootstrap import resample_to_target
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.descriptors import DescriptorMetric
from nnunet_seqtransfer.affinity.uncertainty import scatter_to_target
from nnunet_seqtransfer.tasks.signature import Signature
from support.made_tasks import reordered, task_of

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
    return [float(combination.distances(METRIC.compare(task, tasks[-1]).components)) for task in tasks[:-1]]


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
