"""Edge betweenness by shortest paths, kept up to date while edges are cut one after another."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from nnunet_seqtransfer.planning.problem import rounded

SHORTEST = 1e-9
"""Least length of an edge, as a share of the longest."""

TIE = 1e-12
"""Two ways whose lengths differ by less than this share are both shortest: sums in another order must tie."""


class MostBetween:
    """Picks the edge to cut for networkx's Girvan-Newman: the one with the highest betweenness times distance.

    Shortest paths run over distances as lengths, and the betweenness is weighed by the distance, as Newman does for
    weighted networks (he divides by the strength of a tie: Phys. Rev. E 70, 056131, 2004). Lengths alone would cut off
    one source after another, since in a complete graph short edges carry most paths: two plain clusters of 5 came out
    as 1 and 9. Where edges tie, the order of the nodes decides.
    """

    def __init__(self, graph: Any) -> None:
        """``graph``: networkx graph with a ``distance`` >= 0 for each edge, at least one."""
        self._nodes = list(graph)
        place = {node: position for position, node in enumerate(self._nodes)}
        distances = np.full((len(graph), len(graph)), np.inf)
        for i, j, distance in graph.edges(data="distance"):
            distances[place[i], place[j]] = distances[place[j], place[i]] = distance
        # A length of 0 would make infinitely many shortest paths, which betweenness cannot count.
        shortest = float(distances[np.isfinite(distances)].max()) * SHORTEST or 1.0
        lengths = np.maximum(distances, shortest)
        self._lengths = np.triu(np.where(np.isfinite(lengths), lengths, 0.0))
        self._between = EdgeBetweenness(lengths)
        self._last: tuple[int, int] | None = None

    def __call__(self, _graph: Any) -> tuple[Any, Any]:
        """The edge to cut next; the one named before is taken to be cut."""
        if self._last is not None:
            self._between.cut(*self._last)
        # Only i < j count; once cut an edge has no betweenness.
        worth = rounded(self._between.values() * self._lengths)
        i, j = np.unravel_index(int(worth.argmax()), worth.shape)
        self._last = int(i), int(j)
        return self._nodes[int(i)], self._nodes[int(j)]


class EdgeBetweenness:
    """How many shortest paths run over each edge of an undirected graph with lengths, as edges are taken out.

    Brandes' accumulation (J. Math. Sociol. 25:163, 2001) for many starts at once: the numbers of shortest paths and the
    dependencies are followed hop by hop over arrays, not node by node. After a cut only those starts are computed anew
    from which a shortest path ran over the cut edge.
    """

    def __init__(self, lengths: NDArray[np.float64]) -> None:
        """``lengths``: (n, n), symmetric, > 0; inf where there is no edge and on the diagonal."""
        n = len(lengths)
        self._lengths = lengths.copy()
        # An edge that is cut stays in this one with a length of inf, which no shortest path takes.
        self._sparse = csr_array(np.where(np.isfinite(lengths), lengths, 0.0))
        self._slots = np.zeros((n, n), dtype=np.intp)
        self._slots[np.isfinite(lengths)] = np.arange(self._sparse.nnz)
        # One entry for each start and each directed edge on a shortest path from there: the start, the edge as
        # u * n + v, and the number of paths, ties as fractions.
        self._starts, self._edges = np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp)
        self._paths = np.empty(0)
        self._compute(np.arange(n))

    def values(self) -> NDArray[np.float64]:
        """(n, n), symmetric: shortest paths between unordered pairs over each edge; ties count as fractions."""
        n = len(self._lengths)
        directed = np.bincount(self._edges, self._paths, minlength=n * n).reshape(n, n)
        return np.asarray((directed + directed.T) / 2, dtype=np.float64)

    def cut(self, i: int, j: int) -> None:
        """Takes the edge between i and j out."""
        n = len(self._lengths)
        self._lengths[i, j] = self._lengths[j, i] = np.inf
        self._sparse.data[self._slots[[i, j], [j, i]]] = np.inf
        used = np.unique(self._starts[(self._edges == i * n + j) | (self._edges == j * n + i)])
        kept = np.isin(self._starts, used, invert=True)
        self._starts, self._edges, self._paths = self._starts[kept], self._edges[kept], self._paths[kept]
        self._compute(used)

    def _compute(self, starts: NDArray[np.intp]) -> None:
        """Adds the entries of ``starts``."""
        shortest = dijkstra(self._sparse, indices=starts)
        # Where the graph has fallen apart only the parts of the starts matter.
        near = np.flatnonzero(np.isfinite(shortest).any(axis=0))
        shortest, lengths = shortest[:, near], self._lengths[np.ix_(near, near)]
        reached = np.where(np.isfinite(shortest), shortest, -np.inf) * (1 + TIE)
        # The edges u -> v that end a shortest path to v; np.nonzero is much slower than this on three axes.
        last = np.flatnonzero(shortest[:, :, None] + lengths <= reached[:, None, :])
        which, tail, head = np.unravel_index(last, (len(starts), len(near), len(near)))
        cells, tails, heads = shortest.size, which * len(near) + tail, which * len(near) + head
        counts = np.zeros(cells)
        wave = (near == starts[:, None]).astype(np.float64).ravel()
        while wave.any():
            counts += wave
            wave = np.bincount(heads, wave[tails], minlength=cells)
        # What reaches v comes over its last edges in proportion to the shortest paths that they bring.
        shares = counts[tails] / counts[heads]
        passing, then = np.ones(cells), np.zeros(cells)
        while not np.array_equal(passing, then):
            passing = then
            then = np.bincount(tails, shares * (1.0 + passing[heads]), minlength=cells).astype(np.float64)
        self._starts = np.concatenate([self._starts, starts[which]])
        self._edges = np.concatenate([self._edges, near[tail] * len(self._lengths) + near[head]])
        self._paths = np.concatenate([self._paths, shares * (1.0 + passing[heads])])
