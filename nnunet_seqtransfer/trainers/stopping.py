"""The request to stop a training: signals are noted, and obeyed between two epochs."""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

import psutil
import torch
from torch import distributed

from nnunet_seqtransfer.signals import STOPPED, ParentWatch, handled

SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
"""Signals that ask a training to stop; Slurm can send SIGUSR1 some time before it ends a job."""
SAME_REQUEST_SECONDS = 1.0
"""Signals within this time are one request: Ctrl-C reaches a training from the terminal and from the command."""


class StopRequest:
    """Request to stop this training, and the reason."""

    def __init__(self) -> None:
        self.reason: str | None = None
        "Name of the signal, or another reason in words; None as long as nothing asked."
        self.lock_lost = False
        "True if another process may have taken the lock, and so the folder."
        self.at_once = False
        "True if a signal may end the process immediately: before the first epoch and in the final validation."
        self._first_signal: float | None = None  # monotonic seconds
        self._parent: ParentWatch | None = None

    @property
    def is_made(self) -> bool:
        """Return True if the training is to stop, also because the command that started it has ended."""
        if self.reason is None and self._parent is not None and self._parent.is_gone:
            self.reason = "the end of the command that started it"
        return self.reason is not None

    def lose_lock(self) -> None:
        """Request a stop because another process took the lock, as after a machine has slept."""
        self.lock_lost = True
        self.reason = self.reason or "the loss of its lock to another process"

    def follows_soon(self, seconds: float = SAME_REQUEST_SECONDS) -> bool:
        """Wait up to ``seconds`` for a request whose effect on a worker process was noticed first."""
        deadline = time.monotonic() + seconds
        while not self.is_made and time.monotonic() < deadline:
            time.sleep(0.02)
        return self.is_made

    @contextmanager
    def noted(self, *, at_once: bool) -> Iterator[None]:
        """Note signals while the block runs instead of ending the process; forked processes still die by them.

        Ignored signals stay ignored (nohup). Outside the main thread, for which Python allows no handlers, only the end
        of the starting command is noticed.
        """
        self._parent, self.at_once = ParentWatch(), at_once
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
        if self._first_signal is None:
            self._first_signal, self.reason = now, self.reason or name
        elif now - self._first_signal > SAME_REQUEST_SECONDS:
            _kill_workers()
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


def any_process(request: bool, device: torch.device) -> bool:
    """Return whether any process of a distributed training passes True; all processes must call it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return request
    flag = torch.tensor(int(request), device=device)
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag.item())


def _end(line: str, status: int) -> NoReturn:
    """End the process inside a signal handler without waiting.

    An orderly exit would wait for ever for pools whose workers were killed by the same signal.
    """
    with suppress(OSError):
        os.write(1, line.encode())  # print may not be called in a signal handler
    _kill_workers()
    os._exit(status)


def _kill_workers() -> None:
    """Kill the worker processes, which would otherwise continue without a parent."""
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            child.kill()
