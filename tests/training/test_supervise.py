"""One training as a child process: its output, its end at a checkpoint, and what happens to its workers."""

from __future__ import annotations

import errno
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.signals import Stopped
from nnunet_seqtransfer.training import supervise
from nnunet_seqtransfer.training.job import Job
from nnunet_seqtransfer.training.supervise import TrainingBar


def interrupt_when_ready(process, bar, last):
    while "ready" not in last:
        last += bar.update()
        time.sleep(0.01)
    raise KeyboardInterrupt


def job_of(tmp_path: Path, script: str) -> Job:
    return Job("stage 1 of 1: X", (sys.executable, "-c", script), {"WORD": "a'; echo foo\nb"}, tmp_path / "a b'/log", 2)


def test_a_job_gets_its_environment_and_its_output_goes_to_the_log(tmp_path):
    """Hostile values and folder names arrive unharmed, since no shell is involved."""
    job = job_of(tmp_path, "import os; print('Epoch 0 '); print(repr(os.environ['WORD']))")
    supervise.run_job(job)
    assert repr("a'; echo foo\nb") in job.log.read_text()


def test_a_failed_job_is_one_line_that_names_its_last_words_and_its_log(tmp_path):
    """The error says which stage failed, why as far as the child said so, where its output is, and how to go on."""
    job = job_of(tmp_path, "raise RuntimeError('no space for tensors')")
    with pytest.raises(StageError, match="no space for tensors") as caught:
        supervise.run_job(job)
    message = str(caught.value)
    assert "stage 1 of 1" in message and str(job.log) in message and "same command" in message
    assert len(message.splitlines()) == 1


def test_a_job_ended_by_a_signal_says_so(tmp_path):
    """A training that the operating system killed is not reported as an ordinary failure."""
    with pytest.raises(StageError, match="was ended by signal 9"):
        supervise.run_job(job_of(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))


@pytest.mark.parametrize("terminal", ["open", "closed"])
def test_after_ctrl_c_nothing_goes_on_in_the_background(tmp_path, monkeypatch, terminal):
    """The command ends after its child, so no one writes any more; a closed terminal does not matter."""
    children = []

    def closed(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    if terminal == "closed":
        monkeypatch.setattr(supervise.tqdm, "write", closed)

    def interrupted(process, bar, last):
        children.append(process)
        interrupt_when_ready(process, bar, last)

    monkeypatch.setattr(supervise, "_follow", interrupted)
    slow_to_end = (
        "import signal, sys, time\n"
        "def end(*_): time.sleep(1); sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(60)"
    )
    with pytest.raises(KeyboardInterrupt):
        supervise.run_job(job_of(tmp_path, slow_to_end))
    assert children[0].returncode == 3, "it was asked to end, and given the time to"


RANKS = """
import subprocess, sys
rank = "import sys, time; print('ready', flush=True); time.sleep({seconds}); open(sys.argv[1], 'w').close()"
subprocess.Popen([sys.executable, "-c", rank, {kept!r}]).wait()
"""
"""A first process that a signal ends at once, and one behind it that goes on to its checkpoint, like nnU-Net's DDP."""


def test_processes_that_go_on_to_their_checkpoint_are_waited_for(tmp_path, monkeypatch):
    """On several GPUs nnU-Net's first process ends at once: the lock is not given back before the others have ended."""
    monkeypatch.setattr(supervise, "_follow", interrupt_when_ready)
    kept = tmp_path / "checkpoint"
    job = job_of(tmp_path, RANKS.format(seconds=1, kept=str(kept)))
    with pytest.raises(KeyboardInterrupt):
        supervise.run_job(replace(job, workers_outlive_parent=True))
    assert kept.is_file()


@pytest.mark.parametrize("several", [True, False])
def test_what_does_not_end_by_itself_is_ended(tmp_path, monkeypatch, several):
    """When there was patience enough; workers of one process, which leave nothing to wait for, soon."""
    monkeypatch.setattr(supervise, "_follow", interrupt_when_ready)
    monkeypatch.setattr(supervise, "STOP_SECONDS" if several else "_WORKER_SECONDS", 0.5)
    kept = tmp_path / "checkpoint"
    job = job_of(tmp_path, RANKS.format(seconds=60, kept=str(kept)))
    started = []
    wait = supervise.wait_for_group
    monkeypatch.setattr(supervise, "wait_for_group", lambda pid, seconds: (started.append(pid), wait(pid, seconds)))
    with pytest.raises(KeyboardInterrupt):
        supervise.run_job(replace(job, workers_outlive_parent=several))
    assert wait(started[0], 10) and not kept.exists()


def test_a_process_that_has_ended_keeps_no_session(tmp_path):
    """Even where nobody has waited for it, and never will."""
    ended = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    try:
        assert supervise.wait_for_group(ended.pid, 60)
        assert ended.returncode is None, "nobody has waited for it"
    finally:
        ended.wait()


@pytest.mark.parametrize("ending", ["sys.exit(75)", "print('seq_transfer: stopped by SIGTERM'); sys.exit(1)"])
def test_a_training_that_stopped_by_itself_raises_stopped(tmp_path, ending):
    """By its exit status or, on several GPUs, by its last words."""
    with pytest.raises(Stopped):
        supervise.run_job(job_of(tmp_path, f"import sys; {ending}"))


def test_the_bar_reads_whole_lines_that_are_added_to_the_log(tmp_path):
    """Earlier lines do not count; half a line waits for its end, and is returned when the bar is closed."""
    log = tmp_path / "log"
    log.write_text("Epoch 0\nEpoch time: 1.0 s\n")
    bar = TrainingBar(log, "stage", 9)
    with log.open("a") as stream:
        stream.write("x: Epoch 7 \nx: Epoch ti")
        stream.flush()
        assert bar.update() == ["x: Epoch 7"]
        stream.write("me: 2.0 s\nKilled")
    assert bar.update() == ["x: Epoch time: 2.0 s"]
    assert bar._bar.n == 8
    assert bar.close() == "Killed"


def test_the_bar_shows_iterations_validated_cases_and_the_time_left(tmp_path):
    """An epoch counts by its iterations; the time of an epoch is that of the epochs alone."""
    log = tmp_path / "log"
    log.touch()
    bar = TrainingBar(log, "stage", 4, 16, lambda found: 60.0 * (4 - found.epochs_done))
    shown = []
    for lines in (
        ["x: Epoch 0", "x: Epoch time: 10.0 s", "x: Epoch 1", "seq_transfer: iteration 50 of 200"],
        ["x: Epoch time: 10.0 s", "x: Epoch 2", "x: Epoch time: 10.0 s", "x: Epoch 3", "x: Epoch time: 10.0 s"],
        [f"2026-05-01 10:00:0{case}.000000: predicting case{case}" for case in range(7)],
    ):
        log.open("a").write("\n".join(lines) + "\n")
        bar._pause = 0.0
        bar.update()
        shown.append((bar._bar.n, bar._bar.postfix.split(", ")))
    bar.close()
    assert shown == [
        (1.25, ["epoch 2/4", "iteration 50/200", "10 s an epoch", "03:00 left"]),
        (4, ["10 s an epoch", "00:00 left"]),
        (4, ["validating 7/16", "10 s an epoch", "00:00 left"]),
    ]
