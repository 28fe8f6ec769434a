"""From a problem to a decision: the planners, and planning on a plain table of distances."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.sequence import published
from nnunet_seqtransfer.sequence.cost import CostModel
from nnunet_seqtransfer.sequence.explanation import explain
from nnunet_seqtransfer.sequence.problem import Candidate, Decision, SequenceProblem, number_table
from nnunet_seqtransfer.sequence.search import best_direct, cheapest_paths

__all__ = [
    "PLANNERS",
    "ExactPlanner",
    "PublishedPlanner",
    "SequencePlanner",
    "explain",
    "plan_sequence",
    "planner",
]

UNCOUNTED = (
    "Without case counts starting costs nothing: scratch is listed, not compared, "
    "and no sequence costs less than the direct path from its last source."
)


class SequencePlanner(Protocol):
    """Decides on a path to a problem's target."""

    def plan(self, problem: SequenceProblem, max_sources: int, top: int) -> Decision:
        """The path to train, with at most ``max_sources`` sources, among about ``top`` candidates.

        Raises SequenceError where there is no source or a number makes no sense.
        """
        ...


@dataclass(frozen=True)
class ExactPlanner:
    """Chooses the cheapest of all simple paths under a cost model; scratch and direct transfer compete."""

    cost_model: CostModel = field(default_factory=CostModel)
    """What starting and hopping costs."""

    def plan(self, problem: SequenceProblem, max_sources: int, top: int) -> Decision:
        """The cheapest path; candidates are the ``top`` cheapest, scratch and the best direct path."""
        _check(problem, max_sources, top)
        start, hop = self.cost_model.starts(problem), self.cost_model.hops(problem)
        counted = problem.case_counts is not None
        # Without case counts scratch costs nothing: it must not take the only place among the top ones.
        graph = (start, hop, problem.target, problem.names)
        found = cheapest_paths(*graph, max_sources=max_sources, top=top if counted else top + 1)
        scratch = Candidate((problem.target,), float(start[problem.target]), ())
        direct = best_direct(*graph) if max_sources else None
        candidates = _in_order((*found, scratch, *([direct] if direct else [])), problem)
        competing = [candidate for candidate in candidates if counted or candidate.kind != "scratch"]
        notes = () if counted or not competing else (UNCOUNTED,)
        return Decision((competing or [scratch])[0], candidates, "exact", notes)


@dataclass(frozen=True)
class PublishedPlanner:
    """The published strategy, repaired (see `published`): landmark -> member of its community -> target.

    Scratch and the best direct path are listed for comparison only; scratch is chosen where nothing else is possible.
    Made for tens of sources: betweenness is computed anew for every edge that is cut (40 sources take about 2 s, the
    published 84 about 40 s).
    """

    communities: int | None = None
    """Number of communities, or None for `published.default_communities`."""

    def plan(self, problem: SequenceProblem, max_sources: int, top: int) -> Decision:
        """The cheapest published path; with one source allowed, the cheapest landmark, directly."""
        _check(problem, max_sources, top)
        scratch = published.priced(problem, (problem.target,))
        if max_sources == 0:
            return Decision(scratch, (scratch,), "published")
        wanted = published.default_communities(len(problem.sources)) if self.communities is None else self.communities
        graph = published.source_graph(problem)
        communities = published.find_communities(problem, graph, wanted)
        paths: list[Candidate] = []
        for community in communities:
            landmark = published.landmark(problem, graph, community)
            members = community if max_sources > 1 else (landmark,)
            paths.extend(published.community_paths(problem, landmark, members))
        ranked = _in_order((path for path in paths if path.cost < float("inf")), problem)
        directs = (published.priced(problem, (source, problem.target)) for source in problem.sources)
        direct = _in_order((path for path in directs if path.cost < float("inf")), problem)[:1]
        candidates = _in_order((*ranked[:top], *direct, scratch), problem)
        notes = [f"{len(problem.sources)} sources fell into {len(communities)} communities."]
        if direct and not ranked:
            notes.append("No landmark's path reaches the target, so the best direct path is taken.")
        return Decision((*ranked, *direct, scratch)[0], candidates, "published", tuple(notes))


PLANNERS: dict[str, Callable[[CostModel], SequencePlanner]] = {
    "exact": ExactPlanner,
    "published": lambda _cost_model: PublishedPlanner(),
}
"""Every strategy by name, and how it is made from a cost model; the first is the default."""


def planner(strategy: str, cost_model: CostModel) -> SequencePlanner:
    """The planner of that name. Raises SequenceError, which lists the valid names, where there is none."""
    if strategy not in PLANNERS:
        raise SequenceError(f"unknown strategy {strategy!r}; choose one of {', '.join(PLANNERS)}")
    return PLANNERS[strategy](cost_model)


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
        stage_cost: what each hop costs on top.
        top: number of cheapest paths among the candidates.

    Raises SequenceError where these make no sense.
    """
    table = number_table(distances)
    given = [str(index) for index in range(len(np.atleast_1d(table)))] if names is None else names
    problem = SequenceProblem.checked(given, table, target, case_counts)
    model = CostModel(start_scale, start_exponent, p, unit, stage_cost)
    return ExactPlanner(model).plan(problem, max_sources, top)


def _check(problem: SequenceProblem, max_sources: int, top: int) -> None:
    if not problem.sources:
        raise SequenceError(f"there is no source for {problem.names[problem.target]}; give at least one other task")
    if max_sources < 0:
        raise SequenceError(f"at most {max_sources} sources make no sense; give 0 (scratch) or more")
    if top < 1:
        raise SequenceError(f"the {top} cheapest paths make no sense; give 1 or more")


def _in_order(candidates: Iterable[Candidate], problem: SequenceProblem) -> tuple[Candidate, ...]:
    """``candidates``, each path once, cheapest first."""
    unique = {candidate.path: candidate for candidate in candidates}
    return tuple(sorted(unique.values(), key=lambda candidate: candidate.order(problem.names)))
