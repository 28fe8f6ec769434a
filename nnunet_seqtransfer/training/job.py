"""The nnUNetv2_train command of a stage, with the environment."""

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.nnunet.folders import external_trainers, installed_command
from nnunet_seqtransfer.nnunet.training_log import TrainingLog
from nnunet_seqtransfer.signals import PARENT_VARIABLE
from nnunet_seqtransfer.training.actions import Action
from nnunet_seqtransfer.training.stages import TRAINER, Stage

CHECKPOINT_VARIABLE = "nnUNet_seq_checkpoint_minutes"
"""Environment variable with the minutes between checkpoints; the commands set it for their trainings."""
CHECKPOINT_MINUTES = 10.0
"""Default minutes between checkpoints. A guess: little work to lose, and writing a checkpoint takes about a second."""


@dataclass(frozen=True)
class Job:
    """One training as a command line that any scheduler can run."""

    title: str
    "Title for people: 'stage 2 of 3: Dataset024_X'."
    command: tuple[str, ...]
    "Program and arguments, never a shell string."
    environment: Mapping[str, str]
    "Variables added to those of this process."
    log: Path
    "File that receives the output."
    epochs: int
    "Epochs in the whole training, for the progress bar."
    cases: int = 0
    "Cases in the final validation, for the progress bar."
    left: Callable[[TrainingLog], float] | None = None
    "Seconds until the chain is finished, given what the training has logged; None if unknown."
    workers_outlive_parent: bool = False
    "True for DDP: workers finish their checkpoint after the launcher has exited."


@dataclass(frozen=True)
class DeviceOptions:
    """Devices and outputs; none changes what a training learns."""

    device: str = "cuda"
    "cuda, cpu or mps."
    gpus: int = 1
    "GPUs per training (DDP)."
    npz: bool = False
    "True to keep softmax outputs from the final validation."
    checkpoint_minutes: float = CHECKPOINT_MINUTES
    "Minutes between checkpoints, checked after every epoch; 0 for nnU-Net's checkpoints alone."


def stage_job(
    stage: Stage,
    action: Action,
    options: DeviceOptions,
    title: str,
    log: Path,
    cases: int = 0,
    left: Callable[[TrainingLog], float] | None = None,
) -> Job:
    """Return the nnUNetv2_train command for what a stage needs; ``cases`` and ``left`` as in `Job`."""
    command = [
        train_command(),
        *(stage.dataset, stage.configuration, stage.fold),
        *("-tr", TRAINER, "-p", stage.plans_name, "-device", options.device, "-num_gpus", str(options.gpus)),
    ]
    # --c without a checkpoint would train from the start and merely warn
    command += {Action.RESUME: ["--c"], Action.VALIDATE: ["--val"]}.get(action, [])
    if options.npz and stage.role == "target":
        command.append("--npz")
    environment = {
        "nnUNet_extTrainer": external_trainers(),
        "PYTHONUNBUFFERED": "1",
        CHECKPOINT_VARIABLE: f"{options.checkpoint_minutes:g}",
        PARENT_VARIABLE: str(os.getpid()),
    }
    epochs = stage.recipe.epochs
    return Job(title, tuple(command), environment, log, epochs, cases, left, workers_outlive_parent=options.gpus > 1)


def train_command() -> str:
    """Return the path of nnUNetv2_train in this Python environment. Raises StageError if it is not installed."""
    return installed_command("nnUNetv2_train")


def checkpoint_seconds(environment: Mapping[str, str] = os.environ) -> float:
    """Return the seconds between checkpoints that the environment sets; infinity if it switches them off.

    Raises SeqTransferError if the variable is not a valid number.
    """
    text = environment.get(CHECKPOINT_VARIABLE, "")
    try:
        minutes = float(text) if text.strip() else CHECKPOINT_MINUTES
    except ValueError:
        minutes = math.nan
    if not 0 <= minutes < math.inf:
        raise SeqTransferError(f"{CHECKPOINT_VARIABLE} is {text!r}; set it to minutes, 0 to switch off")
    return 60 * minutes if minutes else math.inf
