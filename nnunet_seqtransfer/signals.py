"""Handling signals for a while, in this process alone: processes that it forks meanwhile die by them as ever."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any

Handler = Callable[[int, FrameType | None], None]

_before: dict[int, Any] = {}
"""What handled the signals that are handled here now."""
_masks = threading.local()


@contextmanager
def handled(numbers: Iterable[int], handler: Handler) -> Iterator[None]:
    """Inside the block ``handler`` gets these signals; only in the main thread, where Python allows handlers."""
    own = {number: signal.signal(number, handler) for number in numbers}
    added = [number for number in own if number not in _before]
    _before.update({number: own[number] for number in added})
    try:
        yield
    finally:
        for number, earlier in own.items():
            signal.signal(number, earlier)
        for number in added:
            _before.pop(number, None)


def _hold_back() -> None:
    """Signals wait while a process is forked: Python forgets what arrives in the new one before it is ready.

    A pool that ends its workers by SIGTERM as soon as they are there would wait for ever for one that has not got it.
    """
    _masks.earlier = signal.pthread_sigmask(signal.SIG_BLOCK, _before)


def _let_through() -> None:
    signal.pthread_sigmask(signal.SIG_SETMASK, _masks.earlier)


def _give_back() -> None:
    """In the new process: signals are handled as before, those that have waited too."""
    for number, earlier in _before.items():
        with suppress(ValueError):  # not in a main thread
            signal.signal(number, earlier)
    _before.clear()
    _let_through()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_hold_back, after_in_parent=_let_through, after_in_child=_give_back)
