"""Signals that ask a command to stop reach the command, and leave the workers of pools alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_seqtransfer.training.stop_signals import Stopped, raising_on_signals

POOL = """
import multiprocessing
from nnunet_seqtransfer.training.stop_signals import raising_on_signals

with raising_on_signals():
    for _ in range(5):
        with multiprocessing.get_context("fork").Pool(4) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
print("done")
"""


FORKS = """
import multiprocessing, os, signal, sys, time
from nnunet_seqtransfer.training.stop_signals import raising_on_signals
from nnunet_seqtransfer.trainers.stopping import Stop

with raising_on_signals() if sys.argv[1] == "command" else Stop().heeded(at_once=False):
    for _ in range(150):
        worker = multiprocessing.get_context("fork").Process(target=time.sleep, args=(600,))
        worker.start()
        os.kill(worker.pid, signal.SIGTERM)
        worker.join(30)
        assert worker.exitcode == -signal.SIGTERM, worker.exitcode
assert not signal.pthread_sigmask(signal.SIG_BLOCK, [])
print("done")
"""


def test_a_signal_raises_where_the_command_is() -> None:
    """SIGTERM raises Stopped inside of the block, and what was there before it is there again behind it."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="SIGTERM"), raising_on_signals():
        os.kill(os.getpid(), signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_pool_of_forked_workers_ends_without_a_word() -> None:
    """A pool ends its workers by SIGTERM: they neither raise nor hang, though they inherit the handler."""
    ended = subprocess.run([sys.executable, "-c", POOL], capture_output=True, text=True, timeout=120, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")


@pytest.mark.parametrize("where", ["command", "training"])
def test_a_signal_reaches_a_worker_that_is_being_forked(where: str, tmp_path: Path) -> None:
    """Sent as soon as the process is there, 150 times: Python alone forgets some of them, and a pool hangs."""
    words = [sys.executable, "-c", FORKS, where]
    ended = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False, cwd=tmp_path)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "done\n", "")
