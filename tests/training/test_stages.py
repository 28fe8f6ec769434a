"""Names and commands of stages: pure functions of what was asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.nnunet import folders
from nnunet_seqtransfer.nnunet.folders import external_trainers, installed_command, own_command, shim_folder
from nnunet_seqtransfer.training.actions import Action
from nnunet_seqtransfer.training.job import DeviceOptions, stage_job
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import ChainRequest, chain_stages

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
    assert job.workers_outlive_parent == (options.gpus > 1)


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
