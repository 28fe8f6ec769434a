"""From a problem to a decision: the planners by name, and planning on a plain table of distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.exact import ExactPlanner
from nnunet_seqtransfer.planning.explanation import explain
from nnunet_seqtransfer.planning.problem import (
    UNCONSTRAINED,
    Constraints,
    Decision,
    SequenceProblem,
    number_table,
    whole,
)
from nnunet_seqtransfer.planning.published import PublishedPlanner

__all__ = [
    "PLANNERS",
    "ExactPlanner",
    "PublishedPlanner",
    "SequencePlanner",
    "explain",
    "plan_sequence",
    "planner",
]


class SequencePlanner(Protocol):
    """Decides on a path to a problem's target."""

    def plan(
        self, problem: SequenceProblem, max_sources: int, top: int, constraints: Constraints = UNCONSTRAINED
    ) -> Decision:
        """The path to train, with at most ``max_sources`` sources, among about ``top`` candidates.

        Raises SequenceError where there is no source, a number makes no sense, or no path obeys the constraints.
        """
        ...


PLANNERS: dict[str, Callable[[CostModel, int | None], SequencePlanner]] = {
    "exact": lambda cost_model, _communities: ExactPlanner(cost_model),
    "published": lambda _cost_model, communities: PublishedPlanner(communities),
}
"""Every strategy by name, made from a cost model and a number of communities; the first is the default."""


def planner(strategy: str, cost_model: CostModel, communities: int | None = None) -> SequencePlanner:
    """The planner of that name; ``communities`` is for the published strategy, None for its default.

    Raises SequenceError, which lists the valid names, where there is none, and where a strategy has no communities.
    """
    if strategy not in PLANNERS:
        raise SequenceError(f"unknown strategy {strategy!r}; choose one of {', '.join(PLANNERS)}")
    if communities is not None and strategy != "published":
        raise SequenceError(f"strategy {strategy} has no communities; leave their number out, or choose published")
    return PLANNERS[strategy](cost_model, communities)


def plan_sequence(
    distances: ArrayLike,
    target: int,
    max_sources: int = 3,
    case_counts: Sequence[int] | None = None,
    p: float = 2.0,
    *,
    names: Sequence[str] | None = None,
    start_scale: float = CostModel.start_scale,
    start_exponent: float = CostModel.start_exponent,
    unit: float = CostModel.unit,
    stage_cost: float = CostModel.stage_cost,
    top: int = 10,
    must: Iterable[int] = (),
    avoid: Iterable[int] = (),
    landmark_cases: int = 0,
    budget: float = math.inf,
    prices: Sequence[float] | None = None,
    finished: Iterable[Sequence[int]] = (),
) -> Decision:
    """The cheapest path to ``target`` on a plain table of distances.

    Args:
        distances: (n, n), >= 0: [i, j] from task i to task j; NaN or inf where there is no edge.
        target: index of the task to end with.
        max_sources: most sources before it.
        case_counts: (n,) labelled cases; None leaves the start out of the cost (see `CostModel`).
        p: exponent of a hop, `CostModel.hop_exponent`; 1 makes a hop its plain distance.
        names: (n,) unique names; the indices where None.
        start_scale: see `CostModel`, as the following three.
        start_exponent: how fast starting gets cheaper with more cases.
        unit: the distance at which a hop costs 1.
        stage_cost: what each source's stage that is still to train costs on top.
        top: number of cheapest paths among the candidates.
        must: indices of sources that the path has to go through, in any order.
        avoid: indices of sources that it must not go through.
        landmark_cases: labelled cases that its first source needs; 0 asks for none.
        budget: most that its stages may cost together, the target's included, in the unit of ``prices``.
        prices: (n,) what a stage on each task costs, such as epochs or GPU hours; needed with a budget.
        finished: beginnings of paths, as indices of sources in training order, whose last stage is trained already:
            that stage costs neither its price nor ``stage_cost``.

    Raises SequenceError where these make no sense, or where no path obeys them.

    Example:
        >>> plan_sequence([[0, 0.5, 1], [0.5, 0, 0.5], [1, 0.5, 0]], 2, case_counts=[1000, 30, 6]).chosen.path
        (0, 1, 2)
    """
    table = number_table(distances)
    given = [str(index) for index in range(len(np.atleast_1d(table)))] if names is None else names
    problem = SequenceProblem.checked(given, table, target, case_counts)
    model = CostModel(start_scale, start_exponent, p, unit, stage_cost)
    constraints = Constraints(
        must=tuple(whole("a source in must", task) for task in must),
        avoid=tuple(whole("a source in avoid", task) for task in avoid),
        landmark_cases=whole("landmark_cases", landmark_cases),
        budget=float(budget),
        prices=None if prices is None else tuple(float(price) for price in prices),
        finished=frozenset(tuple(whole("a source in finished", task) for task in path) for path in finished),
    )
    return ExactPlanner(model).plan(problem, whole("max_sources", max_sources), whole("top", top), constraints)
