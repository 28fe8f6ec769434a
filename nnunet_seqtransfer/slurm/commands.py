"""The commands of Slurm: the only place that runs them, with lists of arguments and without a shell."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.slurm.site import SiteOptions

_FORMAT = "%F|%j|%T|%N|%M|%r"
_NAMES_AT_ONCE = 500
_COMPLETING_SECONDS = 40.0
"""How long to wait for jobs that are ending: until then it is open whether they are requeued."""
_SECONDS = 60.0
"""After which a command of Slurm counts as unanswered."""
_ENDING_HOLDS = ("launch failed requeued held", "JobHoldMaxRequeue")
"""Reasons for which Slurm itself holds a job back for good."""


class SlurmError(SeqTransferError):
    """There is no Slurm, or it refuses what was asked."""


@dataclass(frozen=True)
class QueuedJob:
    """A job that is in the queue."""

    id: str
    "Its number; of an array, the one of all its jobs."
    name: str
    "Its name."
    state: str
    "PENDING, RUNNING and so on."
    node: str
    "Where it runs; empty where it does not."
    elapsed: str
    "How long it has run, as Slurm writes it: [days-][hours:]minutes:seconds."
    reason: str
    "Why it does not run."

    @property
    def is_dead(self) -> bool:
        """Whether it will never run, though it is still listed."""
        return self.reason == "DependencyNeverSatisfied"

    @property
    def is_held_by_slurm(self) -> bool:
        """Whether Slurm holds it back after failed starts; `release` lets it go on."""
        return self.reason in _ENDING_HOLDS

    def __str__(self) -> str:
        if self.state == "RUNNING":
            return f"running on {self.node} for {elapsed(self.elapsed)}"
        return f"{self.state.lower()} ({self.reason})" if self.state == "PENDING" else self.state.lower()


def elapsed(text: str) -> str:
    """Slurm's time with hours where it has left them out: "0:12:03" for "12:03"."""
    minutes, colon, seconds = text.partition(":")
    return f"0:{minutes:0>2}:{seconds}" if colon and ":" not in seconds and "-" not in text else text


def is_installed() -> bool:
    """Whether this machine has Slurm's commands."""
    return all(shutil.which(name) for name in ("sbatch", "squeue", "scancel", "scontrol"))


def require_slurm() -> None:
    """Raises SlurmError where this machine has no Slurm, or it does not answer."""
    if not is_installed():
        raise SlurmError(
            "-executor slurm needs Slurm's commands (sbatch, squeue, scancel, scontrol), which this machine does not "
            "have on its PATH; run it on the cluster's login node, or leave -executor out to train here"
        )
    _run(["squeue", "--noheader", "--jobs=0"], expect_any=True)


def require_accepted(site: SiteOptions) -> None:
    """Raises SlurmError with Slurm's own words where it would not take a job with these options."""
    command = ["sbatch", "--test-only", "--nodes=1", "--ntasks=1", *site.arguments]
    finished = _run(command, script="#!/bin/sh\n", expect_any=True)
    refused = [line for line in finished.stderr.splitlines() if "error:" in line or "failure:" in line]
    if finished.returncode != 0 and any(word in finished.stderr for word in ("nvalid", "denied", "nrecognized")):
        hint = f"; partitions are: {', '.join(partitions())}" if "partition" in finished.stderr else ""
        given = " ".join(site.arguments) or "no options"
        raise SlurmError(f"Slurm refuses {given}: {'; '.join(refused)}{hint}")


def partitions() -> tuple[str, ...]:
    """The partitions of the cluster."""
    return tuple(_run(["sinfo", "--noheader", "--format=%R"], expect_any=True).stdout.split())


def queue(names: Iterable[str], *, settle: bool = False) -> dict[str, QueuedJob]:
    """The jobs of these names that are in the queue, whoever submitted them; all in one look.

    ``settle`` waits for those that are just ending, so that what is left is known to be queued.
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
    """The jobs that squeue lists in the format that `queue` asks for."""
    rows = [line.strip().split("|", 5) for line in listed.splitlines() if line.count("|") >= 5]
    return [QueuedJob(number, name, state, node, ran, reason) for number, name, state, node, ran, reason in rows]


def submit(command: Sequence[str], script: str) -> str:
    """Submits a batch script; returns the job's number. Raises SlurmError with Slurm's own words where it refuses."""
    return _run(command, script=script).stdout.strip().split(";")[0]


def cancel(ids: Sequence[str]) -> None:
    """Ends jobs, running or not. Those that have ended since are no error."""
    if ids:
        _run(["scancel", *ids], expect_any=True)


def ask_to_stop(ids: Sequence[str]) -> None:
    """Tells the scripts of running jobs that they are cancelled: their commands stop at a checkpoint, however long."""
    if ids:
        _run(["scancel", "--batch", "--signal=USR2", *ids], expect_any=True)


def release(identity: str) -> None:
    """Lets a held job run."""
    _run(["scontrol", "release", identity])


def _run(
    command: Sequence[str], *, script: str | None = None, expect_any: bool = False
) -> subprocess.CompletedProcess[str]:
    # inside a job, the variables of that job must not become settings of the new one
    environment = {name: value for name, value in os.environ.items() if not _of_this_job(name)}
    try:
        finished = subprocess.run(
            command,
            input=script if script is not None else "",
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            env=environment,
            check=False,
            timeout=_SECONDS,
        )
    except subprocess.TimeoutExpired:
        raise SlurmError(f"Slurm has not answered {command[0]} for {_SECONDS:g} s; try again") from None
    except OSError as error:
        raise SlurmError(f"{command[0]} cannot be run: {error}") from None
    if "Unable to contact slurm controller" in finished.stderr or (finished.returncode != 0 and not expect_any):
        lines = finished.stderr.strip().splitlines() or [f"exit status {finished.returncode}"]
        raise SlurmError(f"Slurm refuses {command[0]}: {'; '.join(lines)[:500]}")
    return finished


def _of_this_job(name: str) -> bool:
    return name.startswith("SLURM_") and name not in ("SLURM_CONF", "SLURM_CLUSTERS", "SLURM_JWT")
