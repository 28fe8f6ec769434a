"""One scale for scratch, direct transfer and sequences: what starting costs, and what a hop costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.problem import SequenceProblem
from nnunet_seqtransfer.planning.search import PathCosts


@dataclass(frozen=True)
class CostModel:
    """A path costs start(n of its first task) + the sum of hop(d) over its hops (see docs/method.md).

    start(n) = start_scale * n ** -start_exponent: little data to start on is what hurts.
    hop(d) = (d / unit) ** hop_exponent: with an exponent above 1, two half steps cost less than one whole step. With
    an exponent of 1 and distances that obey the triangle inequality no intermediate ever pays.
    stage_cost is added to each hop, for the stage on the source that it leaves; not where that stage is finished (see
    `Constraints`). The target's own stage, which every path has, adds nothing.

    Without case counts every start costs 0, and with hop_exponent 1, unit 1 and no stage_cost a path costs the plain
    sum of its distances. Scratch, which has no hop, would then always be cheapest; it says nothing. So without case
    counts scratch is listed among the candidates, but chosen only where no other path is possible. No sequence wins
    there either, whatever the exponent: its last hop alone is a direct path, and, finished stages aside, costs no more.

    The defaults are guesses until they are calibrated on measured transfers: a hop of one unit costs as much as
    starting on about 6 cases.
    """

    start_scale: float = 2.5
    """Cost of starting on a single case, >= 0."""

    start_exponent: float = 0.5
    """How fast the start gets cheaper with more cases, >= 0; 0 makes every start cost start_scale."""

    hop_exponent: float = 2.0
    """How much dearer large jumps are than their length, > 0; 1 is the plain distance."""

    unit: float = 1.0
    """The distance at which a hop costs 1, > 0."""

    stage_cost: float = 0.0
    """What each source's stage that is still to train costs on top, >= 0."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            positive = field.name in ("hop_exponent", "unit")
            if not math.isfinite(value) or value < 0 or (positive and value == 0):
                bound = "above 0" if positive else "0 or more"
                raise SequenceError(f"{field.name.replace('_', ' ')} is {value:g}; give a finite number, {bound}")

    def starts(self, problem: SequenceProblem) -> NDArray[np.float64]:
        """(n,) cost of training each task from nothing; all 0 where the problem has no case counts."""
        if problem.case_counts is None:
            return np.zeros(len(problem.names))
        counts = np.array(problem.case_counts, dtype=np.float64)
        return np.asarray(self.start_scale * counts**-self.start_exponent, dtype=np.float64)

    def hops(self, problem: SequenceProblem) -> NDArray[np.float64]:
        """(n, n) cost of the hop from task i to task j; inf where there is no edge and on the diagonal.

        Without stage_cost, which a finished stage does not pay.
        """
        # A power that overflows is a hop nobody should make: no edge.
        with np.errstate(over="ignore"):
            costs = np.asarray((problem.distances / self.unit) ** self.hop_exponent, dtype=np.float64)
        np.fill_diagonal(costs, np.inf)
        return costs

    def graph(self, problem: SequenceProblem) -> PathCosts:
        """What every path through the problem's tasks costs."""
        stages = np.full(len(problem.names), self.stage_cost)
        return PathCosts(self.starts(problem), self.hops(problem), stages, problem.target, problem.names)
