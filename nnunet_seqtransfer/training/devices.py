"""Independent stages side by side on the devices in this machine: one stage command per device."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.signals import STOPPED, Stopped
from nnunet_seqtransfer.training.decide import Outlook
from nnunet_seqtransfer.training.executors import Executor, ExecutorOptions, LocalExecutor
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.prefetch import Prefetch, prefetch_workers
from nnunet_seqtransfer.training.run_record import stage_command
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.training.supervise import LOOK_SECONDS, STOP_SECONDS, TrainingBar, start_process

VISIBLE_VARIABLE = "CUDA_VISIBLE_DEVICES"


def next_stage(chain: Outlook, begun: Collection[Stage], finished: Collection[Stage]) -> Stage | None:
    """Return the first unfinished stage whose previous stage is finished; None if there is none."""
    left = chain.unfinished
    for stage in left:
        previous = chain.previous(stage)
        if stage not in begun and (previous is None or previous not in left or previous in finished):
            return stage
    return None


def local_executor(options: ExecutorOptions) -> Executor:
    """Return the executor for this machine: one training after the other, or several side by side."""
    if options.devices is not None:
        return DevicesExecutor(options.devices, wait=options.wait, prefetch=options.prefetch)
    return LocalExecutor(wait=options.wait, prefetch=options.prefetch)


@dataclass(frozen=True)
class DevicesExecutor(Executor):
    """Executor that runs as many stages at once as there are devices."""

    devices: tuple[str, ...]
    "Values for CUDA_VISIBLE_DEVICES, one per running stage."
    wait: bool = False
    "Whether to wait for another process that is at a stage, instead of an error."
    prefetch: int | None = None
    "Workers that preprocess the next sources meanwhile; None for half of all workers, 0 for none."

    def describe(self, chain: Outlook, options: DeviceOptions, context: Context) -> tuple[str, ...]:
        """Return one line that names the devices."""
        return (f"independent stages side by side, up to {len(self.devices)}, on devices {', '.join(self.devices)}",)

    def check(self, options: DeviceOptions) -> None:
        """Raise StageError if not all devices can be used."""
        if options.gpus > 1:
            raise StageError("-devices trains each stage on one GPU; leave out -num_gpus, or -devices")
        if options.device == "mps" and len(self.devices) > 1:
            raise StageError("there is one mps device; leave out -devices")
        if options.device != "cuda":
            return
        # torch reads the variable once, so count in a new process
        count = "import torch; print(torch.cuda.device_count())"
        environment = {**os.environ, VISIBLE_VARIABLE: ",".join(self.devices)}
        seen = subprocess.run(
            [sys.executable, "-c", count], env=environment, capture_output=True, text=True, check=False
        )
        visible = seen.stdout.strip() or "0"
        if visible != str(len(self.devices)):
            raise StageError(
                f"{visible} of the {len(self.devices)} GPUs in -devices {','.join(self.devices)} can be used; run "
                "nvidia-smi to list the GPUs of this machine"
            )

    def run(self, chain: Outlook, options: DeviceOptions, context: Context) -> None:
        """Run all stages. A stage that fails stops the later ones that need it; the others continue.

        Raises StageError if stages have failed, Stopped if a stage was stopped by a signal that this process did not
        send.
        """
        for stage in chain.stages:
            if stage not in chain.unfinished:
                context.notify(f"{chain.title(stage)} {chain.actions[stage].value}")
        board = _Board()
        with Prefetch(chain, prefetch_workers(context.processes, self.prefetch)) as prefetch, _stopping_all(board):
            while self._start_all(chain, options, context, board, prefetch) or board.running:
                for index in [index for index, running in board.running.items() if running.has_ended()]:
                    board.end(index, context)
                time.sleep(LOOK_SECONDS)
        _raise_if_unfinished(chain, board)

    def _start_all(
        self, chain: Outlook, options: DeviceOptions, context: Context, board: _Board, prefetch: Prefetch
    ) -> bool:
        """Start stages on free devices; return whether any was started."""
        started = False
        for index, device in enumerate(self.devices):
            stage = next_stage(chain, board.begun, board.finished)
            if index in board.running or stage is None:
                continue
            processes = max(1, context.processes // len(self.devices))
            command = stage_command(chain, stage, processes, "-device", options.device, wait=self.wait)
            environment = {VISIBLE_VARIABLE: device} if options.device == "cuda" else {}
            context.notify(f"{chain.title(stage)} {chain.actions[stage].value} on device {device}")
            prefetch.start(stage)
            board.begun.add(stage)
            board.running[index] = _RunningStage(chain, stage, command, environment, line=index)
            started = True
        return started


class _RunningStage:
    """Stage command that runs as a process, with a progress bar for the training."""

    def __init__(
        self, chain: Outlook, stage: Stage, command: Sequence[str], environment: dict[str, str], line: int
    ) -> None:
        self.stage = stage
        self.title = chain.title(stage)
        log = chain.log(stage)
        log.parent.mkdir(parents=True, exist_ok=True)
        log.touch()
        self.output: Path = log.with_name(f"{log.stem}_command.log")  # the training writes the other log by itself
        self.output.unlink(missing_ok=True)
        self._bar = TrainingBar(log, self.title, stage.recipe.epochs, line)
        self.process = start_process(command, self.output, environment)

    def has_ended(self) -> bool:
        """Show the progress; return whether the process has ended."""
        ended = self.process.poll() is not None
        self._bar.update()
        return ended

    def close(self) -> int:
        """End the progress bar; wait for the process and return the exit status."""
        self._bar.close()
        return self.process.wait()

    def failure(self, status: int) -> str:
        """Return one line that says why the stage has failed."""
        lines = self.output.read_text(errors="replace").splitlines()
        errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
        return f"{self.title} failed: {errors[-1] if errors else f'exit status {status}; see {self.output}'}"


@dataclass
class _Board:
    """Stages that run and have run."""

    running: dict[int, _RunningStage] = field(default_factory=dict)
    "Index of the device -> process."
    begun: set[Stage] = field(default_factory=set)
    finished: set[Stage] = field(default_factory=set)
    stopped: list[str] = field(default_factory=list)
    "Titles of stages that stopped at a checkpoint."
    failures: list[str] = field(default_factory=list)

    def end(self, index: int, context: Context) -> None:
        """Record and report how a stage has ended."""
        running = self.running.pop(index)
        status = running.close()
        if status == 0:
            self.finished.add(running.stage)
            context.notify(f"{running.title} finished")
        elif status == STOPPED:
            self.stopped.append(running.title)
            context.notify(f"{running.title} stopped at a checkpoint")
        else:
            self.failures.append(running.failure(status))
            context.notify(self.failures[-1])


@contextmanager
def _stopping_all(board: _Board) -> Iterator[None]:
    """If the block is interrupted, ask all stages to stop at a checkpoint and wait for them.

    A second Ctrl-C or signal asks them again, which ends their trainings at once.
    """
    try:
        yield
    except BaseException:
        processes = [running.process for running in board.running.values()]
        _terminate(processes)
        try:
            for process in processes:
                process.wait(STOP_SECONDS)
        except (KeyboardInterrupt, Stopped, subprocess.TimeoutExpired):
            _terminate(processes)
            for process in processes:
                process.wait()
        raise
    finally:
        for running in board.running.values():
            running.close()


def _terminate(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        process.terminate()


def _raise_if_unfinished(chain: Outlook, board: _Board) -> None:
    """Raise StageError if stages have failed, Stopped if stages were stopped."""
    if board.failures:
        left = [stage for stage in chain.unfinished if stage not in board.finished]
        waiting = len(left) - len(board.failures) - len(board.stopped)
        behind = f"; {waiting} later stage(s) not begun" if waiting else ""
        raise StageError(f"{len(board.failures)} stage(s) failed, see above{behind}; rerun to do what is left")
    if board.stopped:
        raise Stopped("a signal to " + ", ".join(board.stopped))
