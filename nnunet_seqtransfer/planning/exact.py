"""The exact strategy: the cheapest of all simple paths under a cost model."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.constraints import broken, check_constraints, restricted, why_impossible
from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.problem import UNCONSTRAINED, Candidate, Constraints, Decision, SequenceProblem
from nnunet_seqtransfer.planning.search import best_direct, cheapest_paths

UNCOUNTED = "Without case counts starting costs nothing: scratch is listed, not compared"
NO_SEQUENCE_PAYS = "no sequence costs less than the direct path from its last source"


@dataclass(frozen=True)
class ExactPlanner:
    """Chooses the cheapest of all simple paths under a cost model; scratch and direct transfer compete."""

    cost_model: CostModel = field(default_factory=CostModel)
    """What starting and hopping costs."""

    def plan(
        self, problem: SequenceProblem, max_sources: int, top: int, constraints: Constraints = UNCONSTRAINED
    ) -> Decision:
        """The cheapest path that the constraints allow.

        Candidates are the ``top`` cheapest of these, scratch, and the best direct path (see `Decision.candidates`).
        """
        found = self.cheapest(problem, max_sources, top, constraints)
        graph = self.cost_model.graph(problem)
        listed = [*found, graph.candidate((problem.target,), constraints)]
        if max_sources:
            direct = best_direct(restricted(graph, Constraints(avoid=constraints.avoid), problem), constraints)
            listed += [direct] if direct else []
            if direct and broken(constraints, problem, direct.path):
                allowed = restricted(graph, constraints, problem)
                listed += cheapest_paths(allowed, max_sources=1, top=2, constraints=constraints)
        notes: tuple[str, ...] = ()
        if problem.case_counts is None and found[0].kind != "scratch":
            # Unless finished stages save a sequence what the direct path has to pay.
            reused = constraints.finished and self.cost_model.stage_cost
            notes = (f"{UNCOUNTED}." if reused else f"{UNCOUNTED}, and {NO_SEQUENCE_PAYS}.",)
        return decision(found[0], listed, "exact", notes, problem, constraints)

    def cheapest(
        self, problem: SequenceProblem, max_sources: int, top: int, constraints: Constraints
    ) -> tuple[Candidate, ...]:
        """The ``top`` cheapest paths that the constraints allow; the first is the one to choose.

        Without case counts scratch, which costs nothing there, comes last and takes no place from others.
        """
        check_request(problem, max_sources, top, constraints)
        graph = self.cost_model.graph(problem)
        uncounted = problem.case_counts is None and not constraints.must
        found = cheapest_paths(
            restricted(graph, constraints, problem),
            max_sources=max_sources,
            top=top + 1 if uncounted else top,
            constraints=constraints,
        )
        if not found:
            raise why_impossible(graph, constraints, problem, max_sources)
        return tuple(sorted(found, key=lambda candidate: candidate.kind == "scratch")) if uncounted else found


def check_request(problem: SequenceProblem, max_sources: int, top: int, constraints: Constraints) -> None:
    """Raises SequenceError where there is no source or a number makes no sense."""
    if not problem.sources:
        raise SequenceError(f"there is no source for {problem.names[problem.target]}; give at least one other task")
    if max_sources < 0:
        raise SequenceError(f"at most {max_sources} sources make no sense; give 0 (scratch) or more")
    if top < 1:
        raise SequenceError(f"the {top} cheapest paths make no sense; give 1 or more")
    check_constraints(constraints, problem, max_sources)


def decision(
    chosen: Candidate,
    candidates: Iterable[Candidate],
    strategy: str,
    notes: tuple[str, ...],
    problem: SequenceProblem,
    constraints: Constraints,
) -> Decision:
    """The decision with its candidates in order, each once, and what the constraints say of them."""
    listed = in_order(candidates, problem)
    clauses = ((candidate.path, broken(constraints, problem, candidate.path)) for candidate in listed)
    ruled_out = {path: clause for path, clause in clauses if clause is not None}
    return Decision(chosen, listed, strategy, notes, ruled_out)


def in_order(candidates: Iterable[Candidate], problem: SequenceProblem) -> tuple[Candidate, ...]:
    """``candidates``, each path once, cheapest first."""
    unique = {candidate.path: candidate for candidate in candidates}
    return tuple(sorted(unique.values(), key=lambda candidate: candidate.order(problem.names)))
