"""Trainings on the small world that are interrupted and go on."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nnunetv2.run.run_training as nnunet_run
import pytest
import torch

from nnunet_seqtransfer.nnunet.folders import external_trainers
from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.storage import read_json, write_json
from nnunet_seqtransfer.training.recipe import Recipe, StageBlock, with_block
from nnunet_seqtransfer.training.stages import TRAINER
from nnunet_seqtransfer.transfer.checkpoints import load_checkpoint
from support.world import SCRIPTS, TARGET, World, python_environment

PLANS = "nnUNetPlans_scratch"
NAMES = ("checkpoint_latest.pth", "checkpoint_previous.pth", "checkpoint_best.pth", "checkpoint_final.pth")


def write_plans(epochs: int, iterations: int) -> None:
    """Plans of the target's stage from scratch."""
    plans = read_json(plans_path(TARGET, "nnUNetPlans"), "plans", "")
    block = StageBlock(TARGET, (TARGET,), "target", Recipe(epochs, iterations, seed=0), None)
    write_json(plans_path(TARGET, PLANS), with_block({**plans, "plans_name": PLANS}, "3d_fullres", block))


def new_trainer(monkeypatch: pytest.MonkeyPatch, *, go_on: bool = False, stock: bool = False) -> Any:
    """The trainer as nnUNetv2_train makes it, with --c where it is to go on."""
    monkeypatch.setenv("nnUNet_extTrainer", external_trainers())
    name = "nnUNetTrainer" if stock else TRAINER
    trainer = nnunet_run.get_trainer_from_args("901", "3d_fullres", 0, name, PLANS, go_on, torch.device("cpu"))
    nnunet_run.maybe_load_checkpoint(trainer, go_on, False)
    return trainer


def output_folder(world: World) -> Path:
    return world.results / TARGET / f"{TRAINER}__{PLANS}__3d_fullres" / "fold_0"


def checkpoints(folder: Path) -> dict[str, bytes]:
    """What the checkpoints hold, by their names."""
    return {name: (folder / name).read_bytes() for name in NAMES if (folder / name).is_file()}


def log_text(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("training_log_*.txt")))


def content(folder: Path, name: str = "checkpoint_latest.pth") -> dict[str, Any]:
    return load_checkpoint(folder / name)


def command(*options: str) -> list[str]:
    place = [TARGET, "3d_fullres", "0", "-tr", TRAINER, "-p", PLANS, "-device", "cpu"]
    return [str(SCRIPTS / "nnUNetv2_train"), *place, *options]


def start(world: World, *options: str, workers: int = 0, **variables: str) -> subprocess.Popen[str]:
    """A real nnUNetv2_train in a process group of its own."""
    environment = {**python_environment(world), "nnUNet_extTrainer": external_trainers(), "PYTHONUNBUFFERED": "1"}
    environment |= {"nnUNet_n_proc_DA": str(workers), "OMP_NUM_THREADS": "1", **variables}
    return subprocess.Popen(
        command(*options),
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(child: subprocess.Popen[str], ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while not ready():
        assert child.poll() is None, child.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def group_is_gone(group: int) -> bool:
    """Whether no process of a group is left, workers included."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    os.killpg(group, signal.SIGKILL)
    return False
