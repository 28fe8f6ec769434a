"""Stopping a training from outside: signals are noted, and heeded where nothing is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

from nnunet_seqtransfer.signals import handled
from nnunet_seqtransfer.training.parent_watch import DriverWatch
from nnunet_seqtransfer.training.stop_signals import STOPPED

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
"""SIGUSR1 is what Slurm can send some time before it ends a job."""
TOGETHER = 1.0
"""Seconds in which several signals are one wish: Ctrl-C reaches a training from its terminal and from its driver."""


class Stop:
    """The wish that this training stops."""

    def __init__(self) -> None:
        self.reason: str | None = None
        "What asked for it: a signal's name, or the end of the driving command. None: nothing did."
        self.lost = False
        "Whether the lock was given up for lost: what is on disk may be another process's."
        self.at_once = False
        "Whether nothing would be lost by ending right now, as before the first and after the last iteration."
        self._first: float | None = None  # when the first signal came
        self._watch: DriverWatch | None = None

    @property
    def requested(self) -> bool:
        """Whether the training is to stop; looks after the driving command too."""
        if self.reason is None and self._watch is not None and self._watch.is_gone:
            self.reason = "the end of its driving command"
        return self.reason is not None

    def lose_lock(self) -> None:
        """Another process has taken this training over while this one was silent, as on a machine that slept."""
        self.lost = True
        self.reason = self.reason or "the loss of its lock to another process"

    def follows_soon(self, seconds: float = TOGETHER) -> bool:
        """Waits a little for a wish whose effect on a worker process was noticed before it."""
        deadline = time.monotonic() + seconds
        while not self.requested and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.requested

    @contextmanager
    def heeded(self, *, at_once: bool) -> Iterator[None]:
        """Inside the block signals are noted in place of ending the process; forked processes die by them as before.

        Signals that are ignored stay so (nohup). Outside of the main thread, where Python allows no handlers, only the
        driving command is looked after.
        """
        self._watch, self.at_once = DriverWatch(), at_once
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        with handled([n for n in SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)], self._note):
            yield

    def _note(self, number: int, _: FrameType | None) -> None:
        name = signal.Signals(number).name
        if self.at_once:
            _end(f"seq_transfer: stopped by {name}, everything on disk stays as it was\n", STOPPED)
        now = time.monotonic()
        if self._first is None:
            self._first, self.reason = now, self.reason or name
        elif now - self._first > TOGETHER:
            _kill_children()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def _end(line: str, status: int) -> NoReturn:
    """Ends the process inside a signal handler, where print may not be called, without waiting for anybody.

    Pools whose workers were killed by the same signal would keep an orderly exit waiting for ever.
    """
    with suppress(OSError):
        os.write(1, line.encode())
    _kill_children()
    os._exit(status)


def _kill_children() -> None:
    """Ends worker processes, which would otherwise go on without a parent."""
    for child in multiprocessing.active_children():
        child.kill()
    # one that is being started this moment is not among them yet; the fourth field of proc(5)'s stat is the parent
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError, IndexError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                os.kill(int(path.parent.name), signal.SIGKILL)
