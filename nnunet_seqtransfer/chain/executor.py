"""Running a stage's command: as a child process here, its output to a log and its progress to the terminal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from tqdm import tqdm

from nnunet_seqtransfer.chain.progress import Progress, read_line
from nnunet_seqtransfer.chain.stages import TRAINER, Stage
from nnunet_seqtransfer.chain.state import Action
from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.host.folders import external_trainers, scripts_folder


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


@dataclass(frozen=True)
class DeviceOptions:
    """Where and how nnU-Net trains."""

    device: str = "cuda"
    "cuda, cpu or mps."
    gpus: int = 1
    "GPUs to use at once (DDP)."
    npz: bool = False
    "Keep softmax outputs of the final validation."


class Executor(Protocol):
    """Something that runs jobs."""

    def check(self, options: DeviceOptions) -> None:
        """Raises StageError where the devices asked for are not to be had; called before anything is written."""
        ...

    def submit(self, job: Job) -> None:
        """Runs the job to its end. Raises StageError where it fails."""
        ...


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
    environment = {"nnUNet_extTrainer": external_trainers(), "PYTHONUNBUFFERED": "1"}
    return Job(title, tuple(command), environment, log, stage.recipe.epochs)


def train_command() -> str:
    """The path of nnUNetv2_train of this Python environment. Raises StageError where there is none."""
    beside = scripts_folder() / "nnUNetv2_train"
    found = str(beside) if beside.is_file() else shutil.which("nnUNetv2_train")
    if found is None:
        raise StageError("the command nnUNetv2_train is not installed in this environment; pip install nnunetv2")
    return found


class LocalExecutor:
    """Runs one job after the other as child processes on this machine."""

    def check(self, options: DeviceOptions) -> None:
        """See Executor."""
        visible = torch.cuda.device_count() if options.device == "cuda" else 0
        if options.device == "cuda" and visible < options.gpus:
            raise StageError(
                f"{options.gpus} CUDA GPU(s) wanted, {visible} visible; use -device cpu, or check the driver and "
                "CUDA_VISIBLE_DEVICES"
            )
        if options.device == "mps" and not torch.backends.mps.is_available():
            raise StageError("this machine has no mps device; use -device cpu")
        if options.device != "cuda" and options.gpus > 1:
            raise StageError(f"-num_gpus {options.gpus} needs -device cuda, not {options.device}")

    def submit(self, job: Job) -> None:
        """See Executor. Ctrl-C reaches the child too; it is waited for."""
        job.log.parent.mkdir(parents=True, exist_ok=True)
        environment = {**os.environ, **job.environment}
        with (
            job.log.open("a") as log,
            subprocess.Popen(
                job.command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            ) as child,
        ):
            try:
                last = self._follow(child, log, job)
            except KeyboardInterrupt:
                _stop(child)
                raise
        if child.returncode != 0:
            raise StageError(_failure(job, child.returncode, last))

    @staticmethod
    def _follow(child: subprocess.Popen[str], log: object, job: Job) -> Sequence[str]:
        """Copies the child's output to the log and shows its progress; returns the last lines."""
        last: deque[str] = deque(maxlen=40)
        progress = Progress()
        quiet = not sys.stderr.isatty()
        with tqdm(
            total=job.epochs, desc=job.title, unit="epoch", mininterval=10 if quiet else 0.5, ascii=quiet or None
        ) as bar:
            for line in child.stdout or ():
                print(line, end="", file=log, flush=True)  # type: ignore[call-overload]
                last.append(line.rstrip())
                progress = read_line(progress, line)
                if progress.epochs_done > bar.n:
                    if bar.n == 0 and progress.epochs_done > 1:  # a training that goes on
                        bar.initial = progress.epochs_done - 1
                    bar.n = progress.epochs_done
                    if progress.mean_dice is not None:
                        bar.set_postfix_str(f"pseudo Dice {progress.mean_dice:.3f}", refresh=False)
                    bar.refresh()
        return last


def _stop(child: subprocess.Popen[str], patience: float = 30.0) -> None:
    """Ends a child and waits for it, so that nobody writes any more when the command says that it has stopped."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        child.send_signal(number)
        try:
            child.communicate(timeout=patience)
            return
        except subprocess.TimeoutExpired:
            continue


def _failure(job: Job, status: int, last: Sequence[str]) -> str:
    ended = f"was ended by signal {-status}" if status < 0 else f"ended with exit status {status}"
    errors = [line for line in last if line and not line.startswith((" ", "Traceback"))]
    reason = f" ({errors[-1][:200]})" if errors and status > 0 else ""
    return f"{job.title} {ended}{reason}; its output is in {job.log}; run the same command again to go on from there"
