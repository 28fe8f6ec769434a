"""Names and commands of stages: pure functions of what was asked for."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.nnunet import folders
from nnunet_seqtransfer.nnunet.folders import external_trainers, installed_command, own_command, shim_folder
from nnunet_seqtransfer.training import supervise as child
from nnunet_seqtransfer.training.executors import LocalExecutor
from nnunet_seqtransfer.training.job import DeviceOptions, Job, stage_job
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import ChainRequest, chain_stages
from nnunet_seqtransfer.training.state import Action

TARGET, FIRST, SECOND = "Dataset110_Target", "Dataset101_First", "Dataset102_Second"


@pytest.fixture(autouse=True)
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("nnUNet_results", str(tmp_path))
    return tmp_path


def request(*sources: str, folds: tuple[str, ...] = ("0",), tag: str | None = None) -> ChainRequest:
    source, target = Recipe(epochs=100), Recipe(epochs=40)
    return ChainRequest(TARGET, sources, "nnUNetPlans", "3d_fullres", folds, source, target, 5, tag)


def test_the_plans_name_spells_the_path():
    """Source 101 for target 110, 102 after 101, the target after both: the names of the design."""
    stages = chain_stages(request(FIRST, SECOND))
    assert [(stage.dataset, stage.plans_name, stage.fold) for stage in stages] == [
        (FIRST, "nnUNetPlans_for110", "all"),
        (SECOND, "nnUNetPlans_for110_via101", "all"),
        (TARGET, "nnUNetPlans_via101_102", "0"),
    ]
    assert chain_stages(request())[0].plans_name == "nnUNetPlans_scratch"
    assert chain_stages(request(FIRST, tag="long"))[1].plans_name == "nnUNetPlans_via101_long"


def test_no_name_holds_two_underscores_in_a_row():
    """nnU-Net splits folder names on '__' and wants three parts."""
    for stage in chain_stages(request(FIRST, SECOND, tag="a_b")):
        assert "__" not in stage.plans_name
        assert len(stage.base.name.split("__")) == 3


def test_chains_with_a_common_beginning_share_its_stages():
    """101 -> 110 and 101 -> 102 -> 110 begin with the same stage; folds of a target share all of its sources."""
    short, longer = chain_stages(request(FIRST)), chain_stages(request(FIRST, SECOND, folds=("0", "1", "all")))
    assert short[0] == longer[0]
    assert [stage.fold for stage in longer] == ["all", "all", "0", "1", "all"]
    assert len({stage.plans_name for stage in longer[2:]}) == 1


def test_only_stages_that_start_from_other_weights_warm_up():
    """The first stage has no warm-up, later ones at most a tenth of their epochs."""
    assert [stage.recipe.warmup_epochs for stage in chain_stages(request(FIRST, SECOND))] == [0, 5, 4]


@pytest.mark.parametrize(
    ("action", "role", "options", "ending"),
    [
        (Action.START, "source", DeviceOptions("cpu"), ["-device", "cpu", "-num_gpus", "1"]),
        (Action.RESUME, "source", DeviceOptions("cpu"), ["-device", "cpu", "-num_gpus", "1", "--c"]),
        (Action.VALIDATE, "target", DeviceOptions("cpu"), ["-device", "cpu", "-num_gpus", "1", "--val"]),
        (Action.START, "target", DeviceOptions("cuda", 2, True), ["-device", "cuda", "-num_gpus", "2", "--npz"]),
        (Action.START, "source", DeviceOptions("cuda", 2, True), ["-device", "cuda", "-num_gpus", "2"]),
    ],
)
def test_a_stage_is_an_ordinary_train_command(action, role, options, ending, tmp_path):
    """--c is given only to go on from a checkpoint, --val only for a missing validation, --npz only to the target."""
    stages = chain_stages(request(FIRST))
    stage = next(stage for stage in stages if stage.role == role)
    job = stage_job(stage, action, options, "title", tmp_path / "log")
    common = [stage.dataset, "3d_fullres", stage.fold, "-tr", "nnUNetTrainerSeqTransfer", "-p", stage.plans_name]
    assert Path(job.command[0]).name == "nnUNetv2_train"
    assert list(job.command[1:]) == [*common, *ending]
    assert job.environment["nnUNet_extTrainer"].split(os.pathsep)[-1] == str(shim_folder())
    assert job.goes_on_without_first == (options.gpus > 1)


def test_the_shim_folder_is_added_once_and_other_folders_stay():
    """A user's own trainer folders stay in nnUNet_extTrainer, before ours."""
    assert external_trainers({}) == str(shim_folder())
    once = external_trainers({"nnUNet_extTrainer": "/mine"})
    assert once == os.pathsep.join(["/mine", str(shim_folder())])
    assert external_trainers({"nnUNet_extTrainer": once}) == once


def test_commands_are_found_beside_python_else_on_the_path(tmp_path, monkeypatch):
    """pip install --user puts them elsewhere than the environment's folder; where there are none, it is one line."""
    beside, elsewhere = tmp_path / "beside", tmp_path / "elsewhere"
    for folder in (beside, elsewhere):
        folder.mkdir()
    command = elsewhere / "nnUNetv2_seq_continue"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    monkeypatch.setattr(folders, "scripts_folder", lambda: beside)
    monkeypatch.setenv("PATH", str(elsewhere))
    assert own_command("continue") == str(command)
    (beside / command.name).write_text("#!/bin/sh\n")
    assert own_command("continue") == str(beside / command.name)
    with pytest.raises(StageError, match=r"nnUNetv2_train is neither in .*; pip install nnunetv2") as caught:
        installed_command("nnUNetv2_train")
    assert len(str(caught.value).splitlines()) == 1


def job_of(tmp_path: Path, script: str) -> Job:
    return Job("stage 1 of 1: X", (sys.executable, "-c", script), {"WORD": "a'; echo foo\nb"}, tmp_path / "a b'/log", 2)


def test_a_job_gets_its_environment_and_its_output_goes_to_the_log(tmp_path):
    """Hostile values and folder names arrive unharmed, since no shell is involved."""
    job = job_of(tmp_path, "import os; print('Epoch 0 '); print(repr(os.environ['WORD']))")
    child.run_job(job)
    assert repr("a'; echo foo\nb") in job.log.read_text()


def test_a_failed_job_is_one_line_that_names_its_last_words_and_its_log(tmp_path):
    """The error says which stage failed, why as far as the child said so, where its output is, and how to go on."""
    job = job_of(tmp_path, "raise RuntimeError('no space for tensors')")
    with pytest.raises(StageError, match="no space for tensors") as caught:
        child.run_job(job)
    message = str(caught.value)
    assert "stage 1 of 1" in message and str(job.log) in message and "same command" in message
    assert len(message.splitlines()) == 1


def test_a_job_ended_by_a_signal_says_so(tmp_path):
    """A training that the operating system killed is not reported as an ordinary failure."""
    with pytest.raises(StageError, match="was ended by signal 9"):
        child.run_job(job_of(tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"))


@pytest.mark.parametrize(
    ("options", "words"), [(DeviceOptions("cuda", 64), "64 CUDA"), (DeviceOptions("cpu", 2), "-num_gpus 2")]
)
def test_devices_that_are_not_there_are_refused_before_anything_is_written(options, words):
    """More GPUs than there are, or several without CUDA, is one line."""
    with pytest.raises(StageError, match=words):
        LocalExecutor().check(options)


def test_after_ctrl_c_nothing_goes_on_in_the_background(tmp_path, monkeypatch):
    """The command ends only when its child has ended, so that nobody writes any more when it says that it stopped."""
    children = []

    def interrupted(process, log, job):
        children.append(process)
        while "ready" not in job.log.read_text():
            time.sleep(0.01)
        raise KeyboardInterrupt

    monkeypatch.setattr(child, "_follow", interrupted)
    slow_to_end = (
        "import signal, sys, time\n"
        "def end(*_): time.sleep(1); sys.exit(3)\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(60)"
    )
    with pytest.raises(KeyboardInterrupt):
        child.run_job(job_of(tmp_path, slow_to_end))
    assert children[0].returncode == 3, "it was asked to end, and given the time to"


RANKS = """
import subprocess, sys
rank = "import sys, time; print('ready', flush=True); time.sleep({seconds}); open(sys.argv[1], 'w').close()"
subprocess.Popen([sys.executable, "-c", rank, {kept!r}]).wait()
"""
"""A first process that a signal ends at once, and one behind it that goes on to its checkpoint, like nnU-Net's DDP."""


def interrupt_when_ready(process, log, job):
    while "ready" not in job.log.read_text():
        time.sleep(0.01)
    raise KeyboardInterrupt


def test_processes_that_go_on_to_their_checkpoint_are_waited_for(tmp_path, monkeypatch):
    """On several GPUs nnU-Net's first process ends at once: the lock is not given back before the others have ended."""
    monkeypatch.setattr(child, "_follow", interrupt_when_ready)
    kept = tmp_path / "checkpoint"
    job = job_of(tmp_path, RANKS.format(seconds=1, kept=str(kept)))
    with pytest.raises(KeyboardInterrupt):
        child.run_job(replace(job, goes_on_without_first=True))
    assert kept.is_file()


@pytest.mark.parametrize("several", [True, False])
def test_what_does_not_end_by_itself_is_ended(tmp_path, monkeypatch, several):
    """When there was patience enough; workers of one process, which leave nothing to wait for, soon."""
    monkeypatch.setattr(child, "_follow", interrupt_when_ready)
    monkeypatch.setattr(child, "PATIENCE" if several else "_REST", 0.5)
    kept = tmp_path / "checkpoint"
    job = job_of(tmp_path, RANKS.format(seconds=60, kept=str(kept)))
    started = []
    monkeypatch.setattr(child.session, "kill", lambda pid, kill=child.session.kill: (started.append(pid), kill(pid)))
    with pytest.raises(KeyboardInterrupt):
        child.run_job(replace(job, goes_on_without_first=several))
    assert child.session.wait_until_empty(started[0], 10) and not kept.exists()


def test_a_process_that_has_ended_keeps_no_session(tmp_path):
    """Even where nobody has waited for it, and never will."""
    ended = subprocess.Popen([sys.executable, "-c", ""], start_new_session=True)
    try:
        assert child.session.wait_until_empty(ended.pid, 60)
        assert ended.returncode is None, "nobody has waited for it"
    finally:
        ended.wait()


def test_a_closed_terminal_does_not_hinder_the_waiting(tmp_path, monkeypatch):
    """What is written to it fails; the training is waited for all the same."""

    def closed(*_, **__):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(child, "_follow", interrupt_when_ready)
    monkeypatch.setattr(child.tqdm, "write", closed)
    kept = tmp_path / "checkpoint"
    slow_to_end = (
        "import signal, sys, time\n"
        f"def end(*_): time.sleep(1); open({str(kept)!r}, 'w').close(); sys.exit(75)\n"
        "signal.signal(signal.SIGTERM, end); print('ready', flush=True); time.sleep(60)"
    )
    with pytest.raises(KeyboardInterrupt):
        child.run_job(job_of(tmp_path, slow_to_end))
    assert kept.is_file()
