"""Chains on Slurm: one job per stage, submitted in order and found again by name."""

import os
import shlex
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from nnunet_seqtransfer.context import Context, Notify
from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.slurm import commands as slurm
from nnunet_seqtransfer.slurm.commands import QueuedJob
from nnunet_seqtransfer.slurm.queue import SubmittedJob, logs_folder, read_jobs, stage_job_name, write_jobs
from nnunet_seqtransfer.slurm.script import BatchJob, SiteOptions, batch_script, sbatch_command, site_options
from nnunet_seqtransfer.training.decide import Outlook
from nnunet_seqtransfer.training.executors import Executor, ExecutorOptions
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.locks import locked_in_turn
from nnunet_seqtransfer.training.run_record import find_runs, run_name, stage_command

_GPU_OPTIONS = ("gres", "gpus", "gpus-per-node", "gpus-per-task")


@dataclass(frozen=True)
class SubmissionPlan:
    """Jobs to submit, keep and replace for a chain."""

    submit: tuple[BatchJob, ...]
    "Jobs to submit, in this order."
    keep: Mapping[str, QueuedJob]
    "Stage key -> queued job, from this chain or another one with the same stage."
    replace: tuple[QueuedJob, ...]
    "Queued jobs that wait for a failed one: they are cancelled and submitted again."


@dataclass(frozen=True)
class SlurmExecutor(Executor):
    """Executor that submits one job per unfinished stage."""

    site: SiteOptions
    "sbatch options for this site."

    waits: ClassVar[bool] = False
    "False: Slurm runs the jobs later."

    @classmethod
    def from_options(cls, options: ExecutorOptions) -> "SlurmExecutor":
        """Return the executor for a command's options. Raises SeqTransferError for a wrong option of sbatch."""
        return cls(site_options(options.slurm, options.slurm_config))

    def check(self, options: DeviceOptions) -> None:
        """Raise SlurmError if Slurm is missing or refuses the site options.

        The jobs check the devices: a login node may have none.
        """
        slurm.require_slurm()
        slurm.require_accepted(self.site)

    def describe(self, chain: Outlook, options: DeviceOptions, context: Context) -> tuple[str, ...]:
        """Return every sbatch command and the script for stdin."""
        if chain.is_finished:
            return ()
        self.check(options)
        plan = self._plan(chain, context, settle=False)
        ids = {job.key: f"JOB_OF_{job.key}" for job in plan.submit} | {key: job.id for key, job in plan.keep.items()}
        lines = [f"{key} is in the queue: job {job.id}, {job}" for key, job in plan.keep.items()]
        for job in plan.submit:
            lines.append(f"{shlex.join(sbatch_command(job, self.site, ids))} <<'END'")
            lines.append(batch_script(job, os.environ) + "END")
        return tuple(lines)

    def run(self, chain: Outlook, options: DeviceOptions, context: Context) -> None:
        """Submit the jobs that are not in the queue. Raises SlurmError if Slurm refuses one."""
        if chain.is_finished:
            return
        if options.device == "cuda" and not any(self.site.get(name) for name in _GPU_OPTIONS):
            context.notify("no GPU is requested; add -slurm gres=gpu:1 unless your site assigns GPUs by itself")
        logs_folder(chain.folder).mkdir(parents=True, exist_ok=True)
        with _queue_lock(context.notify):
            plan = self._plan(chain, context, settle=True)
            slurm.cancel([job.id for job in plan.replace])
            for kept in plan.keep.values():
                if kept.is_held_by_slurm:
                    slurm.release(kept.id)
            self._submit(chain, plan, context)
        name = shlex.quote(run_name(chain.folder))
        context.notify(
            f"{len(plan.submit)} job(s) submitted, {len(plan.keep)} in the queue already; watch: "
            f"nnUNetv2_seq_status {name}; cancel: nnUNetv2_seq_cancel {name}; outputs: {logs_folder(chain.folder)}"
        )

    def _plan(self, chain: Outlook, context: Context, *, settle: bool) -> SubmissionPlan:
        cores = self.site.get("cpus-per-task")
        processes = min(context.processes, int(cores)) if cores and cores.isdecimal() else context.processes
        jobs = stage_jobs(chain, processes)
        return plan_submission(jobs, slurm.queue([job.name for job in jobs], settle=settle))

    def _submit(self, chain: Outlook, plan: SubmissionPlan, context: Context) -> None:
        titles = {stage.key: chain.title(stage) for stage in chain.stages}
        jobs = {key: SubmittedJob(job.id, job.name) for key, job in plan.keep.items()}
        for key, kept in plan.keep.items():
            context.notify(f"{titles[key]}: job {kept.id} is in the queue, {kept}")
        try:
            for job in plan.submit:
                ids = {key: known.id for key, known in jobs.items()}
                number = slurm.submit(sbatch_command(job, self.site, ids), batch_script(job, os.environ))
                jobs[job.key] = SubmittedJob(number, job.name)
                context.notify(f"{titles[job.key]}: job {number}")
        finally:  # Slurm may refuse a job, as at a user's limit; the same command submits the rest later
            write_jobs(chain.folder, jobs)


def stage_jobs(chain: Outlook, processes: int) -> tuple[BatchJob, ...]:
    """Return one job per unfinished stage, in the order of the chain."""
    jobs = []
    for stage in chain.unfinished:
        previous = chain.previous(stage)
        jobs.append(
            BatchJob(
                key=stage.key,
                name=stage_job_name(stage.key, stage.configuration),
                folder=logs_folder(chain.folder),
                command=stage_command(chain, stage, processes, wait=True),
                output=stage.output,
                after=previous.key if previous is not None and previous in chain.unfinished else None,
            )
        )
    return tuple(jobs)


def plan_submission(jobs: Sequence[BatchJob], queued: Mapping[str, QueuedJob]) -> SubmissionPlan:
    """Decide which jobs of a chain to submit: those not ``queued``, and queued ones that wait for a failed job."""
    submit: list[BatchJob] = []
    keep: dict[str, QueuedJob] = {}
    replace: list[QueuedJob] = []
    for job in jobs:
        found = queued.get(job.name)
        waits_in_vain = job.after in {other.key for other in submit} and found is not None and found.state == "PENDING"
        if found is not None and not found.is_dead and not waits_in_vain:
            keep[job.key] = found
            continue
        submit.append(job)
        if found is not None:
            replace.append(found)
    return SubmissionPlan(tuple(submit), keep, tuple(replace))


@dataclass(frozen=True)
class Cancelled:
    """One job of a cancelled run."""

    key: str
    "Stage key."
    job: QueuedJob
    "The job as it was before."
    needed_by: Path | None
    "Folder of another run that needs the stage, so the job is kept; None if the job is ended."


def cancel_run(folder: Path, notify: Notify, *, shared: bool) -> tuple[Cancelled, ...]:
    """Cancel the queued jobs of the run in ``folder``; running trainings stop at a checkpoint.

    ``shared``: cancel also stages that another queued run needs. Raises SlurmError if there is no Slurm.
    """
    slurm.require_slurm()
    with _queue_lock(notify):
        names = {other: {job.name: key for key, job in read_jobs(other).items()} for other in find_runs()}
        queued = slurm.queue(name for jobs in names.values() for name in jobs)
        needed = {} if shared else needed_by_others(folder, names, queued)
        own = names.get(folder, {})
        found = [Cancelled(own[name], job, needed.get(name)) for name, job in queued.items() if name in own]
        ended = [one.job for one in found if one.needed_by is None]
        slurm.cancel([job.id for job in ended if job.state != "RUNNING"])
        slurm.ask_to_stop([job.id for job in ended if job.state == "RUNNING"])
    return tuple(found)


def needed_by_others(
    folder: Path, names: Mapping[Path, Mapping[str, str]], queued: Mapping[str, QueuedJob]
) -> dict[str, Path]:
    """Return job name -> other run, for jobs in ``folder`` that a run with further queued jobs shares.

    ``names``: run folder -> job name -> stage key; ``queued``: name -> job in the queue.
    """
    own = names.get(folder, {})
    needed: dict[str, Path] = {}
    for other, jobs in names.items():
        if other != folder and any(name in queued and name not in own for name in jobs):
            needed |= {name: other for name in jobs if name in own and name in queued}
    return needed


def _queue_lock(notify: Notify) -> AbstractContextManager[None]:
    """Return the lock for submitting and cancelling, so that two commands see each other's jobs."""
    return locked_in_turn(results_folder() / ".seqtransfer_slurm.lock", "submission to Slurm", notify)
