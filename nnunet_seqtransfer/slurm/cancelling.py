"""Ending a run's jobs without pulling a shared stage away from another run that waits for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.slurm import commands as slurm
from nnunet_seqtransfer.slurm.commands import QueuedJob
from nnunet_seqtransfer.slurm.queue import read_jobs
from nnunet_seqtransfer.training.locks import locked_in_turn
from nnunet_seqtransfer.training.run_record import find_runs, run_name
from nnunet_seqtransfer.training.run_stage import Notify


def cancel_run(folder: Path, notify: Notify, *, shared: bool) -> tuple[str, ...]:
    """Cancels what is in the queue for the run in ``folder``; returns a line for each of its jobs.

    Args:
        folder: of the run.
        notify: is told where another command is at the queue.
        shared: whether to cancel stages too that another run with jobs of its own needs.

    Raises SlurmError where there is no Slurm.
    """
    slurm.require_slurm()
    with locked_in_turn(results_folder() / ".seqtransfer_slurm.lock", "submission to Slurm", notify):
        names = {other: {job.name: key for key, job in read_jobs(other).items()} for other in find_runs()}
        queued = slurm.queue(name for jobs in names.values() for name in jobs)
        needed = {} if shared else needed_by_others(folder, names, queued)
        own = {name: job for name, job in queued.items() if name in names.get(folder, {})}
        ended = {name: job for name, job in own.items() if name not in needed}
        runs = {name: job for name, job in ended.items() if job.state == "RUNNING"}
        slurm.cancel([job.id for name, job in ended.items() if name not in runs])
        slurm.ask_to_stop([job.id for job in runs.values()])
    if not own:
        return (f"nothing of {run_name(folder)} is in the queue",)
    keys = names[folder]
    lines = [
        f"{keys[name]}: job {job.id} {'stops at a checkpoint' if name in runs else 'cancelled'}, was {job}"
        for name, job in ended.items()
    ]
    kept = [
        f"{keys[name]}: job {own[name].id} goes on, {run_name(needed[name])} needs it" for name in own if name in needed
    ]
    return (*lines, *kept)


def needed_by_others(
    folder: Path, names: Mapping[Path, Mapping[str, str]], queued: Mapping[str, QueuedJob]
) -> dict[str, Path]:
    """By name, the jobs of a run that another one needs, with that run: it shares them, and has others in the queue.

    Args:
        folder: of the run.
        names: the names of all runs' jobs and their stages' keys, by the runs' folders.
        queued: what is in the queue, by name.
    """
    own = names.get(folder, {})
    needed: dict[str, Path] = {}
    for other, jobs in names.items():
        if other != folder and any(name in queued and name not in own for name in jobs):
            needed |= {name: other for name in jobs if name in own and name in queued}
    return needed
