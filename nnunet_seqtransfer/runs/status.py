"""How far every stage of a run is, and the run with it: decided from what is on disk, nothing is read or written."""

from __future__ import annotations

import enum
import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_seqtransfer.runs.files import StageFiles
from nnunet_seqtransfer.training.run_record import Run, StageEntry


class State(enum.Enum):
    """What became of a stage, or of a run."""

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
    """How far one stage is."""

    entry: StageEntry
    "The stage."
    files: StageFiles
    "What there is of it."
    role: str
    "source or target."
    state: State
    "What became of it."
    epochs_done: int
    "Epochs that are trained; fewer than asked for in a finished stage that was stopped early."
    epochs_left: int
    "Epochs that are left to train, 0 where nothing is."
    seconds_left: float | None
    "Time that these take: at its own pace, else at that of the run's other stages; None where there is neither."
    queue: str | None = None
    "What a scheduler says of it."
    ended: str | None = None
    "Why its last job ended, by what a scheduler left of it."

    @property
    def error(self) -> str | None:
        """The last error that it logged, or why its job ended; None for one that is finished or runs."""
        return None if self.state in (*DONE, State.RUNNING) else self.ended or self.files.end.error


@dataclass(frozen=True)
class RunStatus:
    """How far a run is."""

    name: str
    "TARGET/NAME, by which the commands know it."
    folder: Path
    "Its folder."
    run: Run | None
    "Its record; None where that cannot be read."
    stages: tuple[StageStatus, ...]
    "Every stage, in the record's order."
    state: State
    "What became of it."
    problem: str | None = None
    "Why its record cannot be read."

    @property
    def is_left(self) -> bool:
        """Whether there is something left to do."""
        return self.run is not None and self.state is not State.FINISHED

    @property
    def seconds_left(self) -> float | None:
        """Time that training takes until its end, one stage after the other; None where a stage's is not known."""
        times = [stage.seconds_left for stage in self.stages]
        return None if None in times or not times else sum(time for time in times if time is not None)

    @property
    def written(self) -> float | None:
        """When a file of it was written last: seconds since 1970."""
        return max((stage.files.written for stage in self.stages if stage.files.written is not None), default=None)


def run_status(
    run: Run, files: Mapping[str, StageFiles], queue: Mapping[str, str], ended: Mapping[str, str] | None = None
) -> RunStatus:
    """The status of a run.

    Args:
        run: its record.
        files: key of a stage -> what there is of it.
        queue: key of a stage -> what a scheduler says of it.
        ended: key of a stage that is in no queue any more -> why its last job ended.
    """
    needed = needed_stages(run, files)
    pace = _paces(run, files)
    stages = tuple(
        replace(
            _stage_status(run, entry, files[entry.key], entry.key in needed, pace, queue.get(entry.key)),
            ended=(ended or {}).get(entry.key),
        )
        for entry in run.stages
    )
    return RunStatus(run.name, run.folder, run, stages, _state_of_run(stages))


def needed_stages(run: Run, files: Mapping[str, StageFiles]) -> set[str]:
    """Keys of the stages that are part of what is left or made the target; the rule of chain/state.py's `decide`.

    The weights handed over are taken for the recorded ones: their checksum would be a long look.
    """
    entries = {entry.key: entry for entry in run.stages}
    needed: set[str] = set()
    waiting = [entry.key for entry in run.stages if role_of(run, entry) == "target"]
    while waiting:
        key = waiting.pop()
        if key in needed or key not in entries:
            continue
        needed.add(key)
        entry, own = entries[key], files[key]
        if entry.after is not None and not (own.final or own.unfinished) and not _has_weights(entry, files, entries):
            waiting.append(entry.after)
    return needed


def role_of(run: Run, entry: StageEntry) -> str:
    """Whether a stage is a source of the run or its target."""
    return "target" if entry.dataset == run.request.target else "source"


def _has_weights(entry: StageEntry, files: Mapping[str, StageFiles], entries: Mapping[str, StageEntry]) -> bool:
    """Whether a stage that has yet to start can do so without its source being trained."""
    source = files.get(entry.after or "")
    if source is not None and source.final:
        return files[entry.key].weights or files[entry.key].own_weights
    siblings = (
        files[key].final or files[key].unfinished
        for key, other in entries.items()
        if key != entry.key and (other.dataset, other.plans_name) == (entry.dataset, entry.plans_name)
    )
    return files[entry.key].weights and any(siblings)


def _paces(run: Run, files: Mapping[str, StageFiles]) -> dict[int, float]:
    """Iterations per epoch -> median epoch time of the run's stages with so many, in seconds."""
    known: dict[int, list[float]] = {}
    for entry in run.stages:
        seconds = files[entry.key].end.median_seconds
        if seconds is not None:
            known.setdefault(entry.recipe.iterations, []).append(seconds)
    return {iterations: statistics.median(times) for iterations, times in known.items()}


def _stage_status(
    run: Run, entry: StageEntry, files: StageFiles, needed: bool, pace: Mapping[int, float], queue: str | None
) -> StageStatus:
    role = role_of(run, entry)
    state = stage_state(files, role, needed)
    done = _epochs_done(entry, files)
    left = _epochs_left(entry, files, state, done)
    seconds = files.end.median_seconds or pace.get(entry.recipe.iterations)
    return StageStatus(
        entry=entry,
        files=files,
        role=role,
        state=state,
        epochs_done=done,
        epochs_left=left,
        seconds_left=0.0 if left == 0 else left * seconds if seconds is not None else None,
        queue=None if state in DONE else queue,
    )


def stage_state(files: StageFiles, role: str, needed: bool) -> State:
    """What became of a stage, from its files."""
    life = files.presence.life if files.presence is not None else "dead"
    if files.final and (role == "source" or files.validated):
        return State.FINISHED
    if life != "dead":
        return State.RUNNING if life == "alive" else State.SILENT
    if not needed and not files.final:
        return State.NOT_NEEDED
    if files.end.error is not None:
        return State.FAILED
    if files.final:
        return State.TRAINED
    begun = files.unfinished or files.end.running is not None or files.end.epochs
    return State.INTERRUPTED if begun and files.exists else State.WAITING


def _epochs_done(entry: StageEntry, files: StageFiles) -> int:
    done = files.end.epochs_done
    if files.final:
        return done or entry.recipe.epochs  # its logs are gone
    return min(done, entry.recipe.epochs)


def _epochs_left(entry: StageEntry, files: StageFiles, state: State, done: int) -> int:
    if state in DONE or files.final:
        return 0
    # of what was trained without a checkpoint nothing is left once its process is gone
    kept = done if files.unfinished or state is State.RUNNING else 0
    return max(0, entry.recipe.epochs - kept)


def _state_of_run(stages: tuple[StageStatus, ...]) -> State:
    states = [stage.state for stage in stages]
    for state in (State.RUNNING, State.SILENT, State.FAILED):
        if state in states:
            return state
    if states and all(state in DONE for state in states):
        return State.FINISHED
    begun = any(state in (State.FINISHED, State.TRAINED, State.INTERRUPTED) for state in states)
    return State.INTERRUPTED if begun else State.NOT_STARTED
