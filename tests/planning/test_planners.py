"""Laws that every planner obeys, and what the cost model makes of typical problems."""

import doctest
import math
import subprocess
import sys
from itertools import pairwise

import numpy as np
import pytest

import nnunet_seqtransfer
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning import planner as planner_module
from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.planner import PLANNERS, ExactPlanner, PublishedPlanner, plan_sequence, planner
from nnunet_seqtransfer.planning.problem import SequenceProblem

SEEDS = range(60)
EXACT = ["plain", "squared"]


def make(strategy: str):
    """A planner: every registered strategy, the exact one with a plain and a squared hop."""
    if strategy == "plain":
        return ExactPlanner(CostModel(hop_exponent=1.0))
    if strategy == "squared":
        return ExactPlanner(CostModel(start_scale=3.0, unit=2.0, stage_cost=0.05))
    return planner(strategy, CostModel())


def random_problem(seed: int) -> SequenceProblem:
    """2 to 8 tasks, seeded: ties, missing edges, with and without case counts, channels and labels."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(2, 9))
    distances = rng.integers(1, 6, (n, n)) / 2 if seed % 2 else rng.random((n, n)) * 2
    distances[rng.random((n, n)) < rng.choice([0.0, 0.3])] = np.nan
    counts = [int(count) for count in rng.integers(1, 200, n)] if seed % 3 else None
    channels = [(("T1", "T2", "CT")[rng.integers(3)],) for _ in range(n)]
    labels = [(("heart", "liver")[rng.integers(2)],) for _ in range(n)]
    names = [f"Dataset{number:03}" for number in rng.permutation(n)]
    return SequenceProblem.checked(names, distances, int(rng.integers(n)), counts, channels=channels, labels=labels)


@pytest.mark.parametrize("strategy", [*PLANNERS, *EXACT])
def test_every_path_is_simple_and_ends_with_the_target(strategy: str) -> None:
    """No task is trained twice, the target comes last, and no path has more sources than allowed."""
    for seed in SEEDS:
        problem, most = random_problem(seed), seed % 4
        for candidate in make(strategy).plan(problem, most, 5).candidates:
            assert candidate.path[-1] == problem.target
            assert len(set(candidate.path)) == len(candidate.path) <= most + 1


@pytest.mark.parametrize("strategy", [*PLANNERS, *EXACT])
def test_a_cost_is_the_sum_of_its_parts(strategy: str) -> None:
    """Start, one part a hop, and search cost add up to a finite cost; candidates come cheapest first."""
    for seed in SEEDS:
        decision = make(strategy).plan(random_problem(seed), 3, 5)
        for candidate in decision.candidates:
            parts = [candidate.start_cost, *candidate.hop_costs, candidate.search_cost]
            assert candidate.cost == pytest.approx(sum(parts))
            assert math.isfinite(candidate.cost)
            assert len(candidate.hop_costs) == len(candidate.path) - 1
        costs = [candidate.cost for candidate in decision.candidates]
        assert costs == pytest.approx(sorted(costs))


@pytest.mark.parametrize("strategy", [*PLANNERS, *EXACT])
def test_relabelling_the_tasks_changes_nothing(strategy: str) -> None:
    """The same tasks in another order give the same paths by name, ties included."""

    def by_name(problem: SequenceProblem) -> list[tuple[str, ...]]:
        decision = make(strategy).plan(problem, 3, 6)
        paths = (decision.chosen.path, *(candidate.path for candidate in decision.candidates))
        return [tuple(problem.names[task] for task in path) for path in paths]

    for seed in SEEDS:
        problem = random_problem(seed)
        shuffled = np.random.default_rng(seed).permutation(len(problem.names))
        counts, channels, labels = problem.case_counts, problem.channels, problem.labels
        other = SequenceProblem.checked(
            [problem.names[i] for i in shuffled],
            problem.distances[np.ix_(shuffled, shuffled)],
            int(np.flatnonzero(shuffled == problem.target)[0]),
            None if counts is None else [counts[i] for i in shuffled],
            channels=None if channels is None else [channels[i] for i in shuffled],
            labels=None if labels is None else [labels[i] for i in shuffled],
        )
        assert by_name(problem) == by_name(other), seed


@pytest.mark.parametrize("strategy", [*PLANNERS, *EXACT])
def test_scratch_and_the_best_direct_path_are_never_missing(strategy: str) -> None:
    """Both are candidates even when a single one was asked for; the chosen path is one of the candidates."""
    for seed in SEEDS:
        problem = random_problem(seed)
        decision = make(strategy).plan(problem, 3, 1)
        kinds = [candidate.kind for candidate in decision.candidates]
        reachable = any(np.isfinite(problem.distances[source, problem.target]) for source in problem.sources)
        assert "scratch" in kinds
        assert ("direct" in kinds) == reachable
        assert decision.chosen in decision.candidates
        if reachable:
            everything = make(strategy).plan(problem, 1, 100).best("direct")
            assert decision.best("direct").cost <= everything.cost


@pytest.mark.parametrize("strategy", EXACT)
def test_a_cheaper_edge_never_makes_the_best_path_dearer(strategy: str) -> None:
    """Bringing two tasks closer keeps the chosen cost or lowers it.

    Not so in the published strategy: a shorter edge can move a task into another community or make another task the
    landmark, and so take the cheapest path away from the candidates.
    """
    for seed in SEEDS:
        problem, rng = random_problem(seed), np.random.default_rng(seed)
        if problem.case_counts is None:
            continue
        closer = problem.distances.copy()
        i, j = rng.integers(len(closer), size=2)
        closer[i, j] = closer[i, j] / 2 if np.isfinite(closer[i, j]) else 1.0
        other = SequenceProblem.checked(problem.names, closer, problem.target, problem.case_counts)
        before, after = (make(strategy).plan(given, 3, 3).chosen.cost for given in (problem, other))
        assert after <= before + 1e-12


@pytest.mark.parametrize("strategy", PLANNERS)
def test_no_source_allowed_leaves_scratch(strategy: str) -> None:
    """With max_sources 0 scratch is the only candidate and is chosen."""
    decision = make(strategy).plan(random_problem(1), 0, 5)
    assert [candidate.kind for candidate in decision.candidates] == ["scratch"]
    assert decision.chosen.kind == "scratch"


@pytest.mark.parametrize("strategy", PLANNERS)
@pytest.mark.parametrize(
    ("n", "max_sources", "top", "message"),
    [(1, 3, 5, "no source"), (3, -1, 5, "at most -1 sources"), (3, 3, 0, "the 0 cheapest")],
)
def test_numbers_that_make_no_sense_are_one_line(
    strategy: str, n: int, max_sources: int, top: int, message: str
) -> None:
    """No source at all, a negative length and an empty list are SequenceErrors of one line."""
    problem = SequenceProblem.checked([f"Dataset{i:03}" for i in range(n)], np.ones((n, n)), 0)
    with pytest.raises(SequenceError, match=message) as caught:
        make(strategy).plan(problem, max_sources, top)
    assert "\n" not in str(caught.value)


def test_an_unknown_strategy_is_answered_with_the_list() -> None:
    """A wrong name gets the valid ones."""
    with pytest.raises(SequenceError, match="'best'; choose one of exact, published"):
        planner("best", CostModel())


def line(*places: float) -> np.ndarray:
    """(n, n) distances of places on a line: the triangle inequality holds, with equality in between."""
    return np.abs(np.subtract.outer(places, places))


def test_squared_hops_take_an_intermediate_halfway() -> None:
    """With p = 2 two half steps cost less than one whole one; all start costs equal."""
    decision = plan_sequence(line(0, 0.5, 1), 2, case_counts=(1000, 2, 1), start_scale=2)
    assert decision.chosen.path == (0, 1, 2)
    assert decision.chosen.cost == pytest.approx(2 / 1000**0.5 + 0.5)


def test_plain_hops_never_take_an_intermediate() -> None:
    """With p = 1 and the triangle inequality the nearest way is direct or none, with and without case counts."""
    for seed in range(100):
        rng = np.random.default_rng(seed)
        points = rng.normal(size=(7, 3))
        distances = np.linalg.norm(points[:, None] - points[None], axis=2)
        counts = rng.integers(1, 100, 7).tolist() if seed % 2 else None
        assert plan_sequence(distances, 3, 4, counts, p=1.0).chosen.kind != "sequence"


def test_a_large_landmark_is_preferred_over_the_small_target() -> None:
    """A source with many cases beats scratch on few, and of two sources equally far the larger one wins."""
    decision = plan_sequence(np.full((3, 3), 0.5), 0, case_counts=(4, 20, 400))
    assert decision.chosen.path == (2, 0)


def test_far_sources_are_refused() -> None:
    """Where every source is far, scratch wins over all of them."""
    decision = plan_sequence(np.full((4, 4), 9.0), 1, case_counts=(500, 10, 500, 500))
    assert decision.chosen.kind == "scratch"
    assert decision.candidates[0] == decision.chosen


def test_without_case_counts_a_path_costs_its_plain_sum() -> None:
    """With p = 1 and no counts the cost is the sum of distances, and scratch is listed but not chosen."""
    distances = [[0, 1, 9], [9, 0, 2], [9, 9, 0]]
    decision = plan_sequence(distances, 2, p=1.0)
    assert decision.best("sequence").cost == 3
    assert decision.chosen.path == (1, 2)
    assert decision.candidates[0].kind == "scratch"
    assert "scratch is listed" in decision.notes[0]


def test_scratch_takes_no_place_among_the_top_ones_without_case_counts() -> None:
    """Scratch, which costs nothing there, is listed beside the paths asked for."""
    distances = [[0, 1, 9], [9, 0, 2], [9, 9, 0]]
    assert [path.path for path in plan_sequence(distances, 2, top=2).candidates] == [(2,), (1, 2), (0, 1, 2)]


@pytest.mark.parametrize("p", [0.5, 1.0, 2.0])
def test_without_case_counts_the_nearest_source_alone_is_chosen(p: float) -> None:
    """With free starts a sequence costs at least its last hop, so direct transfer is never beaten."""
    for seed in range(50):
        distances = np.random.default_rng(seed).random((6, 6))
        chosen = plan_sequence(distances, 0, 4, p=p).chosen
        assert chosen.path == (1 + int(distances[1:, 0].argmin()), 0)


def test_directions_are_kept_apart() -> None:
    """With asymmetric distances only the way from source to target counts."""
    distances = np.full((3, 3), 5.0)
    distances[0, 2] = 0.1
    distances[2, 1] = 0.0
    assert plan_sequence(distances, 2).chosen.path == (0, 2)


@pytest.mark.parametrize("strategy", PLANNERS)
def test_every_strategy_keeps_directions_apart(strategy: str) -> None:
    """Only the ways towards the target and along the path are paid for, also where the way back is free."""
    distances = np.array([[0, 0.5, 0.5, 0.25], [0.0, 0, 0.5, 3.0], [0.0, 0.0, 0, 3.0], [0.0, 0.0, 0.0, 0]])
    problem = SequenceProblem.checked("abcd", distances, 3, (90, 90, 90, 4))
    for candidate in make(strategy).plan(problem, 2, 20).candidates:
        hops = [distances[i, j] for i, j in pairwise(candidate.path)]
        assert candidate.hop_costs == pytest.approx([hop**2 if strategy == "exact" else hop for hop in hops])
    assert make(strategy).plan(problem, 1, 20).best("direct").path == (0, 3)


@pytest.mark.parametrize("strategy", PLANNERS)
def test_every_strategy_settles_equal_distances_by_names(strategy: str) -> None:
    """Where everything ties, the first name begins, whatever its index."""
    problem = SequenceProblem.checked(("d", "c", "a", "b"), np.ones((4, 4)), 1, (50, 2, 50, 50))
    assert problem.names[make(strategy).plan(problem, 2, 5).chosen.path[0]] == "a"


@pytest.mark.parametrize("strategy", PLANNERS)
def test_every_strategy_plans_for_parts_that_nothing_joins(strategy: str) -> None:
    """Two groups without distances between them: the one that reaches the target is used, the other left."""
    distances = np.full((5, 5), np.nan)
    distances[0, 1] = distances[1, 0] = distances[2, 3] = distances[3, 2] = 0.1
    distances[2, 4] = distances[3, 4] = 0.2
    made = make(strategy).plan(SequenceProblem.checked("abcde", distances, 4, (900, 900, 90, 90, 4)), 3, 20)
    assert made.chosen.kind in ("direct", "sequence")
    assert all(set(candidate.path) <= {2, 3, 4} for candidate in made.candidates)


@pytest.mark.parametrize("missing", [np.nan, np.inf])
def test_a_target_that_nothing_reaches_is_trained_from_scratch(missing: float) -> None:
    """No edge into the target leaves scratch alone, also without case counts and in the published strategy."""
    distances = np.ones((4, 4))
    distances[:, 3] = missing
    problem = SequenceProblem.checked("abcd", distances, 3)
    for strategy in PLANNERS:
        decision = make(strategy).plan(problem, 3, 5)
        assert [candidate.path for candidate in decision.candidates] == [(3,)], strategy
        assert decision.chosen.path == (3,)


def test_a_source_reached_only_through_another_is_used_through_it() -> None:
    """A landmark without an edge to the target can begin a sequence."""
    distances = np.full((3, 3), np.nan)
    distances[0, 1] = distances[1, 2] = 0.2
    assert plan_sequence(distances, 2, case_counts=(900, 3, 3)).chosen.path == (0, 1, 2)


def test_all_equal_distances_are_settled_by_names() -> None:
    """Where everything ties, fewer stages win, then the first name, wherever it stands."""
    decision = plan_sequence(np.ones((4, 4)), 1, names=("d", "c", "a", "b"))
    assert decision.chosen.path == (2, 1)


def test_one_source_is_enough() -> None:
    """Two tasks give scratch and one direct path, in every strategy."""
    problem = SequenceProblem.checked("ab", [[0, 0.1], [0.1, 0]], 1, (100, 5))
    for strategy in PLANNERS:
        decision = make(strategy).plan(problem, 3, 5)
        assert decision.chosen.path == (0, 1), strategy
        assert len(decision.candidates) == 2


def test_a_plain_table_is_checked_too() -> None:
    """Negative, ragged and scalar tables are SequenceErrors."""
    for table, message in (([[0, -1], [1, 0]], "negative"), ([[0, 1], [1]], "no table"), (3.0, "shape")):
        with pytest.raises(SequenceError, match=message):
            plan_sequence(table, 0)


def test_the_package_plans_without_torch_and_imports_fast() -> None:
    """`from nnunet_seqtransfer import plan_sequence` imports no torch and no nnU-Net; the bare package no numpy."""
    script = (
        "import sys, nnunet_seqtransfer; assert 'numpy' not in sys.modules; "
        "from nnunet_seqtransfer import plan_sequence; assert not {'torch', 'nnunetv2'} & set(sys.modules); "
        "print(plan_sequence([[0, 1], [1, 0]], 1).chosen.path)"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True, cwd="/")
    assert run.stdout == "(0, 1)\n"
    assert nnunet_seqtransfer.plan_sequence is plan_sequence
    with pytest.raises(AttributeError, match="no attribute 'plan_sequences'"):
        nnunet_seqtransfer.plan_sequences  # noqa: B018 - the look-up is the test


def test_the_example_of_the_docstring_runs() -> None:
    """What the documentation of `plan_sequence` shows is what it does."""
    assert doctest.testmod(planner_module, raise_on_error=True).attempted == 1


def test_the_given_communities_must_be_at_least_one() -> None:
    """A number of communities below 1 is an error."""
    with pytest.raises(SequenceError, match="0 communities"):
        PublishedPlanner(communities=0).plan(random_problem(3), 3, 5)
