"""The one builder of recorded runs: records and plans by their writers, logs and checkpoints as nnU-Net leaves them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import zipfile
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.nnunet.folders import preprocessed_folder, results_folder
from nnunet_seqtransfer.storage import write_json
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.recipe import Init, Recipe, StageBlock, with_block
from nnunet_seqtransfer.training.run_record import Run, write_run
from nnunet_seqtransfer.training.stages import ChainRequest, Stage, chain_stages, previous_stage

TARGET, NEAR, FAR = "Dataset004_Target", "Dataset021_Near", "Dataset024_Far"
DIGEST = "0123abcd"


@dataclass(frozen=True)
class MadeRun:
    """A recorded run, and the stages that it was recorded for."""

    run: Run
    stages: tuple[Stage, ...]

    @property
    def folder(self) -> Path:
        return self.run.folder

    def previous(self, stage: Stage) -> Stage | None:
        return previous_stage(self.stages, stage)

    def log(self, stage: Stage) -> Path:
        return stage.files.log(self.folder)


def record(
    sources: tuple[str, ...] = (NEAR, FAR),
    folds: tuple[str, ...] = ("0",),
    epochs: int = 250,
    target: str = TARGET,
    recipe: Recipe | None = None,
    **changes: Any,
) -> MadeRun:
    """Record a run."""
    recipe = recipe or Recipe(epochs)
    request = ChainRequest(target, sources, "nnUNetPlans", "3d_fullres", folds, recipe, recipe, 5, **changes)
    stages = chain_stages(request)
    return MadeRun(write_run(request, stages, DeviceOptions("cpu"), 1), stages)


def epoch_lines(
    epochs: range, seconds: float = 45.0, dice: tuple[float, ...] = (0.8, 0.6), lr: float = 0.00973
) -> list[str]:
    """Return the lines of nnU-Net's print_to_log_file for some epochs."""
    lines = []
    at = datetime(2026, 5, 1, 10)
    for epoch in epochs:
        at += timedelta(seconds=seconds)
        values = ", ".join(f"np.float32({value})" for value in dice)
        said = [
            " ",
            f"Epoch {epoch} ",
            f"Current learning rate: {lr} ",
            "train_loss -0.1234 ",
            "val_loss -0.2345 ",
            f"Pseudo dice [{values}] ",
            f"Epoch time: {seconds} s ",
        ]
        lines += [f"{at}.123456: {text}" for text in said]
    return lines


def training_log(stage: Stage, lines: list[str], name: str = "training_log_2026_5_1_10_00_00.txt") -> Path:
    """Writes one of nnU-Net's logs of a stage."""
    stage.output.mkdir(parents=True, exist_ok=True)
    path = stage.output / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def checkpoint(path: Path, size: int = 2000) -> Path:
    """A whole archive, as torch writes, with nothing of use in it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", b"0" * size)
    return path


def plans(stage: Stage, after: Stage | None = None, **changes: Any) -> None:
    """The plans of a stage in both places, with its block and its hand-off."""
    init = None
    if after is not None:
        relative = (after.output / "checkpoint_final.pth").relative_to(results_folder())
        init = Init(str(relative), "0", str(stage.weights.relative_to(results_folder())), "1")
    block = StageBlock(stage.target, stage.path, stage.role, stage.recipe, init, **changes)
    identifier = data_name(stage) if stage.role == "source" else f"nnUNetPlans_{stage.configuration}"
    content: dict[str, Any] = {"plans_name": stage.plans_name}
    content["configurations"] = {stage.configuration: {"data_identifier": identifier}}
    for folder, name in ((stage.base, "plans"), (preprocessed_folder() / stage.dataset, stage.plans_name)):
        write_json(folder / f"{name}.json", with_block(content, stage.configuration, block))


def data_name(stage: Stage) -> str:
    """The folder name of a source's preprocessed cases."""
    return f"nnUNetPlans_for4_{stage.configuration}_{DIGEST}"


def finish(chain: MadeRun, stage: Stage, epochs: int | None = None) -> None:
    """Everything that a finished stage leaves."""
    after = chain.previous(stage)
    plans(stage, after)
    done = stage.recipe.epochs if epochs is None else epochs
    training_log(stage, epoch_lines(range(max(0, done - 3), done)))
    checkpoint(stage.output / "checkpoint_final.pth")
    log = chain.log(stage)
    log.parent.mkdir(parents=True, exist_ok=True)
    log.write_text("Training done.\n")
    if after is not None:
        checkpoint(stage.weights)
    if stage.role == "target":
        (stage.output / "validation").mkdir()
        summary = {"foreground_mean": {"Dice": 0.853}}
        (stage.output / "validation" / "summary.json").write_text(json.dumps(summary))
    else:
        cases(stage)


def cases(stage: Stage, name: str | None = None) -> Path:
    """Preprocessed cases of a source."""
    folder = preprocessed_folder() / stage.dataset / (name or data_name(stage))
    folder.mkdir(parents=True, exist_ok=True)
    for suffix in (".b2nd", "_seg.b2nd", ".pkl"):
        (folder / f"case0{suffix}").write_bytes(b"0" * 1000)
    return folder


def lock(path: Path, pid: int, host: str, seconds_ago: float = 0.0) -> Path:
    """A lock file as filelock writes it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"filelock/2\npid={pid}\nhost={host}\nmode=lease\ntoken=ab\nduration=60.0\n")
    return age(path, seconds_ago)


def dead_process() -> int:
    """The number of a process that has ended."""
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait()
    return child.pid


def age(path: Path, seconds: float) -> Path:
    """Makes a file or folder look as if it was written so long ago."""
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path
