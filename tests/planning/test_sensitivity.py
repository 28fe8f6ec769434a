"""How the choice changes with the exponent and the price of starting: against closed forms and planning anew."""

from dataclasses import replace

import numpy as np
import pytest

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.exact import ExactPlanner
from nnunet_seqtransfer.planning.problem import Constraints, SequenceProblem
from nnunet_seqtransfer.planning.sensitivity import PRECISION, sensitivity


def halfway(near_cases: int = 1) -> SequenceProblem:
    """A landmark of 100 cases at distance 0.8 from the target, which has 1, and a task in the middle."""
    places = np.array([0.8, 0.4, 0.0])
    return SequenceProblem.checked(("far", "near", "target"), np.abs(places[:, None] - places), 2, (100, near_cases, 1))


def random_problem(seed: int) -> SequenceProblem:
    """7 tasks in a plane, the target with few cases."""
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(7, 2))
    counts = [6, *rng.integers(5, 400, 6).tolist()]
    return SequenceProblem.checked("abcdefg", np.linalg.norm(points[:, None] - points, axis=2), 0, counts)


@pytest.mark.parametrize(
    "constraints", [Constraints(), Constraints(must=(2,), avoid=(4,)), Constraints(landmark_cases=99)]
)
def test_the_grid_is_what_the_planner_chooses_at_every_point(constraints: Constraints) -> None:
    """Each cell equals a plan made anew with that exponent and that price, constraints included."""
    distinct = 0
    for seed in range(12):
        problem, model = random_problem(seed), CostModel(start_exponent=0.4, stage_cost=0.05)
        found = sensitivity(problem, model, 3, constraints, (0.7, 1.0, 1.5, 2.0, 4.0), (0.0, 0.5, 2.0, 3.0, 8.0, 30.0))
        for row, exponent in enumerate(found.exponents):
            for column, price in enumerate(found.start_scales):
                planner = ExactPlanner(replace(model, hop_exponent=exponent, start_scale=price))
                expected = planner.plan(problem, 3, 1, constraints).chosen.path
                assert found.paths[found.grid[row, column]] == expected, (seed, exponent, price)
        assert found.paths[0] == ExactPlanner(model).plan(problem, 3, 1, constraints).chosen.path
        distinct += len(found.paths)
    assert distinct > 24


def test_the_flips_are_where_the_formulas_say() -> None:
    """Where 0.8^p = 2 * 0.4^p the way through the middle begins to pay: at p = 1, where fewer stages still win.

    Along the price c of starting, scratch (c) gives way to far -> near (c / 10 + 2 * 0.16) at c = 0.32 / 0.9.
    """
    found = sensitivity(halfway(), CostModel(), 2, exponents=(0.5, 3.0), start_scales=(0.1, 10.0))
    exponent, price = found.breakpoints
    assert (exponent.parameter, exponent.below, exponent.above) == ("hop_exponent", (0, 2), (0, 1, 2))
    assert exponent.value == pytest.approx(1.0, abs=3 * PRECISION)
    assert (price.parameter, price.below, price.above) == ("start_scale", (2,), (0, 1, 2))
    assert price.value == pytest.approx(0.32 / 0.9, abs=10 * PRECISION)
    assert found.flips == (
        "Below a hop exponent of 1, far replaces far -> near.",
        "Below a start scale of 0.356, scratch replaces far -> near.",
    )
    seen_from_below = sensitivity(halfway(), CostModel(hop_exponent=0.8), 2, exponents=(0.5, 3.0))
    assert seen_from_below.flips[0] == "From a hop exponent of 1 on, far -> near replaces far."


def test_flips_between_two_neighbouring_prices_are_all_found() -> None:
    """Scratch, then near (c / 2 + 0.16), then far -> near as starting gets dearer; the grid has its ends only."""
    found = sensitivity(halfway(near_cases=4), CostModel(), 2, start_scales=(0.0, 10.0))
    flips = [flip for flip in found.breakpoints if flip.parameter == "start_scale"]
    assert [flip.above for flip in flips] == [(1, 2), (0, 1, 2)]
    assert [flip.value for flip in flips] == pytest.approx([0.32, 0.4], abs=20 * PRECISION)


def test_at_a_flip_both_paths_cost_the_same() -> None:
    """The costs of what is chosen below and above agree at every flip found on random problems."""
    flips = 0
    for seed in range(20):
        problem, model = random_problem(seed), CostModel(start_scale=1.5)
        for flip in sensitivity(problem, model, 3).breakpoints:
            graph = replace(model, **{flip.parameter: flip.value}).graph(problem)
            below, above = (graph.candidate(path, Constraints()).cost for path in (flip.below, flip.above))
            assert below == pytest.approx(above, rel=1e-4)
            flips += 1
    assert flips > 15


def test_without_any_flip_it_is_said() -> None:
    """Where one path is chosen everywhere, there are no breakpoints and the sentences say so."""
    problem = SequenceProblem.checked("ab", [[0, 0.1], [0.1, 0]], 1, (500, 2))
    found = sensitivity(problem, CostModel(), 2, exponents=(1.0, 2.0), start_scales=(1.0, 4.0))
    assert found.breakpoints == ()
    assert found.flips == (
        "For every hop exponent from 1 to 2 the choice is the same.",
        "For every start scale from 1 to 4 the choice is the same.",
    )
    assert (found.grid == 0).all()


def test_numbers_and_constraints_that_make_no_sense_are_refused() -> None:
    """A negative exponent and constraints that cannot be met are the planner's errors."""
    with pytest.raises(SequenceError, match="hop exponent is -1"):
        sensitivity(halfway(), CostModel(), 2, exponents=(-1.0, 2.0))
    with pytest.raises(SequenceError, match="must names 2 sources"):
        sensitivity(halfway(), CostModel(), 1, Constraints(must=(0, 1)))


def test_eighty_four_sources_take_less_than_three_seconds() -> None:
    """The default grid over 84 sources and up to three of them."""
    rng = np.random.default_rng(1)
    points = rng.normal(size=(85, 2))
    counts = [5, *(4 + 400 * rng.random(84) ** 6).astype(int).tolist()]
    names = [f"{i:02}" for i in range(85)]
    problem = SequenceProblem.checked(names, np.linalg.norm(points[:, None] - points, axis=2), 0, counts)
    found = sensitivity(problem, CostModel(), 3)
    assert found.grid.shape == (21, 17)
    assert len(found.paths) > 2
