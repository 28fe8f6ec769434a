"""Edge betweenness kept up to date, against networkx, edge by edge and community by community."""

import networkx as nx
import numpy as np
import pytest

from nnunet_seqtransfer.planning import published
from nnunet_seqtransfer.planning.betweenness import EdgeBetweenness, MostBetween
from nnunet_seqtransfer.planning.problem import SequenceProblem, rounded


def random_graph(seed: int) -> nx.Graph:
    """3 to 12 nodes; lengths of every third graph are whole numbers, so that shortest paths tie; some fall apart."""
    rng = np.random.default_rng(seed)
    n = int(rng.integers(3, 13))
    lengths = rng.random((n, n)) + 0.01 if seed % 3 else rng.integers(1, 4, (n, n)) * 1.0
    if seed % 3 == 1:
        points = rng.normal(size=(n, 2))
        lengths = np.linalg.norm(points[:, None] - points, axis=2)
    present = rng.random((n, n)) < rng.choice([1.0, 0.6, 0.3])
    graph = nx.Graph()
    graph.add_nodes_from(range(n))
    for i in range(n):
        for j in range(i):
            if present[i, j]:
                graph.add_edge(i, j, distance=float(lengths[i, j]))
    return graph


def matrix(graph: nx.Graph) -> np.ndarray:
    lengths = np.full((len(graph), len(graph)), np.inf)
    for i, j, distance in graph.edges(data="distance"):
        lengths[i, j] = lengths[j, i] = distance
    return lengths


def by_networkx(graph: nx.Graph) -> np.ndarray:
    """(n, n) betweenness, unnormalised, of the edges that are left."""
    values = np.zeros((len(graph), len(graph)))
    for (i, j), value in nx.edge_betweenness_centrality(graph, weight="distance", normalized=False).items():
        values[i, j] = values[j, i] = value
    return values


@pytest.mark.parametrize("block", range(3))
def test_every_cut_leaves_what_networkx_counts_anew(block: int) -> None:
    """From the whole graph down to no edge at all, cut in a random order, ties and separate parts included."""
    for seed in range(block * 20, block * 20 + 20):
        graph = random_graph(seed)
        between = EdgeBetweenness(matrix(graph))
        edges = list(graph.edges)
        np.random.default_rng(seed).shuffle(edges)
        assert between.values() == pytest.approx(by_networkx(graph)), seed
        for i, j in edges:
            graph.remove_edge(i, j)
            between.cut(int(i), int(j))
            assert between.values() == pytest.approx(by_networkx(graph)), (seed, i, j)


def slowly_most_between(graph: nx.Graph) -> tuple[int, int]:
    """The same rule with networkx's betweenness, computed anew for every cut."""
    between = nx.edge_betweenness_centrality(graph, weight="distance", normalized=False)
    return min(between, key=lambda edge: (-float(rounded(between[edge] * graph.edges[edge]["distance"])), sorted(edge)))


def test_communities_equal_those_of_networkx_alone() -> None:
    """Girvan-Newman down to single nodes gives the same parts in the same order as with networkx's betweenness."""
    for seed in range(45):
        graph = random_graph(seed)
        if graph.number_of_edges() == 0:
            continue
        quick = nx.community.girvan_newman(graph, most_valuable_edge=MostBetween(graph))
        slow = nx.community.girvan_newman(graph, most_valuable_edge=slowly_most_between)
        assert list(quick) == list(slow), seed


def test_lengths_of_zero_tie_as_they_should() -> None:
    """With many copies of one task, sums of tiny lengths in another order still tie.

    The partition is that of whole numbers, which networkx adds without rounding.
    """
    for seed in range(40):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(4, 11))
        whole = rng.integers(0, 3, (n, n))
        whole = whole + whole.T
        problem = SequenceProblem.checked([f"{i:02}" for i in range(n)], whole, n - 1)
        graph = published.source_graph(problem)
        exact = graph.copy()
        longest = max(distance for *_, distance in graph.edges(data="distance"))
        for *_, edge in exact.edges(data=True):
            edge["distance"] = max(int(edge["distance"]) * 10**9, int(longest))
        if not longest:
            continue
        slow = nx.community.girvan_newman(exact, most_valuable_edge=slowly_most_between)
        quick = nx.community.girvan_newman(graph, most_valuable_edge=MostBetween(graph))
        assert list(quick) == list(slow), seed
