"""Measured transfers for tests: made-up targets whose gains follow a known rule, and tables of them as users write."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.record import Affinity, affinity_path, write_affinity
from nnunet_seqtransfer.planning.measured import MeasuredSource, MeasuredTransfer
from support.archives import CONFIGURATION, METRIC, PLANS, make_affinity
from support.world import World

TARGET = "Dataset900_Target"
COMPONENTS = ("image", "contrast", "label")
SOURCES = tuple(f"Dataset{100 + k}_Source" for k in range(6))


def measured_rows(
    seed: int = 0, targets: int = 6, sources: int = 8, noise: float = 0.02, own: bool = False
) -> list[MeasuredTransfer]:
    """Gains of 0.25 - 0.2 x distance - 0.3 x scratch; of pairs, 0.6 of the last and 0.3 of the first alone."""
    rng = np.random.default_rng(seed)
    rows = []
    for number in range(targets):
        target, scratch = f"T{seed}_{number}", float(rng.uniform(0.2, 0.7))
        gains, found = {}, {}
        for place in range(sources):
            distance = float(rng.uniform(0, 1.5))
            names = [float(match) for match in rng.integers(0, 2, 2)]
            found[f"S{place}"] = MeasuredSource({METRIC: dict.fromkeys(COMPONENTS, distance)}, *names, None, 20)
            gains[f"S{place}"] = 0.25 - 0.2 * distance - 0.3 * scratch + float(rng.normal(0, noise))
        paths = [(name,) for name in found] + [(f"S{k}", f"S{k + 1}") for k in range(sources - 1)]
        for path in paths:
            gain = gains[path[0]] if len(path) == 1 else 0.6 * gains[path[1]] + 0.3 * gains[path[0]]
            dice = float(np.clip(scratch + gain, 0, 1))
            rows.append(
                MeasuredTransfer(target, path, tuple(found[name] for name in path), scratch, dice, 200, own=own)
            )
        rows.append(MeasuredTransfer(target, (), (), scratch, min(1.0, scratch + 0.4 * (1 - scratch)), 200, 7.0))
    return rows


def target_affinity(target: str = TARGET, distances: Sequence[float] = (0.1, 0.3, 0.5, 0.7, 0.9, 1.1)) -> Affinity:
    """An affinity of `SOURCES` at these distances from a target."""
    names = (*SOURCES, target)
    points = np.array([[distance, 0.0] for distance in distances] + [[0.0, 0.0]])
    return make_affinity(names, points, dict.fromkeys(names, 20))


ROWS: tuple[tuple[str, str, float], ...] = (
    ("scratch", "900", 0.5),
    ("100", "900", 0.7),
    ("101", "900", 0.66),
    ("102", "900", 0.6),
    ("103 -> 100", "900", 0.64),
)
"""(path, target, Dice) as a user writes them: by numbers."""


def write_rows(path: Path, rows: Sequence[Sequence[object]], header: str = "path,target,dice") -> Path:
    """A CSV of measurements."""
    path.write_text("\n".join([header, *(",".join(str(cell) for cell in row) for row in rows)]) + "\n")
    return path


def measured_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world of empty datasets with the affinity of one target and a table of measured paths, measurements.csv."""
    world = World(tmp_path / "world")
    for folder in (world.raw, world.preprocessed, world.results):
        folder.mkdir(parents=True)
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    for name in (*SOURCES, TARGET):
        (world.raw / name).mkdir()
    write_affinity(affinity_path(TARGET, PLANS, CONFIGURATION, METRIC), target_affinity())
    write_rows(world.root / "measurements.csv", ROWS)
    return world
