"""Signals, the end of the driving command and closed output: a training ends where nothing is lost."""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.storage import found_json
from nnunet_seqtransfer.trainers import stopping
from nnunet_seqtransfer.trainers.agreement import agreed
from nnunet_seqtransfer.trainers.stopping import STOPPED, Stop
from nnunet_seqtransfer.trainers.terminal import LastingStream
from nnunet_seqtransfer.training.parent_watch import VARIABLE, DriverWatch, is_running, mark
from support import interrupted
from support.world import World

LONG = 100_000
HEEDING = """
import multiprocessing, os, signal, sys, time
from nnunet_seqtransfer.trainers.stopping import Stop
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
signal.signal(signal.SIGHUP, signal.SIG_DFL)  # and nohup this one
def work():
    print(os.getpid(), flush=True)
    time.sleep(600)
stop = Stop()
with stop.heeded(at_once={at_once}):
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


def ends(known: str) -> bool:
    deadline = time.monotonic() + 10
    while is_running(known) and time.monotonic() < deadline:
        time.sleep(0.02)
    return not is_running(known)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP])
def test_a_signal_is_noted_and_forked_workers_die_by_it(tmp_path: Path, number: signal.Signals) -> None:
    """The training notes it and goes on to where it can stop; a worker process ends by the same signal as always."""
    child, worker = heeding(tmp_path, patience=0.5)
    known = mark(worker)  # a process that has ended has no start any more
    os.kill(worker, number)
    assert ends(known) and child.poll() is None
    child.send_signal(number)
    child.send_signal(number)  # as when a terminal and a driver both pass Ctrl-C on: one wish
    assert child.communicate(timeout=60)[0] == f"noted {number.name}\n" and child.returncode == 3


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """Somebody who asks again after a while does not want to wait: the process dies by the signal, its worker too."""
    child, _ = heeding(tmp_path, patience=600)
    child.send_signal(signal.SIGTERM)
    assert child.stdout is not None and child.stdout.readline() == "noted SIGTERM\n"
    time.sleep(stopping.TOGETHER + 0.1)
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
        stop = Stop()
        with stop.heeded(at_once=False):
            signal.raise_signal(signal.SIGHUP)
            assert not stop.requested
            signal.raise_signal(signal.SIGUSR1)
            assert stop.requested and stop.reason == "SIGUSR1"
    finally:
        signal.signal(signal.SIGHUP, hangup)
    assert {number: signal.getsignal(number) for number in stopping.SIGNALS} == before


def test_the_end_of_the_driving_command_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training whose driver is gone is to stop; one without a driver, or with a living one, is not."""
    driver = subprocess.Popen(["/bin/sleep", "600"])
    monkeypatch.setenv(VARIABLE, mark(driver.pid))
    stop, alone = Stop(), DriverWatch({})
    with stop.heeded(at_once=False):
        assert not stop.requested and not alone.is_gone
        driver.kill()
        assert stop.follows_soon(10), "gone although nobody has waited for it"
        assert stop.reason == "the end of its driving command"
        signal.raise_signal(signal.SIGTERM)  # as when a whole job is ended: no second wish, the checkpoint is written
    driver.wait()
    assert not is_running(str(driver.pid)) and is_running(str(os.getpid())) and is_running(mark())


@pytest.mark.skipif(not Path("/proc/self/stat").is_file(), reason="there is no /proc")
def test_a_number_that_is_used_again_is_another_process() -> None:
    """A process is known by when it started too."""
    number, started = mark().split(":")
    assert is_running(mark()) and not is_running(f"{number}:{int(started) + 1}")


@pytest.mark.parametrize("text", ["x", "-3", "12:", "12:x", "1:2:3"])
def test_a_driver_that_is_no_process_is_refused(text: str) -> None:
    """The message names the variable."""
    with pytest.raises(SeqTransferError, match=VARIABLE):
        DriverWatch({VARIABLE: text})


def test_closed_output_raises_nothing() -> None:
    """Text for a pipe that nobody reads is dropped, and so is all that follows; a full disk is still an error."""
    read, write = os.pipe()
    stream = LastingStream(os.fdopen(write, "w", buffering=1))
    stream.write("heard\n")
    assert os.read(read, 100) == b"heard\n"
    os.close(read)
    for _ in range(3):
        stream.write("unheard\n")
        stream.flush()
    assert Path(os.devnull).samefile(f"/proc/self/fd/{stream.fileno()}")
    stream.close()
    with Path("/dev/full").open("w") as full, pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        LastingStream(full).write("x" * 100_000)


VOTES = ((False, False), (False, True), (True, False), (True, True))


def _vote(rank: int, file: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    results = [agreed(wishes[rank], torch.device("cpu")) for wishes in VOTES]
    torch.distributed.destroy_process_group()
    os._exit(sum(2**place for place, result in enumerate(results) if result))


def test_distributed_processes_agree(tmp_path: Path) -> None:
    """All stop where one of them was asked to; a process alone agrees with itself."""
    context = multiprocessing.get_context("spawn")
    voters: list[Any] = [context.Process(target=_vote, args=(rank, str(tmp_path / "meet"))) for rank in (0, 1)]
    for voter in voters:
        voter.start()
    for voter in voters:
        voter.join(timeout=300)
    expected = sum(2**place for place, wishes in enumerate(VOTES) if any(wishes))
    assert [voter.exitcode for voter in voters] == [expected] * 2
    assert agreed(True, torch.device("cpu")) and not agreed(False, torch.device("cpu"))


def begins(world: World, text: str) -> Any:
    return lambda: text in interrupted.log_text(interrupted.output_folder(world))


@pytest.mark.chain
def test_a_whole_process_group_stopped_in_an_epoch_goes_on_there(world: World) -> None:
    """SIGTERM to training and workers alike, as Slurm sends it: status 75, a checkpoint, and --c goes on from it."""
    interrupted.write_plans(1, LONG)
    folder = interrupted.output_folder(world)
    latest = folder / "checkpoint_latest.pth"
    child = interrupted.start(world, workers=2, nnUNet_seq_checkpoint_minutes="0.0001")
    interrupted.wait_for(child, latest.is_file)
    os.killpg(child.pid, signal.SIGTERM)
    said = child.communicate(timeout=120)[0]
    assert child.returncode == STOPPED, said
    assert interrupted.group_is_gone(child.pid), "no worker is left behind"
    done = interrupted.content(folder)["seq_transfer"]["iterations"]
    assert done and f"seq_transfer: stopped by SIGTERM in epoch 0 after {done} of {LONG} iterations, checkpoint" in said

    # the other way round: the driver goes away, and nobody reads the output any more
    driver = subprocess.Popen(["/bin/sleep", "600"])
    variables = {VARIABLE: mark(driver.pid), "nnUNet_seq_checkpoint_minutes": "0"}
    child = interrupted.start(world, "--c", **variables)
    interrupted.wait_for(child, begins(world, f"goes on in this epoch after {done} of {LONG} iterations"))
    assert child.stdout is not None
    child.stdout.close()
    driver.kill()
    driver.wait()
    assert child.wait(timeout=120) == STOPPED
    assert interrupted.content(folder)["seq_transfer"]["iterations"] >= done
    assert "stopped by the end of its driving command in epoch 0" in interrupted.log_text(folder)


@pytest.mark.chain
def test_a_training_killed_without_warning_loses_what_followed_its_last_checkpoint(world: World) -> None:
    """SIGKILL after a checkpoint inside of epoch 0: what is there is whole, and the training goes on from it."""
    interrupted.write_plans(1, LONG)
    folder = interrupted.output_folder(world)
    child = interrupted.start(world, nnUNet_seq_checkpoint_minutes="0.0001")
    interrupted.wait_for(child, (folder / "checkpoint_previous.pth").is_file)
    os.killpg(child.pid, signal.SIGKILL)
    child.communicate()
    done = interrupted.content(folder)["seq_transfer"]["iterations"]
    assert 0 <= done - interrupted.content(folder, "checkpoint_previous.pth")["seq_transfer"]["iterations"] <= 1
    child = interrupted.start(world, "--c")
    interrupted.wait_for(child, begins(world, f"goes on in this epoch after {done} of {LONG} iterations"))
    os.killpg(child.pid, signal.SIGTERM)
    assert child.wait(timeout=120) == STOPPED
    assert interrupted.content(folder)["seq_transfer"]["iterations"] >= done


@pytest.mark.chain
def test_a_final_validation_is_ended_at_once_and_made_up_for(world: World) -> None:
    """SIGTERM to training and export workers alike: status 75, nobody left; --val then mends a plans.json cut off."""
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
