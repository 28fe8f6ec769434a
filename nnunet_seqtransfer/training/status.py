"""Read how far every recorded run is, from stage files. What cannot be read becomes a line, never an error."""

import enum
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.nnunet.folders import DATASET_NAME
from nnunet_seqtransfer.training.actions import Action, Link, needed_actions
from nnunet_seqtransfer.training.estimate import GUESS, Clock, epochs_done
from nnunet_seqtransfer.training.history import find_clock, missing_preprocessing, read_clock
from nnunet_seqtransfer.training.on_disk import StageOnDisk, read_stage
from nnunet_seqtransfer.training.run_record import RECORD, Run, StageEntry, find_run, find_runs, read_run, run_name

STATUS_FORMAT = 1


class State(enum.Enum):
    """Stage or run state."""

    FINISHED = "finished"
    TRAINED = "trained, not validated"
    RUNNING = "running"
    SILENT = "silent"
    FAILED = "failed"
    INTERRUPTED = "interrupted"
    WAITING = "waiting"
    NOT_NEEDED = "not needed"
    NOT_STARTED = "not started"
    UNREADABLE = "unreadable"


DONE = (State.FINISHED, State.NOT_NEEDED)


@dataclass(frozen=True)
class StageStatus:
    """One stage's progress."""

    entry: StageEntry
    "Stage names and recipe."
    on_disk: StageOnDisk
    "State on disk."
    role: str
    "source or target."
    state: State
    "Stage state."
    epochs_done: int
    "Trained epochs; fewer than requested in a finished stage that ended early."
    epochs_left: int
    "Epochs left to train."
    seconds_left: float
    "Estimated seconds for all that is left of the stage."
    cases: int = 0
    "Cases in the final validation; 0 for a source."
    queue: str | None = None
    "Job state in a scheduler's queue."
    ended: str | None = None
    "Why the last job ended, from what a scheduler left."

    @property
    def error(self) -> str | None:
        """Return the last logged error, or why the job ended; None if the stage is finished or runs."""
        return None if self.state in (*DONE, State.RUNNING) else self.ended or self.on_disk.log.error


@dataclass(frozen=True)
class RunStatus:
    """A run's progress."""

    name: str
    "TARGET/NAME, by which the commands know the run."
    folder: Path
    "Run folder."
    run: Run | None
    "Run record; None if it cannot be read."
    stages: tuple[StageStatus, ...]
    "Every stage, in the record's order."
    state: State
    "Run state."
    problem: str | None = None
    "Why the record cannot be read."

    @property
    def is_left(self) -> bool:
        """Return True if there is something left to do."""
        return self.run is not None and self.state is not State.FINISHED

    @property
    def continue_command(self) -> tuple[str, ...] | None:
        """Return the command that continues the run; None if nothing is left, or what is left is unknown."""
        return ("nnUNetv2_seq_continue", self.name) if self.is_left else None

    @property
    def seconds_left(self) -> float:
        """Return the estimated seconds until the run is finished, one stage after the other."""
        return sum(stage.seconds_left for stage in self.stages)

    @property
    def written(self) -> float | None:
        """Return the newest file time, in seconds since 1970."""
        return max((stage.on_disk.written for stage in self.stages if stage.on_disk.written is not None), default=None)


@dataclass(frozen=True)
class Queue:
    """A scheduler's account of runs. The default knows no scheduler."""

    queued: Callable[[Path], Mapping[str, str]] = field(default=lambda folder: {})
    "Run folder -> stage key -> job state."
    ended: Callable[[Path, Mapping[str, str]], Mapping[str, str]] = field(default=lambda folder, queued: {})
    "Run folder, queued jobs -> stage key without a job -> why the last job ended."


def run_status(names: Sequence[str] = (), queue: Queue = Queue()) -> list[RunStatus]:
    """Return status for the named runs, or for the newest run of a target; without names for all, the newest first.

    Raises StageError for an unknown name, EnvironmentNotSetError without nnUNet_results.
    """
    now = time.time()
    # a target is followed by words that narrow the choice; other words are runs of their own
    is_target = names and (names[0].isdecimal() or DATASET_NAME.fullmatch(names[0]))
    asked = [tuple(names)] if is_target else [(name,) for name in names]
    found = [read_status(folder, now, queue) for folder in ([find_run(*words) for words in asked] or find_runs())]
    if names:
        return found
    # unreadable runs come last
    return sorted(found, key=lambda one: (one.run is not None, one.run.started if one.run else one.name), reverse=True)


def read_status(folder: Path, now: float, queue: Queue = Queue()) -> RunStatus:
    """Return status for the run recorded in ``folder`` at the time ``now``; raise nothing."""
    try:
        run = read_run(folder)
        on_disk = {entry.key: read_stage(entry.files, run=folder, now=now) for entry in run.stages}
        queued = _asked(queue.queued, folder)
        names = run.request.target, run.request.plans, run.request.configuration
        begun = [entry for entry in run.stages if on_disk[entry.key].log.epochs]
        begun.sort(key=lambda entry: on_disk[entry.key].written or 0.0)
        clock = (read_clock if begun else find_clock)(*names, run.options.device)
        for entry in begun:  # the newest measurement wins
            clock = clock.with_log(on_disk[entry.key].log, entry.recipe)
        # finding the cases of a source takes time, and trained stages read none
        untrained = {name for entry in run.stages if not on_disk[entry.key].final for name in entry.datasets}
        sources = untrained.intersection(run.request.datasets)
        preprocessing = {name: missing_preprocessing(name, names, run.processes) for name in sources}
        return status_of(run, on_disk, clock, preprocessing, queued, _asked(queue.ended, folder, queued))
    except SeqTransferError as error:
        problem = str(error)
    except (OSError, ValueError) as error:
        problem = f"{folder / RECORD} cannot be read ({error})"
    return RunStatus(run_name(folder), folder, None, (), State.UNREADABLE, " ".join(problem.split()))


def status_of(
    run: Run,
    on_disk: Mapping[str, StageOnDisk],
    clock: Clock = GUESS,
    preprocessing: Mapping[str, float] | None = None,
    queued: Mapping[str, str] | None = None,
    ended: Mapping[str, str] | None = None,
) -> RunStatus:
    """Return a run's status from stages on disk.

    Args:
        run: the record.
        on_disk: stage key -> state on disk.
        clock: how long stages take.
        preprocessing: source -> seconds to preprocess what is missing of it.
        queued: stage key -> job state in a scheduler's queue.
        ended: stage key without a job -> why the last job ended.
    """
    # weights that were handed over count as the recorded ones: comparing checksums would take too long
    links = [
        Link(
            entry.key,
            run.role(entry),
            entry.after,
            on_disk[entry.key],
            has_own_weights=on_disk[entry.key].own_weights,
            weights_fit=on_disk[entry.key].shared_weights or on_disk[entry.key].own_weights,
        )
        for entry in run.stages
    ]
    actions = needed_actions(links)
    missing = dict(preprocessing or {})
    stages = []
    for entry in run.stages:
        disk, role = on_disk[entry.key], run.role(entry)
        state = stage_state(disk, role, actions[entry.key])
        done = epochs_done(entry.recipe, disk)
        left = _epochs_left(entry, disk, state, done)
        cases = clock.held_out(entry.fold) if role == "target" else 0
        seconds = 0.0
        if state not in DONE:
            begins = state is not State.RUNNING
            validated = 0 if begins else min(cases, disk.log.validated)
            seconds = clock.stage(entry.recipe, left, cases - validated, begins=begins)
            seconds += sum(missing.pop(name, 0.0) for name in entry.datasets)
        in_queue = None if state in DONE else (queued or {}).get(entry.key)
        why = (ended or {}).get(entry.key)
        stages.append(StageStatus(entry, disk, role, state, done, left, seconds, cases, in_queue, why))
    return RunStatus(run.name, run.folder, run, tuple(stages), _state_of_run(stages))


def stage_state(on_disk: StageOnDisk, role: str, action: Action) -> State:
    """Return a stage's state."""
    life = on_disk.holder.life if on_disk.holder is not None else "dead"
    if on_disk.is_finished(role):
        return State.FINISHED
    if life != "dead":
        return State.RUNNING if life == "alive" else State.SILENT
    if action is Action.NOT_NEEDED:
        return State.NOT_NEEDED
    if on_disk.log.error is not None:
        return State.FAILED
    if on_disk.final:
        return State.TRAINED
    begun = on_disk.unfinished or on_disk.log.running is not None or on_disk.log.epochs_done
    return State.INTERRUPTED if begun and on_disk.exists else State.WAITING


def status_content(runs: Sequence[RunStatus]) -> dict[str, Any]:
    """Return run status as JSON, for machines; docs/reference/files.md describes the fields."""
    return {"kind": "status", "format": STATUS_FORMAT, "runs": [_run_content(run) for run in runs]}


def _run_content(status: RunStatus) -> dict[str, Any]:
    run, command = status.run, status.continue_command
    return {
        "name": status.name,
        "folder": str(status.folder),
        "state": status.state.name.lower(),
        "problem": status.problem,
        "target": run.request.target if run else None,
        "sources": list(run.request.sources) if run else [],
        "configuration": run.request.configuration if run else None,
        "folds": list(run.request.folds) if run else [],
        "started": run.started if run else None,
        "version": run.version if run else None,
        "written": _iso_time(status.written),
        "seconds_left": status.seconds_left if run else None,
        "continue": list(command) if command else None,
        "stages": [_stage_content(stage) for stage in status.stages],
    }


def _stage_content(stage: StageStatus) -> dict[str, Any]:
    on_disk, last, holder = stage.on_disk, stage.on_disk.log.last, stage.on_disk.holder
    dice = last.pseudo_dice if last else ()
    return {
        "key": stage.entry.key,
        "dataset": stage.entry.dataset,
        "mixed": stage.entry.shares,
        "fold": stage.entry.fold,
        "role": stage.role,
        "after": stage.entry.after,
        "output": stage.entry.output,
        "state": stage.state.name.lower(),
        "epochs": stage.entry.recipe.epochs,
        "epochs_done": stage.epochs_done,
        "epochs_left": stage.epochs_left,
        "epoch_seconds": on_disk.log.median_seconds,
        "seconds_left": stage.seconds_left,
        "pseudo_dice": _number(last.mean_dice) if last else None,
        "pseudo_dice_of_labels": [_number(value) for value in dice],
        "validation_dice": on_disk.dice if on_disk.validated and stage.role == "target" else None,
        "written": _iso_time(on_disk.written),
        "error": stage.error,
        "log": str(on_disk.command_log) if on_disk.command_log else None,
        "holder": vars(holder) if holder is not None else None,
        "queue": stage.queue,
    }


def _number(value: float) -> float | None:
    """Return a number for JSON, which has no NaN."""
    return value if value == value else None  # noqa: PLR0124 - NaN differs from itself


def _iso_time(seconds: float | None) -> str | None:
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")


def _asked(ask: Callable[..., Mapping[str, str]], *arguments: Any) -> Mapping[str, str]:
    """Return what a scheduler says; nothing if that cannot be read."""
    try:
        return ask(*arguments)
    except (SeqTransferError, OSError, ValueError):
        return {}


def _epochs_left(entry: StageEntry, on_disk: StageOnDisk, state: State, done: int) -> int:
    if state in DONE or on_disk.final:
        return 0
    # without a checkpoint, trained epochs are lost once the process is gone
    kept = done if on_disk.unfinished or state is State.RUNNING else 0
    return max(0, entry.recipe.epochs - kept)


def _state_of_run(stages: Sequence[StageStatus]) -> State:
    states = [stage.state for stage in stages]
    for state in (State.RUNNING, State.SILENT, State.FAILED):
        if state in states:
            return state
    if states and all(state in DONE for state in states):
        return State.FINISHED
    begun = any(state in (State.FINISHED, State.TRAINED, State.INTERRUPTED) for state in states)
    return State.INTERRUPTED if begun else State.NOT_STARTED
