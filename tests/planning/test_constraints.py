"""What constraints mean for every planner, and the one line for those that cannot be met."""

import math

import numpy as np
import pytest

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.planner import PLANNERS, plan_sequence, planner
from nnunet_seqtransfer.planning.problem import Constraints, Decision, SequenceProblem

NAMES = ("Dataset001_A", "Dataset002_B", "Dataset003_C", "Dataset004_T")


def four(counts: tuple[int, ...] = (400, 40, 25, 6)) -> SequenceProblem:
    """Three sources on a line that ends at the target, 0.75, 0.55 and 0.25 from it; the farther the larger."""
    places = np.array([0.75, 0.55, 0.25, 0.0])
    return SequenceProblem.checked(NAMES, np.abs(places[:, None] - places), 3, counts)


def random_case(seed: int) -> tuple[SequenceProblem, Constraints]:
    """4 to 8 tasks and every kind of constraint; some cannot be met."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(4, 9))
    distances = rng.integers(1, 6, (n, n)) / 4
    distances[rng.random((n, n)) < rng.choice([0.0, 0.2])] = np.nan
    counts, target = rng.integers(2, 200, n).tolist(), int(rng.integers(n))
    labels = [(("heart", "liver")[rng.integers(2)],) for _ in range(n)]
    names = [f"Dataset{number:03}" for number in rng.permutation(n)]
    problem = SequenceProblem.checked(names, distances, target, counts, channels=[("T1",)] * n, labels=labels)
    shuffled = rng.permutation(problem.sources).tolist()
    prices = tuple(rng.integers(1, 5, n).astype(float).tolist())
    budget = prices[target] + float(rng.choice([3.0, 6.0, math.inf]))
    must, avoid = shuffled[: rng.choice([0, 0, 1])], shuffled[1 : 1 + rng.integers(0, 2)]
    finished = frozenset({(shuffled[-1],), tuple(shuffled[-2:])})
    return problem, Constraints(tuple(must), tuple(avoid), int(rng.choice([0, 20])), budget, prices, finished)


def decided(strategy: str, seeds: int = 120):
    """(problem, constraints, decision, most sources) of every random case that can be met, in one strategy."""
    found = []
    for seed in range(seeds):
        problem, constraints = random_case(seed)
        try:
            made = planner(strategy, CostModel(stage_cost=0.1)).plan(problem, 1 + seed % 3, 4, constraints)
        except SequenceError as error:
            assert "\n" not in str(error)
        else:
            found.append((problem, constraints, made, 1 + seed % 3))
    assert len(found) > seeds // 2
    return found


def by_name(made: Decision, problem: SequenceProblem) -> list[tuple[str, ...]]:
    """The chosen path and all candidates, as names."""
    paths = (made.chosen.path, *(candidate.path for candidate in made.candidates))
    return [tuple(problem.names[task] for task in path) for path in paths]


@pytest.mark.parametrize("strategy", PLANNERS)
def test_what_is_chosen_obeys_every_constraint(strategy: str) -> None:
    """The chosen path goes through must, not through avoid, starts on enough cases, and stays within the budget."""
    for problem, constraints, made, _ in decided(strategy):
        path, sources = made.chosen.path, set(made.chosen.path[:-1])
        assert set(constraints.must) <= sources
        assert not sources & set(constraints.avoid)
        assert not sources or problem.case_counts[path[0]] >= constraints.landmark_cases
        trained = [k for k in range(len(path)) if path[: k + 1] not in constraints.finished]
        assert sum(constraints.prices[path[k]] for k in trained) <= constraints.budget
        assert path not in made.ruled_out
        assert path[-1] == problem.target


@pytest.mark.parametrize("strategy", PLANNERS)
def test_scratch_and_a_direct_path_stay_listed_under_constraints(strategy: str) -> None:
    """Both are candidates also where a constraint rules them out, which is then said; avoided tasks never are."""
    ruled_out = 0
    for problem, constraints, made, _ in decided(strategy):
        allowed = [source for source in problem.sources if source not in constraints.avoid]
        nearest = min(problem.distances[allowed, problem.target])
        assert made.best("scratch") is not None
        assert (made.best("direct") is not None) == bool(np.isfinite(nearest))
        assert not any(set(candidate.path) & set(constraints.avoid) for candidate in made.candidates)
        assert set(made.ruled_out) <= {candidate.path for candidate in made.candidates}
        ruled_out += len(made.ruled_out) > 0
        # Whatever is cheaper than the chosen path is ruled out, in the strategy that compares all paths.
        if strategy == "exact":
            cheaper = made.candidates[: made.candidates.index(made.chosen)]
            assert {candidate.path for candidate in cheaper} <= set(made.ruled_out)
    assert ruled_out > 10


@pytest.mark.parametrize("strategy", PLANNERS)
def test_relabelling_changes_nothing_under_constraints(strategy: str) -> None:
    """The same tasks and constraints in another order give the same paths by name, ties included."""
    for problem, constraints, made, most in decided(strategy):
        order = np.random.default_rng(most).permutation(len(problem.names)).tolist()
        place = {task: position for position, task in enumerate(order)}
        moved = SequenceProblem.checked(
            [problem.names[task] for task in order],
            problem.distances[np.ix_(order, order)],
            place[problem.target],
            [problem.case_counts[task] for task in order],
            channels=[problem.channels[task] for task in order],
            labels=[problem.labels[task] for task in order],
        )
        again = Constraints(
            tuple(place[task] for task in constraints.must),
            tuple(place[task] for task in constraints.avoid),
            constraints.landmark_cases,
            constraints.budget,
            tuple(constraints.prices[task] for task in order),
            frozenset(tuple(place[task] for task in path) for path in constraints.finished),
        )
        other = planner(strategy, CostModel(stage_cost=0.1)).plan(moved, most, 4, again)
        assert by_name(made, problem) == by_name(other, moved), most


def test_the_exact_choice_goes_through_what_it_must() -> None:
    """A source that is not on the cheapest path is added where it costs least."""
    assert planner("exact", CostModel()).plan(four(), 2, 5).chosen.path == (0, 2, 3)
    made = planner("exact", CostModel()).plan(four(), 2, 5, Constraints(must=(1,)))
    assert made.chosen.path == (0, 1, 3)
    assert made.ruled_out[(3,)] == "does not go through Dataset002_B, as it must"
    assert made.best("direct").path == (2, 3)


def test_avoided_sources_are_gone() -> None:
    """No candidate holds an avoided source, and the best direct path is another one."""
    made = planner("exact", CostModel()).plan(four(), 3, 50, Constraints(avoid=(2,)))
    assert made.best("direct").path == (0, 3)
    assert all(2 not in candidate.path for candidate in made.candidates)


def test_a_landmark_has_the_cases_asked_for() -> None:
    """Paths that start on too few cases are left out; the best direct path is listed and ruled out; scratch may win."""
    made = planner("exact", CostModel()).plan(four(), 2, 50, Constraints(landmark_cases=40))
    assert made.chosen.path == (0, 2, 3)
    assert {candidate.path[0] for candidate in made.candidates if candidate.path not in made.ruled_out} == {0, 1, 3}
    assert made.best("direct").path == (2, 3)
    none = planner("exact", CostModel()).plan(four(), 2, 50, Constraints(landmark_cases=500))
    assert none.chosen.kind == "scratch"
    assert none.ruled_out[(2, 3)] == "starts on 25 labelled cases, fewer than 500"


def test_a_budget_counts_the_stages_still_to_train() -> None:
    """Three stages of 250 do not fit into 500; with the first one finished they do."""
    prices = (250.0,) * 4
    tight = planner("exact", CostModel()).plan(four(), 3, 50, Constraints(budget=500, prices=prices))
    assert tight.chosen.path == (2, 3)
    reused = Constraints(budget=500, prices=prices, finished=frozenset({(0,)}))
    assert planner("exact", CostModel()).plan(four(), 3, 50, reused).chosen.path == (0, 2, 3)
    # What is finished is the stage at the beginning of a path, not the dataset: 0 behind 1 is another one.
    assert reused.price((0, 2, 3)) == 500
    assert reused.price((1, 0, 3)) == 750
    least = planner("exact", CostModel()).plan(four(), 3, 50, Constraints(budget=250, prices=prices))
    assert least.chosen.kind == "scratch"
    assert least.ruled_out[(2, 3)] == "costs 500, above the budget of 250"


def test_finished_stages_pay_no_stage_cost() -> None:
    """The hop that leaves a source carries the cost of its stage, unless that beginning is finished."""
    model = CostModel(stage_cost=0.5)
    made = planner("exact", model).plan(four(), 3, 100, Constraints(finished=frozenset({(0,), (0, 1)})))
    parts = {candidate.path: candidate.hop_costs for candidate in made.candidates}
    assert parts[0, 3] == pytest.approx((0.75**2,))
    assert parts[0, 1, 3] == pytest.approx((0.2**2, 0.55**2))
    assert parts[0, 1, 2, 3] == pytest.approx((0.2**2, 0.3**2, 0.25**2 + 0.5))
    assert parts[1, 3] == pytest.approx((0.55**2 + 0.5,))
    assert made.best("scratch").cost == pytest.approx(2.5 * 6**-0.5)


def test_without_case_counts_a_sequence_wins_by_finished_stages_alone() -> None:
    """Its stages cost nothing where the direct path pays for one; the note then does not say that no sequence can."""
    finished = [[1], [1, 2]]
    made = plan_sequence(four().distances, 3, 2, stage_cost=0.5, finished=finished)
    assert made.chosen.path == (1, 2, 3)
    assert made.notes == ("Without case counts starting costs nothing: scratch is listed, not compared.",)
    assert "no sequence costs less" in plan_sequence(four().distances, 3, 2, finished=finished).notes[0]


def test_without_case_counts_a_must_leaves_all_places_to_paths() -> None:
    """Scratch is ruled out, so it takes no place and is not chosen."""
    made = plan_sequence(four().distances, 3, 2, top=3, must=[1])
    assert made.chosen.path == (1, 2, 3)
    assert [candidate.path for candidate in made.candidates if candidate.path not in made.ruled_out] == [
        (1, 2, 3),
        (1, 3),
        (0, 1, 3),
    ]
    assert set(made.ruled_out) == {(3,), (2, 3)}


def test_the_published_strategy_obeys_too() -> None:
    """An avoided source is no node, a small landmark none, and a path that misses a source in must is left out."""
    published = planner("published", CostModel(), communities=1)
    assert published.plan(four(), 3, 9).chosen.path[0] == 0
    assert published.plan(four(), 3, 9, Constraints(must=(1,))).chosen.path == (0, 1, 3)
    assert published.plan(four(), 3, 9, Constraints(avoid=(0,))).notes[0].startswith("2 sources")
    assert published.plan(four(), 3, 9, Constraints(avoid=(0,), landmark_cases=30)).chosen.path == (1, 2, 3)
    with pytest.raises(SequenceError, match=r"published strategy goes through Dataset002_B, Dataset003_C"):
        published.plan(four(), 3, 9, Constraints(must=(1, 2)))


EPOCHS = {"prices": (250.0,) * 4}


@pytest.mark.parametrize("strategy", PLANNERS)
@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (Constraints(must=(1,), avoid=(1, 2)), "must and avoid both name Dataset002_B"),
        (Constraints(must=(0, 1, 2)), "must names 3 sources, but a path may have at most 2"),
        (Constraints(must=(3,)), "must names Dataset004_T, which is the target"),
        (Constraints(must=(4,)), "must names task 4, which is no index of the 4 tasks"),
        (Constraints(avoid=(-1,)), "avoid names task -1"),
        (Constraints(avoid=(0, 1, 2)), "avoid names every source of Dataset004_T"),
        (Constraints(finished=frozenset({(0, 3)})), "finished names Dataset004_T, which is the target"),
        (Constraints(finished=frozenset({(0, 1, 0)})), "repeats a task: Dataset001_A, Dataset002_B, Dataset001_A"),
        (Constraints(landmark_cases=-1), "at least -1 cases makes no sense"),
        (Constraints(budget=500), "a budget needs the prices"),
        (Constraints(budget=-1, **EPOCHS), "a budget of -1 makes no sense"),
        (Constraints(budget=math.nan, **EPOCHS), "a budget of nan makes no sense"),
        (Constraints(budget=500, prices=(1.0, 2.0)), "2 prices for 4 tasks"),
        (Constraints(prices=(1.0, math.nan, 1.0, 1.0)), "price of a stage on Dataset002_B is nan"),
        (Constraints(prices=(-1.0, 1.0, 1.0, 1.0)), "price of a stage on Dataset001_A is -1"),
        (Constraints(budget=200, **EPOCHS), "200 is below the 250 that the stage on Dataset004_T costs, .*scratch"),
    ],
)
def test_constraints_that_make_no_sense_are_one_line(strategy: str, constraints: Constraints, message: str) -> None:
    """Every contradiction is a SequenceError of one line that names the constraint and the task."""
    with pytest.raises(SequenceError, match=message) as caught:
        planner(strategy, CostModel()).plan(four(), 2, 5, constraints)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        (Constraints(must=(0, 1), budget=500, **EPOCHS), "500 is too small: .* Dataset001_A, Dataset002_B .* 750"),
        (Constraints(must=(1,), landmark_cases=500), "starts on a landmark of at least 500 cases"),
        (Constraints(must=(2,)), "there is no path of at most 2 sources through Dataset003_C: distances are missing"),
    ],
)
def test_what_cannot_be_met_names_the_constraint(constraints: Constraints, message: str) -> None:
    """Where sources have to come and no path is left, the exact strategy says which constraint is to blame."""
    distances = four().distances.copy()
    distances[2, :] = np.nan
    problem = SequenceProblem.checked(NAMES, distances, 3, (400, 40, 25, 6))
    with pytest.raises(SequenceError, match=message) as caught:
        planner("exact", CostModel()).plan(problem, 2, 5, constraints)
    assert "\n" not in str(caught.value)


def test_a_landmark_of_so_many_cases_needs_case_counts() -> None:
    """Without case counts the question makes no sense; so does a whole number that is none."""
    with pytest.raises(SequenceError, match="case counts are not known"):
        plan_sequence(four().distances, 3, landmark_cases=5)
    for option, value in (("must", [1.5]), ("target", math.nan), ("max_sources", 2.5), ("landmark_cases", "5")):
        with pytest.raises(SequenceError, match="give a whole number"):
            plan_sequence(**{"distances": four().distances, "target": 3, option: value})


def test_too_many_sources_to_go_through_are_refused() -> None:
    """More than eight would take the exact search very long."""
    with pytest.raises(SequenceError, match="must names 9 sources, but at most 8 can be"):
        plan_sequence(np.ones((12, 12)), 0, 11, must=range(1, 10))


def test_python_takes_the_constraints_by_keyword() -> None:
    """Numbers of any integer type, lists and sets do."""
    given = {"must": {np.int64(1)}, "avoid": [2], "finished": [[0], (0, 1)], "prices": np.full(4, 250), "budget": 250.0}
    made = plan_sequence(four().distances, 3, 2, (400, 40, 25, 6), stage_cost=0.5, **given)
    assert made.chosen.path == (0, 1, 3)
    assert made.chosen.hop_costs == pytest.approx((0.2**2, 0.55**2))
