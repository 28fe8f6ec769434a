"""Preprocessing of later sources while a stage trains: few workers, low priority, bounded memory."""

import math
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.memory import available_memory, case_bytes
from nnunet_seqtransfer.nnunet.folders import own_command
from nnunet_seqtransfer.nnunet.preprocessing import resampled_voxels
from nnunet_seqtransfer.training.decide import Outlook
from nnunet_seqtransfer.training.prepare import missing_cases
from nnunet_seqtransfer.training.run_record import run_name
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.training.supervise import start_process

NICENESS = 10
"""Niceness of the process: the training's workers augment data on the same cores and come first."""
SHARE_OF_MEMORY = 0.5
"""Share of the available memory that the workers may use; the rest is for the training. A guess."""


@dataclass
class Prefetch:
    """Context in which `start` preprocesses what later stages need; leaving it ends the process."""

    chain: Outlook
    "Recorded chain; the process reads the record."
    processes: int
    "Most workers; 0 switches prefetching off."
    _child: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __enter__(self) -> "Prefetch":
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            self._child.wait()

    @property
    def log(self) -> Path:
        """File for output."""
        return self.chain.folder / "logs" / "preprocessing_ahead.log"

    def start(self, running: Stage) -> int:
        """Start the process if it has work to do; return the number of workers, or 0.

        A failure is no error here: the stage that needs the data tries again and reports what is wrong.
        """
        if self._child is not None and self._child.poll() is None:
            return 0
        workers = self._workers(running)
        if workers:
            try:
                self._child = self._start(workers)
            except (OSError, StageError):
                return 0
        return workers

    def _start(self, workers: int) -> subprocess.Popen[bytes]:
        command = [own_command("continue"), run_name(self.chain.folder), "--prepare_only", "-np", str(workers)]
        child = start_process(command, self.log)
        if hasattr(os, "setpriority"):
            with suppress(OSError):  # it may have ended; and only root may lower the niceness
                own = os.getpriority(os.PRIO_PROCESS, 0)
                os.setpriority(os.PRIO_PROCESS, child.pid, max(NICENESS, own))
        return child

    def _workers(self, running: Stage) -> int:
        """Return the largest number of workers that fits into memory and has cases to do."""
        if self.processes == 0:
            return 0
        memory, configuration = available_memory(), running.configuration
        later = self.chain.stages[self.chain.stages.index(running) + 1 :]
        most = 0
        for name in {name for stage in later for name in stage.datasets} & self.chain.to_preprocess.keys():
            task, plans = self.chain.survey.tasks[name], self.chain.survey.aligned[name]
            missing = len(missing_cases(task, plans, configuration))
            voxels = max(
                *(math.prod(shape) for shape in task.fingerprint["shapes_after_crop"]),
                *resampled_voxels(task.fingerprint, plans, configuration),
            )
            fitting = workers_in(memory, case_bytes(voxels, len(task.channels)))
            most = max(most, min(self.processes, missing, fitting))
        return most


def prefetch_workers(processes: int, requested: int | None) -> int:
    """Return the most prefetch workers: as requested, or half of ``processes``."""
    return max(1, processes // 2) if requested is None else requested


def workers_in(memory: float, case: float) -> int:
    """Return how many workers fit if each needs ``case`` bytes, in the usable share of ``memory`` bytes."""
    return int(SHARE_OF_MEMORY * memory / case)
