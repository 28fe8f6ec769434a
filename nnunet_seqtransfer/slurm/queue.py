"""The jobs of a run: their record, their state in the queue, and why they ended."""

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
from nnunet_seqtransfer.storage import from_json, read_record, to_json, write_record
from nnunet_seqtransfer.training.run_record import run_name
from nnunet_seqtransfer.training.status import Queue

JOBS = "slurm.json"
"""Name of the job record in a run folder."""
JOBS_FORMAT = 1
_TAIL_BYTES = 16384
"""Bytes at the end of an output that are read."""
_ENDS = re.compile(
    r"DUE TO (?P<limit>TIME LIMIT|NODE FAILURE|PREEMPTION)"
    r"|(?P<cancelled>CANCELLED AT|^cancelled$)|^error: (?P<error>.*)",
    re.MULTILINE,
)
_STATUS = re.compile(r"ended with exit status (\d+)")


@dataclass(frozen=True)
class SubmittedJob:
    """A job of a run, as last submitted or found in the queue."""

    id: str
    "Job number."
    name: str
    "Job name, the same for every job of the stage."


def stage_job_name(key: str, configuration: str) -> str:
    """Return the job name for a stage, made from the results folder, the stage key and the configuration."""
    dataset, _, fold = key.split("/")
    return job_name(f"{dataset}_{fold}", os.path.realpath(results_folder()), key, configuration)


def logs_folder(folder: Path) -> Path:
    """Return the output folder for jobs; ``folder``: run folder."""
    return folder / "logs"


def write_jobs(folder: Path, jobs: dict[str, SubmittedJob]) -> None:
    """Add jobs to the record in a run folder; ``jobs``: stage key -> job. Other recorded jobs are kept."""
    known = {**read_jobs(folder), **jobs}
    write_record(folder / JOBS, "Slurm jobs", JOBS_FORMAT, {"jobs": to_json(dict(sorted(known.items())))})


def read_jobs(folder: Path) -> dict[str, SubmittedJob]:
    """Return the recorded jobs by stage key; none if there is no readable record, which is only a help."""
    try:
        content = read_record(folder / JOBS, "Slurm jobs", JOBS_FORMAT, "submit the run again")
        return from_json(content["jobs"], dict[str, SubmittedJob])
    except (SeqTransferError, KeyError, ValueError, OSError):
        return {}


def queue_states(folder: Path) -> dict[str, str]:
    """Return the state of each queued stage in a run: "pending (Dependency)", "running on NODE for 0:12:03".

    Returns an empty dictionary, and raises nothing, if Slurm is missing or does not answer.
    """
    names = {job.name: key for key, job in read_jobs(folder).items()}
    if not names or not slurm.is_installed():
        return {}
    try:
        return {names[name]: str(job) for name, job in slurm.queue(names).items()}
    except SeqTransferError:
        return {}


def require_nothing_queued(folder: Path) -> None:
    """Raise StageError if jobs of a run are in the queue: their stages read the record, which must not be replaced.

    Raises SlurmError if jobs were submitted and an installed Slurm does not answer.
    """
    names = [job.name for job in read_jobs(folder).values()]
    queued = slurm.queue(names) if names and slurm.is_installed() else {}
    if queued:
        name = shlex.quote(run_name(folder))
        raise StageError(
            f"{run_name(folder)} is already queued with other options ({len(queued)} jobs); name the new run with "
            f"-tag NAME, or cancel the old one: nnUNetv2_seq_cancel {name}"
        )


def ended_stages(folder: Path, queued: Iterable[str]) -> dict[str, str]:
    """Return stage key -> why the last job ended, for unfinished stages of a run that are not ``queued``.

    Stages whose jobs left no output are left out.
    """
    ended = {}
    for key, job in read_jobs(folder).items():
        output = logs_folder(folder) / f"{job.name}.log"
        if key not in set(queued) and output.is_file():
            with output.open("rb") as stream:
                stream.seek(max(0, output.stat().st_size - _TAIL_BYTES))
                reason = why_it_ended("\n" + stream.read().decode(errors="replace"))
            if reason is not None:
                ended[key] = f"Slurm job {job.id} {reason}; its output is in {output}"
    return ended


def why_it_ended(output: str) -> str | None:
    """Return why a job ended, from the end of the output; None if the last start succeeded."""
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
        return "ended without a message"
    return f"ended with exit status {ended[1]}: {lines[-2][:200]}"  # a traceback's last line


SLURM_QUEUE = Queue(queue_states, ended_stages)
"""Slurm's account of runs; nothing if there is no Slurm."""
