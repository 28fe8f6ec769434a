"""Exact search for the cheapest simple paths from a virtual start, through some sources, to the target."""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.planning.bounds import Bounds, price_levels
from nnunet_seqtransfer.planning.problem import UNCONSTRAINED, Candidate, Constraints, rounded

Costs = NDArray[np.float64]

SLACK = 1.0 - 1e-13
"""Keeps a bound below what it bounds although both were summed in another order; smaller than `rounded`'s step."""


@dataclass(frozen=True, eq=False)
class PathCosts:
    """What paths through n tasks cost: the start, plus each hop, plus each source's stage that is still to train."""

    start: Costs
    """(n,) cost of starting at each task, >= 0; inf where no path may start."""

    hop: Costs
    """(n, n) cost from task i to task j, >= 0; inf where there is no edge; the diagonal is ignored."""

    stage: Costs
    """(n,) cost of the stage on each source, >= 0; it is paid with the hop that leaves the source."""

    target: int
    """The task that every path ends with."""

    names: Sequence[str]
    """(n,) unique names, which break ties."""

    def candidate(self, path: tuple[int, ...], constraints: Constraints) -> Candidate:
        """``path`` with its parts; stages that are finished are not paid for."""
        hops = (
            float(self.hop[path[k], path[k + 1]]) + self.stage_cost(path[: k + 1], constraints)
            for k in range(len(path) - 1)
        )
        return Candidate(path, float(self.start[path[0]]), tuple(hops))

    def stage_cost(self, beginning: tuple[int, ...], constraints: Constraints) -> float:
        """Cost of the last stage of ``beginning``."""
        return 0.0 if beginning in constraints.finished else float(self.stage[beginning[-1]])


def cheapest_paths(
    graph: PathCosts, *, max_sources: int, top: int, constraints: Constraints = UNCONSTRAINED
) -> tuple[Candidate, ...]:
    """The ``top`` first paths by `Candidate.order` among all simple paths with at most ``max_sources`` sources.

    Fewer are returned where fewer exist. With ``max_sources`` 0 there is scratch alone. Of ``constraints`` the search
    keeps ``must``, ``budget`` and ``finished``; what ``avoid`` and ``landmark_cases`` rule out has to be inf in
    ``graph`` already (see `constraints.restricted`).

    Best-first search (A*) over beginnings of paths. A beginning is ranked by what it cost so far plus the least that
    any walk from there to the target costs (see `Bounds`). This never overestimates, so the first paths completed are
    the cheapest ones.
    """
    search = _Search(graph, min(max_sources, len(graph.names) - 1), constraints)
    found: list[Candidate] = []
    while search.heap and len(found) < top:
        node = heapq.heappop(search.heap)[-1]
        if isinstance(node, Candidate):
            found.append(node)
        else:
            search.follow(node)
    return tuple(found)


def best_direct(graph: PathCosts, constraints: Constraints = UNCONSTRAINED) -> Candidate | None:
    """The first path with exactly one source by `Candidate.order`, or None where no source reaches the target.

    Of ``constraints`` only ``finished`` counts, for the cost: a direct path is wanted for comparison.
    """
    reaching = np.flatnonzero(np.isfinite(graph.start + graph.hop[:, graph.target]))
    paths = ((int(source), graph.target) for source in reaching if source != graph.target)
    candidates = (graph.candidate(path, constraints) for path in paths)
    return min(candidates, key=lambda candidate: candidate.order(graph.names), default=None)


@dataclass(frozen=True)
class _Beginning:
    """The tasks trained so far, and what they leave to do."""

    path: tuple[int, ...]
    """Indices of the tasks."""

    cost: float
    """Cost of starting and of the hops so far."""

    spent: float
    """Price of its stages that are still to train."""

    missing: int
    """The sources that still have to come, as a set of bits (see `Bounds`)."""


@dataclass(frozen=True)
class _Siblings:
    """All sources that may follow one beginning, best bound first; only one of them waits in the heap at a time."""

    beginning: _Beginning
    """What they follow."""

    order: NDArray[np.intp]
    """Indices of the sources that may follow, best bound first."""

    costs: Costs
    """(n,) cost of the beginning and the step to each task."""

    bounds: Costs
    """(n,) least cost of any path that goes on to each task, rounded."""

    stages: NDArray[np.intp]
    """(n,) fewest stages of any path that goes on to each task."""

    position: int
    """The place in ``order`` of the source at hand."""


class _Search:
    """The graph, its lower bounds, and the heap of what to look at next."""

    def __init__(self, graph: PathCosts, max_sources: int, constraints: Constraints) -> None:
        hop = graph.hop.copy()
        np.fill_diagonal(hop, np.inf)
        hop[graph.target, :] = np.inf
        self.graph, self.max_sources, self.constraints = replace(graph, hop=hop), max_sources, constraints
        n = len(graph.names)
        self.rank = np.empty(n, dtype=np.intp)
        self.rank[sorted(range(n), key=graph.names.__getitem__)] = np.arange(n)
        self.prices = np.zeros(n) if constraints.prices is None else np.array(constraints.prices, dtype=np.float64)
        levels = price_levels(self.prices, graph.target, constraints.budget, len(constraints.must))
        self.bounds = Bounds(hop + graph.stage[:, None], graph.target, max_sources, constraints.must, levels)
        # Finished stages make what follows them cheaper than the bounds know. So every beginning that is part of a
        # finished one is opened at once and never ranked by a bound.
        known = {done[: k + 1] for done in constraints.finished for k in range(min(len(done), max_sources))}
        self.opened: dict[tuple[int, ...], list[int]] = {}
        for path in known:
            self.opened.setdefault(path[:-1], []).append(path[-1])
        # (bound or cost, fewest stages, name ranks, what): ranks are unique, so "what" is never compared.
        self.heap: list[tuple[float, int, tuple[int, ...], _Siblings | Candidate]] = []
        for path in ((), *known):
            self.open(self._begin(path))

    def open(self, beginning: _Beginning) -> None:
        """Puts both ways on from ``beginning`` into the heap: straight to the target, and to the best next source."""
        step = self._step(beginning)
        if not beginning.missing and np.isfinite(step[self.graph.target]):
            self._complete((*beginning.path, self.graph.target))
        left = self.max_sources - len(beginning.path) - 1
        if left < 0:
            return
        spent = beginning.spent + self.prices
        # The bound of the target itself is inf, so that it never counts as a source.
        bounds = (beginning.cost + step + self.bounds.after(beginning.missing, left, spent)) * SLACK
        bounds[[*beginning.path, *self.opened.get(beginning.path, ())]] = np.inf
        bounds = rounded(bounds)
        stages = len(beginning.path) + 1 + self.bounds.stages(beginning.missing)
        order = np.lexsort((self.rank, stages, bounds))[: int(np.isfinite(bounds).sum())]
        self._push(_Siblings(beginning, order, beginning.cost + step, bounds, stages, 0))

    def follow(self, siblings: _Siblings) -> None:
        """Goes on to the source at hand, and puts the next of its siblings into the heap."""
        source = int(siblings.order[siblings.position])
        self._push(replace(siblings, position=siblings.position + 1))
        before = siblings.beginning
        path, cost = (*before.path, source), float(siblings.costs[source])
        spent = before.spent + float(self.prices[source])
        self.open(_Beginning(path, cost, spent, self.bounds.without(before.missing, source)))

    def _begin(self, path: tuple[int, ...]) -> _Beginning:
        missing = self.bounds.everything
        for source in path:
            missing = self.bounds.without(missing, source)
        if not path:
            return _Beginning(path, 0.0, 0.0, missing)
        spent = self.constraints.price((*path, self.graph.target)) - float(self.prices[self.graph.target])
        return _Beginning(path, self.graph.candidate(path, self.constraints).cost, spent, missing)

    def _step(self, beginning: _Beginning) -> Costs:
        """(n,) cost of going on from ``beginning`` to each task."""
        if not beginning.path:
            return self.graph.start
        hops = self.graph.hop[beginning.path[-1]] + self.graph.stage_cost(beginning.path, self.constraints)
        return np.asarray(hops, dtype=np.float64)

    def _push(self, siblings: _Siblings) -> None:
        if siblings.position < len(siblings.order):
            source = siblings.order[siblings.position]
            ranks = self._ranks((*siblings.beginning.path, int(source)))
            entry = (float(siblings.bounds[source]), int(siblings.stages[source]), ranks, siblings)
            heapq.heappush(self.heap, entry)

    def _complete(self, path: tuple[int, ...]) -> None:
        candidate = self.graph.candidate(path, self.constraints)
        if math.isfinite(candidate.cost) and self.constraints.affords(path):
            heapq.heappush(self.heap, (float(rounded(candidate.cost)), len(path), self._ranks(path), candidate))

    def _ranks(self, path: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(self.rank[task]) for task in path)
