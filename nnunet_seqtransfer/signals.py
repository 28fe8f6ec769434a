"""Requests to stop a process: signals, and the end of the command that started it."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

import psutil

from nnunet_seqtransfer.errors import SeqTransferError

STOPPED = 75
"""Exit status of a training or command that was asked to stop and can be resumed: EX_TEMPFAIL in sysexits.h."""
PARENT_VARIABLE = "nnUNet_seq_driver"
"""Environment variable with the process number of the command that started a training; unset for trainings by hand."""

Handler = Callable[[int, FrameType | None], None]

_earlier_handlers: dict[int, Any] = {}
"""Signal number -> the handler from before `handled`."""
_masks = threading.local()


class Stopped(BaseException):
    """A signal, named in the message, asked the command to stop; the same command resumes the work."""


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """Raise Stopped on SIGTERM, SIGUSR1 and SIGHUP while the block runs in the main thread.

    Schedulers send them at the end of the time and as a warning; a terminal sends SIGHUP when it closes. Forked
    processes keep the handlers from before, because pools end workers by SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    names = ("SIGTERM", "SIGUSR1", "SIGHUP")
    with handled([getattr(signal, name) for name in names if hasattr(signal, name)], _raise_stopped):
        yield


def _raise_stopped(number: int, _: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)


@contextmanager
def handled(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """Pass these signals to ``handler`` while the block runs, in this process alone.

    Processes forked in the block handle them as before. Call it in the main thread: Python allows handlers only there.
    """
    own = {number: signal.signal(number, handler) for number in numbers}
    added = [number for number in own if number not in _earlier_handlers]
    _earlier_handlers.update({number: own[number] for number in added})
    try:
        yield
    finally:
        for number, earlier in own.items():
            signal.signal(number, earlier)
        for number in added:
            _earlier_handlers.pop(number, None)


class ParentWatch:
    """Tells whether the command that started this training has ended; looks at most once a second."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        text = environment.get(PARENT_VARIABLE, "")
        if text and not text.isdecimal():
            raise SeqTransferError(f"{PARENT_VARIABLE} is {text!r}, which is no process number; unset it")
        self._looked_at = -1.0
        self._gone = False
        self._parent: psutil.Process | None = None
        if text:
            try:
                self._parent = psutil.Process(int(text))
            except psutil.NoSuchProcess:
                self._gone = True

    @property
    def is_gone(self) -> bool:
        """True if the starting command has ended; False if there was none."""
        if self._parent is not None and not self._gone and time.monotonic() - self._looked_at >= 1:
            self._looked_at = time.monotonic()
            self._gone = not is_running(self._parent)
        return self._gone


def is_running(process: psutil.Process) -> bool:
    """Return whether a process runs; one that has ended but was not waited for (a zombie) does not."""
    try:
        # is_running also compares the start time: process numbers are used again
        return process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False


def _hold_signals() -> None:
    """Block the signals while a process is forked: Python forgets those that reach the new process too early.

    A pool that ends workers by SIGTERM as soon as they exist would otherwise wait for ever.
    """
    _masks.earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _earlier_handlers)


def _release_signals() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.earlier)


def _restore_in_child() -> None:
    """Restore the earlier handlers in the new process, then deliver the signals that were held."""
    for number, earlier in _earlier_handlers.items():
        with suppress(ValueError):  # not in a main thread
            signal.signal(number, earlier)
    _earlier_handlers.clear()
    _release_signals()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_signals, after_in_parent=_release_signals, after_in_child=_restore_in_child)
