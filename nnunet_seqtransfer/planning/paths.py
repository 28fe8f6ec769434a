"""The default strategy: the path with the highest expected gain. Scratch, every single source, and pairs compete."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.gain import GainModel, Prediction
from nnunet_seqtransfer.planning.options import MOST_SOURCES
from nnunet_seqtransfer.planning.problem import Constraints, Path, SequenceProblem, rounded

Kind = Literal["scratch", "direct", "sequence"]
KINDS: tuple[Kind, ...] = ("scratch", "direct", "sequence")
MOST_NEAR = 30
"""Sources, best first, that pairs are made of: the value of a pair is additive, so the best are among them."""
MOST_HARM = 0.4
"""Chance of harm from which scratch is recommended. Chances about 0.5 were seen to be 0.7 on targets left out."""


@dataclass(frozen=True)
class Request:
    """All that a strategy needs to choose a path."""

    problem: SequenceProblem
    "The tasks."
    model: GainModel
    "Predicts what a path gains."
    constraints: Constraints = field(default_factory=Constraints)
    "Constraints on the chosen path."
    max_sources: int = MOST_SOURCES
    "Most sources before the target."
    listed: int = 10
    "Number of candidates to return, about."
    scratch_dice: float | None = None
    "Dice of the target trained from scratch; None if unknown."
    communities: int | None = None
    "Communities of the published strategy; None for the default."

    def check(self) -> None:
        """Raise SequenceError, or Problems with all of them, if the request contradicts itself."""
        problem = self.problem
        if not problem.sources:
            raise SequenceError(f"there is no source for {problem.names[problem.target]}; give at least one other task")
        if not 0 <= self.max_sources <= MOST_SOURCES:
            raise SequenceError(
                f"at most {self.max_sources} sources are not possible; give 0 (scratch) to {MOST_SOURCES}"
            )
        if self.listed < 1:
            raise SequenceError(f"{self.listed} listed paths are too few; give 1 or more")
        self.constraints.check(problem, self.max_sources)

    def candidate(self, path: Path, cost: float | None = None) -> "Candidate":
        """Return a path with the prediction and the constraint that it breaks."""
        evidence = [self.problem.evidence[task] for task in path[:-1]]
        prediction = self.model.predict(evidence, self.scratch_dice)
        return Candidate(path, prediction, self.constraints.broken(self.problem, path), cost)


@dataclass(frozen=True)
class Candidate:
    """One path to the target with the expected gain."""

    path: Path
    "Task indices in training order, the target last."
    prediction: Prediction
    "Expected gain over scratch of equal target epochs."
    ruled_out: str = ""
    "Constraint that the path breaks (see `Constraints.broken`), or an empty text."
    cost: float | None = None
    "Path cost of the published strategy, lower is better; None elsewhere."

    @property
    def kind(self) -> Kind:
        """Scratch, direct transfer, or a sequence of sources."""
        return KINDS[min(len(self.path), 3) - 1]


@dataclass(frozen=True)
class Decision:
    """The chosen path and the other candidates."""

    chosen: Candidate
    "Path to train; one of the candidates."
    candidates: tuple[Candidate, ...]
    "Best first in the order of the strategy; scratch and, if there is a source, a direct path are always among them."
    strategy: str
    "Name of the strategy."
    communities: tuple[Path, ...] = ()
    "Sources by community, in the order of names; empty if the strategy knows none."

    def best(self, kind: Kind) -> Candidate | None:
        """Return the first candidate of a kind; None if there is none."""
        return next((candidate for candidate in self.candidates if candidate.kind == kind), None)


class Strategy(Protocol):
    """Chooses a path. A package registers its own in the group of entry points of `decide.STRATEGY_GROUP`."""

    def plan(self, request: Request) -> Decision:
        """Return the path to train among about ``request.listed`` candidates.

        Raises SequenceError if no path obeys the constraints.
        """
        ...


class GainStrategy:
    """Takes the path with the highest expected gain, or scratch if the chance of harm is `MOST_HARM` or more.

    A sequence is preferred to a single source only if both sources are near the target and the gain is higher
    by the margin of the rule of pairs.
    """

    def plan(self, request: Request) -> Decision:
        """Plan as described at `Strategy.plan`."""
        request.check()
        problem, constraints = request.problem, request.constraints
        scratch = (problem.target,)
        gains = _gains(request) if request.max_sources else {}
        singles = _in_order(problem, {(source, problem.target): gain for source, gain in gains.items()})
        pairs = _in_order(problem, _pairs(request, gains)) if request.max_sources > 1 else []
        values = {scratch: 0.0, **dict(singles), **dict(pairs)}
        allowed = {path: gain for path, gain in values.items() if not constraints.broken(problem, path)}
        if not allowed:
            raise _impossible(request, values)
        chosen = self._choose(request, allowed)
        if scratch in allowed and request.candidate(chosen).prediction.harm >= MOST_HARM:
            chosen = scratch
        best = [path for path, _ in _in_order(problem, allowed)[: request.listed]]
        best_single = [path for path, _ in singles[:1]]
        listed = {path: values[path] for path in (scratch, chosen, *best, *best_single)}
        candidates = {path: request.candidate(path) for path, _ in _in_order(problem, listed)}
        return Decision(candidates[chosen], tuple(candidates.values()), "gain")

    def _choose(self, request: Request, allowed: dict[Path, float]) -> Path:
        ordered = [path for path, _ in _in_order(request.problem, allowed)]
        simple = next((path for path in ordered if len(path) <= 2), None)
        pair = next((path for path in ordered if len(path) > 2), None)
        if simple is None or pair is None:
            return ordered[0]
        is_near = all(request.model.near(request.problem.evidence[source]) for source in pair[:-1])
        rule = request.model.pair_rule([request.problem.evidence[source] for source in pair[:-1]], request.scratch_dice)
        return pair if is_near and allowed[pair] - allowed[simple] > rule.margin else simple


def _gains(request: Request) -> dict[int, float]:
    """Return the gain of each source that may be used."""
    problem = request.problem
    usable = [
        source
        for source in problem.sources
        if source not in request.constraints.avoid
        and (np.isfinite(problem.distances[source, problem.target]) or source in request.constraints.only_first)
    ]
    gains = request.model.gains([problem.evidence[source] for source in usable], request.scratch_dice)
    return dict(zip(usable, gains.tolist(), strict=True))


def _pairs(request: Request, gains: dict[int, float]) -> dict[Path, float]:
    """Return the gains of pairs of near sources, or with a source that the path must go through."""
    problem, constraints, must = request.problem, request.constraints, request.constraints.must
    ranked = sorted(gains, key=lambda source: (-gains[source], problem.names[source]))
    if not must:
        ranked = [source for source in ranked if request.model.near(problem.evidence[source])]
    first = [source for source in ranked if (problem.cases(source) or 0) >= constraints.landmark_cases]
    needed = [task for path in (must, *constraints.finished) for task in path if task in gains]
    places = list(dict.fromkeys((*ranked[:MOST_NEAR], *first[:MOST_NEAR], *needed)))
    if not must:
        places = [source for source in places if source in ranked]
    values = np.array([gains[source] for source in places])
    rule = request.model.pair_rule([problem.evidence[source] for source in places], request.scratch_dice)
    table = rule.gain(values[:, None], values[None, :])
    wanted = set(must)
    return {
        (one, other, problem.target): float(table[i, j])
        for i, one in enumerate(places)
        for j, other in enumerate(places)
        if i != j and wanted <= {one, other} and other not in constraints.only_first
    }


def _in_order(problem: SequenceProblem, values: dict[Path, float]) -> list[tuple[Path, float]]:
    keys = dict(zip(values, rounded(list(values.values())).tolist(), strict=True))
    return sorted(values.items(), key=lambda entry: _order(problem, entry[0], keys[entry[0]]))


def _order(problem: SequenceProblem, path: Path, gain: float) -> tuple[float, int, float, int, tuple[str, ...]]:
    """Highest gain first, then fewer stages, the nearer last source, more cases, and names; never indices."""
    last = path[-2] if len(path) > 1 else None
    distance = 0.0 if last is None else float(problem.distances[last, problem.target])
    cases = 0 if last is None else -(problem.cases(last) or 0)
    return -gain, len(path), distance, cases, tuple(problem.names[task] for task in path)


def _impossible(request: Request, paths: Iterable[Path]) -> SequenceError:
    """Return the error that names the constraint which leaves no path; without `must`, scratch always remains."""
    problem, constraints = request.problem, request.constraints
    through = ", ".join(sorted(problem.names[task] for task in constraints.must))
    broken = {path: constraints.broken(problem, path) for path in paths}
    prices = [constraints.price(path) for path, reason in broken.items() if reason == "budget"]
    if prices:
        return SequenceError(
            f"the budget of {constraints.budget:g} is too small: the cheapest path through {through} costs "
            f"{min(prices):g}; raise it"
        )
    if "cases" in broken.values():
        return SequenceError(
            f"no path through {through} starts on at least {constraints.landmark_cases} labelled cases; "
            "ask for fewer cases"
        )
    return SequenceError(f"there is no path through {through}: a distance is missing; leave it out of must")
