"""Who is at work behind a lock file: looked at only, nothing is acquired or written."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnunet_seqtransfer.training.locks import LEASE_SECONDS, read_holder

Life = Literal["alive", "silent", "dead"]
_PATIENCE = 5 * LEASE_SECONDS
"""A process on this machine that exists and gave no sign for so long is another one that got the same number."""


SECONDS_OF_REST = 3600.0
"""What gave no sign for so long is taken for gone by those who remove things. A guess, far above any delay."""


@dataclass(frozen=True)
class Presence:
    """The process that a lock file names, and whether it lives."""

    pid: int
    "Its number."
    host: str
    "Its machine."
    life: Life
    "alive; dead: its process is gone; silent: on another machine, no sign for longer than a holder may be silent."
    seconds_ago: float
    "Since its last sign, by the lock file's time."

    @property
    def may_live(self) -> bool:
        """Whether nothing of its may be touched: it lives, or is elsewhere and gave a sign within the hour."""
        return self.life == "alive" or (self.life == "silent" and self.seconds_ago < SECONDS_OF_REST)

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def read_presence(lock: Path, now: float) -> Presence | None:
    """Who holds ``lock`` at the time ``now`` (seconds since 1970); None where nobody, or this process, is."""
    holder = read_holder(lock)
    if holder is None or (holder.pid == os.getpid() and holder.host == socket.gethostname()):
        return None
    try:
        ago = max(0.0, now - lock.stat().st_mtime)
    except OSError:
        return None  # released just now
    return Presence(holder.pid, holder.host, life_of(holder.pid, holder.host, ago), ago)


def first_presence(locks: Iterable[Path], now: float) -> Presence | None:
    """Of several locks of one thing: who lives, else who may, else who was there; None where nobody is named."""
    found = [presence for presence in (read_presence(lock, now) for lock in locks) if presence is not None]
    order = {"alive": 0, "silent": 1, "dead": 2}
    return min(found, key=lambda presence: order[presence.life], default=None)


def life_of(pid: int, host: str, seconds_ago: float) -> Life:
    """Whether a holder lives: on this machine its process tells, on another one its last sign."""
    if host == socket.gethostname():
        return "dead" if not _exists(pid) else "alive" if seconds_ago < _PATIENCE else "silent"
    return "alive" if seconds_ago < LEASE_SECONDS else "silent"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):  # someone else's; no number of a process
        return True
    return True
