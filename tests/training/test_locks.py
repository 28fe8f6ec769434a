"""Locks between processes: one holder at a time, and a dead one never blocks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.training import locks
from nnunet_seqtransfer.training.locks import locked, locked_in_turn, read_holder

HOLD = """
import sys, time
from pathlib import Path
from nnunet_seqtransfer.training.locks import locked
with locked(Path(sys.argv[1]), "test", print):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
COUNT = """
import sys
from pathlib import Path
from nnunet_seqtransfer.training.locks import locked_in_turn
lock, counter = Path(sys.argv[1]), Path(sys.argv[2])
for _ in range(10):
    with locked_in_turn(lock, "counting", lambda line: None):
        counter.write_text(str(int(counter.read_text()) + 1))
"""
"""Loses counts where two are at it at once."""


def child(script: str, *arguments: str, cwd: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", script, *arguments], cwd=cwd, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True
    )


def holding(lock: Path, seconds: float = 60) -> subprocess.Popen[str]:
    process = child(HOLD, str(lock), str(seconds), cwd=lock.parent)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same rules, with less patience."""
    monkeypatch.setattr(locks, "_AT_ONCE", 0.5)


def test_a_second_process_is_told_who_is_at_it(tmp_path):
    """One line names the process, the machine and the lock, and nothing is changed."""
    lock = tmp_path / ".a.lock"
    process = holding(lock)
    expected = pytest.raises(StageError, match=f"is already being processed by process {process.pid} on ")
    with expected as caught, locked(lock, "stage 1", print):
        pytest.fail("two at once")
    assert str(lock) in str(caught.value) and "stage 1" in str(caught.value)
    assert process.poll() is None and read_holder(lock) is not None
    process.kill()
    process.wait()


def test_a_killed_holder_is_succeeded_at_once(tmp_path):
    """After SIGKILL the file is still there, and the next one takes it over and leaves nothing behind."""
    lock = tmp_path / ".a.lock"
    process = holding(lock)
    process.send_signal(signal.SIGKILL)
    process.wait()
    holder = read_holder(lock)
    assert holder is not None and (holder.pid, holder.life) == (process.pid, "dead")
    with locked(lock, "stage 1", print):
        assert read_holder(lock).pid == os.getpid()  # type: ignore[union-attr]
    assert list(tmp_path.iterdir()) == []


def test_a_holder_on_another_machine_counts_as_dead_when_it_gives_no_sign(tmp_path, monkeypatch):
    """Its process cannot be asked, so its file is watched for the time of a lease; it says so meanwhile."""
    monkeypatch.setattr(locks, "LEASE_SECONDS", 2.0)
    lock = tmp_path / ".a.lock"
    process = holding(lock)
    process.kill()
    process.wait()
    lines: list[str] = []
    text = lock.read_text()
    foreign = "\n".join("host=elsewhere" if line.startswith("host=") else line for line in text.splitlines()) + "\n"
    lock.write_text(foreign.replace("duration=60.0", "duration=2.0"))
    with locked(lock, "stage 1", lines.append):
        assert "sign of life" in lines[0] and "elsewhere" in lines[0]


def test_a_jump_of_the_clock_neither_frees_nor_blocks(tmp_path):
    """A lock file dated years ago, or ahead, is still that of its living holder."""
    lock = tmp_path / ".a.lock"
    process = holding(lock)
    for when in (1e9, 4e9):
        os.utime(lock, (when, when))
        with pytest.raises(StageError, match="is already being processed by"), locked(lock, "stage 1", print):
            pytest.fail("two at once")
    process.kill()
    process.wait()
    os.utime(lock, (4e9, 4e9))
    with locked(lock, "stage 1", print):
        pass


@pytest.mark.parametrize("content", ["", "filelock/2\npid=1", "\0" * 100])
def test_a_damaged_lock_file_does_not_block(tmp_path, content):
    """Empty, cut off or zeros, as a crash of the machine leaves it: taken over when it stays like that."""
    lock = tmp_path / ".a.lock"
    lock.write_text(content)
    os.utime(lock, (1e9, 1e9))
    with locked(lock, "stage 1", print):
        assert read_holder(lock).pid == os.getpid()  # type: ignore[union-attr]


def test_many_processes_take_turns(tmp_path):
    """Three processes counting in one file lose no count."""
    lock, counter = tmp_path / ".a.lock", tmp_path / "counter"
    counter.write_text("0")
    children = [child(COUNT, str(lock), str(counter), cwd=tmp_path) for _ in range(3)]
    for process in children:
        assert process.wait(60) == 0
    assert counter.read_text() == "30"


def test_waiting_is_said_once(tmp_path):
    """Who waits in turn names the one that it waits for, and goes on when that one has ended."""
    lock, lines = tmp_path / ".a.lock", []
    process = holding(lock, seconds=3)
    with locked_in_turn(lock, "preprocessing", lines.append):
        pass
    assert process.wait(10) == 0
    assert len(lines) == 1 and str(process.pid) in lines[0]


def test_a_lock_in_a_folder_that_cannot_be_written_is_one_line(tmp_path):
    """A file in the place of the folder: the path is named."""
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file"), locked(tmp_path / "file" / ".a.lock", "stage 1", print):
        pytest.fail("held")
