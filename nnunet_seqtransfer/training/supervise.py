"""Child processes: output in a log, progress on the terminal, and an end at a checkpoint."""

import math
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import psutil
from tqdm import tqdm

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.nnunet.training_log import LogReader, TrainingLog
from nnunet_seqtransfer.signals import STOPPED, Stopped
from nnunet_seqtransfer.training.job import Job

STOP_SECONDS = 3600.0
"""Seconds for a training that was asked to stop: it finishes the epoch and writes a checkpoint."""
LOOK_SECONDS = 0.2
"""Seconds between two looks at a child process."""
_WORKER_SECONDS = 5.0
"""Seconds that worker processes may outlive their training."""
_STOPPED_LINE = "seq_transfer: stopped by"


def run_job(job: Job) -> None:
    """Run a training and wait for the end.

    The child writes to the log by itself, in a new session: neither the end of this process nor Ctrl-C in the terminal
    cuts it off while it writes. Ctrl-C and signals are passed on, and the child is waited for.

    Raises StageError if the training fails, Stopped if it stopped at a checkpoint for a reason other than this process,
    and whatever interrupted the waiting.
    """
    job.log.parent.mkdir(parents=True, exist_ok=True)
    job.log.touch()
    last: deque[str] = deque(maxlen=200)
    bar = TrainingBar(job.log, job.title, job.epochs, job.cases, job.left)
    child = start_process(job.command, job.log, job.environment)
    try:
        _follow(child, bar, last)
    except BaseException:
        _stop(child, job)
        raise
    finally:
        last += bar.update()
        last.append(bar.close())
    # on several GPUs nnU-Net replaces the exit status of its processes
    if child.returncode == STOPPED or (child.returncode and any(line.startswith(_STOPPED_LINE) for line in last)):
        raise Stopped("the training")
    if child.returncode != 0:
        raise StageError(_failure(job, child.returncode, last))


def _follow(child: subprocess.Popen[bytes], bar: "TrainingBar", last: deque[str]) -> None:
    while child.poll() is None:
        last += bar.update()
        time.sleep(LOOK_SECONDS)


def start_process(
    command: Sequence[str], output: Path, environment: Mapping[str, str] | None = None
) -> subprocess.Popen[bytes]:
    """Start a command in a new session; append stdout and stderr to ``output``.

    ``environment``: variables added to those of this process.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.open("ab") as stream:
        return subprocess.Popen(
            command,
            env={**os.environ, **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


class TrainingBar:
    """Progress bar for one training, fed from new lines in the log."""

    def __init__(
        self,
        log: Path,
        title: str,
        epochs: int,
        cases: int = 0,
        left: Callable[[TrainingLog], float] | None = None,
        line: int = 0,
    ) -> None:
        self._log = log.open(errors="replace")
        self._log.seek(0, os.SEEK_END)
        self._reader, self._rest = LogReader(), ""
        self._cases, self._left = cases, left
        quiet = not sys.stderr.isatty()
        self._pause, self._shown_at = 10.0 if quiet else 0.5, -math.inf
        self._bar = tqdm(
            total=epochs,
            desc=title,
            bar_format="{desc}: {percentage:3.0f}%|{bar}| {elapsed}{postfix}",
            position=line,
            ascii=quiet or None,
            leave=line == 0,
        )

    def update(self) -> Sequence[str]:
        """Show what the log tells; return the new whole lines of the log."""
        *lines, self._rest = (self._rest + self._log.read()).split("\n")
        epochs = [self._reader.feed(line.rstrip()) for line in lines]
        is_due = time.monotonic() - self._shown_at >= self._pause
        if any(epochs) or (lines and is_due):
            self._shown_at = time.monotonic()
            self._show(self._reader.log)
        return [line.rstrip() for line in lines]

    def _show(self, log: TrainingLog) -> None:
        done, words = float(log.epochs_done), []
        if log.predicted:
            done = self._bar.total
            words.append(f"validating {log.predicted}/{max(self._cases, log.predicted)}")
        elif log.running is not None:
            words.append(f"epoch {log.running + 1}/{self._bar.total}")
            if log.iteration is not None:
                done += log.iteration[0] / log.iteration[1]
                words.append("iteration {}/{}".format(*log.iteration))
        if log.last is not None:
            words.append(f"{log.median_seconds:.3g} s an epoch")
            if not math.isnan(log.last.mean_dice):
                words.append(f"pseudo Dice {log.last.mean_dice:.3f}")
        if self._left is not None:
            words.append(f"{tqdm.format_interval(self._left(log))} left")
        self._bar.n = min(done, self._bar.total)
        self._bar.set_postfix_str(", ".join(words))

    def close(self) -> str:
        """End the bar and close the log; return what was left of a line without an end."""
        self._bar.close()
        self._log.close()
        return self._rest


def group_is_empty(leader: int) -> bool:
    """Return whether no process runs in the group that ``leader`` started with a session.

    Zombies do not count: in a container often no one waits for them.
    """
    for process in psutil.process_iter(["status"]):
        with suppress(OSError):  # it has ended since
            if os.getpgid(process.pid) == leader and process.info["status"] != psutil.STATUS_ZOMBIE:
                return False
    return True


def wait_for_group(leader: int, seconds: float) -> bool:
    """Wait until the process group of ``leader`` is empty. Return False on timeout."""
    deadline = time.monotonic() + seconds
    while not group_is_empty(leader):
        if time.monotonic() >= deadline:
            return False
        time.sleep(LOOK_SECONDS)
    return True


def _stop(child: subprocess.Popen[bytes], job: Job) -> None:
    """Ask a child to stop at a checkpoint and wait for it, so that nothing is written after this has returned.

    On several GPUs the launcher ends at once, and the processes, one per GPU, finish without it. A second Ctrl-C or
    signal kills them; what they have written so far is whole.
    """
    child.terminate()
    with suppress(OSError):  # the terminal may be closed
        tqdm.write("stopping after this epoch, with a checkpoint; press again to stop without", file=sys.stderr)
    deadline = time.monotonic() + STOP_SECONDS
    try:
        child.wait(STOP_SECONDS)
        wait_for_group(child.pid, deadline - time.monotonic() if job.workers_outlive_parent else _WORKER_SECONDS)
    except (subprocess.TimeoutExpired, KeyboardInterrupt, Stopped):
        pass
    finally:
        with suppress(ProcessLookupError, PermissionError):  # on macOS, PermissionError if only zombies are left
            if not group_is_empty(child.pid):
                os.killpg(child.pid, signal.SIGKILL)
        child.wait()


def _failure(job: Job, status: int, last: Sequence[str]) -> str:
    ended = f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"
    # an error message is neither indented nor the headline of a traceback
    errors = [line for line in last if line and not line.startswith((" ", "Traceback"))]
    reason = f" ({errors[-1][:200]})" if errors and status > 0 else ""
    return f"{job.title} {ended}{reason}; see its output in {job.log}, then run the same command again to resume"
