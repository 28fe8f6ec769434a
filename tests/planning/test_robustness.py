"""How often paths win under resampled distances, and when the data do not support the cheapest one."""

from __future__ import annotations

import numpy as np
import pytest

from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.exact import ExactPlanner
from nnunet_seqtransfer.planning.problem import UNCONSTRAINED, Constraints, Decision, SequenceProblem
from nnunet_seqtransfer.planning.published import PublishedPlanner
from nnunet_seqtransfer.planning.robustness import (
    SURE,
    Comparison,
    Robustness,
    assess,
    chooser,
    fall_back,
)

MODEL = CostModel(start_scale=2.0, start_exponent=0.5, hop_exponent=2.0)
PLANNER = ExactPlanner(MODEL)
NAMES = ("Dataset021_A", "Dataset022_B", "Dataset023_C", "Dataset004_T")


def line(*places: float, counts: tuple[int, ...] | None = (400, 20, 20, 4)) -> SequenceProblem:
    """Tasks on a line, the last the target."""
    return SequenceProblem.checked(
        NAMES[-len(places) :], np.abs(np.subtract.outer(places, places)), len(places) - 1, counts
    )


def noisy(problem: SequenceProblem, scatter: float, seed: int = 0, count: int = 60) -> np.ndarray:
    """(count, n, n) distances with independent noise."""
    noise = np.random.default_rng(seed).normal(0, scatter, (count, *problem.distances.shape))
    return np.abs(problem.distances + noise)


def judged(
    problem: SequenceProblem, resamples: np.ndarray, constraints: Constraints = UNCONSTRAINED, max_sources: int = 2
) -> tuple[Decision, Robustness | None]:
    """The exact decision and what the resamples say of it."""
    decision = PLANNER.plan(problem, max_sources, 10, constraints)
    choose = chooser(PLANNER, problem, decision, max_sources, constraints)
    return decision, assess(problem, resamples, decision, choose, MODEL, constraints)


def problem_of(problem: SequenceProblem, table: np.ndarray) -> SequenceProblem:
    """The same tasks with other distances."""
    return SequenceProblem.checked(problem.names, table, problem.target, problem.case_counts)


@pytest.mark.parametrize("seed", range(12))
def test_shares_equal_planning_each_resample_anew(seed: int) -> None:
    """Wins are counted over independent exact plans, and comparisons over the cheapest simpler paths of each."""
    rng = np.random.default_rng(seed)
    points = rng.random((4, 2))
    table = np.linalg.norm(points[:, None] - points[None], axis=-1)
    problem = SequenceProblem.checked(NAMES, table, 3, [int(count) for count in rng.integers(1, 300, 4)])
    resamples = noisy(problem, 0.2, seed, 40)
    decision, found = judged(problem, resamples)
    assert found is not None and found.resamples == 40
    chosen = [PLANNER.plan(problem_of(problem, entry), 2, 1).chosen.path for entry in resamples]
    assert dict(found.wins) == {path: chosen.count(path) / 40 for path in set(chosen)}
    assert sum(share for _, share in found.wins) == pytest.approx(1)
    for comparison in found.comparisons:
        saved = []
        for entry in resamples:
            graph = MODEL.graph(problem_of(problem, entry))
            paths = [(3,)] if comparison.kind == "scratch" else [(source, 3) for source in range(3)]
            least = min(graph.candidate(path, UNCONSTRAINED).cost for path in paths)
            saved.append(least - graph.candidate(decision.chosen.path, UNCONSTRAINED).cost)
        assert comparison.share == np.mean([value > 0 for value in saved])
        assert (comparison.low, comparison.high) == pytest.approx(tuple(np.percentile(saved, (2.5, 97.5))))


def test_distances_that_do_not_scatter_leave_no_doubt() -> None:
    """Resamples equal to the distances give one winner, and intervals of no width."""
    problem = line(0, 0.5, 3, 1.0)
    decision, found = judged(problem, np.repeat(problem.distances[None], 20, axis=0))
    assert found is not None
    assert found.wins == ((decision.chosen.path, 1.0),)
    assert [entry.kind for entry in found.comparisons] == ["scratch", "direct"]
    for entry in found.comparisons:
        assert entry.low == entry.high == pytest.approx(entry.saved) and entry.saved > 0 and entry.share == 1
    assert found.unsupported is None and found.fixed == ()


def test_pairs_without_resamples_keep_their_distance() -> None:
    """NaN stands for the distance as it is; hops that matter and never scatter are named."""
    problem = line(0, 0.5, 3, 1.0)
    resamples = noisy(problem, 0.3)
    resamples[:, 0, 1] = np.nan
    decision, found = judged(problem, resamples)
    filled = np.where(np.isnan(resamples), problem.distances, resamples)
    assert found is not None and decision.chosen.path == (0, 1, 3)
    assert found.wins == judged(problem, filled)[1].wins
    assert found.fixed == ((0, 1),)


def test_nothing_is_said_where_no_distance_to_the_target_was_resampled() -> None:
    """Certainty that nobody measured is not claimed."""
    problem = line(0, 0.5, 3, 1.0)
    resamples = noisy(problem, 0.1)
    resamples[:, :, 3] = np.nan
    assert judged(problem, resamples)[1] is None
    assert judged(problem, resamples[:0])[1] is None


def test_a_tie_is_no_win_over_a_simpler_path() -> None:
    """Where a sequence costs what direct transfer does, the data do not support it."""
    problem = line(0, 0.5, 3, 1.0)
    decision, _ = judged(problem, noisy(problem, 0.1))
    equal = problem.distances.copy()
    equal[0, 3] = np.sqrt(equal[0, 1] ** 2 + equal[1, 3] ** 2)
    tables = np.repeat(equal[None], 10, axis=0)
    found = assess(problem, tables, decision, lambda _: decision.chosen.path, MODEL, UNCONSTRAINED)
    assert found is not None and found.comparisons[1].share == 0
    assert found.comparisons[1].low == found.comparisons[1].high == 0


@pytest.mark.parametrize(("share", "supported"), [(SURE, True), (SURE - 0.005, False), (1.0, True), (0.0, False)])
def test_the_threshold(share: float, supported: bool) -> None:
    """Four fifths of the resamples are enough, fewer are not."""
    assert Comparison("direct", (0, 3), 0.1, 0.0, 0.2, share).is_supported is supported


@pytest.mark.parametrize(
    ("shares", "kind"),
    [((1.0, 1.0), "sequence"), ((1.0, 0.5), "direct"), ((0.5, 1.0), "scratch"), ((0.5, 0.5), "scratch")],
)
def test_falling_back_takes_the_simplest_path_in_doubt(shares: tuple[float, float], kind: str) -> None:
    """Scratch comes before direct transfer, direct transfer before a sequence; without doubt nothing changes."""
    problem = line(0, 0.5, 3, 1.0)
    decision, found = judged(problem, noisy(problem, 0.0))
    assert found is not None and decision.chosen.kind == "sequence"
    comparisons = tuple(
        Comparison(entry.kind, entry.path, entry.saved, entry.low, entry.high, share)
        for entry, share in zip(found.comparisons, shares, strict=True)
    )
    after = fall_back(decision, Robustness(60, found.wins, comparisons, ()))
    assert after.chosen.kind == kind
    assert after.chosen in after.candidates and after.candidates == decision.candidates
    assert (after is decision) == (kind == "sequence")


def test_without_resamples_nothing_falls_back() -> None:
    """What is not known to be in doubt is taken as it is."""
    decision = PLANNER.plan(line(0, 0.5, 3, 1.0), 2, 10)
    assert fall_back(decision, None) is decision


def test_noise_makes_the_intermediate_unsupported() -> None:
    """The same distances support a sequence when measured well and not when measured badly."""
    problem = line(0, 0.5, 3, 1.0)
    sure, unsure = judged(problem, noisy(problem, 0.01))[1], judged(problem, noisy(problem, 0.8))[1]
    assert sure is not None and unsure is not None
    assert sure.unsupported is None
    assert unsure.unsupported is not None and not unsure.comparisons[1].is_supported


def test_what_constraints_rule_out_is_not_compared() -> None:
    """With a source that must be on the path, scratch and other sources' direct paths are no alternatives."""
    problem = line(0, 0.5, 3, 1.0)
    _, found = judged(problem, noisy(problem, 0.1), Constraints(must=(0,)))
    assert found is not None
    assert [(entry.kind, entry.path) for entry in found.comparisons] == [("direct", (0, 3))]
    _, found = judged(problem, noisy(problem, 0.1), Constraints(must=(0, 1)))
    assert found is not None and found.comparisons == () and found.unsupported is None


def test_without_case_counts_scratch_is_not_compared() -> None:
    """A start of no cost is no alternative."""
    problem = line(0, 0.5, 3, 1.0, counts=None)
    _, found = judged(problem, noisy(problem, 0.1))
    assert found is not None and all(entry.kind != "scratch" for entry in found.comparisons)


def test_the_published_strategy_competes_with_its_own_paths_only() -> None:
    """Scratch and the best direct path are listed beside them, and never win a resample."""
    rng = np.random.default_rng(3)
    points = rng.random((8, 2))
    table = np.linalg.norm(points[:, None] - points[None], axis=-1)
    problem = SequenceProblem.checked([f"Dataset{i:03}_X" for i in range(8)], table, 7, [5] * 8)
    planner = PublishedPlanner(3)
    decision = planner.plan(problem, 2, 1000)
    choose = chooser(planner, problem, decision, 2, UNCONSTRAINED)
    assert choose(problem) == decision.chosen.path
    found = assess(problem, noisy(problem, 0.3), decision, choose, MODEL, UNCONSTRAINED)
    assert found is not None and len(found.wins) > 1
    own = {
        path.path for path in decision.candidates if path.order(problem.names) >= decision.chosen.order(problem.names)
    }
    assert {path for path, _ in found.wins} <= own - {(7,)}
