"""Pass progress reports and worker processes from a command down to the work."""

from collections.abc import Callable
from dataclasses import dataclass

Notify = Callable[[str], None]
"""Receives one progress line for people. Commands print it to standard error."""


def silent(line: str) -> None:
    """Ignore ``line``."""


@dataclass(frozen=True)
class Context:
    """Progress reports and worker processes."""

    notify: Notify = silent
    "Called with each progress line."
    processes: int = 1
    "Maximum worker processes, at least 1."
