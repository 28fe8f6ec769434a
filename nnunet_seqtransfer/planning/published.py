"""The published strategy, repaired: communities of sources, a landmark each, then one intermediate before the target.

What differs from the published scripts is marked "Repair": the edge rule applies, distances shape the
communities, communities of one source still yield a path, and nothing is kept between two targets. Scratch and direct
transfer are listed for comparison, but do not compete, as published.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations, pairwise
from typing import Any

import networkx as nx
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_array
from scipy.sparse.csgraph import dijkstra

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.paths import Candidate, Decision, Request
from nnunet_seqtransfer.planning.problem import Path, SequenceProblem, rounded

MOST_COMMUNITIES = 9
"""The published number, for 84 sources."""
MOST_IN_GRAPH = 300
"""Most sources that are split into communities: time and memory grow with the cube of their number."""
SHORTEST = 1e-9
"""Least length of an edge, as a share of the longest."""
TIE = 1e-12
"""Two ways of which the lengths differ by less than this share are both shortest: sums in another order must tie."""

Community = tuple[int, ...]


class PublishedStrategy:
    """Takes the cheapest path from the landmark of a community over another member to the target.

    Scratch and the best direct path are listed for comparison only. They are chosen if no published path is left.
    """

    def plan(self, request: Request) -> Decision:
        """Return the cheapest published path; with one source allowed, the cheapest landmark alone.

        A source to be avoided is not in the graph, and a landmark has the cases that are asked for. Paths that miss a
        source in ``must`` or break the budget are left out.
        """
        request.check()
        problem = request.problem
        scratch = request.candidate((problem.target,), 0.0)
        if request.max_sources == 0:
            return Decision(scratch, (scratch,), "published")
        sources = tuple(task for task in problem.sources if task not in request.constraints.avoid)
        graph = source_graph(problem, sources)
        wanted = default_communities(len(sources)) if request.communities is None else request.communities
        communities = find_communities(problem, graph, wanted)
        direct = _in_order(request, ((source, problem.target) for source in sources))
        found = (path for community in communities for path in _paths(request, graph, community))
        published = [path for path in _in_order(request, found) if not path.ruled_out]
        other = [path for path in (*direct, scratch) if not path.ruled_out]
        if not published and not other:
            through = ", ".join(sorted(problem.names[task] for task in set(request.constraints.must)))
            raise SequenceError(
                f"no path of the published strategy goes through {through} and meets the other constraints: its paths "
                "are a landmark and one more of its community; choose the strategy gain, or leave a source out of must"
            )
        chosen = (*published, *other)[0]
        listed = {path.path: path for path in (*published[: request.listed], *direct[:1], *other[:1], scratch)}
        candidates = tuple(sorted(listed.values(), key=lambda path: _order(problem, path)))
        return Decision(chosen, candidates, "published", communities)


def default_communities(sources: int) -> int:
    """Return how many communities ``sources`` tasks are split into: half as many, at least 1, at most 9 as published.

    Repair: always splitting into 9 leaves up to 9 sources alone in their communities, and so without an intermediate.
    """
    return min(MOST_COMMUNITIES, max(1, sources // 2))


def source_graph(problem: SequenceProblem, sources: Iterable[int] | None = None) -> Any:
    """Return the undirected networkx graph over ``sources``, by default all; edges carry ``distance``.

    Two tasks are joined unless both channels and labels differ. Repair: the scripts wrote "Unconnected" and tested for
    "unconnected", so that the rule never applied. With several channels or labels, one shared name is enough; case,
    spaces and punctuation do not count. If channels or labels are unknown, all tasks are joined.

    Distances may have a direction, the graph has none: an edge has the mean distance of both ways, and tasks are joined
    only if both are known. Tasks are added in the order of their names, so that relabelling them changes nothing.
    """
    graph = nx.Graph()
    tasks = sorted(problem.sources if sources is None else sources, key=problem.names.__getitem__)
    graph.add_nodes_from(tasks)
    names = [(_spellings(problem.channels, task), _spellings(problem.labels, task)) for task in tasks]
    known = problem.channels is not None and problem.labels is not None
    for (i, (channels, labels)), (j, (others, other_labels)) in combinations(zip(tasks, names, strict=True), 2):
        distance = (problem.distances[i, j] + problem.distances[j, i]) / 2
        if np.isfinite(distance) and (not known or channels & others or labels & other_labels):
            graph.add_edge(i, j, distance=float(distance))
    return graph


def find_communities(problem: SequenceProblem, graph: Any, wanted: int) -> tuple[Community, ...]:
    """Return Girvan-Newman communities: the edge that separates most is cut until ``wanted`` parts are left.

    Repair: the scripts left the distances out of the betweenness (see `MostBetween`). There are more parts if the
    graph already has more, and never more than sources. Each community, and the communities, are in the order of names.

    Raises SequenceError for less than one community, or more than `MOST_IN_GRAPH` sources.
    """
    if wanted < 1:
        raise SequenceError(f"{wanted} communities were asked for; give 1 or more")
    if len(graph) > MOST_IN_GRAPH:
        raise SequenceError(
            f"{len(graph)} sources are too many for the published strategy, which is made for tens of them; "
            f"leave out all but {MOST_IN_GRAPH}, or choose the strategy gain"
        )
    parts: list[set[int]] = list(nx.connected_components(graph))
    if len(parts) < min(wanted, len(graph)):
        splits = nx.community.girvan_newman(graph, most_valuable_edge=MostBetween(graph))
        parts = list(next(split for split in splits if len(split) >= min(wanted, len(graph))))
    named = (tuple(sorted(part, key=problem.names.__getitem__)) for part in parts)
    return tuple(sorted(named, key=lambda part: problem.names[part[0]]))


def landmark(problem: SequenceProblem, graph: Any, community: Community, able: Community | None = None) -> int:
    """Return the member with the smallest sum of distance / (n_a + n_b) over the edges inside the community.

    Only members in ``able`` may be it, by default all. n are the numbers of cases, so larger datasets win; unknown
    ones count as one case. Edges are those of ``graph``, even if Girvan-Newman cut them.
    """
    counts = [problem.cases(task) or 1 for task in range(len(problem.names))]

    def score(task: int) -> tuple[float, str]:
        inside = (other for other in community if graph.has_edge(task, other))
        total = sum(graph.edges[task, other]["distance"] / (counts[task] + counts[other]) for other in inside)
        return float(rounded(total)), problem.names[task]

    return min(community if able is None else able, key=score)


def path_cost(problem: SequenceProblem, path: Path) -> float:
    """Return the published cost: transfer cost (sum of distances) + search cost (distance from landmark to target).

    A direct path pays the distance twice, as transfer and as search cost; scratch, with no hop, costs 0.
    """
    hops = [float(problem.distances[i, j]) for i, j in pairwise(path)]
    return sum(hops) + float(problem.distances[path[0], path[-1]]) if hops else 0.0


def _paths(request: Request, graph: Any, community: Community) -> Iterator[Path]:
    """Yield the candidates of one community: landmark, another member, target.

    Repair: a community of one source yields landmark -> target, which the scripts passed over. There is none if no
    member has enough cases.
    """
    problem, least = request.problem, request.constraints.landmark_cases
    able = tuple(task for task in community if not least or (problem.cases(task) or 0) >= least)
    if not able:
        return
    start = landmark(problem, graph, community, able)
    others = [other for other in community if other != start] if request.max_sources > 1 else []
    if not others:
        yield start, problem.target
    for other in others:
        yield start, other, problem.target


def _in_order(request: Request, paths: Iterable[Path]) -> list[Candidate]:
    """Return the paths of which all distances are known, cheapest first."""
    costs = {path: path_cost(request.problem, path) for path in paths}
    found = [request.candidate(path, cost) for path, cost in costs.items() if np.isfinite(cost)]
    return sorted(found, key=lambda path: _order(request.problem, path))


def _order(problem: SequenceProblem, candidate: Candidate) -> tuple[float, int, tuple[str, ...]]:
    names = tuple(problem.names[task] for task in candidate.path)
    return float(rounded(candidate.cost or 0.0)), len(names), names


def _spellings(names: Sequence[Sequence[str]] | None, task: int) -> set[str]:
    """Return the names of a task's channels or labels, each reduced to its letters and digits.

    A name without letters and digits stays as it is.
    """
    plain = (unicodedata.normalize("NFKC", name).casefold() for name in (names[task] if names else ()))
    return {"".join(letter for letter in name if letter.isalnum()) or name for name in plain}


class MostBetween:
    """Picks the edge to cut for networkx's Girvan-Newman: the highest betweenness times distance.

    Shortest paths run over distances as lengths. The betweenness is weighed by the distance, as Newman does for
    weighted networks (he divides by the strength of a tie: Phys. Rev. E 70, 056131, 2004). Lengths alone would cut off
    one source after another, since short edges carry most paths in a complete graph: two plain clusters of 5 came out
    as 1 and 9. If edges tie, the order of the nodes decides.
    """

    def __init__(self, graph: Any) -> None:
        """Keep the lengths of ``graph``, a networkx graph with a ``distance`` >= 0 for each edge, at least one."""
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
        """Return the edge to cut next. The edge returned before is taken to be cut."""
        if self._last is not None:
            self._between.cut(*self._last)
        # Only i < j count; once cut an edge has no betweenness.
        worth = rounded(self._between.values() * self._lengths)
        i, j = np.unravel_index(int(worth.argmax()), worth.shape)
        self._last = int(i), int(j)
        return self._nodes[int(i)], self._nodes[int(j)]


class EdgeBetweenness:
    """Counts the shortest paths over each edge of an undirected graph with lengths, while edges are cut.

    Brandes' accumulation (J. Math. Sociol. 25:163, 2001) for many starts at once: numbers of shortest paths and
    dependencies are followed hop by hop over arrays, not node by node. After a cut, only those starts are computed
    again from which a shortest path ran over the cut edge.
    """

    def __init__(self, lengths: NDArray[np.float64]) -> None:
        """Count all paths for ``lengths``, (n, n), symmetric, above 0; inf without an edge and on the diagonal."""
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
        """Return (n, n), symmetric: shortest paths between unordered pairs over each edge; ties count as fractions."""
        n = len(self._lengths)
        directed = np.bincount(self._edges, self._paths, minlength=n * n).reshape(n, n)
        return np.asarray((directed + directed.T) / 2, dtype=np.float64)

    def cut(self, i: int, j: int) -> None:
        """Take out the edge between i and j."""
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
