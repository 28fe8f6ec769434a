"""Measured runs joined with the affinity of their target: what calibration is computed from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.calibration.fit import TargetTransfers
from nnunet_seqtransfer.calibration.measurements import MeasuredRun, find_name
from nnunet_seqtransfer.errors import DatasetError, RecordError


@dataclass(frozen=True, eq=False)
class MeasuredTarget:
    """All that was measured for one target."""

    name: str
    "Full name of the target."
    names: tuple[str, ...]
    "Full names of its tasks, as the paths count them."
    transfers: TargetTransfers
    "Paths and their mean Dice."
    runs: tuple[int, ...]
    "(m,) runs that each mean is of."
    squares: tuple[float, ...]
    "(m,) sum of squared differences between the runs of a path and their mean."


def run_noise(targets: Sequence[MeasuredTarget]) -> float | None:
    """Standard deviation of Dice between runs of one path, pooled over all paths; None where none was run twice."""
    degrees = sum(runs - 1 for target in targets for runs in target.runs)
    return math.sqrt(sum(sum(target.squares) for target in targets) / degrees) if degrees else None


def join(
    runs: Sequence[MeasuredRun],
    affinities: Mapping[str, Affinity],
    components: Sequence[str],
    notify: Callable[[str], None],
) -> tuple[MeasuredTarget, ...]:
    """The runs by target, sorted by name; runs along one path are averaged.

    Args:
        runs: what was measured.
        affinities: by full name of the target.
        components: those that are to be weighed.
        notify: is told, a line each, which run or target is left out and why.

    Raises RecordError where an affinity lacks one of the components.
    """
    found: dict[str, dict[tuple[int, ...], list[float]]] = {}
    seen: dict[tuple[str, tuple[int, ...], str], str] = {}
    for run in runs:
        try:
            affinity = _affinity_of(run, affinities)
            path = _path(run, affinity, components)
            if run.seed and (first := seen.setdefault((affinity.target, path, run.seed), run.place)) != run.place:
                raise DatasetError(f"seed {run.seed} of this path is in {first} already")
        except DatasetError as error:
            notify(f"left out: {run.place}: {error}")
            continue
        found.setdefault(affinity.target, {}).setdefault(path, []).append(run.dice)
    targets = []
    for target, measured in sorted(found.items()):
        if len(measured) == 1:
            notify(f"left out: {target}: one measured path alone says nothing about which is better")
        else:
            targets.append(_measured_target(affinities[target], measured, components))
    return tuple(targets)


def _affinity_of(run: MeasuredRun, affinities: Mapping[str, Affinity]) -> Affinity:
    if math.isnan(run.dice):
        raise DatasetError("it has no Dice")
    try:
        return affinities[find_name(run.target, tuple(affinities))]
    except DatasetError:
        raise DatasetError(
            f"there is no affinity of target {run.target!r}; run nnUNetv2_seq_affinity -t {run.target}"
        ) from None


def _path(run: MeasuredRun, affinity: Affinity, components: Sequence[str]) -> tuple[int, ...]:
    """The run's path as indices of the affinity's tasks. Raises DatasetError where it is none, or has no distance."""
    try:
        names = [find_name(source, affinity.names) for source in run.sources]
    except DatasetError as error:
        raise DatasetError(
            f"{error} in the affinity of {affinity.target}; correct it, or add it to the affinity"
        ) from None
    if names and names[-1] == affinity.target:
        names.pop()
    if affinity.target in names:
        raise DatasetError(f"its path goes through its own target {affinity.target}")
    if len(set(names)) < len(names):
        raise DatasetError("its path goes through one dataset twice")
    path = tuple(affinity.names.index(name) for name in (*names, affinity.target))
    for i, j in pairwise(path):
        if not all(
            math.isfinite(affinity.components[name][i][j]) for name in components if name in affinity.components
        ):
            raise DatasetError(f"there is no distance from {affinity.names[i]} to {affinity.names[j]}")
    return path


def _measured_target(
    affinity: Affinity, measured: Mapping[tuple[int, ...], list[float]], components: Sequence[str]
) -> MeasuredTarget:
    lacking = [name for name in components if name not in affinity.components]
    if lacking:
        raise RecordError(
            f"the affinity of {affinity.target} has no component {lacking[0]} of the metric {affinity.metric}; "
            "run nnUNetv2_seq_affinity again"
        )
    # In an order of their own, so that the order of a table's rows changes nothing.
    paths = sorted(measured, key=lambda path: (len(path), [affinity.names[task] for task in path]))
    dice = [np.array(measured[path]) for path in paths]
    transfers = TargetTransfers(
        components={name: np.asarray(affinity.components[name], dtype=np.float64) for name in components},
        counts=np.array([task.labelled_cases for task in affinity.tasks], dtype=np.int64),
        paths=tuple(paths),
        dice=np.array([values.mean() for values in dice]),
    )
    return MeasuredTarget(
        name=affinity.target,
        names=affinity.names,
        transfers=transfers,
        runs=tuple(len(values) for values in dice),
        squares=tuple(float(((values - values.mean()) ** 2).sum()) for values in dice),
    )
