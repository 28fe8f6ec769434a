"""A stage as a command line: what nnUNetv2_train is called with, and in which environment."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.nnunet.folders import external_trainers, installed_command
from nnunet_seqtransfer.training import epoch_progress as midway
from nnunet_seqtransfer.training import parent_watch as driver
from nnunet_seqtransfer.training.stages import TRAINER, Stage
from nnunet_seqtransfer.training.state import Action


@dataclass(frozen=True)
class Job:
    """One stage as a command line that any scheduler can run."""

    title: str
    "What people are shown: 'stage 2 of 3: Dataset024_X'."
    command: tuple[str, ...]
    "The command and its arguments, never a shell string."
    environment: Mapping[str, str]
    "Variables to set on top of those of this process."
    log: Path
    "Where the output goes."
    epochs: int
    "How many epochs the training has, for the progress bar."
    goes_on_without_first: bool = False
    "Whether its processes go on to a checkpoint when the first of them has ended, as nnU-Net's on several GPUs do."


@dataclass(frozen=True)
class DeviceOptions:
    """Where and how nnU-Net trains; nothing of it changes what is learned."""

    device: str = "cuda"
    "cuda, cpu or mps."
    gpus: int = 1
    "GPUs to use at once (DDP)."
    npz: bool = False
    "Keep softmax outputs of the final validation."
    checkpoint_minutes: float = midway.CHECKPOINT_MINUTES
    "Minutes between checkpoints, also within an epoch; 0: only at the end of epochs."


def stage_job(stage: Stage, action: Action, options: DeviceOptions, title: str, log: Path) -> Job:
    """The nnUNetv2_train command for what a stage needs.

    ``--c`` is given only where there is a checkpoint: without one it would train from the start and merely warn.
    """
    command = [
        train_command(),
        *(stage.dataset, stage.configuration, stage.fold),
        *("-tr", TRAINER, "-p", stage.plans_name, "-device", options.device, "-num_gpus", str(options.gpus)),
    ]
    command += {Action.RESUME: ["--c"], Action.VALIDATE: ["--val"]}.get(action, [])
    if options.npz and stage.role == "target":
        command.append("--npz")
    environment = {
        "nnUNet_extTrainer": external_trainers(),
        "PYTHONUNBUFFERED": "1",
        midway.VARIABLE: f"{options.checkpoint_minutes:g}",
        driver.VARIABLE: driver.mark(),
    }
    return Job(title, tuple(command), environment, log, stage.recipe.epochs, goes_on_without_first=options.gpus > 1)


def train_command() -> str:
    """The path of nnUNetv2_train of this Python environment. Raises StageError where there is none."""
    return installed_command("nnUNetv2_train")
