"""A chain on Slurm: submitted, not waited for; the order is Slurm's dependencies, the work is the stage command."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.slurm import commands as slurm
from nnunet_seqtransfer.slurm.queue import SubmittedJob, logs_folder, write_jobs
from nnunet_seqtransfer.slurm.script import BatchJob, batch_script, sbatch_command
from nnunet_seqtransfer.slurm.site import SiteOptions
from nnunet_seqtransfer.slurm.submission import Decision, decide_jobs, processes_in, stage_jobs
from nnunet_seqtransfer.training.chain import Chain
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.locks import locked_in_turn
from nnunet_seqtransfer.training.run_record import run_name
from nnunet_seqtransfer.training.run_stage import Notify

_GPU_OPTIONS = ("gres", "gpus", "gpus-per-node", "gpus-per-task")


@dataclass(frozen=True)
class SlurmExecutor:
    """Submits what is left of a chain, one job a stage."""

    site: SiteOptions
    "What this site's Slurm wants to be told."

    @property
    def waits(self) -> bool:
        """See Executor."""
        return False

    def check(self, options: DeviceOptions) -> None:
        """See Executor. Devices are looked at in the jobs: the login node need not have any."""
        slurm.require_slurm()
        slurm.require_accepted(self.site)

    def describe(self, chain: Chain, options: DeviceOptions, processes: int) -> tuple[str, ...]:
        """See Executor: every command with the script on its standard input."""
        if chain.is_finished:
            return ()
        self.check(options)
        decision = _decide(chain, self.site, processes, settle=False)
        ids = {job.key: f"JOB_OF_{job.key}" for job in decision.submit}
        ids |= {key: job.id for key, job in decision.keep.items()}
        lines = [f"{key} is in the queue: job {job.id}, {job}" for key, job in decision.keep.items()]
        return (*lines, *(text for job in decision.submit for text in describe_job(job, self.site, ids)))

    def run(self, chain: Chain, options: DeviceOptions, processes: int, notify: Notify) -> None:
        """See Executor. Two commands that submit at the same time take turns, so that both see the other's jobs."""
        if chain.is_finished:
            return
        if options.device == "cuda" and not any(self.site.get(name) for name in _GPU_OPTIONS):
            notify("no GPU is asked for; where your site's Slurm gives none by itself, add -slurm gres=gpu:1")
        logs_folder(chain.folder).mkdir(parents=True, exist_ok=True)
        with locked_in_turn(results_folder() / ".seqtransfer_slurm.lock", "submission to Slurm", notify):
            decision = _decide(chain, self.site, processes, settle=True)
            slurm.cancel([job.id for job in decision.replace])
            for job in decision.keep.values():
                if job.is_held_by_slurm:
                    slurm.release(job.id)
            self._submit(chain, decision, notify)
        name = shlex.quote(run_name(chain.folder))
        notify(
            f"{len(decision.submit)} job(s) submitted, {len(decision.keep)} in the queue already; look: "
            f"nnUNetv2_seq_status {name}; end them: nnUNetv2_seq_cancel {name}; outputs: {logs_folder(chain.folder)}"
        )

    def _submit(self, chain: Chain, decision: Decision, notify: Notify) -> None:
        titles = {stage.key: chain.title(stage) for stage in chain.stages}
        jobs = {key: SubmittedJob(job.id, job.name) for key, job in decision.keep.items()}
        for key, kept in decision.keep.items():
            notify(f"{titles[key]}: job {kept.id} is in the queue, {kept}")
        try:
            for job in decision.submit:
                identity = submit_job(job, self.site, {key: known.id for key, known in jobs.items()})
                jobs[job.key] = SubmittedJob(identity, job.name)
                notify(f"{titles[job.key]}: job {identity}")
        finally:  # Slurm may refuse one, as at the limit of a user's jobs; the same command submits the rest
            write_jobs(chain.folder, jobs)


def submit_job(job: BatchJob, site: SiteOptions, ids: dict[str, str]) -> str:
    """Submits a job after those whose numbers are given; returns its number."""
    return slurm.submit(sbatch_command(job, site, ids), batch_script(job, os.environ))


def describe_job(job: BatchJob, site: SiteOptions, ids: dict[str, str]) -> Sequence[str]:
    """The command and the script of a job, for people to read."""
    return [f"{shlex.join(sbatch_command(job, site, ids))} <<'END'", batch_script(job, os.environ) + "END"]


def _decide(chain: Chain, site: SiteOptions, processes: int, *, settle: bool) -> Decision:
    jobs = stage_jobs(chain, processes_in(site, processes))
    return decide_jobs(jobs, slurm.queue([job.name for job in jobs], settle=settle))
