"""What every verb needs besides its request: a way to report progress, and how many processes it may use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Notify = Callable[[str], None]
"""Receives one line of progress for people. Commands print it to standard error."""


def silent(line: str) -> None:
    """Ignore ``line``."""


@dataclass(frozen=True)
class Context:
    """Progress reports and worker processes, passed from a command or script down to where the work happens."""

    notify: Notify = silent
    "Called with each line of progress."
    processes: int = 1
    "Worker processes at most, at least 1."
