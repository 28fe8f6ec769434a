"""Locks between processes, on one machine or on several that share a file system: who works on what right now."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from filelock import SoftFileLease, Timeout

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.storage import disk_errors_as_user_errors

LEASE_SECONDS = 60.0
"""How long a holder on another machine may be silent before its lock is taken over; it gives a sign three times in
that time. All processes must agree on it. The silence is measured by the waiting process's monotonic clock, so that
clocks which differ or jump do not matter."""
_AT_ONCE = 3.0
"""Seconds in which the lock of a process that died on this machine is noticed and taken over."""


@dataclass(frozen=True)
class Holder:
    """The process that a lock file names."""

    pid: int
    "Its number."
    host: str
    "Its machine."

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}"


def training_lock(output: Path) -> Path:
    """The lock of the training in a fold's results folder ``output``, which nnUNetv2_train by hand holds too."""
    return output.with_name(f".{output.name}.training.lock")


def read_holder(path: Path) -> Holder | None:
    """Who a lock file names, whether it lives or not; None where there is no such file or it says nothing."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return None
    pid, host = re.search(r"^pid=(\d+)$", text, re.MULTILINE), re.search(r"^host=(\S+?)(?:@\S*)?$", text, re.MULTILINE)
    return Holder(int(pid[1]), host[1]) if pid and host else None


@contextmanager
def locked(
    path: Path,
    what: str,
    notify: Callable[[str], None],
    on_loss: Callable[[], None] = lambda: None,
    patience: float | None = None,
) -> Iterator[None]:
    """Holds the lock ``path`` while the block runs; a lock whose holder has died is taken over.

    The file is a lease of the library filelock: made exclusively, which NFS does in one step, refreshed by a thread. A
    holder that died on this machine is known by its process; of one on another machine the file stops changing.

    ``patience``: seconds for which a living one is waited for, a moment where None. ``on_loss`` is called, in another
    thread, where this process was silent for so long that another one took it over.

    Raises StageError where another process holds it and lives: ``what`` says what that one is doing.
    """
    with _held(path, lambda lease: _acquire_or_say_so(lease, path, what, notify, patience), on_loss):
        yield


@contextmanager
def locked_in_turn(path: Path, what: str, notify: Callable[[str], None]) -> Iterator[None]:
    """The same for short or shareable work: waits, however long, for another process that lives, and says so once."""
    with _held(path, lambda lease: _acquire_in_turn(lease, path, what, notify)):
        yield


def require_free(path: Path, what: str, notify: Callable[[str], None], patience: float = LEASE_SECONDS) -> None:
    """Waits at most ``patience`` seconds for a lock to be given up, as by a training whose command was killed.

    Raises StageError where it is not.
    """
    if not path.is_file():
        return
    lease = SoftFileLease(path, lease_duration=LEASE_SECONDS, thread_local=False)
    if not _is_acquired(lease, _AT_ONCE):
        notify(f"{what}: {read_holder(path) or 'another process'} is still at it; waiting at most {patience:g} s")
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
        f"{what}: {read_holder(path) or 'another process'} is at it already; wait until it has finished, or stop it, "
        f"and run the same command again (lock {path})"
    )


def _acquire_in_turn(lease: SoftFileLease, path: Path, what: str, notify: Callable[[str], None]) -> None:
    if not _is_acquired(lease, _AT_ONCE):
        notify(f"{what}: {read_holder(path) or 'another process'} is at it; waiting (lock {path})")
        while not _is_acquired(lease, LEASE_SECONDS):
            pass


def _is_acquired(lease: SoftFileLease, patience: float) -> bool:
    path = Path(lease.lock_file)
    before = _empty(path)
    try:
        lease.acquire(timeout=patience, poll_interval=0.1)
    except Timeout:
        # Who dies between making the file and writing to it leaves it empty. filelock never takes that over, since its
        # old versions kept files empty; ours say within a moment whose they are.
        if before is None or _empty(path) != before:
            return False
        path.unlink(missing_ok=True)
        return _is_acquired(lease, patience)
    return True


def _empty(path: Path) -> tuple[int, int] | None:
    """Which file it is, and of when, where there is one and it is empty; else None."""
    try:
        status = path.stat()
    except OSError:
        return None
    return (status.st_ino, status.st_mtime_ns) if status.st_size == 0 else None
