"""The exact search against brute force, with and without constraints, and on a thousand tasks."""

import math
import subprocess
import sys
from fractions import Fraction
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.exact import ExactPlanner
from nnunet_seqtransfer.planning.problem import Candidate, Constraints, SequenceProblem
from nnunet_seqtransfer.planning.search import PathCosts, best_direct, cheapest_paths


def every_path(graph: PathCosts, max_sources: int, constraints: Constraints) -> list[Candidate]:
    """All simple paths with at most ``max_sources`` sources that exist and are allowed, in no order."""
    sources = [task for task in range(len(graph.start)) if task != graph.target]
    found = []
    for length in range(max_sources + 1):
        for chosen in permutations(sources, length):
            path = (*chosen, graph.target)
            done = [chosen[: k + 1] in constraints.finished for k in range(length)]
            hops = tuple(
                float(graph.hop[i, j]) + (0.0 if finished else float(graph.stage[i]))
                for (i, j), finished in zip(pairwise(path), done, strict=True)
            )
            prices = constraints.prices or (0.0,) * len(graph.start)
            # Exact fractions, cut to 9 digits at the end: 0.1 + 0.2 is within a budget of 0.3.
            price = sum(Fraction(prices[i]) for i, finished in zip(path, [*done, False], strict=True) if not finished)
            within = constraints.budget == math.inf or round(price, 9) <= round(Fraction(constraints.budget), 9)
            if within and set(constraints.must) <= set(chosen) and all(np.isfinite([graph.start[path[0]], *hops])):
                found.append(Candidate(path, float(graph.start[path[0]]), hops))
    return found


def random_graph(rng: np.random.Generator) -> tuple[PathCosts, int, int]:
    """Costs of 1 to 8 tasks, most sources, top; many ties, zeros and missing edges; asymmetric."""
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
    stage = np.full(n, rng.choice([0.0, 0.1, 1.0]))
    return PathCosts(start, hop, stage, int(rng.integers(n)), names), max_sources, top


def random_constraints(rng: np.random.Generator, target: int, n: int, max_sources: int) -> Constraints:
    """Each kind that the search keeps, alone and together: sources to go through, a budget, finished stages."""
    sources = [task for task in range(n) if task != target]
    must = rng.permutation(sources)[: rng.choice([0, 0, 1, 2, 3])].tolist() if rng.random() < 0.6 else []
    budget, prices = math.inf, None
    if rng.random() < 0.6:
        prices = tuple((rng.integers(0, 4, n) / rng.choice([1, 10])).tolist() if rng.random() < 0.7 else rng.random(n))
        budget = float(prices[target] + rng.choice([0.0, 0.3, 0.9, 2.0, 4.0]))
    beginnings = [rng.permutation(sources)[: rng.integers(1, 5)] for _ in range(rng.choice([0, 0, 1, 3]))]
    finished = {tuple(path[: k + 1].tolist()) for path in beginnings for k in range(len(path)) if rng.random() < 0.8}
    return Constraints(tuple(must), budget=budget, prices=prices, finished=frozenset(finished))


def names_of(paths: list[Candidate] | tuple[Candidate, ...]) -> list[tuple[int, ...]]:
    return [path.path for path in paths]


@pytest.mark.parametrize("constrained", [False, True])
@pytest.mark.parametrize("block", range(10))
def test_the_search_equals_brute_force(block: int, constrained: bool) -> None:
    """On 2000 random instances, ties included, the first paths and their order are those of full enumeration."""
    for seed in range(block * 100, block * 100 + 100):
        rng = np.random.default_rng((seed, constrained))
        graph, max_sources, top = random_graph(rng)
        n = len(graph.start)
        constraints = random_constraints(rng, graph.target, n, max_sources) if constrained else Constraints()
        expected = sorted(every_path(graph, max_sources, constraints), key=lambda path: path.order(graph.names))[:top]
        found = cheapest_paths(graph, max_sources=max_sources, top=top, constraints=constraints)
        assert names_of(found) == names_of(expected), seed
        assert list(found) == expected, seed


def test_the_random_constraints_bind() -> None:
    """Of the instances above many lose paths to a constraint and keep some: the comparison is worth something."""
    binding = 0
    for seed in range(300):
        rng = np.random.default_rng((seed, True))
        graph, max_sources, _ = random_graph(rng)
        constraints = random_constraints(rng, graph.target, len(graph.start), max_sources)
        some, all_of_them = (len(every_path(graph, max_sources, given)) for given in (constraints, Constraints()))
        binding += 0 < some < all_of_them
    assert binding > 60


@pytest.mark.parametrize("block", range(4))
def test_the_planner_equals_brute_force(block: int) -> None:
    """From distances, case counts and all constraints together to the same list, or to an error where it is empty."""
    for seed in range(block * 100, block * 100 + 100):
        rng = np.random.default_rng((seed, 7))
        n, max_sources, top = int(rng.integers(2, 9)), int(rng.integers(1, 5)), int(rng.integers(1, 12))
        distances = rng.integers(0, 5, (n, n)) / 2
        distances[rng.random((n, n)) < rng.choice([0.0, 0.3])] = np.nan
        counts, target = rng.choice([1, 4, 16, 100], n).tolist(), int(rng.integers(n))
        problem = SequenceProblem.checked([f"{i}" for i in rng.permutation(n)], distances, target, counts)
        given = random_constraints(rng, target, n, max_sources)
        avoid = tuple(task for task in problem.sources if task not in given.must and rng.random() < 0.2)
        small = int(rng.choice([0, 0, 4, 16]))
        constraints = Constraints(given.must, avoid, small, given.budget, given.prices, given.finished)
        if len(given.must) > max_sources or set(avoid) == set(problem.sources):
            continue
        model = CostModel(stage_cost=float(rng.choice([0.0, 0.25])))
        start = np.array([2.5 * count**-0.5 for count in counts])
        costs = PathCosts(start, distances**2, np.full(n, model.stage_cost), target, problem.names)
        allowed = [
            path
            for path in every_path(costs, max_sources, constraints)
            if not set(path.path) & set(avoid) and (path.kind == "scratch" or counts[path.path[0]] >= small)
        ]
        expected = names_of(sorted(allowed, key=lambda path: path.order(problem.names)))
        if not expected:
            with pytest.raises(SequenceError, match=r"budget|through"):
                ExactPlanner(model).plan(problem, max_sources, top, constraints)
            continue
        decision = ExactPlanner(model).plan(problem, max_sources, top, constraints)
        assert decision.chosen.path == expected[0], seed
        found = [path for path in names_of(decision.candidates) if path not in decision.ruled_out]
        assert found[:top] == expected[:top], seed
        assert set(found) <= set(expected), seed


def test_the_best_direct_path_equals_brute_force() -> None:
    """The direct path reported is the first one of length two, and None where no source reaches the target."""
    for seed in range(300):
        graph, *_ = random_graph(np.random.default_rng(seed))
        direct = [path for path in every_path(graph, 1, Constraints()) if path.kind == "direct"]
        expected = min(direct, key=lambda path: path.order(graph.names), default=None)
        assert best_direct(graph) == expected, seed


def thousand(kind: str, n: int = 1000) -> PathCosts:
    """Costs of ``n`` tasks: hostile to a search in one way each."""
    rng = np.random.default_rng(0)
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
    return PathCosts(np.zeros(n), hop, np.zeros(n), 0, tuple(f"{i:04}" for i in range(n)))


KINDS = ["random", "points", "few values", "all equal", "all zero", "one cheap last hop"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_tasks_are_searched(kind: str) -> None:
    """Up to three sources among 1000 tasks: ten paths come back, cheapest first, none beaten by any of one source."""
    graph = thousand(kind)
    found = cheapest_paths(graph, max_sources=3, top=10)
    assert len(set(found)) == 10
    assert list(found) == sorted(found, key=lambda path: path.order(graph.names))
    direct = [graph.candidate((source, 0), Constraints()) for source in range(1, 1000)]
    better = {path for path in direct if path.order(graph.names) < found[-1].order(graph.names)}
    assert better <= set(found)
    assert all(path.hop_costs == tuple(float(graph.hop[i, j]) for i, j in pairwise(path.path)) for path in found)


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_tasks_are_searched_under_constraints(kind: str) -> None:
    """The same with a source to go through, a budget that binds, and finished stages: all ten obey, in order."""
    graph, rng = thousand(kind), np.random.default_rng(1)
    prices = tuple(rng.uniform(1, 10, 1000).tolist())
    finished = frozenset((source,) for source in rng.permutation(np.arange(1, 1000))[:50].tolist())
    constraints = Constraints((17,), budget=prices[0] + prices[17] + 3.0, prices=prices, finished=finished)
    found = cheapest_paths(graph, max_sources=3, top=10, constraints=constraints)
    assert len(set(found)) == 10
    assert list(found) == sorted(found, key=lambda path: path.order(graph.names))
    assert all(17 in path.path and constraints.price(path.path) <= constraints.budget for path in found)


CHILD = """
import numpy as np
from nnunet_seqtransfer import plan_sequence
rng = np.random.default_rng(0)
points = rng.normal(size=(1001, 4))
distances = np.linalg.norm(points[:, None] - points[None], axis=2)
counts = rng.integers(5, 500, 1001).tolist()
decision = plan_sequence(distances, 0, max_sources=3, case_counts=counts, top=10)
# Not getrusage: its maximum begins with what the parent process had.
peak = next(line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(len(decision.candidates), peak)
"""


@pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="peak memory is read from Linux's /proc")
def test_a_thousand_sources_need_less_than_a_gigabyte() -> None:
    """1000 sources, up to three of them, ten candidates, the interpreter and imports included."""
    run = subprocess.run([sys.executable, "-c", CHILD], check=True, capture_output=True, text=True, cwd="/")
    candidates, kibibytes = run.stdout.split()
    assert int(candidates) >= 10
    assert int(kibibytes) < 1024**2
