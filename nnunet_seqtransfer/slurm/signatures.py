"""The signatures of many datasets as an array of jobs, and the distances in one job behind it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from nnunet_seqtransfer.affinity.compute import AUTO_CASES, AffinityRequest
from nnunet_seqtransfer.affinity.sources import SIGNATURE_ENDING
from nnunet_seqtransfer.nnunet.folders import cache_folder, dataset_name, own_command, preprocessed_folder
from nnunet_seqtransfer.slurm import commands as slurm
from nnunet_seqtransfer.slurm.executor import describe_job, submit_job
from nnunet_seqtransfer.slurm.script import BatchJob, job_name
from nnunet_seqtransfer.slurm.site import SiteOptions
from nnunet_seqtransfer.slurm.submission import decide_jobs, processes_in
from nnunet_seqtransfer.training.locks import locked_in_turn
from nnunet_seqtransfer.training.run_stage import Notify

SIGNATURES, DISTANCES = "signatures", "distances"


@dataclass(frozen=True)
class SlurmAffinity:
    """An affinity that Slurm computes."""

    site: SiteOptions
    "What this site's Slurm wants to be told."
    request: AffinityRequest
    "What is compared."
    metric: str
    "Name of the metric."
    weights: Path | None
    "Calibration; None for the metric's own weights."

    def describe(self, missing: Sequence[str]) -> tuple[str, ...]:
        """What would be submitted. Raises SlurmError where there is no Slurm."""
        self._check()
        jobs = self._jobs(missing)
        decision = decide_jobs(jobs, slurm.queue(job.name for job in jobs))
        ids = {job.key: f"JOB_OF_{job.key}" for job in jobs} | {key: job.id for key, job in decision.keep.items()}
        lines = [f"{key} are in the queue: job {job.id}, {job}" for key, job in decision.keep.items()]
        return (*lines, *(text for job in decision.submit for text in describe_job(job, self.site, ids)))

    def submit(self, missing: Sequence[str], notify: Notify) -> None:
        """Submits the signatures that are missing and the distances. Raises SlurmError where Slurm refuses."""
        self._check()
        jobs = self._jobs(missing)
        jobs[0].folder.mkdir(parents=True, exist_ok=True)
        with locked_in_turn(preprocessed_folder() / ".seqtransfer_slurm.lock", "submission to Slurm", notify):
            decision = decide_jobs(jobs, slurm.queue((job.name for job in jobs), settle=True))
            slurm.cancel([job.id for job in decision.replace])
            ids = {key: job.id for key, job in decision.keep.items()}
            for key, kept in decision.keep.items():
                notify(f"{key}: job {kept.id} is in the queue, {kept}")
            for job in decision.submit:
                ids[job.key] = submit_job(job, self.site, ids)
                notify(f"{job.key}: {f'array of {len(job.array)} jobs' if job.array else 'job'} {ids[job.key]}")
        notify(
            f"outputs: {jobs[0].folder}; when job {ids[DISTANCES]} has ended, the same command without -executor slurm "
            "prints the table, from the signatures that are there"
        )

    def _jobs(self, missing: Sequence[str]) -> tuple[BatchJob, BatchJob]:
        request = replace(self.request, processes=processes_in(self.site, self.request.processes))
        return affinity_jobs(request, self.metric, self.weights, missing)

    def _check(self) -> None:
        slurm.require_slurm()
        slurm.require_accepted(self.site)


def affinity_jobs(
    request: AffinityRequest, metric: str, weights: Path | None, missing: Sequence[str]
) -> tuple[BatchJob, BatchJob]:
    """The array, one job for each dataset whose signature is missing, and the distances, when all of them have ended.

    A dataset whose signature could not be made does not stop the distances, which leave it out and say why.
    """
    target = dataset_name(request.target)
    folder = cache_folder(target) / "logs"
    cases = "auto" if request.cases == AUTO_CASES else str(request.cases)
    common = ["-t", target, "-p", request.plans, "-c", request.configuration, "-m", metric, "-cases", cases]
    common += ["-seed", str(request.seed), "-np", str(request.processes)]
    sources = [str(Path(name).absolute()) if name.endswith(SIGNATURE_ENDING) else name for name in request.sources]
    chosen = [] if weights is None else ["-weights", str(weights.absolute())]
    identity = (os.path.realpath(preprocessed_folder()), *common[:-2], *sources, *chosen)
    signatures = BatchJob(
        key=SIGNATURES,
        name=job_name(f"signatures_{target}", SIGNATURES, *identity),
        folder=folder,
        command=(own_command("affinity"), *common, "--signatures_only", "-s"),
        array=tuple(missing),
    )
    distances = BatchJob(
        key=DISTANCES,
        name=job_name(f"affinity_{target}", DISTANCES, *identity),
        folder=folder,
        command=(own_command("affinity"), *common, *chosen, "-s", *sources),
        after=SIGNATURES,
        after_any=True,
    )
    return signatures, distances
