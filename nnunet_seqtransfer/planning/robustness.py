"""How sure a plan is: how often each path wins when the cases are drawn again, and what follows from that."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from nnunet_seqtransfer.planning.constraints import broken
from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.planner import SequencePlanner
from nnunet_seqtransfer.planning.problem import Constraints, Decision, Kind, SequenceProblem, rounded
from nnunet_seqtransfer.planning.published import priced
from nnunet_seqtransfer.planning.search import PathCosts

Path = tuple[int, ...]

SURE = 0.8
"""Share of the resamples in which a path has to be cheaper than every simpler one, or the data do not support it."""
INTERVAL = (2.5, 97.5)
"""Percentiles of a 95 % interval."""
KINDS: tuple[Kind, ...] = ("scratch", "direct", "sequence")
"""The simplest first."""


@dataclass(frozen=True)
class Comparison:
    """The cheapest path against the cheapest of a simpler kind, on the scale of a cost model."""

    kind: Kind
    """The simpler kind: scratch, or direct transfer."""

    path: Path
    """The cheapest path of that kind by the distances as they are."""

    saved: float
    """What the cheapest path costs less than ``path``; below 0 where it costs more."""

    low: float
    """Lower end of the 95 % interval of that, against the cheapest path of the kind in each resample."""

    high: float
    """Upper end of it."""

    share: float
    """Share of the resamples in which it is cheaper than every path of that kind."""

    @property
    def is_supported(self) -> bool:
        """Whether the data tell the two apart."""
        return self.share >= SURE


@dataclass(frozen=True)
class Robustness:
    """What the resamples say of a decision."""

    resamples: int
    """How many there are."""

    wins: tuple[tuple[Path, float], ...]
    """Each path that is chosen in some resample, with the share of those in which it is; the most frequent first."""

    comparisons: tuple[Comparison, ...]
    """The chosen path against each simpler kind that could be chosen instead, the simplest first."""

    fixed: tuple[tuple[int, int], ...]
    """Hops (from, to) of these paths that were not resampled, and so count as known exactly."""

    def share(self, path: Path) -> float:
        """Share of the resamples in which ``path`` is chosen."""
        return dict(self.wins).get(path, 0.0)

    @property
    def unsupported(self) -> Comparison | None:
        """The simplest kind of path that the data cannot tell from the chosen one, or None where they can."""
        return next((comparison for comparison in self.comparisons if not comparison.is_supported), None)


def assess(
    problem: SequenceProblem,
    resamples: NDArray[np.floating],
    decision: Decision,
    choose: Callable[[SequenceProblem], Path],
    model: CostModel,
    constraints: Constraints,
) -> Robustness | None:
    """What resampled distances say of ``decision``.

    Args:
        problem: what was decided.
        resamples: (B, n, n), NaN where a pair was not resampled: it keeps the problem's distance.
        decision: whose chosen path is compared.
        choose: the path that the strategy chooses with other distances (see `chooser`).
        model: the scale on which paths of different kinds are compared, whatever the strategy.
        constraints: which simpler paths could be chosen at all.

    The chosen path stays the same in all resamples, while the path of a simpler kind is the cheapest in each: a path
    found as the best of many on these very cases gets no credit for being found. Returns None where no
    distance to the target was resampled.
    """
    if not len(resamples) or np.isnan(resamples[:, :, problem.target]).all():
        return None
    graph = model.graph(problem)
    paths = _simpler(problem, graph, decision, constraints)
    wins: Counter[Path] = Counter()
    saved: dict[Kind, list[float]] = {kind: [] for kind in paths}
    for resampled in _problems(problem, resamples):
        wins[choose(resampled)] += 1
        for kind, value in _savings(model.graph(resampled), decision.chosen.path, paths, constraints).items():
            saved[kind].append(value[1])
    now = _savings(graph, decision.chosen.path, paths, constraints)
    comparisons = tuple(_comparison(kind, now[kind], np.array(values)) for kind, values in saved.items())
    total = wins.total()
    ordered = sorted(wins, key=lambda path: (-wins[path], len(path), [problem.names[task] for task in path]))
    return Robustness(
        resamples=total,
        wins=tuple((path, wins[path] / total) for path in ordered),
        comparisons=comparisons,
        fixed=_fixed(resamples, (decision.chosen.path, *(comparison.path for comparison in comparisons))),
    )


def chooser(
    planner: SequencePlanner,
    problem: SequenceProblem,
    decision: Decision,
    max_sources: int,
    constraints: Constraints,
) -> Callable[[SequenceProblem], Path]:
    """What `assess` asks in each resample.

    The exact strategy searches anew. The published one keeps the communities and landmarks of the distances as they
    are, whose computation takes too long to repeat, and prices all of ``decision``'s paths anew.
    """
    if decision.strategy != "published":
        return lambda resampled: planner.plan(resampled, max_sources, 1, constraints).chosen.path
    chosen, names = decision.chosen, problem.names
    # The strategy takes the cheapest of its own paths: what is cheaper is listed for comparison alone.
    competing = [
        candidate.path
        for candidate in decision.candidates
        if (candidate.kind != "scratch" or chosen.kind == "scratch")
        and candidate.path not in decision.ruled_out
        and candidate.order(names) >= chosen.order(names)
    ]
    return lambda resampled: (
        min((priced(resampled, path) for path in competing), key=lambda path: path.order(names)).path
    )


def fall_back(decision: Decision, robustness: Robustness | None) -> Decision:
    """``decision`` with the simplest path that the data cannot tell from the chosen one in its place."""
    simpler = robustness.unsupported if robustness else None
    if simpler is None:
        return decision
    chosen = next(candidate for candidate in decision.candidates if candidate.path == simpler.path)
    return replace(decision, chosen=chosen, strategy="auto")


def _problems(problem: SequenceProblem, resamples: NDArray[np.floating]) -> Iterator[SequenceProblem]:
    """The problem with each table of resampled distances in place of its own."""
    # Quick but for many hundreds of tasks, where it takes a minute.
    for table in tqdm(resamples, desc="Planning on resamples", unit="resample", delay=3, leave=False):
        distances = np.where(np.isnan(table), problem.distances, table.astype(np.float64))
        distances.setflags(write=False)
        yield replace(problem, distances=distances)


def _simpler(
    problem: SequenceProblem, graph: PathCosts, decision: Decision, constraints: Constraints
) -> dict[Kind, list[Path]]:
    """The allowed paths of each kind simpler than the chosen one; scratch only where it has a price."""
    paths: dict[Kind, list[Path]] = {
        "scratch": [] if problem.case_counts is None else [(problem.target,)],
        "direct": [(source, problem.target) for source in problem.sources],
    }
    allowed = {
        kind: [
            path
            for path in some
            if np.isfinite(graph.candidate(path, constraints).cost) and broken(constraints, problem, path) is None
        ]
        for kind, some in paths.items()
        if KINDS.index(kind) < KINDS.index(decision.chosen.kind)
    }
    return {kind: some for kind, some in allowed.items() if some}


def _savings(
    graph: PathCosts, chosen: Path, paths: dict[Kind, list[Path]], constraints: Constraints
) -> dict[Kind, tuple[Path, float]]:
    """For each kind its cheapest path, and what the chosen one costs less."""
    cost = graph.candidate(chosen, constraints).cost
    best = {
        kind: min((graph.candidate(path, constraints) for path in some), key=lambda entry: entry.order(graph.names))
        for kind, some in paths.items()
    }
    # Costs equal but for rounding tie, and a tie is no win.
    return {
        kind: (entry.path, 0.0 if rounded(entry.cost) == rounded(cost) else entry.cost - cost)
        for kind, entry in best.items()
    }


def _comparison(kind: Kind, now: tuple[Path, float], saved: NDArray[np.float64]) -> Comparison:
    low, high = np.percentile(saved, INTERVAL)
    return Comparison(kind, now[0], now[1], float(low), float(high), float((saved > 0).mean()))


def _fixed(resamples: NDArray[np.floating], paths: tuple[Path, ...]) -> tuple[tuple[int, int], ...]:
    hops = {hop for path in paths for hop in pairwise(path)}
    return tuple(sorted(hop for hop in hops if np.isnan(resamples[:, hop[0], hop[1]]).all()))
