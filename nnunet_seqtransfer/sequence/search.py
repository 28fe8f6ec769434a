"""Exact search for the cheapest simple paths from a virtual start, through some sources, to the target."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.sequence.problem import Candidate, rounded

Costs = NDArray[np.float64]

SLACK = 1.0 - 1e-13
"""Keeps a bound below the cost it bounds although both were summed in another order; smaller than `rounded`'s step."""


def cheapest_paths(
    start: Costs, hop: Costs, target: int, names: Sequence[str], *, max_sources: int, top: int
) -> tuple[Candidate, ...]:
    """The ``top`` first paths by `Candidate.order` among all simple paths with at most ``max_sources`` sources.

    Args:
        start: (n,) cost of starting at each task, >= 0.
        hop: (n, n) cost from task i to task j, >= 0; inf where there is no edge.
        target: the task that every path ends with.
        names: (n,) unique names, which break ties.
        max_sources: most tasks before the target; 0 leaves scratch alone.
        top: most paths returned; fewer where fewer exist.

    Best-first search (A*) over beginnings of paths. A beginning is ranked by what it cost so far plus the least that
    any walk from there to the target costs within the hops left, which dynamic programming gives exactly. A walk may
    repeat a task, a path may not, so this never overestimates and the first paths completed are the cheapest ones.
    """
    search = _Search(start, hop, target, names, min(max_sources, len(names) - 1))
    search.open((), 0.0)
    found: list[Candidate] = []
    while search.heap and len(found) < top:
        node = heapq.heappop(search.heap)[-1]
        if isinstance(node, Candidate):
            found.append(node)
        else:
            search.follow(node)
    return tuple(found)


def best_direct(start: Costs, hop: Costs, target: int, names: Sequence[str]) -> Candidate | None:
    """The first path with exactly one source by `Candidate.order`, or None where no source reaches the target."""
    reaching = np.flatnonzero(np.isfinite(start + hop[:, target]))
    candidates = (
        Candidate((int(source), target), float(start[source]), (float(hop[source, target]),))
        for source in reaching
        if source != target
    )
    return min(candidates, key=lambda candidate: candidate.order(names), default=None)


@dataclass(frozen=True)
class _Siblings:
    """All sources that may follow one beginning, best bound first; only one of them waits in the heap at a time."""

    beginning: tuple[int, ...]
    """Indices of the tasks trained so far."""

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

    def __init__(self, start: Costs, hop: Costs, target: int, names: Sequence[str], max_sources: int) -> None:
        self.start, self.target, self.max_sources = start, target, max_sources
        self.hop = hop.copy()
        np.fill_diagonal(self.hop, np.inf)
        self.hop[target, :] = np.inf
        self.rank = np.empty(len(names), dtype=np.intp)
        self.rank[sorted(range(len(names)), key=names.__getitem__)] = np.arange(len(names))
        self.bounds, self.steps = _bounds(self.hop, target, max_sources)
        # (bound or cost, fewest stages, name ranks, what): ranks are unique, so "what" is never compared.
        self.heap: list[tuple[float, int, tuple[int, ...], _Siblings | Candidate]] = []

    def open(self, beginning: tuple[int, ...], cost: float) -> None:
        """Puts both ways on from ``beginning`` into the heap: straight to the target, and to the best next source."""
        step = self.hop[beginning[-1]] if beginning else self.start
        if np.isfinite(step[self.target]):
            self._complete((*beginning, self.target))
        left = self.max_sources - len(beginning) - 1
        if left < 0:
            return
        # The bound of the target itself is inf, so that it never counts as a source.
        bounds = (cost + step + self.bounds[min(left, len(self.bounds) - 1)]) * SLACK
        bounds[list(beginning)] = np.inf
        bounds = rounded(bounds)
        stages = len(beginning) + 1 + self.steps
        order = np.lexsort((self.rank, stages, bounds))[: int(np.isfinite(bounds).sum())]
        self._push(_Siblings(beginning, order, cost + step, bounds, stages, 0))

    def follow(self, siblings: _Siblings) -> None:
        """Goes on to the source at hand, and puts the next of its siblings into the heap."""
        source = int(siblings.order[siblings.position])
        self._push(replace(siblings, position=siblings.position + 1))
        self.open((*siblings.beginning, source), float(siblings.costs[source]))

    def _push(self, siblings: _Siblings) -> None:
        if siblings.position < len(siblings.order):
            source = siblings.order[siblings.position]
            ranks = self._ranks((*siblings.beginning, int(source)))
            entry = (float(siblings.bounds[source]), int(siblings.stages[source]), ranks, siblings)
            heapq.heappush(self.heap, entry)

    def _complete(self, path: tuple[int, ...]) -> None:
        hops = tuple(float(self.hop[i, j]) for i, j in pairwise(path))
        candidate = Candidate(path, float(self.start[path[0]]), hops)
        heapq.heappush(self.heap, (float(rounded(candidate.cost)), len(path), self._ranks(path), candidate))

    def _ranks(self, path: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(int(self.rank[task]) for task in path)


def _bounds(hop: Costs, target: int, max_sources: int) -> tuple[list[Costs], NDArray[np.intp]]:
    """Least costs of walks to the target, and the fewest hops of any.

    Returns a list whose k-th array (n,) holds the least cost of a walk from each task to the target through at most k
    others (it ends early once nothing improves), and (n,) the fewest hops from each task to the target.
    """
    bounds = [hop[:, target]]
    steps = np.ones(len(hop), dtype=np.intp)
    for others in range(1, max_sources):
        # Bellman's equation; the target's own bound is inf, since no hop leaves it.
        walk = np.minimum(bounds[0], (hop + bounds[-1]).min(axis=1))
        steps[np.isinf(bounds[-1]) & np.isfinite(walk)] = others + 1
        if np.array_equal(walk, bounds[-1]):
            break
        bounds.append(walk)
    return bounds, steps
