"""Time and memory of planning: the expected gain of 10 to 1000 sources, the published strategy at the published size.

    python benchmarks/planning_speed.py [--without_networkx]

Each line is measured in a process of its own: the seconds are those of the plan alone, the memory is the peak of the
whole process, imports included. The published strategy is compared with networkx's Girvan-Newman down to nine
communities on the same graph, the authors' way (betweenness without distances, computed anew for each edge), which
takes half a minute.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice

import numpy as np

from nnunet_seqtransfer.planning.decide import decide
from nnunet_seqtransfer.planning.gain import GainModel
from nnunet_seqtransfer.planning.measured import shipped_table
from nnunet_seqtransfer.planning.paths import Request
from nnunet_seqtransfer.planning.problem import Constraints, SequenceProblem
from nnunet_seqtransfer.planning.published import source_graph

SIZES = (10, 30, 100, 300, 1000)
COMMUNITIES = 9


def archive(sources: int) -> SequenceProblem:
    """A target of 6 cases and sources of few kinds (7 centres, 4 modalities, 3 labels, as published)."""
    rng = np.random.default_rng(0)
    kinds = [(i // 12 % 7, i // 3 % 4, i % 3) for i in range(sources)]
    parts = [rng.normal(0, spread, (number, 5)) for number, spread in ((7, 0.3), (4, 1.0), (3, 0.6))]
    points = [sum(part[i] for part, i in zip(parts, kind, strict=True)) + rng.normal(0, 0.1, 5) for kind in kinds]
    places = np.array([*points, rng.normal(0, 1, 5)])
    return SequenceProblem.checked(
        [f"Dataset{i:04}" for i in range(sources + 1)],
        np.linalg.norm(places[:, None] - places, axis=2),
        sources,
        [*rng.integers(5, 500, sources).tolist(), 6],
        channels=[(f"modality {kind[1]}",) for kind in [*kinds, (0, 0, 0)]],
        labels=[(f"label {kind[2]}",) for kind in [*kinds, (0, 0, 0)]],
    )


def constrained(problem: SequenceProblem) -> Constraints:
    """One source to go through, one to avoid, 50 cases for the first, finished stages, and a budget that binds."""
    finished = frozenset((source,) for source in problem.sources[::20])
    return Constraints((3,), (5,), 50, budget=2.0, source_price=1.0, target_price=1.0, finished=finished)


def measure(what: str, sources: int) -> tuple[float, int]:
    """(seconds, peak bytes) of one piece of work, in this process; the table of measured transfers is read before."""
    problem, rows = archive(sources), shipped_table().rows
    begin = time.perf_counter()
    if what != "networkx":
        request = Request(problem, GainModel(rows, "", [problem.evidence[source] for source in problem.sources]))
    if what == "gain":
        assert len(decide(request, "gain").candidates) >= 10
    elif what == "constrained":
        assert decide(replace(request, constraints=constrained(problem)), "gain").chosen
    elif what == "published":
        made = decide(replace(request, communities=COMMUNITIES), "published")
        assert len(made.communities) == COMMUNITIES
    else:
        import networkx as nx  # noqa: PLC0415 - only here, so that it is not in the others' memory

        graph = source_graph(problem)
        begin = time.perf_counter()
        splits = nx.community.girvan_newman(graph)
        parts = next(islice((split for split in splits if len(split) >= COMMUNITIES), 1))
        print(f"sizes of its communities: {sorted(map(len, parts))}", file=sys.stderr)
    return time.perf_counter() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def apart(what: str, sources: int) -> tuple[float, float]:
    """(seconds, peak GiB), measured in a process of its own."""
    command = [sys.executable, __file__, "--measure", what, "--sources", str(sources)]
    seconds, memory = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd="/").stdout)
    return seconds, memory / 2**30


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--without_networkx", action="store_true")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    parser.add_argument("--sources", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        print(json.dumps(measure(options.measure, options.sources)))
        return
    print("gain, at most 2 sources, the 10 best\n")
    print("| sources | plan | with constraints | peak of the plan |\n| --- | --- | --- | --- |")
    for sources in SIZES:
        cells = [apart(what, sources) for what in ("gain", "constrained")]
        print(f"| {sources} | {' | '.join(f'{seconds:.3f} s' for seconds, _ in cells)} | {cells[0][1]:.2f} GiB |")
    seconds, memory = apart("published", 84)
    print(f"\npublished, 84 sources, {COMMUNITIES} communities: {seconds:.2f} s, {memory:.2f} GiB")
    if not options.without_networkx:
        seconds, memory = apart("networkx", 84)
        print(f"networkx's girvan_newman alone on the same graph: {seconds:.2f} s, {memory:.2f} GiB")


if __name__ == "__main__":
    main()
