"""Measured transfers for tests: random tasks, Dice that follows a known cost, and the records and tables of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.base import Counterparts
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.record import Affinity, TaskEntry, affinity_path, write_affinity
from nnunet_seqtransfer.calibration.calibrate import MetricEntry
from nnunet_seqtransfer.calibration.fit import Exponents, TargetTransfers
from nnunet_seqtransfer.calibration.transfers import MeasuredTarget
from support.world import World

NAMES = ("image", "contrast", "label", "geometry")
DEFAULT = Combination(dict.fromkeys(NAMES, 1.0), 2.0)
METRIC = MetricEntry("descriptors", 2, DEFAULT)
TRUE = np.array([2.5, 1.0, 2.0, 0.0, 0.3, 0.0])
"""Start, a weight for each component, stage: what Dice follows."""


def random_tasks(rng: np.random.Generator, tasks: int = 8) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Symmetric components of (tasks, tasks) with a diagonal of 0, and counts; the last task is small."""
    halves = {name: np.triu(rng.gamma(3.0, 0.3, (tasks, tasks)), 1) for name in NAMES}
    tables = {name: half + half.T for name, half in halves.items()}
    counts = rng.integers(5, 200, tasks)
    counts[-1] = 8
    return tables, counts


def all_short_paths(tasks: int, most: int) -> tuple[tuple[int, ...], ...]:
    """Scratch, every direct path, then sequences, to the last task."""
    target, sources = tasks - 1, range(tasks - 1)
    sequences = [(i, j, target) for i in sources for j in sources if i != j]
    return ((target,), *((i, target) for i in sources), *sequences[:: max(1, len(sequences) // max(1, most - tasks))])[
        :most
    ]


def random_target(
    rng: np.random.Generator, number: int = 900, paths: int = 16, noise: float = 0.0, follow: float = 0.03
) -> MeasuredTarget:
    """A target whose Dice is a level of its own, minus ``follow`` times the true cost, and noise."""
    components, counts = random_tasks(rng)
    routes = all_short_paths(len(counts), paths)
    silent = TargetTransfers(components, counts, routes, np.zeros(len(routes)))
    cost = silent.features(NAMES, Exponents()) @ TRUE
    dice = rng.normal(0.6, 0.1) - follow * cost + rng.normal(0, 1, len(routes)) * noise
    names = (*(f"Dataset{100 + i}_Source" for i in range(len(counts) - 1)), f"Dataset{number}_Target")
    ones, zeros = (1,) * len(routes), (0.0,) * len(routes)
    return MeasuredTarget(names[-1], names, TargetTransfers(components, counts, routes, dice), ones, zeros)


def random_targets(
    seed: int, count: int, paths: int = 16, noise: float = 0.0, follow: float = 0.03
) -> tuple[MeasuredTarget, ...]:
    """Several of them."""
    rng = np.random.default_rng(seed)
    return tuple(random_target(rng, 900 + number, paths, noise, follow) for number in range(count))


def affinity_of(target: MeasuredTarget, metric: str = "descriptors", weights: Combination = DEFAULT) -> Affinity:
    """The affinity record of a target's tasks."""
    transfers = target.transfers
    tasks = tuple(
        TaskEntry(name, ("MRI",), ("organ",), int(count), ("case",), "0")
        for name, count in zip(target.names, transfers.counts, strict=True)
    )
    sources = len(tasks) - 1
    return Affinity(
        target=target.name,
        plans="nnUNetPlans",
        configuration="3d_fullres",
        metric=metric,
        combination=weights,
        calibration=None,
        seed=0,
        cases=10,
        tasks=tasks,
        distances=table(weights.distances(transfers.components)),
        components={name: table(values) for name, values in transfers.components.items()},
        counterparts=(Counterparts(),) * sources,
        low=(0.0,) * sources,
        high=(1.0,) * sources,
        indistinct=(False,) * (sources - 1),
    )


def table(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    return tuple(tuple(float(value) for value in row) for row in values)


def rows_of(target: MeasuredTarget) -> list[tuple[str, str, float]]:
    """(path, target, Dice) of each measurement, as a user writes them: by numbers."""
    numbers = [name[7:10] for name in target.names]
    return [
        (" -> ".join(numbers[task] for task in path[:-1]) or "scratch", numbers[-1], float(dice))
        for path, dice in zip(target.transfers.paths, target.transfers.dice, strict=True)
    ]


def write_table(path: Path, rows: Sequence[Sequence[object]], header: str = "path,target,dice") -> Path:
    """A CSV of measurements."""
    path.write_text("\n".join([header, *(",".join(str(cell) for cell in row) for row in rows)]) + "\n")
    return path


def measured_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[World, MeasuredTarget]:
    """A world of empty datasets with the affinity of one target and a table of 30 measured paths, measurements.csv."""
    world = World(tmp_path / "world")
    for folder in (world.raw, world.preprocessed, world.results):
        folder.mkdir(parents=True)
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    (target,) = random_targets(seed=4, count=1, paths=30, noise=0.01)
    for name in target.names:
        (world.raw / name).mkdir()
    path = affinity_path(target.name, "nnUNetPlans", "3d_fullres", "descriptors")
    write_affinity(path, affinity_of(target))
    write_table(world.root / "measurements.csv", rows_of(target))
    return world, target
