"""What is in the queue for a run, and how its jobs ended: from one look at the queue and the outputs of the jobs."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.errors import SeqTransferError, StageError
from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.slurm import commands as slurm
from nnunet_seqtransfer.slurm.script import job_name
from nnunet_seqtransfer.storage import read_record, write_record
from nnunet_seqtransfer.training.run_record import run_name

JOBS = "slurm.json"
"""The record of a run's jobs, beside its own."""
JOBS_FORMAT = 1
_TAIL = 16384
_ENDS = re.compile(
    r"DUE TO (?P<limit>TIME LIMIT|NODE FAILURE|PREEMPTION)"
    r"|(?P<cancelled>CANCELLED AT|^cancelled$)|^error: (?P<error>.*)",
    re.MULTILINE,
)

_STATUS = re.compile(r"ended with exit status (\d+)")


@dataclass(frozen=True)
class SubmittedJob:
    """A job of a run, as it was submitted or found in the queue last."""

    id: str
    "Its number."
    name: str
    "Its name in the queue, the same for every job of that stage."


def stage_job_name(key: str, configuration: str) -> str:
    """The name of every job that does a stage: of the folder of all results, the stage's key and its configuration."""
    dataset, _, fold = key.split("/")
    return job_name(f"{dataset}_{fold}", os.path.realpath(results_folder()), key, configuration)


def logs_folder(folder: Path) -> Path:
    """Where the jobs of the run in ``folder`` write."""
    return folder / "logs"


def write_jobs(folder: Path, jobs: dict[str, SubmittedJob]) -> None:
    """Records the jobs of a run by their stages' keys; those recorded earlier, of other stages, are kept."""
    known = {**read_jobs(folder), **jobs}
    content = {key: {"id": job.id, "name": job.name} for key, job in sorted(known.items())}
    write_record(folder / JOBS, "Slurm jobs", JOBS_FORMAT, {"jobs": content})


def read_jobs(folder: Path) -> dict[str, SubmittedJob]:
    """The jobs that were recorded last; none where there is no record, or none that can be read."""
    try:
        content = read_record(folder / JOBS, "Slurm jobs", JOBS_FORMAT, "submit the run again")
        return {key: SubmittedJob(job["id"], job["name"]) for key, job in content["jobs"].items()}
    except (SeqTransferError, KeyError, TypeError, OSError):
        return {}


def queue_states(folder: Path) -> dict[str, str]:
    """What the queue says of each stage of a run: "pending (Dependency)", "running on NODE for 0:12:03".

    Stages that are not in the queue are left out. Never raises: without Slurm, or an answer from it, there is nothing.
    """
    names = {job.name: key for key, job in read_jobs(folder).items()}
    if not names or not slurm.is_installed():
        return {}
    try:
        return {names[name]: str(job) for name, job in slurm.queue(names).items()}
    except SeqTransferError:
        return {}


def require_nothing_queued(folder: Path) -> None:
    """Raises StageError where jobs of a run are in the queue: they go by its record, which is to be replaced.

    Raises SlurmError where jobs were submitted and Slurm, which is here, does not answer.
    """
    names = [job.name for job in read_jobs(folder).values()]
    queued = slurm.queue(names) if names and slurm.is_installed() else {}
    if queued:
        name = shlex.quote(run_name(folder))
        raise StageError(
            f"{run_name(folder)} was asked for otherwise before, and {len(queued)} of its jobs are in Slurm's queue; "
            f"give the new one a name of its own with -tag NAME, or end those first: nnUNetv2_seq_cancel {name}"
        )


def ended_stages(folder: Path, queued: Iterable[str]) -> dict[str, str]:
    """Why the last job of each stage that is in no queue has ended before its stage was finished.

    Args:
        folder: of the run.
        queued: keys of the stages that are in the queue.

    Of a stage that has finished, and of one whose job never started and left no output, there is nothing.
    """
    ended = {}
    for key, job in read_jobs(folder).items():
        output = logs_folder(folder) / f"{job.name}.log"
        if key not in set(queued) and output.is_file():
            reason = why_it_ended(_tail(output))
            if reason is not None:
                ended[key] = f"Slurm job {job.id} {reason}; its output is in {output}"
    return ended


def why_it_ended(output: str) -> str | None:
    """What the end of a job's output says of its last start; None where it has ended well."""
    last = output[output.rfind("\njob ") + 1 :]
    if last.rstrip().endswith("ended with exit status 0"):
        return None
    found = list(_ENDS.finditer(last))
    for end in found:
        if end["error"] is not None:
            return f"failed: {end['error']}"
    for end in found:
        if end["limit"] is not None:
            return f"was ended by Slurm ({end['limit'].lower()})"
    if found:
        return "was cancelled"
    lines = [line for line in last.splitlines() if line.strip()]
    ended = _STATUS.fullmatch(lines[-1]) if lines else None
    if ended is None:
        return "has ended without a word"
    return f"ended with exit status {ended[1]}: {lines[-2][:200]}"  # a traceback's last line


def _tail(path: Path) -> str:
    with path.open("rb") as stream:
        stream.seek(max(0, path.stat().st_size - _TAIL))
        return "\n" + stream.read().decode(errors="replace")
