"""Who runs the stages of a chain: this process one after the other, or something that runs their commands."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import torch

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.training.chain import Chain
from nnunet_seqtransfer.training.job import DeviceOptions, Job
from nnunet_seqtransfer.training.prefetch import PreparingAhead
from nnunet_seqtransfer.training.run_record import write_run
from nnunet_seqtransfer.training.run_stage import Notify, run_stage
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.training.supervise import run_job


class Executor(Protocol):
    """Something that does what is left of a chain."""

    @property
    def waits(self) -> bool:
        """Whether `run` ends when the chain is finished, and not when it has been handed on."""
        ...

    def describe(self, chain: Chain, options: DeviceOptions, processes: int) -> tuple[str, ...]:
        """Lines of text for --dry_run: how the stages would be run, beyond what each of them does."""
        ...

    def check(self, options: DeviceOptions) -> None:
        """Raises StageError where the devices asked for are not to be had; called before anything is written."""
        ...

    def run(self, chain: Chain, options: DeviceOptions, processes: int, notify: Notify) -> None:
        """Does what is left, or has it done. Raises StageError where a stage fails."""
        ...


def run_chain(
    chain: Chain,
    options: DeviceOptions,
    executor: Executor,
    processes: int,
    notify: Notify,
    *,
    before_replacing: Callable[[Path], None] | None = None,
) -> None:
    """Does what is left of a chain; ``before_replacing``: see `write_run`.

    Every step is decided from what is on disk and done so that it can be repeated: after an interruption at any
    moment, the same call does what is left, and nothing twice that was finished.
    """
    if not chain.is_finished:
        executor.check(options)
        write_run(chain, options, processes, before_replacing)
    executor.run(chain, options, processes, notify)


@dataclass(frozen=True)
class LocalExecutor:
    """Runs one stage after the other on this machine, and prepares the next ones' data meanwhile."""

    train: Callable[[Job], None] = run_job
    "Runs a training's command to its end."
    wait: bool = False
    "Wait for another process that is at a stage, rather than say so and stop."
    processes_ahead: int | None = None
    "Workers that preprocess the next sources while one trains; None for half of the others, 0 for none."

    @property
    def waits(self) -> bool:
        """See Executor."""
        return True

    def describe(self, chain: Chain, options: DeviceOptions, processes: int) -> tuple[str, ...]:
        """See Executor."""
        return ()

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

    def run(self, chain: Chain, options: DeviceOptions, processes: int, notify: Notify) -> None:
        """See Executor."""
        most = max(1, processes // 2) if self.processes_ahead is None else self.processes_ahead
        with PreparingAhead(chain, most) as ahead:
            for stage in chain.stages:
                train = partial(self._train, ahead, stage, notify)
                run_stage(chain, stage, options, processes, notify, train=train, wait=self.wait)

    def _train(self, ahead: PreparingAhead, stage: Stage, notify: Notify, job: Job) -> None:
        workers = ahead.start(stage)
        if workers:
            notify(f"meanwhile {workers} process(es) preprocess the next sources, see {ahead.log}")
        self.train(job)
