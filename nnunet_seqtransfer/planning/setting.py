"""Everything that a plan depends on: the tasks that can be trained on, the costs, the constraints and the resamples."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.record import Affinity, read_resamples
from nnunet_seqtransfer.calibration.record import Calibration
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.options import (
    STRATEGIES,
    PlanOptions,
    cost_model,
    plan_constraints,
    prices,
    to_train,
)
from nnunet_seqtransfer.planning.prices import EpochTime, Finished
from nnunet_seqtransfer.planning.problem import Constraints, SequenceProblem


@dataclass(frozen=True, eq=False)
class Setting:
    """Everything that a decision depends on, ready for the planners."""

    affinity: Affinity
    "What was measured."
    affinity_file: Path
    "Where that is kept; its resamples lie beside it."
    options: PlanOptions
    "What was asked for."
    calibration: Calibration | None
    "Where the constants come from; None for guesses or given ones."
    problem: SequenceProblem
    "The tasks that can be trained on."
    model: CostModel
    "The scale of the costs."
    constraints: Constraints
    "The constraints by index."
    epoch: EpochTime
    "How long an epoch takes."
    finished: Finished
    "What is trained already."
    resamples: NDArray[np.floating] | None = field(repr=False)
    "(B, n, n) distances of the problem's tasks, NaN where a pair was not resampled; None where there are none."
    left_out: tuple[str, ...]
    "Tasks of the affinity that cannot be trained on here."


def prepare(
    affinity: Affinity,
    affinity_file: Path,
    options: PlanOptions,
    calibration: Calibration | None = None,
    *,
    epoch: EpochTime,
    finished: Finished,
) -> Setting:
    """The setting for an affinity. Raises SequenceError where nothing can be planned on it as asked."""
    if options.strategy not in STRATEGIES:
        raise SequenceError(f"unknown strategy {options.strategy!r}; choose one of {', '.join(STRATEGIES)}")
    kept = [place for place, task in enumerate(affinity.tasks) if task.registered]
    tasks = [affinity.tasks[place] for place in kept]
    combination = calibration.combination if calibration else affinity.combination
    problem = SequenceProblem.checked(
        [task.dataset for task in tasks],
        (combination.distances(affinity.components) if calibration else affinity.matrix())[np.ix_(kept, kept)],
        len(tasks) - 1,
        [task.labelled_cases for task in tasks],
        channels=[task.channels for task in tasks],
        labels=[task.labels for task in tasks],
    )
    return Setting(
        affinity=affinity,
        affinity_file=affinity_file,
        options=options,
        calibration=calibration,
        problem=problem,
        model=cost_model(options, affinity.unit, calibration),
        constraints=plan_constraints(options, problem, epoch, finished),
        epoch=epoch,
        finished=finished,
        resamples=_resamples(affinity, affinity_file, combination, kept),
        left_out=tuple(task.dataset for task in affinity.tasks if not task.registered),
    )


def named(path: tuple[int, ...], problem: SequenceProblem) -> tuple[str, ...]:
    """A path by full names."""
    return tuple(problem.names[task] for task in path)


def gpu_hours(path: tuple[int, ...], setting: Setting) -> float:
    """GPU hours of the stages of ``path`` that are still to train."""
    hours = prices(setting.options.training, setting.problem, setting.epoch, "GPU hours")
    return sum(hours[part[-1]] for part in to_train(path, setting.constraints))


def _resamples(
    affinity: Affinity, affinity_file: Path, combination: Combination, kept: list[int]
) -> NDArray[np.floating] | None:
    """(B, n, n) resampled distances of the kept tasks, NaN for tasks of a single case, which do not scatter."""
    every = read_resamples(affinity_file, affinity, combination)
    if every is None:
        return None
    single = [place for place, task in enumerate(affinity.tasks) if len(task.sampled_cases) < 2]
    every[:, single, :] = np.nan
    every[:, :, single] = np.nan
    # Hundreds of megabytes with 1000 tasks: not copied without need.
    return every if len(kept) == len(affinity.tasks) else every[:, np.asarray(kept)[:, None], np.asarray(kept)]
