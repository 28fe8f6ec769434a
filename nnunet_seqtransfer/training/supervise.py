"""One job as a child process: its output in a log, its progress on the terminal, and an end at a checkpoint."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TextIO

from tqdm import tqdm

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.nnunet.training_log import LogReader
from nnunet_seqtransfer.training import process_group as session
from nnunet_seqtransfer.training.job import Job
from nnunet_seqtransfer.training.stop_signals import STOPPED, Stopped

PATIENCE = 600.0
"""Seconds in which a training that was asked to stop has to reach its next iteration and write a checkpoint."""
_LOOK = 0.2
_REST = 5.0
"""Seconds in which workers have to end after their training has."""
_HAS_STOPPED = "seq_transfer: stopped by"


def run_job(job: Job) -> None:
    """Runs a job to its end.

    The child writes to its log by itself, and in a session of its own: so neither the end of this process nor Ctrl-C in
    its terminal cuts it off in the middle of a write. Ctrl-C and signals are passed on, and it is waited for.

    Raises StageError where it fails, Stopped where it has stopped at a checkpoint without having been asked by this
    process, and what interrupted the waiting.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with job.log.open("ab") as out, job.log.open(errors="replace") as log:
        log.seek(0, os.SEEK_END)
        child = subprocess.Popen(
            job.command,
            env={**os.environ, **job.environment},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            last = _follow(child, log, job)
        except BaseException:
            _stop(child, job)
            raise
    # on several GPUs nnU-Net covers the status of its processes with its own
    if child.returncode == STOPPED or (child.returncode and any(line.startswith(_HAS_STOPPED) for line in last)):
        raise Stopped("the training")
    if child.returncode != 0:
        raise StageError(_failure(job, child.returncode, last))


def _follow(child: subprocess.Popen[bytes], log: TextIO, job: Job) -> Sequence[str]:
    """Shows the progress that the child writes to its log; returns the last lines."""
    last: deque[str] = deque(maxlen=200)
    reader = LogReader()
    quiet = not sys.stderr.isatty()
    with tqdm(
        total=job.epochs, desc=job.title, unit="epoch", mininterval=10 if quiet else 0.5, ascii=quiet or None
    ) as bar:
        for line in _lines(child, log):
            last.append(line)
            epoch = reader.feed(line)
            if epoch is not None:
                if bar.n == 0:  # a resumed training starts above 0
                    bar.initial = epoch.number
                bar.n = epoch.number + 1
                if not math.isnan(epoch.mean_dice):
                    bar.set_postfix_str(f"pseudo Dice {epoch.mean_dice:.3f}", refresh=False)
                bar.refresh()
    return last


def _lines(child: subprocess.Popen[bytes], log: TextIO) -> Iterator[str]:
    """Whole lines of the log as they come, until the child has ended; what it left of a last line too."""
    started = ""
    ended = False
    while True:
        text = log.readline()
        if not text:
            if ended:
                break
            ended = child.poll() is not None  # and then one more look at what it wrote last
            if not ended:
                time.sleep(_LOOK)
            continue
        started += text
        if started.endswith("\n"):
            yield started.rstrip()
            started = ""
    if started:
        yield started.rstrip()


def _stop(child: subprocess.Popen[bytes], job: Job) -> None:
    """Asks a child to stop at a checkpoint and waits for it, so that nobody writes any more when this has ended.

    On several GPUs it has ended at once, and its processes, one for each GPU, go on to their checkpoint without it.
    A second Ctrl-C or signal while they are waited for ends them at once: what they have written so far is whole.
    """
    child.terminate()
    with suppress(OSError):  # the terminal may be closed
        tqdm.write("stopping at a checkpoint; once more to stop without", file=sys.stderr)
    deadline = time.monotonic() + PATIENCE
    try:
        child.wait(PATIENCE)
        session.wait_until_empty(child.pid, deadline - time.monotonic() if job.goes_on_without_first else _REST)
    except (subprocess.TimeoutExpired, KeyboardInterrupt, Stopped):
        pass
    finally:
        if not session.is_empty(child.pid):
            session.kill(child.pid)
        child.wait()


def _failure(job: Job, status: int, last: Sequence[str]) -> str:
    ended = f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"
    errors = [line for line in last if line and not line.startswith((" ", "Traceback"))]
    reason = f" ({errors[-1][:200]})" if errors and status > 0 else ""
    return f"{job.title} {ended}{reason}; its output is in {job.log}; run the same command again to go on from there"
