"""Slurm's commands: the only module that runs them, as lists of arguments without a shell."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.slurm.script import SiteOptions

_FORMAT = "%F|%j|%T|%N|%M|%r"
"""Columns of squeue: job id, name, state, node, elapsed time, reason."""
_NAMES_AT_ONCE = 500
_COMPLETING_SECONDS = 40.0
"""Seconds to wait for ending jobs: only then is it known whether Slurm requeues them."""
_ANSWER_SECONDS = 60.0
"""Seconds after which a command counts as unanswered."""
_HELD_BY_SLURM = ("launch failed requeued held", "JobHoldMaxRequeue")
"""Reasons for which Slurm itself holds a job."""


class SlurmError(SeqTransferError):
    """Slurm is not there, does not answer, or refuses a request."""


@dataclass(frozen=True)
class QueuedJob:
    """A job in the queue."""

    id: str
    "Job number."
    name: str
    "Job name, the same for every job of a stage."
    state: str
    "State as Slurm writes it: PENDING, RUNNING, ..."
    node: str
    "Node that runs the job; empty if it does not run."
    elapsed: str
    "Run time as Slurm writes it: [days-][hours:]minutes:seconds."
    reason: str
    "Reason why the job does not run."

    @property
    def is_dead(self) -> bool:
        """True if the job will never run, though it is still listed."""
        return self.reason == "DependencyNeverSatisfied"

    @property
    def is_held_by_slurm(self) -> bool:
        """True if Slurm holds the job after failed starts, until `release`."""
        return self.reason in _HELD_BY_SLURM

    def __str__(self) -> str:
        if self.state == "RUNNING":
            return f"running on {self.node} for {elapsed(self.elapsed)}"
        return f"{self.state.lower()} ({self.reason})" if self.state == "PENDING" else self.state.lower()


def elapsed(text: str) -> str:
    """Return Slurm's time with hours: "0:12:03" for "12:03"."""
    minutes, colon, seconds = text.partition(":")
    return f"0:{minutes:0>2}:{seconds}" if colon and ":" not in seconds and "-" not in text else text


def is_installed() -> bool:
    """Return whether this machine has Slurm's commands."""
    return all(shutil.which(name) for name in ("sbatch", "squeue", "scancel", "scontrol"))


def require_slurm() -> None:
    """Raise SlurmError if this machine has no Slurm, or Slurm does not answer."""
    if not is_installed():
        raise SlurmError(
            "-executor slurm needs Slurm's commands (sbatch, squeue, scancel, scontrol), which this machine does not "
            "have on its PATH; run it on the cluster's login node, or leave -executor out to train here"
        )
    _run(["squeue", "--noheader", "--jobs=0"], expect_any=True)


def require_accepted(site: SiteOptions) -> None:
    """Raise SlurmError, with Slurm's own words, if sbatch refuses these options."""
    command = ["sbatch", "--test-only", "--nodes=1", "--ntasks=1", *site.arguments]
    finished = _run(command, script="#!/bin/sh\n", expect_any=True)
    # other failures may pass: a job that no node can run right now is queued all the same
    if finished.returncode != 0 and any(
        word in finished.stderr for word in ("nvalid", "denied", "nrecognized", "ambig")
    ):
        lines = [line.strip() for line in finished.stderr.splitlines() if not line.startswith("Try ")]
        hint = f"; partitions are: {', '.join(partitions())}" if "partition" in finished.stderr else ""
        given = " ".join(site.arguments) or "no options"
        raise SlurmError(f"Slurm refuses {given}: {'; '.join(lines)}{hint}; correct -slurm")


def partitions() -> tuple[str, ...]:
    """Return the names of the cluster's partitions."""
    return tuple(_run(["sinfo", "--noheader", "--format=%R"], expect_any=True).stdout.split())


def queue(names: Iterable[str], *, settle: bool = False) -> dict[str, QueuedJob]:
    """Return the queued jobs with these names, of all users, by name.

    ``settle``: wait for jobs that are just ending, because they may be requeued.
    """
    wanted = sorted(set(names))
    deadline = time.monotonic() + _COMPLETING_SECONDS
    while True:
        found: dict[str, QueuedJob] = {}
        for first in range(0, len(wanted), _NAMES_AT_ONCE):
            chosen = ",".join(wanted[first : first + _NAMES_AT_ONCE])
            listed = _run(["squeue", "--noheader", f"--format={_FORMAT}", f"--name={chosen}"]).stdout
            found |= {job.name: job for job in parse_queue(listed)}
        if not settle or time.monotonic() > deadline or all(job.state != "COMPLETING" for job in found.values()):
            return {name: job for name, job in found.items() if not settle or job.state != "COMPLETING"}
        time.sleep(1.0)


def parse_queue(listed: str) -> list[QueuedJob]:
    """Return the jobs in the output of squeue, in the format that `queue` requests."""
    # the reason comes last, because it may contain the separator
    rows = [line.strip().split("|", 5) for line in listed.splitlines() if line.count("|") >= 5]
    return [QueuedJob(number, name, state, node, ran, reason) for number, name, state, node, ran, reason in rows]


def submit(command: Sequence[str], script: str) -> str:
    """Submit a batch script; return the number of the job. Raises SlurmError if Slurm refuses."""
    printed = _run(command, script=script).stdout.strip()
    number = printed.split(";")[0]  # on federated clusters: number;cluster
    if not number.isdecimal():  # as with -slurm help
        raise SlurmError(f"sbatch printed no job number but {printed[:200]!r}; correct -slurm")
    return number


def cancel(ids: Sequence[str]) -> None:
    """End jobs, running or not. Jobs that have ended meanwhile are no error."""
    if ids:
        _run(["scancel", *ids], expect_any=True)


def ask_to_stop(ids: Sequence[str]) -> None:
    """Tell the scripts of running jobs to stop their commands at a checkpoint and not to be requeued."""
    if ids:
        _run(["scancel", "--batch", "--signal=USR2", *ids], expect_any=True)


def release(identity: str) -> None:
    """Let a held job run."""
    _run(["scontrol", "release", identity])


def _run(
    command: Sequence[str], *, script: str | None = None, expect_any: bool = False
) -> subprocess.CompletedProcess[str]:
    # inside a job, its variables must not become settings of the new job
    kept = ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
    environment = {name: value for name, value in os.environ.items() if name in kept or not name.startswith("SLURM_")}
    try:
        finished = subprocess.run(
            command,
            input=script if script is not None else "",
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=environment,
            check=False,
            timeout=_ANSWER_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"{command[0]} has not answered for {_ANSWER_SECONDS:g} s; try again") from None
    except OSError as error:
        raise SlurmError(f"cannot run {command[0]}: {error}") from None
    if "Unable to contact slurm controller" in finished.stderr or (finished.returncode != 0 and not expect_any):
        lines = finished.stderr.strip().splitlines() or [f"exit status {finished.returncode}"]
        raise SlurmError(f"Slurm refuses {command[0]}: {'; '.join(lines)[:500]}")
    return finished
