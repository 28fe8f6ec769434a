"""Input for a strategy: the tasks, their distances, the evidence on each source, and the constraints."""

import math
import operator
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from nnunet_seqtransfer.errors import SequenceError, raise_collected
from nnunet_seqtransfer.planning.measured import Evidence
from nnunet_seqtransfer.planning.options import MOST_SOURCES

Path = tuple[int, ...]
"""Task indices in training order, the target last: one for scratch, two for direct transfer, three for a sequence."""

ROUNDING = 1 + 1e-12
"""A price may exceed the budget by this factor: a sum of prices is rounded."""
ROUNDING_BITS = 40
"""Numbers that agree in this many leading bits (12 decimal digits) are equal: 0.1 + 0.2 and 0.3 must tie."""


@dataclass(frozen=True, eq=False)
class SequenceProblem:
    """n tasks, one of which is the target. Use `checked`, which validates."""

    names: tuple[str, ...]
    "Dataset names, unique. They break ties, so that the order of the tasks never matters."
    distances: NDArray[np.float64]
    "(n, n), 0 or more, no unit: [i, j] from task i to task j; inf if there is none. The diagonal is ignored."
    target: int
    "Index of the target. All other tasks are sources."
    evidence: tuple[Evidence, ...]
    "(n,) what is known of each source for the target; the target's own entry is not used."
    channels: tuple[tuple[str, ...], ...] | None = None
    "Channel names of each task; None if unknown."
    labels: tuple[tuple[str, ...], ...] | None = None
    "Label names of each task without the background; None if unknown."

    @classmethod
    def checked(
        cls,
        names: Sequence[str],
        distances: ArrayLike,
        target: int,
        case_counts: Sequence[int] | None = None,
        *,
        evidence: Sequence[Evidence] | None = None,
        channels: Sequence[Sequence[str]] | None = None,
        labels: Sequence[Sequence[str]] | None = None,
    ) -> "SequenceProblem":
        """Return a validated problem. ``distances`` is copied; NaN become inf.

        Without ``evidence``, a source is known by distance and number of cases.

        Raises SequenceError if shapes do not fit, names repeat, a distance is negative, or a count is below 1.
        """
        _check_names(names, whole("the target", target))
        matrix = _checked_distances(distances, names)
        given = {"case counts": case_counts, "entries of evidence": evidence, "channel lists": channels}
        for what, values in {**given, "label lists": labels}.items():
            if values is not None and len(values) != len(names):
                raise SequenceError(f"{len(values)} {what} for {len(names)} tasks; give one for each task")
        for name, count in zip(names, case_counts or (), strict=False):
            if not whole("a case count", count) >= 1:
                raise SequenceError(f"{name} has {count} labelled cases; leave it out, a task needs at least 1")
        known = evidence or [
            Evidence(
                distance=float(distance) if math.isfinite(distance) else None,
                cases=case_counts[task] if case_counts else None,
            )
            for task, distance in enumerate(matrix[:, target])
        ]
        return cls(
            names=tuple(names),
            distances=matrix,
            target=int(target),
            evidence=tuple(known),
            channels=None if channels is None else tuple(tuple(entry) for entry in channels),
            labels=None if labels is None else tuple(tuple(entry) for entry in labels),
        )

    @property
    def sources(self) -> tuple[int, ...]:
        """Indices of all tasks but the target."""
        return tuple(index for index in range(len(self.names)) if index != self.target)

    @property
    def case_counts(self) -> tuple[int, ...] | None:
        """Labelled cases of each task; None if one is unknown."""
        counts = tuple(entry.cases for entry in self.evidence)
        return None if None in counts else tuple(count or 0 for count in counts)

    def cases(self, task: int) -> int | None:
        """Return the labelled cases of a source; None if unknown."""
        return self.evidence[task].cases


@dataclass(frozen=True)
class Constraints:
    """Constraints on the chosen path. The default asks for nothing.

    A source stage costs nothing if the beginning of the path up to it is among ``finished``. The target's stage is
    always still to train.
    """

    must: tuple[int, ...] = ()
    "Sources that the path goes through, in any order."
    avoid: tuple[int, ...] = ()
    "Sources that no path goes through."
    landmark_cases: int = 0
    "Labelled cases that the first source needs; scratch has no source and always passes."
    budget: float = math.inf
    "Most that the stages still to train may cost together, the target's included."
    source_price: float = 0.0
    "Price of a source's stage, in the unit of the budget."
    target_price: float = 0.0
    "Price of the target's stage, in the unit of the budget."
    finished: frozenset[Path] = frozenset()
    "Beginnings of paths, as indices of sources in training order, whose last stage is trained."
    preprocessing: Mapping[int, float] = field(default_factory=dict)
    "Source -> what its stage costs on top of `source_price`."
    only_first: frozenset[int] = frozenset()
    "Sources known by a ready model alone: they can begin a path, but not be trained."

    def price(self, path: Path) -> float:
        """Return what the stages of ``path`` that are still to train cost together."""
        left = [path[k] for k in range(len(path) - 1) if tuple(path[: k + 1]) not in self.finished]
        return self.target_price + sum(self.source_price + self.preprocessing.get(task, 0.0) for task in left)

    def broken(self, problem: "SequenceProblem", path: Path) -> str:
        """Return which constraint ``path`` breaks first, "must", "avoid", "cases" or "budget"; else an empty text."""
        sources = set(path[:-1])
        if not set(self.must) <= sources:
            return "must"
        if set(self.avoid) & sources:
            return "avoid"
        if sources and (problem.cases(path[0]) or 0) < self.landmark_cases:
            return "cases"
        return "budget" if self.price(path) > self.budget * ROUNDING else ""

    def check(self, problem: "SequenceProblem", max_sources: int) -> None:
        """Raise SequenceError, or Problems, if the constraints contradict the problem or each other."""
        raise_collected([SequenceError(message) for message in self._contradictions(problem, max_sources)])

    def _contradictions(self, problem: "SequenceProblem", max_sources: int) -> Iterator[str]:
        names, must, avoid = problem.names, set(self.must), set(self.avoid)
        for what, tasks in (("must", must), ("avoid", avoid)):
            if problem.target in tasks:
                yield f"{what} names {names[problem.target]}, which is the target; name sources only"
        if must & avoid:
            both = ", ".join(sorted(names[task] for task in must & avoid))
            yield f"must and avoid both name {both}; take it from one of them"
        if len(must) > max_sources:
            remedy = "allow more sources" if len(must) <= MOST_SOURCES else "name fewer"
            yield f"must names {len(must)} sources, but a path may have at most {max_sources}; {remedy}"
        if avoid >= set(problem.sources):
            yield f"avoid names every source of {names[problem.target]}; leave at least one"
        if self.budget < self.target_price:
            yield (
                f"the budget of {self.budget:g} is below the {self.target_price:g} that the stage on "
                f"{names[problem.target]} costs, which even training from scratch needs; raise the budget"
            )


def rounded(values: ArrayLike) -> NDArray[np.float64]:
    """Return ``values`` cut to `ROUNDING_BITS` leading bits, any shape. Keeps the order, inf and 0."""
    mantissa, exponent = np.frexp(np.asarray(values, dtype=np.float64))
    return np.asarray(np.ldexp(np.rint(np.ldexp(mantissa, ROUNDING_BITS)), exponent - ROUNDING_BITS))


def whole(what: str, value: object) -> int:
    """Return ``value`` as an int. Raise SequenceError if it is not a whole number, such as 2.5 or "2"."""
    try:
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise SequenceError(f"{what} is {value!r}; give a whole number") from None


def _check_names(names: Sequence[str], target: int) -> None:
    repeated = sorted({name for name in names if list(names).count(name) > 1}) if len(set(names)) < len(names) else []
    if repeated:
        raise SequenceError(f"task {repeated[0]} is given more than once; name every task once")
    if not 0 <= target < len(names):
        raise SequenceError(f"target {target} is not an index of the {len(names)} tasks; give 0 to {len(names) - 1}")


def _checked_distances(distances: ArrayLike, names: Sequence[str]) -> NDArray[np.float64]:
    try:
        matrix = np.array(distances, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise SequenceError(f"the distances are not a table of numbers ({error}); give n rows of n numbers") from None
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
