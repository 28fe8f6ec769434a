"""The published strategy: a small example by hand, its repairs one by one."""

import networkx as nx
import numpy as np
import pytest

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning import published
from nnunet_seqtransfer.planning.decide import decide
from nnunet_seqtransfer.planning.gain import GainModel
from nnunet_seqtransfer.planning.measured import shipped_table
from nnunet_seqtransfer.planning.paths import Decision, Request
from nnunet_seqtransfer.planning.problem import Constraints, SequenceProblem, rounded
from nnunet_seqtransfer.planning.published import EdgeBetweenness, MostBetween

MODEL = GainModel(shipped_table().rows, "descriptors")


def plan(problem: SequenceProblem, **changes: object) -> Decision:
    """What the published strategy decides."""
    return decide(Request(problem, MODEL, **changes), "published")  # type: ignore[arg-type]


def two_clusters(target_distances: tuple[float, ...] = (3, 1, 9, 9)) -> SequenceProblem:
    """Sources a, b close together and c, d close together, far from each other; target e."""
    distances = np.full((5, 5), 8.0)
    distances[0, 1] = distances[1, 0] = 1.0
    distances[2, 3] = distances[3, 2] = 2.0
    distances[:4, 4] = target_distances
    return SequenceProblem.checked("abcde", distances, 4, (50, 10, 30, 20, 5))


def test_the_small_example_computed_by_hand() -> None:
    """Landmarks a and c (names settle the tie), candidates a-b-e and c-d-e, costs 1+1+3 and 2+9+9."""
    decision = plan(two_clusters())
    assert decision.chosen.path == (0, 1, 4)
    assert decision.chosen.cost == 5
    costs = {candidate.path: candidate.cost for candidate in decision.candidates}
    assert costs == {(4,): 0, (1, 4): 2, (0, 1, 4): 5, (2, 3, 4): 20}
    assert decision.communities == ((0, 1), (2, 3))


def test_scratch_and_direct_are_listed_but_do_not_compete() -> None:
    """As published, a dearer intermediate is taken; the comparison shows it."""
    decision = plan(two_clusters(), listed=1)
    assert decision.chosen.cost > decision.best("direct").cost > decision.best("scratch").cost


def test_larger_datasets_become_landmarks() -> None:
    """The sum of d / (n_a + n_b) is smallest for the large one of three equally distant sources."""
    problem = SequenceProblem.checked("abcd", np.ones((4, 4)), 3, (10, 10, 90, 5))
    graph = published.source_graph(problem)
    assert published.landmark(problem, graph, (0, 1, 2)) == 2
    # By hand: a pays 1/20 + 1/100, c pays 1/100 + 1/100.
    even = SequenceProblem.checked("abcd", np.ones((4, 4)), 3)
    assert published.landmark(even, published.source_graph(even), (0, 1, 2)) == 0


def test_the_edge_rule_applies() -> None:
    """Tasks are joined where a channel or a label is shared, and not otherwise."""
    problem = SequenceProblem.checked(
        ("a", "b", "c", "d", "target"),
        np.ones((5, 5)),
        4,
        channels=[("T1",), ("t1", "T2"), ("CT",), ("PET",), ("T1",)],
        labels=[("heart",), ("liver",), ("Heart",), ("lung",), ("heart",)],
    )
    assert set(published.source_graph(problem).edges) == {(0, 1), (0, 2)}
    assert 3 in published.source_graph(problem)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("T1 post", "t1_post", True),
        ("T1-post", "T1post", True),
        (" FLAIR ", "flair", True),
        ("T\u00b2", "t2", True),
        ("Größe", "GRÖSSE", True),
        ("T1", "T2", False),
        ("T1", "T1 post", False),
        ("+", "-", False),
        ("+", "+", True),
    ],
)
def test_names_that_differ_in_spelling_alone_are_the_same(one: str, other: str, same: bool) -> None:
    """Case, spaces, punctuation and typography do not tell channels or labels apart; letters and digits do."""
    for given in (
        {"channels": [(one,), (other,), ("x",)], "labels": [("a",), ("b",), ("c",)]},
        {"labels": [(one,), (other,), ("x",)], "channels": [("a",), ("b",), ("c",)]},
    ):
        problem = SequenceProblem.checked("pqr", np.ones((3, 3)), 2, **given)
        assert published.source_graph(problem).has_edge(0, 1) == same


def test_without_channels_or_labels_all_sources_are_joined() -> None:
    """Unknown names join every two sources; the target is no node."""
    graph = published.source_graph(two_clusters())
    assert graph.number_of_edges() == 6
    assert 4 not in graph


def test_missing_distances_join_nothing() -> None:
    """An edge needs both directions, and takes their mean."""
    distances = np.array([[0, 1, np.nan, 1], [3, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 0]], dtype=float)
    graph = published.source_graph(SequenceProblem.checked("abcd", distances, 3))
    assert {edge[:2]: edge[2] for edge in graph.edges(data="distance")} == {(0, 1): 2.0, (1, 2): 1.0}


def test_distances_shape_the_communities() -> None:
    """Two groups that only the distances tell apart are found, in a complete graph."""
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 0.1, (5, 2)), rng.normal(3, 0.1, (5, 2)), [[9, 9]]])
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    problem = SequenceProblem.checked([f"{i:02}" for i in range(11)], distances, 10)
    found = published.find_communities(problem, published.source_graph(problem), 2)
    assert found == ((0, 1, 2, 3, 4), (5, 6, 7, 8, 9))


def archive() -> SequenceProblem:
    """84 sources as published: 7 centres, 4 modalities, 3 labels, single-channel and binary; a target elsewhere."""
    rng = np.random.default_rng(0)
    kinds = [(centre, modality, label) for centre in range(7) for modality in range(4) for label in range(3)]
    parts = [rng.normal(0, spread, (number, 5)) for number, spread in ((7, 0.3), (4, 1.0), (3, 0.6))]
    points = [sum(part[i] for part, i in zip(parts, kind, strict=True)) + rng.normal(0, 0.1, 5) for kind in kinds]
    places = np.array([*points, rng.normal(0, 1, 5)])
    return SequenceProblem.checked(
        [f"Dataset{i:03}" for i in range(85)],
        np.linalg.norm(places[:, None] - places, axis=2),
        84,
        rng.integers(5, 500, 85).tolist(),
        channels=[*((f"modality {modality}",) for _, modality, _ in kinds), ("modality 0",)],
        labels=[*((f"label {label}",) for *_, label in kinds), ("label 0",)],
    )


def test_eighty_four_sources_fall_into_nine_communities() -> None:
    """The published size, nine communities, none of a source alone."""
    problem = archive()
    decision = plan(problem, communities=9)
    assert decision.chosen.kind == "sequence"
    assert len(decision.communities) == 9
    assert min(len(community) for community in decision.communities) > 1
    assert sorted(task for community in decision.communities for task in community) == list(range(84))


def test_hundreds_of_sources_are_refused() -> None:
    """Splitting takes the cube of their number; the line names the exact strategy."""
    problem = SequenceProblem.checked([f"{i:03}" for i in range(302)], np.ones((302, 302)), 0)
    with pytest.raises(SequenceError, match="301 sources are too many"):
        plan(problem)


def test_the_first_cut_is_the_edge_with_the_highest_weighted_betweenness() -> None:
    """Two triangles joined by a short bridge, which all shortest paths cross, fall apart at the bridge."""
    distances = np.full((7, 7), np.nan)
    for i, j in ((0, 1), (1, 2), (0, 2), (3, 4), (4, 5), (3, 5), (2, 3)):
        distances[i, j] = distances[j, i] = 1.0
    distances[:, 6] = 1.0
    problem = SequenceProblem.checked("abcdefg", distances, 6)
    graph = published.source_graph(problem)
    between = nx.edge_betweenness_centrality(graph, weight="distance")
    assert max(between, key=between.__getitem__) == (2, 3)
    assert published.find_communities(problem, graph, 2) == ((0, 1, 2), (3, 4, 5))


@pytest.mark.parametrize(("sources", "expected"), [(1, 1), (3, 1), (4, 2), (7, 3), (18, 9), (84, 9)])
def test_the_number_of_communities_follows_the_number_of_sources(sources: int, expected: int) -> None:
    """Half as many as sources, at least one, never more than the published nine."""
    assert published.default_communities(sources) == expected


def test_a_community_of_one_yields_a_direct_path() -> None:
    """A lonely source is tried directly, at transfer plus search cost."""
    distances = np.full((4, 4), 5.0)
    distances[0, 1] = distances[1, 0] = 1.0
    distances[2, 3] = 0.5
    decision = plan(SequenceProblem.checked("abcd", distances, 3), communities=2)
    assert decision.chosen.path == (2, 3)
    assert decision.chosen.cost == 1.0


def test_sources_without_any_edge_are_planned_for() -> None:
    """Where no two sources are joined each is its own community, and the nearest one is taken."""
    distances = np.full((4, 4), np.nan)
    distances[:, 3] = (3, 2, 4, 0)
    decision = plan(SequenceProblem.checked("abcd", distances, 3))
    assert decision.chosen.path == (1, 3)
    assert len([candidate for candidate in decision.candidates if candidate.kind == "direct"]) == 3


def test_a_path_that_is_not_possible_gives_way() -> None:
    """A landmark without an edge to the target yields to the best direct path; max_sources 1 leaves the landmarks."""
    distances = np.ones((3, 3))
    distances[0, 2] = np.nan
    assert plan(SequenceProblem.checked("abc", distances, 2, (90, 5, 5))).chosen.path == (1, 2)
    decision = plan(two_clusters(), max_sources=1)
    assert decision.chosen.path == (0, 4) and decision.best("direct").path == (1, 4)
    assert len(plan(two_clusters(), communities=9).communities) == 4, "never more communities than sources"


def test_distances_of_zero_are_no_obstacle() -> None:
    """Copies of one dataset, at distance 0, are planned for like any others."""
    decision = plan(SequenceProblem.checked("abcdef", np.zeros((6, 6)), 5))
    assert decision.chosen.cost == 0
    assert decision.chosen.path[-1] == 5


def test_one_target_does_not_influence_the_next() -> None:
    """Nothing is kept between two targets."""
    first, second = two_clusters(), two_clusters((9, 9, 7, 6))
    for problem in (first, second, first):
        again, fresh = plan(problem), plan(problem)
        assert (again.chosen, again.candidates) == (fresh.chosen, fresh.candidates)
    assert plan(second).chosen.path == (2, 3, 4)


def test_it_obeys_constraints_and_names_what_it_cannot() -> None:
    """An avoided source is in no community; two sources of different communities are on no published path."""
    made = plan(two_clusters(), constraints=Constraints(avoid=(0,)))
    assert all(0 not in community for community in made.communities) and made.chosen.path[-1] == 4
    with pytest.raises(SequenceError, match="no path of the published strategy goes through a, c"):
        plan(two_clusters(), constraints=Constraints(must=(0, 2)))


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
    """With many copies of one task the partition is that of whole numbers, which networkx adds without rounding."""
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
