"""Signals reach the command and leave the workers of pools alone; the end of the starting command is noticed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.signals import PARENT_VARIABLE, ParentWatch, Stopped, is_running, raising_on_signals

POOL = """
import multiprocessing
from nnunet_seqtransfer.signals import raising_on_signals

with raising_on_signals():
    for _ in range(5):
        with multiprocessing.get_context("fork").Pool(4) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
print("done")
"""


FORKS = """
import multiprocessing, os, signal, sys, time
from nnunet_seqtransfer.signals import raising_on_signals
from nnunet_seqtransfer.trainers.stopping import StopRequest

with raising_on_signals() if sys.argv[1] == "command" else StopRequest().noted(at_once=False):
    for _ in range(150):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        worker.start()
        os.kill(worker.pid, signal.SIGTERM)
        worker.join(30)
        assert worker.exitcode == -signal.SIGTERM, worker.exitcode
assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
print("done")
"""


def test_a_signal_raises_in_the_command() -> None:
    """SIGTERM raises Stopped inside the block; afterwards the earlier handler is back."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM"), raising_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_pool_of_forked_workers_ends_silently() -> None:
    """A pool ends its workers by SIGTERM: they neither raise nor hang, though they inherit the handler."""
    ended = subprocess.run([sys.executable, "-c", POOL], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("where", ["command", "training"])
def test_a_signal_reaches_a_worker_that_is_being_forked(where: str, tmp_path: Path) -> None:
    """Sent as soon as the process exists, 150 times: Python alone forgets some of them, and a pool hangs."""
    words = [sys.executable, "-c", FORKS, where]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


def test_the_end_of_the_starting_command_is_noticed() -> None:
    """A command that is gone, also as a zombie, is noticed; no command, or a living one, is not."""
    parent = subprocess.Popen(["/bin/sleep", "600"])
    watch = ParentWatch({PARENT_VARIABLE: str(parent.pid)})
    assert not watch.is_gone and not ParentWatch({}).is_gone
    parent.kill()
    deadline = time.monotonic() + 10
    while not watch.is_gone and time.monotonic() < deadline:
        time.sleep(0.05)
    assert watch.is_gone, "noticed although no one has waited for the process"
    parent.wait()
    assert ParentWatch({PARENT_VARIABLE: str(parent.pid)}).is_gone
    assert is_running(psutil.Process())


@pytest.mark.parametrize("text", ["x", "-3", "12:5"])
def test_a_parent_that_is_no_process_number_is_refused(text: str) -> None:
    """The message names the variable."""
    with pytest.raises(SeqTransferError, match=PARENT_VARIABLE):
        ParentWatch({PARENT_VARIABLE: text})
