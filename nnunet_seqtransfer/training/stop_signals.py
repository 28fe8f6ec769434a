"""Signals that ask a command to stop: raised where it is, so that it can stop at a checkpoint and say how to go on."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from nnunet_seqtransfer.signals import handled

STOPPED = 75
"""Exit status of a training, or a command, that was asked to stop and can go on: EX_TEMPFAIL of sysexits.h."""
SIGNALS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGUSR1", "SIGHUP") if hasattr(signal, name))
"""Sent by schedulers at the end of the time, as their warning before it, and when the terminal goes away."""


class Stopped(BaseException):
    """Something asked for the end of the command, named in the message; the same command goes on from there."""


@contextmanager
def raising_on_signals() -> Iterator[None]:
    """While the block runs, SIGTERM, SIGUSR1 and SIGHUP raise Stopped; elsewhere than in the main thread nothing.

    Not in forked processes: a pool ends its workers by SIGTERM.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    with handled(SIGNALS, _stop):
        yield


def _stop(number: int, _: FrameType | None) -> None:
    raise Stopped(signal.Signals(number).name)
