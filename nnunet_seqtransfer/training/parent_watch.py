"""Whether the command that started a training is still there: a training that nobody waits for stops."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from nnunet_seqtransfer.errors import SeqTransferError

VARIABLE = "nnUNet_seq_driver"
"""Environment variable with the `mark` of the driving command; not set where nnUNetv2_train is called by hand."""


def mark(process: int | None = None) -> str:
    """What a process (this one where None) is known by: its number and, where there is /proc, when it started.

    Numbers of processes are used again, so that a number alone may later be somebody else's.
    """
    number = os.getpid() if process is None else process
    started = _started(number)
    return f"{number}" if started is None else f"{number}:{started}"


class DriverWatch:
    """Looks after the driving command, at most once a second."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._mark = environment.get(VARIABLE, "")
        self._looked = -1.0
        self._gone = False
        if self._mark and not all(part.isdecimal() for part in self._mark.split(":", 1)):
            raise SeqTransferError(f"{VARIABLE} is {self._mark!r}, which is no process; unset it")

    @property
    def is_gone(self) -> bool:
        """Whether there was a driving command which has ended."""
        if self._mark and not self._gone and time.monotonic() - self._looked >= 1:
            self._looked = time.monotonic()
            self._gone = not is_running(self._mark)
        return self._gone


def is_running(process: str) -> bool:
    """Whether the process of a `mark` runs; one that has ended and was not waited for yet does not."""
    number, _, started = process.partition(":")
    if started:
        return _started(int(number)) == int(started)
    try:
        os.kill(int(number), 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # somebody else's, but there
        return True
    return True


def _started(number: int) -> int | None:
    """Clock ticks from the machine's start to the process's (field 22 of proc(5)'s stat); None where not to be had."""
    try:
        text = Path(f"/proc/{number}/stat").read_text()
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()  # the name in parentheses may hold anything
    return None if fields[0] in "ZX" else int(fields[19])
