"""What is to be submitted for a chain: one job a stage, in their order; a pure function of the chain and the queue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nnunet_seqtransfer.nnunet.folders import own_command
from nnunet_seqtransfer.slurm.commands import QueuedJob
from nnunet_seqtransfer.slurm.queue import logs_folder, stage_job_name
from nnunet_seqtransfer.slurm.script import BatchJob
from nnunet_seqtransfer.slurm.site import SiteOptions
from nnunet_seqtransfer.training.chain import Chain
from nnunet_seqtransfer.training.run_record import run_name
from nnunet_seqtransfer.training.state import Action


@dataclass(frozen=True)
class Decision:
    """What happens to the jobs of a chain."""

    submit: tuple[BatchJob, ...]
    "To be submitted, in this order."
    keep: Mapping[str, QueuedJob]
    "In the queue already, of this chain or of another one with the same stage, by their stages' keys."
    replace: tuple[QueuedJob, ...]
    "In the queue, but waiting for a job that has failed: they are cancelled, and others submitted."


def processes_in(site: SiteOptions, processes: int) -> int:
    """Worker processes in a job: not more than it has cores, where the site's options say how many."""
    cores = site.get("cpus-per-task")
    return min(processes, int(cores)) if cores is not None and cores.isdecimal() else processes


def stage_jobs(chain: Chain, processes: int) -> tuple[BatchJob, ...]:
    """A job for every stage that something is left to do for, in their order."""
    needed = [stage for stage in chain.stages if chain.actions[stage] not in (Action.NOTHING, Action.NOT_NEEDED)]
    jobs = []
    for stage in needed:
        previous = chain.previous(stage)
        command = [
            own_command("continue"),
            run_name(chain.folder),
            "-stage",
            stage.key,
            "--wait",
            "-np",
            str(processes),
        ]
        jobs.append(
            BatchJob(
                key=stage.key,
                name=stage_job_name(stage.key, stage.configuration),
                folder=logs_folder(chain.folder),
                command=tuple(command),
                output=stage.output,
                after=previous.key if previous in needed and previous is not None else None,
            )
        )
    return tuple(jobs)


def decide_jobs(jobs: Sequence[BatchJob], queued: Mapping[str, QueuedJob]) -> Decision:
    """What to submit: the jobs that are not in the queue, and those behind them that wait for an older one.

    Args:
        jobs: of a chain, each after the one that it depends on.
        queued: what is in the queue, by the jobs' names.
    """
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
    return Decision(tuple(submit), keep, tuple(replace))
