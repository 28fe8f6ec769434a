"""The published strategy, repaired: communities of sources, a landmark each, then one intermediate before the target.

What differs from the published scripts is marked "Repair" where it happens: the edge rule applies, distances shape the
communities, communities of one source still yield a path, and nothing is kept between two targets (all functions here
are pure). Scratch and direct transfer are listed for comparison, but, as published, do not compete.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import networkx as nx
import numpy as np

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.sequence.problem import Candidate, SequenceProblem, rounded

MOST_COMMUNITIES = 9
"""The published number, for 84 sources."""

Community = tuple[int, ...]


def default_communities(sources: int) -> int:
    """How many communities ``sources`` tasks are split into: half as many, at least 1, at most the published 9.

    Repair: always splitting into 9 leaves up to 9 sources alone in their communities, and so without an intermediate.
    """
    return min(MOST_COMMUNITIES, max(1, sources // 2))


def source_graph(problem: SequenceProblem) -> Any:
    """Undirected networkx graph over the source tasks, the target left out; edges carry ``distance``.

    Two tasks are joined unless both channels and labels differ. Repair: the scripts wrote "Unconnected" and tested for
    "unconnected", so that the rule never applied. With several channels or labels "the same" means that at least one
    name is shared, upper and lower case aside; where channels or labels are unknown all tasks are joined.

    The graph has no direction, distances may: an edge's distance is the mean of both ways, and tasks are joined only
    where both are known. Tasks are added in the order of their names, so that relabelling them changes nothing.
    """
    graph = nx.Graph()
    tasks = sorted(problem.sources, key=problem.names.__getitem__)
    graph.add_nodes_from(tasks)
    for position, i in enumerate(tasks):
        for j in tasks[position + 1 :]:
            distance = (problem.distances[i, j] + problem.distances[j, i]) / 2
            if np.isfinite(distance) and _alike(problem, i, j):
                graph.add_edge(i, j, distance=float(distance))
    return graph


def find_communities(problem: SequenceProblem, graph: Any, wanted: int) -> tuple[Community, ...]:
    """Girvan-Newman communities: the edge that separates most is cut until ``wanted`` parts are left.

    There are more parts where the graph already falls into more, and never more than there are sources. Each community
    and the communities themselves are in the order of names.
    """
    if wanted < 1:
        raise SequenceError(f"{wanted} communities were asked for; give 1 or more")
    parts: list[set[int]] = list(nx.connected_components(graph))
    if len(parts) < min(wanted, len(graph)):
        splits = nx.community.girvan_newman(graph, most_valuable_edge=lambda left: _most_between(left, problem.names))
        parts = list(next(split for split in splits if len(split) >= min(wanted, len(graph))))
    named = (tuple(sorted(part, key=problem.names.__getitem__)) for part in parts)
    return tuple(sorted(named, key=lambda part: problem.names[part[0]]))


def landmark(problem: SequenceProblem, graph: Any, community: Community) -> int:
    """The member with the smallest sum of distance / (n_a + n_b) over its edges inside the community.

    n are the numbers of cases, so that larger datasets win; where they are unknown every task counts as one case.
    Edges are those of ``graph``, also where Girvan-Newman cut them on its way.
    """
    counts = problem.case_counts or (1,) * len(problem.names)

    def score(task: int) -> tuple[float, str]:
        inside = (other for other in community if graph.has_edge(task, other))
        total = sum(graph.edges[task, other]["distance"] / (counts[task] + counts[other]) for other in inside)
        return float(rounded(total)), problem.names[task]

    return min(community, key=score)


def community_paths(problem: SequenceProblem, start: int, community: Community) -> Iterator[Candidate]:
    """The published candidates of one community: landmark -> another member -> target, where all distances are known.

    Repair: a community of one source yields landmark -> target, which the scripts passed over.
    """
    if community == (start,):
        yield priced(problem, (start, problem.target))
    for other in community:
        if other != start:
            yield priced(problem, (start, other, problem.target))


def priced(problem: SequenceProblem, path: tuple[int, ...]) -> Candidate:
    """A path at its published cost: transfer cost (sum of distances) + search cost (distance landmark -> target).

    A direct path pays its distance twice, as transfer and as search cost; scratch, with no hop, costs 0.
    """
    hops = tuple(float(problem.distances[i, j]) for i, j in pairwise(path))
    search = float(problem.distances[path[0], path[-1]]) if hops else 0.0
    return Candidate(path, 0.0, hops, search)


def _alike(problem: SequenceProblem, i: int, j: int) -> bool:
    if problem.channels is None or problem.labels is None:
        return True
    return any(
        {name.casefold() for name in names[i]} & {name.casefold() for name in names[j]}
        for names in (problem.channels, problem.labels)
    )


def _most_between(graph: Any, names: tuple[str, ...]) -> tuple[int, int]:
    """The edge with the highest betweenness times distance; where that ties, names decide.

    Repair: the scripts left the distances out of the betweenness. Here shortest paths run over distances as lengths,
    and the betweenness is weighed by the distance, as Newman does for weighted networks (he divides by the strength of
    a tie: Phys. Rev. E 70, 056131, 2004). Lengths alone would cut off one source after another, since in a complete
    graph short edges carry most paths: two plain clusters of 5 came out as 1 and 9.
    """
    # A length of 0 would make infinitely many shortest paths, which betweenness cannot count.
    shortest = max(distance for *_, distance in graph.edges(data="distance")) * 1e-9 or 1.0
    lengths = {(i, j): max(distance, shortest) for i, j, distance in graph.edges(data="distance")}
    nx.set_edge_attributes(graph, lengths, "length")
    between = nx.edge_betweenness_centrality(graph, weight="length")

    def rank(edge: tuple[int, int]) -> tuple[float, list[str]]:
        return -float(rounded(between[edge] * lengths[edge])), sorted(names[task] for task in edge)

    most: tuple[int, int] = min(between, key=rank)
    return most
