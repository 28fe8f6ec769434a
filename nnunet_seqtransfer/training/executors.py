"""Executors: who runs the stages of a chain, this process or something that runs their commands."""

from __future__ import annotations

import shlex
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import ClassVar, Protocol

import torch

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.training.decide import Outlook
from nnunet_seqtransfer.training.job import DeviceOptions, Job
from nnunet_seqtransfer.training.prefetch import Prefetch, prefetch_workers
from nnunet_seqtransfer.training.run_record import stage_command, write_run
from nnunet_seqtransfer.training.run_stage import run_stage
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.training.supervise import run_job

ENTRY_POINT_GROUP = "nnunet_seqtransfer.executors"
"""Python entry points through which other packages add executors, see `make_executor`."""
LOCAL, SLURM, RECORD = "local", "slurm", "record"
_OWN = {
    LOCAL: "nnunet_seqtransfer.training.devices:local_executor",
    SLURM: "nnunet_seqtransfer.slurm.executor:SlurmExecutor.from_options",
    RECORD: f"{__name__}:record_executor",
}
"""Executors of this package, as entry points say them: name -> module:callable, imported when it is needed."""


class Executor(Protocol):
    """Base of everything that runs the unfinished stages of a chain; only `run` must be implemented."""

    waits: ClassVar[bool] = True
    "Whether `run` ends when the chain is finished; False if it only hands the chain over."

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
    "Whether to wait for another process that is at a stage, instead of an error."
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
    "Whether to wait for another process that is at a stage, instead of an error."
    prefetch: int | None = None
    "Workers that preprocess the next sources while one trains; None for half of all workers, 0 for none."

    def check(self, options: DeviceOptions) -> None:
        """Raise StageError if this machine lacks the devices."""
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
