"""Locks between processes on one machine, or on several that share a file system: who works on what right now."""

import os
import re
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil
from filelock import SoftFileLease, Timeout

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.storage import disk_errors_as_user_errors

LEASE_SECONDS = 60.0
"""Silence in seconds after which a lock is taken over from another machine. A holder gives
three signs in that time. All processes must use the same value. The waiting process measures it by its monotonic
clock, so clocks that differ or jump do not matter."""
REST_SECONDS = 3600.0
"""Silence in seconds after which files may be removed. A guess, far above any file system delay."""
_AT_ONCE = 3.0
"""Seconds in which a lock from a process that died on this machine is noticed and taken over."""
_PATIENCE = 5 * LEASE_SECONDS
Life = Literal["alive", "silent", "dead"]


@dataclass(frozen=True)
class Holder:
    """The process named in a lock file, and whether it lives."""

    pid: int
    "Process number."
    host: str
    "Machine name."
    life: Life
    "alive; dead: the process is gone; silent: on another machine, and silent for a lease or longer."
    seconds_ago: float
    "Seconds since the last sign, by the lock file's time."

    @property
    def may_live(self) -> bool:
        """Return True if nothing that it works on may be touched: alive, or silent for less than an hour."""
        return self.life == "alive" or (self.life == "silent" and self.seconds_ago < REST_SECONDS)

    @property
    def is_this_process(self) -> bool:
        """Return True if the lock is held by this very process."""
        return self.pid == os.getpid() and self.host == socket.gethostname()

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def training_lock(output: Path) -> Path:
    """Return the training lock in a fold's results folder ``output``, which nnUNetv2_train by hand holds too."""
    return output.with_name(f".{output.name}.training.lock")


def read_holder(path: Path, now: float | None = None) -> Holder | None:
    """Return the holder that a lock file names, alive or not; None if there is no such file or it names no one.

    ``now``: seconds since 1970, by default the present.
    """
    try:
        text = path.read_text(errors="replace")
        seconds_ago = max(0.0, (time.time() if now is None else now) - path.stat().st_mtime)
    except OSError:
        return None
    pid, host = re.search(r"^pid=(\d+)$", text, re.MULTILINE), re.search(r"^host=(\S+?)(?:@\S*)?$", text, re.MULTILINE)
    if not pid or not host:
        return None
    return Holder(int(pid[1]), host[1], _life_of(int(pid[1]), host[1], seconds_ago), seconds_ago)


def other_holder(locks: Iterable[Path], now: float | None = None) -> Holder | None:
    """Return the liveliest holder among several locks; None if no one, or only this process, does."""
    holders = [holder for lock in locks if (holder := read_holder(lock, now)) and not holder.is_this_process]
    return min(holders, key=lambda holder: ("alive", "silent", "dead").index(holder.life), default=None)


def _life_of(pid: int, host: str, seconds_ago: float) -> Life:
    if host != socket.gethostname():
        return "alive" if seconds_ago < LEASE_SECONDS else "silent"
    if not _exists(pid):
        return "dead"
    # a process that gave no sign for so long is probably another one that got the same number
    return "alive" if seconds_ago < _PATIENCE else "silent"


def _exists(pid: int) -> bool:
    try:
        return bool(psutil.pid_exists(pid))
    except OverflowError:  # no number of a process: nothing is known
        return True


@contextmanager
def locked(
    path: Path,
    what: str,
    notify: Callable[[str], None],
    on_loss: Callable[[], None] = lambda: None,
    patience: float | None = None,
) -> Iterator[None]:
    """Hold the lock ``path`` while the block runs; take over a lock from a dead holder.

    The file is a filelock lease: created exclusively, which NFS does in one step, and refreshed by a
    thread. A dead holder on this machine is recognized by its process, one on another machine by an unchanged file.

    Args:
        path: the lock file.
        what: what is locked, as the subject of messages: "stage 2 of 3".
        notify: called with a line before a long wait.
        on_loss: called in another thread if this process was silent for so long that another one took the lock over.
        patience: seconds to wait for a living holder; None for a moment.

    Raises StageError if another process holds the lock and lives.
    """
    with _held(path, lambda lease: _acquire_or_say_so(lease, path, what, notify, patience), on_loss):
        yield


@contextmanager
def hold_training(
    output: Path, notify: Callable[[str], None], on_loss: Callable[[], None], patience: float = 60.0
) -> Iterator[None]:
    """Hold the lock of a training while the block runs; exit with one line if another process trains there.

    A training whose command was killed may still finish its epoch, so the default ``patience`` is a minute.
    """
    with ExitStack() as held:
        try:
            held.enter_context(locked(training_lock(output), f"the training in {output}", notify, on_loss, patience))
        except StageError as error:  # of the lock, not of the block
            sys.exit(f"seq_transfer: {error}")
        yield


@contextmanager
def locked_in_turn(path: Path, what: str, notify: Callable[[str], None]) -> Iterator[None]:
    """Like `locked`, but wait as long as needed and report the wait once. For short or shareable work."""
    with _held(path, lambda lease: _acquire_in_turn(lease, path, what, notify)):
        yield


def require_free(path: Path, what: str, notify: Callable[[str], None], patience: float = LEASE_SECONDS) -> None:
    """Wait at most ``patience`` seconds until a lock is free, such as a training's after the command was killed.

    Raises StageError if it is still held then.
    """
    if not path.is_file():
        return
    lease = SoftFileLease(path, lease_duration=LEASE_SECONDS, thread_local=False)
    if not _is_acquired(lease, _AT_ONCE):
        notify(f"{what}: {read_holder(path) or 'another process'} still trains it; waiting at most {patience:g} s")
        _acquire_or_say_so(lease, path, what, notify, patience)
    lease.release()


@contextmanager
def _held(
    path: Path, acquire: Callable[[SoftFileLease], None], on_loss: Callable[[], None] = lambda: None
) -> Iterator[None]:
    with disk_errors_as_user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        lease = SoftFileLease(path, lease_duration=LEASE_SECONDS, thread_local=False, on_compromise=lambda _: on_loss())
        acquire(lease)
    try:
        yield
    finally:
        lease.release()


def _acquire_or_say_so(
    lease: SoftFileLease, path: Path, what: str, notify: Callable[[str], None], patience: float | None = None
) -> None:
    if _is_acquired(lease, _AT_ONCE if patience is None else patience):
        return
    holder = read_holder(path)
    if holder is None or holder.host != socket.gethostname():
        notify(f"{what}: {holder or 'another process'} holds {path}; waiting {LEASE_SECONDS:g} s for a sign of life")
        if _is_acquired(lease, LEASE_SECONDS + 2 * _AT_ONCE):
            return
    raise StageError(
        f"{what} is already being processed by {read_holder(path) or 'another process'}; wait for it or stop it, then "
        f"rerun (lock: {path})"
    )


def _acquire_in_turn(lease: SoftFileLease, path: Path, what: str, notify: Callable[[str], None]) -> None:
    if not _is_acquired(lease, _AT_ONCE):
        notify(f"{what}: waiting for {read_holder(path) or 'another process'} (lock: {path})")
        while not _is_acquired(lease, LEASE_SECONDS):
            pass


def _is_acquired(lease: SoftFileLease, patience: float) -> bool:
    path = Path(lease.lock_file)
    before = _empty(path)
    try:
        lease.acquire(timeout=patience, poll_interval=0.1)
    except Timeout:
        # A process that dies between creating the file and writing to it leaves an empty file. filelock never takes
        # that over, because old versions kept files empty; ours name their holder within a moment.
        if before is None or _empty(path) != before:
            return False
        path.unlink(missing_ok=True)
        return _is_acquired(lease, patience)
    return True


def _empty(path: Path) -> tuple[int, int] | None:
    """Return inode and time for an empty file, None for any other."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns) if status.st_size == 0 else None
