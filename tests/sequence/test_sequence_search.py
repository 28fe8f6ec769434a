"""The exact search against brute force, and on a thousand tasks."""

from itertools import pairwise, permutations

import numpy as np
import pytest

from nnunet_seqtransfer.sequence.problem import Candidate
from nnunet_seqtransfer.sequence.search import best_direct, cheapest_paths


def every_path(start: np.ndarray, hop: np.ndarray, target: int, max_sources: int) -> list[Candidate]:
    """All simple paths with at most ``max_sources`` sources and a finite cost, in no order."""
    sources = [task for task in range(len(start)) if task != target]
    found = []
    for length in range(max_sources + 1):
        for chosen in permutations(sources, length):
            path = (*chosen, target)
            hops = tuple(float(hop[i, j]) for i, j in pairwise(path))
            if all(np.isfinite(hops)):
                found.append(Candidate(path, float(start[path[0]]), hops))
    return found


def random_instance(seed: int) -> tuple:
    """Seeded start and hop costs, target, names, most sources and top; many ties, zeros and missing edges."""
    rng = np.random.default_rng(seed)
    n, max_sources, top = int(rng.integers(1, 9)), int(rng.integers(0, 5)), int(rng.integers(1, 15))
    if rng.random() < 0.6:
        start, hop = rng.integers(0, 4, n) * 1.0, rng.integers(0, 5, (n, n)) * 1.0
    elif rng.random() < 0.5:
        # Tenths: sums that are equal on paper and differ in their last bit.
        start, hop = rng.integers(0, 5, n) / 10, rng.integers(0, 8, (n, n)) / 10
    else:
        start, hop = rng.random(n), rng.random((n, n))
    hop[rng.random((n, n)) < rng.choice([0.0, 0.2, 0.6])] = np.inf
    names = tuple(f"task {number}" for number in rng.permutation(n))
    return start, hop, int(rng.integers(n)), names, max_sources, top


@pytest.mark.parametrize("block", range(12))
def test_the_search_equals_brute_force(block: int) -> None:
    """On 1200 random instances, ties included, the first paths and their order are those of full enumeration."""
    for seed in range(block * 100, block * 100 + 100):
        start, hop, target, names, max_sources, top = random_instance(seed)
        expected = sorted(every_path(start, hop, target, max_sources), key=lambda path: path.order(names))[:top]
        found = cheapest_paths(start, hop, target, names, max_sources=max_sources, top=top)
        assert list(found) == expected, seed


def test_the_best_direct_path_equals_brute_force() -> None:
    """The direct path reported is the first one of length two, and None where no source reaches the target."""
    for seed in range(300):
        start, hop, target, names, *_ = random_instance(seed)
        direct = [path for path in every_path(start, hop, target, 1) if path.kind == "direct"]
        expected = min(direct, key=lambda path: path.order(names), default=None)
        assert best_direct(start, hop, target, names) == expected, seed


@pytest.mark.parametrize("kind", ["random", "points", "few values", "all equal", "all zero", "one cheap last hop"])
def test_a_thousand_tasks_are_searched(kind: str) -> None:
    """Up to three sources among 1000 tasks: ten paths come back, cheapest first, none beaten by any of one source."""
    rng, n = np.random.default_rng(0), 1000
    points = rng.normal(size=(n, 4))
    hub = np.zeros((n, n))
    hub[:, 0], hub[n // 2, 0] = 5.0, 0.0
    hop = {
        "random": rng.random((n, n)),
        "points": np.linalg.norm(points[:, None] - points[None], axis=2),
        "few values": rng.integers(0, 4, (n, n)) * 1.0,
        "all equal": np.ones((n, n)),
        "all zero": np.zeros((n, n)),
        "one cheap last hop": hub,
    }[kind]
    names = tuple(f"{i:04}" for i in range(n))
    found = cheapest_paths(np.zeros(n), hop, 0, names, max_sources=3, top=10)
    assert len(set(found)) == 10
    assert list(found) == sorted(found, key=lambda path: path.order(names))
    direct = [Candidate((source, 0), 0.0, (float(hop[source, 0]),)) for source in range(1, n)]
    better = {path for path in direct if path.order(names) < found[-1].order(names)}
    assert better <= set(found)
    assert all(path.hop_costs == tuple(float(hop[i, j]) for i, j in pairwise(path.path)) for path in found)
