"""Every recorded run below nnUNet_results with its status; what cannot be read becomes a line, never an error."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.runs.files import read_stage
from nnunet_seqtransfer.runs.status import RunStatus, State, run_status
from nnunet_seqtransfer.slurm.queue import ended_stages
from nnunet_seqtransfer.training.run_record import RECORD, find_runs, read_run, run_name

QueueStates = Callable[[Path], Mapping[str, str]]
"""The folder of a run -> key of a stage -> what a scheduler says of it."""


def no_queue(folder: Path) -> Mapping[str, str]:
    """Where there is no scheduler."""
    return {}


def read_all(folders: Sequence[Path] | None = None, queue: QueueStates = no_queue) -> list[RunStatus]:
    """The status of the runs in ``folders``, else of all, the newest first.

    Raises EnvironmentNotSetError where there is no nnUNet_results.
    """
    now = time.time()
    found = [read_status(folder, now, queue) for folder in (find_runs() if folders is None else folders)]
    return found if folders is not None else sorted(found, key=_started, reverse=True)


def read_status(folder: Path, now: float, queue: QueueStates = no_queue) -> RunStatus:
    """The status of the run that is recorded in ``folder``; nothing raises."""
    try:
        run = read_run(folder)
        files = {entry.key: read_stage(run, entry, now) for entry in run.stages}
        queued = _queued(folder, queue)
        return run_status(run, files, queued, _queued(folder, partial(ended_stages, queued=queued)))
    except SeqTransferError as error:
        problem = str(error)
    except (OSError, ValueError) as error:
        problem = f"{folder / RECORD} cannot be read ({error})"
    return RunStatus(run_name(folder), folder, None, (), State.UNREADABLE, " ".join(problem.split()))


def _queued(folder: Path, queue: QueueStates) -> Mapping[str, str]:
    """What a scheduler says, or has left; nothing where that cannot be read."""
    try:
        return queue(folder)
    except (SeqTransferError, OSError, ValueError):
        return {}


def _started(status: RunStatus) -> tuple[bool, str]:
    """Unreadable runs last."""
    return status.run is not None, status.run.started if status.run is not None else status.name
