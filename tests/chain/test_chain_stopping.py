"""Signals that ask a command to stop reach the command, and leave the workers of pools alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from nnunet_seqtransfer.chain.stopping import Stopped, raising_on_signals

POOL = """
import multiprocessing
from nnunet_seqtransfer.chain.stopping import raising_on_signals

with raising_on_signals():
    for _ in range(5):
        with multiprocessing.get_context("fork").Pool(4) as pool:
            assert pool.map(abs, [-1, -2]) == [1, 2]
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
