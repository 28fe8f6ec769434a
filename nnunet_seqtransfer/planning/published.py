"""The published strategy, repaired: communities of sources, a landmark each, then one intermediate before the target.

What differs from the published scripts is marked "Repair" where it happens: the edge rule applies, distances shape the
communities, communities of one source still yield a path, and nothing is kept between two targets (all functions here
are pure). Scratch and direct transfer are listed for comparison, but, as published, do not compete.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

import networkx as nx
import numpy as np

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.betweenness import MostBetween
from nnunet_seqtransfer.planning.constraints import broken
from nnunet_seqtransfer.planning.exact import check_request, decision, in_order
from nnunet_seqtransfer.planning.problem import (
    UNCONSTRAINED,
    Candidate,
    Constraints,
    Decision,
    SequenceProblem,
    rounded,
)

MOST_COMMUNITIES = 9
"""The published number, for 84 sources."""

MOST_SOURCES = 300
"""Most sources that are split into communities: that takes time and memory with the cube of their number."""

Community = tuple[int, ...]


@dataclass(frozen=True)
class PublishedPlanner:
    """The published strategy, repaired: landmark -> member of its community -> target.

    Scratch and the best direct path are listed for comparison only; they are chosen where no published path is left.
    """

    communities: int | None = None
    """Number of communities, or None for `default_communities`."""

    def plan(
        self, problem: SequenceProblem, max_sources: int, top: int, constraints: Constraints = UNCONSTRAINED
    ) -> Decision:
        """The cheapest published path; with one source allowed, the cheapest landmark, directly.

        Constraints: a task to be avoided is no source, and a landmark has the cases asked for. Of the paths that this
        leaves, those that miss a source in ``must`` or break the budget are left out.
        """
        check_request(problem, max_sources, top, constraints)
        scratch = priced(problem, (problem.target,))
        if max_sources == 0:
            return decision(scratch, (scratch,), "published", (), problem, constraints)
        sources = tuple(task for task in problem.sources if task not in constraints.avoid)
        graph = source_graph(problem, sources)
        wanted = default_communities(len(sources)) if self.communities is None else self.communities
        communities = find_communities(problem, graph, wanted)
        direct = _finite((priced(problem, (source, problem.target)) for source in sources), problem)
        paths: list[Candidate] = []
        for community in communities:
            paths.extend(_paths(problem, graph, community, max_sources, constraints.landmark_cases))
        published, other = (
            [path for path in some if broken(constraints, problem, path.path) is None]
            for some in (_finite(paths, problem), (*direct, scratch))
        )
        if not published and not other:
            raise _no_path(constraints, problem)
        notes = [f"{len(sources)} sources fell into {len(communities)} communities."]
        if not published and other[0] != scratch:
            notes.append("No landmark's path is left that reaches the target, so the best direct path is taken.")
        listed = (*published[:top], *direct[:1], *other[:1], scratch)
        made = decision((*published, *other)[0], listed, "published", tuple(notes), problem, constraints)
        return replace(made, communities=communities)


def default_communities(sources: int) -> int:
    """How many communities ``sources`` tasks are split into: half as many, at least 1, at most the published 9.

    Repair: always splitting into 9 leaves up to 9 sources alone in their communities, and so without an intermediate.
    """
    return min(MOST_COMMUNITIES, max(1, sources // 2))


def source_graph(problem: SequenceProblem, sources: Iterable[int] | None = None) -> Any:
    """Undirected networkx graph over ``sources``, by default all; edges carry ``distance``.

    Two tasks are joined unless both channels and labels differ. Repair: the scripts wrote "Unconnected" and tested for
    "unconnected", so that the rule never applied. With several channels or labels "the same" means that at least one
    name is shared, upper and lower case, spaces and punctuation aside; where channels or labels are unknown all tasks
    are joined.

    The graph has no direction, distances may: an edge's distance is the mean of both ways, and tasks are joined only
    where both are known. Tasks are added in the order of their names, so that relabelling them changes nothing.
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
    """Girvan-Newman communities: the edge that separates most is cut until ``wanted`` parts are left.

    Repair: the scripts left the distances out of the betweenness (see `MostBetween`). There are more parts where the
    graph already falls into more, and never more than there are sources. Each community and the communities themselves
    are in the order of names.
    """
    if wanted < 1:
        raise SequenceError(f"{wanted} communities were asked for; give 1 or more")
    if len(graph) > MOST_SOURCES:
        raise SequenceError(
            f"{len(graph)} sources are too many for the published strategy, which is made for tens of them; "
            f"leave out all but {MOST_SOURCES}, or choose the exact strategy"
        )
    parts: list[set[int]] = list(nx.connected_components(graph))
    if len(parts) < min(wanted, len(graph)):
        splits = nx.community.girvan_newman(graph, most_valuable_edge=MostBetween(graph))
        parts = list(next(split for split in splits if len(split) >= min(wanted, len(graph))))
    named = (tuple(sorted(part, key=problem.names.__getitem__)) for part in parts)
    return tuple(sorted(named, key=lambda part: problem.names[part[0]]))


def landmark(problem: SequenceProblem, graph: Any, community: Community, able: Community | None = None) -> int:
    """The member with the smallest sum of distance / (n_a + n_b) over its edges inside the community.

    Only members in ``able`` are asked, by default all.
    n are the numbers of cases, so that larger datasets win; where they are unknown every task counts as one case.
    Edges are those of ``graph``, also where Girvan-Newman cut them on its way.
    """
    counts = problem.case_counts or (1,) * len(problem.names)

    def score(task: int) -> tuple[float, str]:
        inside = (other for other in community if graph.has_edge(task, other))
        total = sum(graph.edges[task, other]["distance"] / (counts[task] + counts[other]) for other in inside)
        return float(rounded(total)), problem.names[task]

    return min(community if able is None else able, key=score)


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


def _paths(
    problem: SequenceProblem, graph: Any, community: Community, max_sources: int, landmark_cases: int
) -> Iterator[Candidate]:
    """The paths of one community from its landmark; none where no member has enough cases."""
    able = tuple(
        task for task in community if problem.case_counts is None or problem.case_counts[task] >= landmark_cases
    )
    if able:
        start = landmark(problem, graph, community, able)
        yield from community_paths(problem, start, community if max_sources > 1 else (start,))


def _finite(candidates: Iterable[Candidate], problem: SequenceProblem) -> tuple[Candidate, ...]:
    """Those whose distances are all known, cheapest first."""
    return in_order((candidate for candidate in candidates if candidate.cost < float("inf")), problem)


def _no_path(constraints: Constraints, problem: SequenceProblem) -> SequenceError:
    through = ", ".join(sorted(problem.names[task] for task in set(constraints.must)))
    return SequenceError(
        f"no path of the published strategy goes through {through} and meets the other constraints: its paths are a "
        "landmark and one more of its community; choose the exact strategy, or leave a source out of must"
    )


def _spellings(names: Sequence[Sequence[str]] | None, task: int) -> set[str]:
    """The names of a task's channels or labels, each reduced to its letters and digits, so that spelling is no matter.

    A name of other characters only stays as it is.
    """
    plain = (unicodedata.normalize("NFKC", name).casefold() for name in (names[task] if names else ()))
    return {"".join(letter for letter in name if letter.isalnum()) or name for name in plain}
