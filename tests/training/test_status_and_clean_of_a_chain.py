"""A real chain looked at while it trains, stopped, finished, and after all that it does not need was removed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable

import pytest

from nnunet_seqtransfer.training.clean import CATEGORIES
from nnunet_seqtransfer.training.status import RunStatus, State, run_status
from support.world import FAR, NEAR, SCRIPTS, TARGET, World, python_environment

pytestmark = pytest.mark.chain

RECIPE = ("-device", "cpu", "-epochs", "3", "-source_epochs", "3", "-iterations", "4", "-seed", "0", "-np", "1")
CHAIN = ("901", "3d_fullres", "0", "-s", "902", "903", *RECIPE)


def status_when(ready: Callable[[RunStatus], bool], child: subprocess.Popen[bytes], world: World) -> RunStatus:
    """The first status of the only run that is as wanted."""
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        runs = run_status()
        if runs and ready(runs[0]):
            return runs[0]
        assert child.poll() is None, (world.root / "output").read_text()
        time.sleep(0.05)
    raise AssertionError("never seen")


def is_in_second_epoch(status: RunStatus) -> bool:
    return status.stages[0].state is State.RUNNING and status.stages[0].epochs_done >= 1


def test_a_chain_is_seen_at_work_and_cleaned_up_after_it(world: World, command):
    """Running by a named process, stopped, finished; then all can go, and the same command trains nothing."""
    with (world.root / "output").open("wb") as output:
        child = subprocess.Popen(
            [str(SCRIPTS / "nnUNetv2_seq_train"), *CHAIN],
            env=python_environment(world),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    seen = status_when(is_in_second_epoch, child, world)
    assert seen.state is State.RUNNING
    assert str(seen.stages[0].on_disk.holder) == f"process {child.pid} on {socket.gethostname()}"
    assert seen.stages[0].on_disk.log.median_seconds is not None and seen.seconds_left
    assert [stage.state for stage in seen.stages[1:]] == [State.WAITING] * 2
    assert f"running by process {child.pid}" in command("status").out

    os.killpg(child.pid, signal.SIGTERM)
    child.wait(300)
    (stopped,) = run_status()
    assert stopped.state in (State.INTERRUPTED, State.NOT_STARTED) and stopped.is_left

    outcome = command("continue_run", stopped.name)
    assert outcome.status == 0, outcome.err
    (finished,) = run_status()
    assert finished.state is State.FINISHED
    assert [stage.epochs_done for stage in finished.stages] == [3] * 3
    assert finished.stages[2].on_disk.dice is not None
    out = command("status").out
    assert "finished" in out and "continue with" not in out

    target = world.results / TARGET
    results = {path: path.stat().st_mtime_ns for path in target.rglob("fold_0/*") if path.is_file()}
    assert results
    assert command("clean", "--yes", "-what", *CATEGORIES).status == 0
    assert not list(world.results.glob("*/*/fold_*/checkpoint_latest.pth"))
    assert not [path for name in (NEAR, FAR) for path in (world.preprocessed / name).glob("nnUNetPlans_for901_*/")]
    require_nothing_to_train(command, world)
    assert {path: path.stat().st_mtime_ns for path in target.rglob("fold_0/*") if path.is_file()} == results
    assert run_status()[0].state is State.FINISHED


def require_nothing_to_train(command, world: World) -> None:
    """The same command finds everything finished, as --dry_run says before, and touches nothing."""
    before = world.snapshot()
    dry = command("train", *CHAIN, "--dry_run")
    assert dry.status == 0 and "trains" not in dry.out and "in all about 0 s" in dry.out, dry.out + dry.err
    again = command("train", *CHAIN)
    assert again.status == 0, again.err
    assert again.err.count("finished") + again.err.count("not needed") == 3
    assert world.snapshot() == before
