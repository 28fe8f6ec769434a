"""The session of a child: whether any of its processes still runs, and the end of those that do."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress
from pathlib import Path

_LOOK = 0.1
_PROCESSES = Path("/proc")


def wait_until_empty(leader: int, seconds: float) -> bool:
    """Waits until no process runs any more in the group that ``leader`` began; whether that was so in time."""
    deadline = time.monotonic() + seconds
    while not is_empty(leader):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK)
    return True


def is_empty(leader: int) -> bool:
    """Whether no process runs in the group that ``leader`` began with its session.

    Processes that have ended do not count, though nobody has waited for them: in a container often nobody does.
    """
    try:
        os.killpg(leader, 0)
    except (ProcessLookupError, PermissionError):  # the second: only ended ones are left, on macOS
        return True
    return _PROCESSES.is_dir() and leader not in _running_groups()


def kill(leader: int) -> None:
    """SIGKILL to the child and its workers, which are a process group of their own."""
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(leader, signal.SIGKILL)


def _running_groups() -> set[int]:
    """The groups that have a process which has not ended: state and group are fields 3 and 5 of proc(5)'s stat."""
    groups = set()
    for path in _PROCESSES.glob("[0-9]*/stat"):
        with suppress(OSError, IndexError, ValueError):
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
            if state not in "ZX":
                groups.add(int(group))
    return groups
