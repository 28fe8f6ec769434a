"""What a planner is given and what it answers: the problem, one candidate path, the decision; and their order."""

from __future__ import annotations

import math
import operator
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_seqtransfer.errors import SequenceError

Kind = Literal["scratch", "direct", "sequence"]

ROUNDING_BITS = 40
"""Costs that agree in so many leading bits (12 decimal digits) are equal: 0.1 + 0.2 and 0.3 must tie."""


@dataclass(frozen=True, eq=False)
class SequenceProblem:
    """n tasks, how far they lie apart, and which of them is the target. Made by `checked`, which validates."""

    names: tuple[str, ...]
    """Dataset names, unique; they break ties, so that the order of the tasks never matters."""

    distances: NDArray[np.float64]
    """(n, n), >= 0, no unit: [i, j] from task i to task j; inf where there is no edge; the diagonal is ignored."""

    target: int
    """Index of the target among the tasks; all others are sources."""

    case_counts: tuple[int, ...] | None = None
    """Labelled cases of each task, >= 1, or None where unknown."""

    channels: tuple[tuple[str, ...], ...] | None = None
    """Channel names of each task, or None where unknown."""

    labels: tuple[tuple[str, ...], ...] | None = None
    """Label names of each task, background left out, or None where unknown."""

    @classmethod
    def checked(
        cls,
        names: Sequence[str],
        distances: ArrayLike,
        target: int,
        case_counts: Sequence[int] | None = None,
        *,
        channels: Sequence[Sequence[str]] | None = None,
        labels: Sequence[Sequence[str]] | None = None,
    ) -> SequenceProblem:
        """A validated problem; ``distances`` is copied, its NaN become inf (no edge).

        Raises SequenceError where shapes do not fit, names repeat, a distance is negative, or a count is below 1.
        """
        _check_names(names, whole("the target", target))
        matrix = _checked_distances(distances, names)
        for what, given in (("case counts", case_counts), ("channel lists", channels), ("label lists", labels)):
            if given is not None and len(given) != len(names):
                raise SequenceError(f"{len(given)} {what} for {len(names)} tasks; give one for each task")
        for name, count in zip(names, () if case_counts is None else case_counts, strict=False):
            if not count >= 1:
                raise SequenceError(f"{name} has {count} labelled cases; a task needs at least 1, leave it out")
        return cls(
            names=tuple(names),
            distances=matrix,
            target=int(target),
            case_counts=None if case_counts is None else tuple(whole("a case count", count) for count in case_counts),
            channels=None if channels is None else tuple(tuple(entry) for entry in channels),
            labels=None if labels is None else tuple(tuple(entry) for entry in labels),
        )

    @property
    def sources(self) -> tuple[int, ...]:
        """Indices of all tasks but the target."""
        return tuple(index for index in range(len(self.names)) if index != self.target)


@dataclass(frozen=True)
class Constraints:
    """What a path must obey beside being cheap. The default asks for nothing. See `constraints` for what checks it.

    The stage on the k-th source of a path costs nothing, neither its price nor `CostModel.stage_cost`, where the
    beginning of the path up to that source is among ``finished``. The target's stage is always still to train.
    """

    must: tuple[int, ...] = ()
    """Sources that the chosen path goes through, in any order."""

    avoid: tuple[int, ...] = ()
    """Sources that no path goes through."""

    landmark_cases: int = 0
    """The first source of a path needs at least so many labelled cases; scratch has none and is not touched."""

    budget: float = math.inf
    """Most that the stages still to train may cost together, the target's included; in the unit of ``prices``."""

    prices: tuple[float, ...] | None = None
    """(n,) price of a stage on each task, >= 0: epochs, or GPU hours; None where no budget is kept."""

    finished: frozenset[tuple[int, ...]] = frozenset()
    """Beginnings of paths, as indices of sources in training order, whose last stage is trained already."""

    def price(self, path: Sequence[int]) -> float:
        """What the stages of ``path`` (to the target) that are still to train cost together; 0 without prices."""
        if self.prices is None:
            return 0.0
        last = len(path) - 1
        unfinished = (k for k in range(last + 1) if k == last or tuple(path[: k + 1]) not in self.finished)
        return math.fsum(self.prices[path[k]] for k in unfinished)

    def affords(self, path: Sequence[int]) -> bool:
        """Whether the price of ``path`` is within the budget, rounding aside."""
        return bool(rounded(self.price(path)) <= rounded(self.budget))


UNCONSTRAINED = Constraints()
"""Nothing is asked of a path."""


@dataclass(frozen=True)
class Candidate:
    """One path to the target and what it costs, part by part."""

    path: tuple[int, ...]
    """Task indices in training order, the target last; length 1 is scratch, 2 direct transfer, more a sequence."""

    start_cost: float
    """Cost of training the first task from nothing."""

    hop_costs: tuple[float, ...]
    """Cost of each hop along the path, one fewer than tasks."""

    search_cost: float = 0.0
    """The published strategy's extra part, the distance from landmark to target; 0 elsewhere."""

    @property
    def cost(self) -> float:
        """Sum of all parts, correctly rounded, so that it does not depend on their order."""
        return math.fsum((self.start_cost, *self.hop_costs, self.search_cost))

    @property
    def kind(self) -> Kind:
        """Scratch, direct or sequence, by the number of tasks."""
        if len(self.path) == 1:
            return "scratch"
        return "direct" if len(self.path) == 2 else "sequence"

    def order(self, names: Sequence[str]) -> tuple[float, int, tuple[str, ...]]:
        """Sort key: cost, then fewer stages, then names; never indices, so relabelling the tasks changes nothing."""
        return float(rounded(self.cost)), len(self.path), tuple(names[task] for task in self.path)


@dataclass(frozen=True)
class Decision:
    """The chosen path beside the others that were considered."""

    chosen: Candidate
    """What to train; one of ``candidates``."""

    candidates: tuple[Candidate, ...]
    """Cheapest first (see `Candidate.order`).

    Always holds scratch and, where a source is allowed and reaches the target, the best direct path: for comparison
    also where the constraints rule them out (see ``ruled_out``). No path with a task to be avoided is among them.
    """

    strategy: str
    """Name of the strategy that decided."""

    notes: tuple[str, ...] = ()
    """What a reader should know about how it was decided, a sentence each."""

    ruled_out: dict[tuple[int, ...], str] = field(default_factory=dict)
    """By path, in a clause ("costs 750, above the budget of 500"): candidates that could not be chosen, and why."""

    communities: tuple[tuple[int, ...], ...] = ()
    """The sources by community, in the order of names; empty where the strategy knows none."""

    def best(self, kind: Kind) -> Candidate | None:
        """The cheapest candidate of one kind, or None where there is none."""
        return next((candidate for candidate in self.candidates if candidate.kind == kind), None)


def rounded(costs: ArrayLike) -> NDArray[np.float64]:
    """``costs`` cut to `ROUNDING_BITS` leading bits, any shape; never turns an order round; keeps inf and 0."""
    mantissa, exponent = np.frexp(np.asarray(costs, dtype=np.float64))
    return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, ROUNDING_BITS)), exponent - ROUNDING_BITS))


def whole(what: str, value: object) -> int:
    """``value`` as an int. Raises SequenceError where it is no whole number, such as 2.5 or "2"."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise SequenceError(f"{what} is {value!r}; give a whole number") from None


def number_table(values: ArrayLike) -> NDArray[np.float64]:
    """A copy of ``values`` as floats, any shape. Raises SequenceError where they are no numbers or rows differ."""
    try:
        return np.array(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SequenceError(f"the distances are no table of numbers ({error}); give n rows of n numbers") from None


def _check_names(names: Sequence[str], target: int) -> None:
    repeated = sorted({name for name in names if list(names).count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise SequenceError(f"task {repeated[0]} is given more than once; name every task once")
    if not 0 <= target < len(names):
        raise SequenceError(f"target {target} is no index of the {len(names)} tasks; give one from 0 on")


def _checked_distances(distances: ArrayLike, names: Sequence[str]) -> NDArray[np.float64]:
    matrix = number_table(distances)
    if matrix.shape != (len(names), len(names)):
        raise SequenceError(f"the distances have shape {matrix.shape}, {len(names)} tasks need a square of that size")
    np.fill_diagonal(matrix, 0.0)
    matrix[np.isnan(matrix)] = np.inf
    negative = np.argwhere(matrix < 0)
    if len(negative):
        i, j = negative[0]
        more = f" (and {len(negative) - 1} more)" if len(negative) > 1 else ""
        raise SequenceError(
            f"the distance from {names[i]} to {names[j]} is negative: {matrix[i, j]:g}{more}; a distance is 0 or more"
        )
    matrix.setflags(write=False)
    return matrix
