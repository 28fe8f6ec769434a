"""Executors: who runs the stages of a chain, this process or something that runs their commands."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from abc import abstractmethod
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.signals import STOPPED, Stopped
from nnunet_seqtransfer.training.job import DeviceOptions, Job
from nnunet_seqtransfer.training.run_record import stage_command, write_run
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.training.supervise import LOOK_SECONDS, STOP_SECONDS, TrainingBar, run_job, start_process

if TYPE_CHECKING:
    from nnunet_seqtransfer.training.decide import Outlook
    from nnunet_seqtransfer.training.prefetch import Prefetch

ENTRY_POINT_GROUP = "nnunet_seqtransfer.executors"
"""Python entry points through which other packages add executors, see `make_executor`."""
LOCAL, SLURM, RECORD = "local", "slurm", "record"
_OWN = {
    LOCAL: f"{__name__}:local_executor",
    SLURM: "nnunet_seqtransfer.slurm.executor:SlurmExecutor.from_options",
    RECORD: f"{__name__}:record_executor",
}
"""Executors of this package, as entry points say them: name -> module:callable, imported when it is needed."""


class Executor(Protocol):
    """Base of everything that runs the unfinished stages of a chain; only `run` must be implemented."""

    waits: ClassVar[bool] = True
    "True if `run` ends when the chain is finished; False if it only hands the chain over."

    def describe(self, chain: Outlook, options: DeviceOptions, context: Context) -> tuple[str, ...]:
        """Return lines for --dry_run: how the stages would be run, beyond what each stage does."""
        return ()

    def check(self, options: DeviceOptions) -> None:
        """Raise a SeqTransferError if the stages cannot run; called before anything is written."""
        return

    @abstractmethod
    def run(self, chain: Outlook, options: DeviceOptions, context: Context) -> None:
        """Run the unfinished stages, or hand them over. Raises StageError if a stage fails."""


@dataclass(frozen=True)
class ExecutorOptions:
    """Options of the commands for running stages; each executor reads those that concern it."""

    wait: bool = False
    "True to wait for another process that is at a stage, instead of an error."
    prefetch: int | None = None
    "Workers that preprocess the next sources while one trains; None for half of all workers, 0 for none."
    devices: tuple[str, ...] | None = None
    "Devices to train on side by side; None to train one stage after the other."
    slurm: tuple[str, ...] = ()
    "sbatch options, each as NAME=VALUE or NAME."
    slurm_config: Path | None = None
    "File with sbatch options; None for the user's own, if it exists."


def run_chain(
    chain: Outlook,
    options: DeviceOptions,
    executor: Executor,
    context: Context,
    *,
    before_replacing: Callable[[Path], None] | None = None,
) -> None:
    """Record a run and do what is left of it; ``before_replacing``: see `write_run`.

    Every step is decided from what is on disk and can be repeated. After an interruption at any moment, the same call
    does what is left, and nothing twice that was finished.
    """
    if not chain.is_finished:
        executor.check(options)
        write_run(chain.request, chain.stages, options, context.processes, before_replacing)
    executor.run(chain, options, context)


@dataclass(frozen=True)
class LocalExecutor(Executor):
    """Executor that runs one stage after the other on this machine and preprocesses later sources meanwhile."""

    train: Callable[[Job], None] = run_job
    "Function that runs the command of a training."
    wait: bool = False
    "True to wait for another process that is at a stage, instead of an error."
    prefetch: int | None = None
    "Workers that preprocess the next sources while one trains; None for half of all workers, 0 for none."

    def check(self, options: DeviceOptions) -> None:
        """Raise StageError if this machine lacks the devices."""
        import torch  # noqa: PLC0415 - commands parse their options before

        visible = torch.cuda.device_count() if options.device == "cuda" else 0
        if options.device == "cuda" and visible < options.gpus:
            raise StageError(
                f"{options.gpus} CUDA GPU(s) requested, {visible} visible; use -device cpu, or check the driver and "
                "CUDA_VISIBLE_DEVICES"
            )
        if options.device == "mps" and not torch.backends.mps.is_available():
            raise StageError("this machine has no mps device; use -device cpu")
        if options.device != "cuda" and options.gpus > 1:
            raise StageError(f"-num_gpus {options.gpus} needs -device cuda, not {options.device}")

    def run(self, chain: Outlook, options: DeviceOptions, context: Context) -> None:
        """Run all stages. Raises StageError if one fails."""
        from nnunet_seqtransfer.training.prefetch import Prefetch, prefetch_workers  # noqa: PLC0415 - imports torch
        from nnunet_seqtransfer.training.run_stage import run_stage  # noqa: PLC0415

        with Prefetch(chain, prefetch_workers(context.processes, self.prefetch)) as prefetch:
            for stage in chain.stages:
                train = partial(self._train, prefetch, stage, context)
                run_stage(chain, stage, context, train=train, wait=self.wait)

    def _train(self, prefetch: Prefetch, stage: Stage, context: Context, job: Job) -> None:
        workers = prefetch.start(stage)
        if workers:
            context.notify(f"meanwhile {workers} process(es) preprocess the next sources, see {prefetch.log}")
        self.train(job)


@dataclass(frozen=True)
class RecordExecutor(Executor):
    """Executor that trains nothing: it prints the commands that are left, for any other scheduler."""

    waits: ClassVar[bool] = False
    "False: the scheduler runs the commands later."

    def describe(self, chain: Outlook, options: DeviceOptions, context: Context) -> tuple[str, ...]:
        """Return one line per stage, divided by tabs: key, command, and the key of the stage to wait for."""
        lines = []
        for stage in chain.unfinished:
            previous = chain.previous(stage)
            after = previous.key if previous is not None and previous in chain.unfinished else ""
            command = shlex.join(stage_command(chain, stage, context.processes, wait=True))
            lines.append(f"{stage.key}\t{command}\t{after}")
        return tuple(lines)

    def run(self, chain: Outlook, options: DeviceOptions, context: Context) -> None:
        """Print the lines of `describe`."""
        for line in self.describe(chain, options, context):
            print(line)  # noqa: T201 - the commands are the output


def record_executor(_: ExecutorOptions) -> Executor:
    """Return the executor that prints the commands of the stages."""
    return RecordExecutor()


def executors() -> dict[str, EntryPoint]:
    """Return all executors by name: those of this package, then those that other packages register."""
    own = [EntryPoint(name, value, ENTRY_POINT_GROUP) for name, value in _OWN.items()]
    others = [point for point in entry_points(group=ENTRY_POINT_GROUP) if point.name not in _OWN]
    return {point.name: point for point in (*own, *others)}


def make_executor(name: str, options: ExecutorOptions) -> Executor:
    """Return the executor of that name; an entry point is a callable that takes ExecutorOptions.

    Raises StageError, which names all executors, for an unknown name; SeqTransferError for options that it refuses.
    """
    known = executors()
    if name not in known:
        raise StageError(f"unknown executor {name!r}; choose one of: {', '.join(known)}")
    made: Executor = known[name].load()(options)
    return made


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
    "True to wait for another process that is at a stage, instead of an error."
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
        from nnunet_seqtransfer.training.prefetch import Prefetch, prefetch_workers  # noqa: PLC0415 - imports torch

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
            begun = {*board.ended, *(running.stage for running in board.running.values())}
            stage = next_stage(chain, begun, [one for one, status in board.ended.items() if status == 0])
            if index in board.running or stage is None:
                continue
            processes = max(1, context.processes // len(self.devices))
            command = stage_command(chain, stage, processes, "-device", options.device, wait=self.wait)
            environment = {VISIBLE_VARIABLE: device} if options.device == "cuda" else {}
            context.notify(f"{chain.title(stage)} {chain.actions[stage].value} on device {device}")
            prefetch.start(stage)
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
        self._bar = TrainingBar(log, self.title, stage.recipe.epochs, chain.cases_left(stage), line=line)
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
    ended: dict[Stage, int] = field(default_factory=dict)
    "Stage -> exit status of the process."

    def end(self, index: int, context: Context) -> None:
        """Record and report how a stage has ended."""
        running = self.running.pop(index)
        status = self.ended[running.stage] = running.close()
        known = {0: f"{running.title} finished", STOPPED: f"{running.title} stopped at a checkpoint"}
        context.notify(known[status] if status in known else running.failure(status))


@contextmanager
def _stopping_all(board: _Board) -> Iterator[None]:
    """If the block is interrupted, ask all stages to stop at a checkpoint and wait for them.

    A second Ctrl-C or signal asks them again, which ends their trainings at once.
    """
    try:
        yield
    except BaseException:
        processes = [running.process for running in board.running.values()]
        for process in processes:
            process.terminate()
        try:
            for process in processes:
                process.wait(STOP_SECONDS)
        except (KeyboardInterrupt, Stopped, subprocess.TimeoutExpired):
            for process in processes:
                process.terminate()
        raise
    finally:
        for running in board.running.values():
            running.close()


def _raise_if_unfinished(chain: Outlook, board: _Board) -> None:
    """Raise StageError if stages have failed, Stopped if stages were stopped."""
    failed = sum(status not in (0, STOPPED) for status in board.ended.values())
    if failed:
        waiting = len(chain.unfinished) - len(board.ended)
        behind = f"; {waiting} later stage(s) not begun" if waiting else ""
        raise StageError(f"{failed} stage(s) failed, see above{behind}; rerun to do what is left")
    stopped = [chain.title(stage) for stage, status in board.ended.items() if status == STOPPED]
    if stopped:
        raise Stopped("a signal to " + ", ".join(stopped))
