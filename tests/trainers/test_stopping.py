"""Signals, the end of the driving command and closed output: a training ends where nothing is lost."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from nnunet_seqtransfer.signals import PARENT_VARIABLE, is_running
from nnunet_seqtransfer.storage import found_json
from nnunet_seqtransfer.trainers import stopping
from nnunet_seqtransfer.trainers.stopping import STOPPED, StopRequest, any_process
from support import interrupted
from support.ranks import VOTES, vote
from support.world import World

HEEDING = """
import multiprocessing, os, signal, sys, time
from nnunet_seqtransfer.trainers.stopping import StopRequest
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup this one
def work():
    print(os.getpid(), flush=True)
    time.sleep(600)
stop = StopRequest()
with stop.noted(at_once={at_once}):
    multiprocessing.get_context("fork").Process(target=work, daemon=True).start()
    while True:
        time.sleep(0.05)
        if stop.reason is not None:
            print("noted", stop.reason, flush=True)
            time.sleep({patience})
            break
sys.exit(3)
"""
"""A process with a forked worker that heeds signals."""


def heeding(tmp_path: Path, *, at_once: bool = False, patience: float = 0) -> tuple[subprocess.Popen[str], int]:
    child = subprocess.Popen(
        [sys.executable, "-c", HEEDING.format(at_once=at_once, patience=patience)],
        stdout=subprocess.PIPE,
        text=True,
        cwd=tmp_path,
        start_new_session=True,
    )
    assert child.stdout is not None
    return child, int(child.stdout.readline())


def ends(process: psutil.Process) -> bool:
    deadline = time.monotonic() + 10
    while is_running(process) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(process)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_noted_and_forked_workers_die_by_it(tmp_path: Path, number: signal.Signals) -> None:
    """The training notes it and goes on to where it can stop; a worker process ends by the same signal as always."""
    child, worker = heeding(tmp_path, patience=0.5)
    process = psutil.Process(worker)
    os.kill(worker, number)
    assert ends(process) and child.poll() is None
    child.send_signal(number)
    child.send_signal(number)  # as when a terminal and a driver both pass Ctrl-C on: one wish
    assert child.communicate(timeout=60)[0] == f"noted {number.name}\n" and child.returncode == 3


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Somebody who asks again after a while does not want to wait: the process dies by the signal, its worker too."""
    child, _ = heeding(tmp_path, patience=600)
    child.send_signal(signal.SIGTERM)
    assert child.stdout is not None and child.stdout.readline() == "noted SIGTERM\n"
    time.sleep(stopping.SAME_REQUEST_SECONDS + 0.1)
    child.send_signal(signal.SIGINT)
    assert child.wait(timeout=60) == -signal.SIGINT
    assert interrupted.group_is_gone(child.pid)


def test_where_nothing_would_be_lost_a_signal_ends_at_once(tmp_path: Path) -> None:
    """Before the first iteration and in the final validation the process ends right away, and its workers with it."""
    child, _ = heeding(tmp_path, at_once=True)
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=60)[0]
    assert said == "seq_transfer: stopped by SIGTERM, everything on disk stays as it was\n"
    assert child.returncode == STOPPED and interrupted.group_is_gone(child.pid)


def test_signals_that_are_ignored_stay_so_and_handlers_are_restored() -> None:
    """A training under nohup goes on when its terminal closes; afterwards every signal has the handler of before."""
    before = {number: signal.getsignal(number) for number in stopping.SIGNALS}
    hangup = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop = StopRequest()
        with stop.noted(at_once=False):
            signal.raise_signal(signal.SIGHUP)
            assert not stop.is_made
            signal.raise_signal(signal.SIGUSR1)
            assert stop.is_made and stop.reason == "SIGUSR1"
    finally:
        signal.signal(signal.SIGHUP, hangup)
    assert {number: signal.getsignal(number) for number in stopping.SIGNALS} == before


def test_the_end_of_the_starting_command_is_a_request_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """A signal that follows, as when a whole job is ended, is no second request."""
    parent = subprocess.Popen(["/bin/sleep", "600"])
    monkeypatch.setenv(PARENT_VARIABLE, str(parent.pid))
    stop = StopRequest()
    with stop.noted(at_once=False):
        assert not stop.is_made
        parent.kill()
        assert stop.follows_soon(10)
        assert stop.reason == "the end of the command that started it"
        signal.raise_signal(signal.SIGTERM)
    parent.wait()


def test_distributed_processes_agree(tmp_path: Path) -> None:
    """All stop where one of them was asked to; a process alone agrees with itself."""
    context = multiprocessing.get_context("spawn")
    voters: list[Any] = [context.Process(target=vote, args=(rank, str(tmp_path / "meet"))) for rank in (0, 1)]
    for voter in voters:
        voter.start()
    for voter in voters:
        voter.join(timeout=300)
    expected = sum(2**place for place, wishes in enumerate(VOTES) if any(wishes))
    assert [voter.exitcode for voter in voters] == [expected] * 2
    assert any_process(True, torch.device("cpu")) and not any_process(False, torch.device("cpu"))


def begins(world: World, text: str) -> Any:
    return lambda: text in interrupted.log_text(interrupted.output_folder(world))


@pytest.mark.chain
def test_a_training_finishes_its_epoch_when_it_is_asked_to_stop(world: World) -> None:
    """SIGTERM, then the end of the starting command with closed output: status 75, a checkpoint, and --c resumes it."""
    interrupted.write_plans(4, 40)
    folder = interrupted.output_folder(world)
    child = interrupted.start(world, workers=2, nnUNet_seq_checkpoint_minutes="0")
    interrupted.wait_for(child, begins(world, "Epoch 0"))
    child.send_signal(signal.SIGTERM)
    said = child.communicate(timeout=120)[0]
    assert child.returncode == STOPPED, said
    assert interrupted.group_is_gone(child.pid), "no worker is left behind"
    assert "seq_transfer: stopped by SIGTERM before epoch 1, checkpoint written" in said
    assert interrupted.content(folder)["current_epoch"] == 1

    parent = subprocess.Popen(["/bin/sleep", "600"])
    variables = {PARENT_VARIABLE: str(parent.pid), "nnUNet_seq_checkpoint_minutes": "0"}
    child = interrupted.start(world, "--c", **variables)
    interrupted.wait_for(child, begins(world, "Epoch 1"))
    assert child.stdout is not None
    child.stdout.close()
    parent.kill()
    parent.wait()
    assert child.wait(timeout=120) == STOPPED
    assert interrupted.content(folder)["current_epoch"] >= 2
    assert "stopped by the end of the command that started it before epoch" in interrupted.log_text(folder)


@pytest.mark.chain
def test_a_whole_process_group_that_is_stopped_leaves_its_last_checkpoint(world: World) -> None:
    """SIGTERM to training and workers alike ends the epoch: status 75, and what was written before is whole."""
    interrupted.write_plans(3, 100_000)
    folder = interrupted.output_folder(world)
    child = interrupted.start(world, workers=2)
    interrupted.wait_for(child, begins(world, "Epoch 0"))
    time.sleep(1)
    os.killpg(child.pid, signal.SIGTERM)
    said = child.communicate(timeout=120)[0]
    assert child.returncode == STOPPED, said
    assert "stopped by SIGTERM in epoch 0, which is repeated" in said
    assert interrupted.group_is_gone(child.pid) and not interrupted.checkpoints(folder)


@pytest.mark.chain
def test_a_final_validation_is_ended_at_once_and_repeated(world: World) -> None:
    """SIGTERM to training and export workers alike: status 75; --val then repairs a plans.json that is cut off."""
    interrupted.write_plans(1, 1)
    folder = interrupted.output_folder(world)
    child = interrupted.start(world)
    interrupted.wait_for(child, begins(world, "predicting case"))
    before = interrupted.checkpoints(folder)
    os.killpg(child.pid, signal.SIGTERM)
    said = child.communicate(timeout=120)[0]
    assert child.returncode == STOPPED, said
    assert "stopped by SIGTERM, everything on disk stays as it was" in said
    assert interrupted.group_is_gone(child.pid)
    assert not (folder / "validation" / "summary.json").is_file()
    plans = folder.parent / "plans.json"
    whole = found_json(plans)
    plans.write_text(plans.read_text()[:50])
    child = interrupted.start(world, "--val")
    assert child.communicate(timeout=300)[0] and child.returncode == 0
    assert (folder / "validation" / "summary.json").is_file()
    assert found_json(plans) == whole
    assert interrupted.checkpoints(folder) == before
