"""The next sources' data, preprocessed by a process beside the training: few workers, low priority, bounded memory."""

from __future__ import annotations

import math
import os
import subprocess
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.nnunet.folders import own_command
from nnunet_seqtransfer.nnunet.preprocessing import resampled_voxels
from nnunet_seqtransfer.training.chain import Chain
from nnunet_seqtransfer.training.memory import available_memory
from nnunet_seqtransfer.training.prepare import missing_cases
from nnunet_seqtransfer.training.run_record import run_name
from nnunet_seqtransfer.training.stages import Stage

NICENESS = 10
"""Training comes first: its own workers augment data on the same cores."""
SHARE_OF_MEMORY = 0.5
"""Of the memory that is available when it starts: the rest is the training's. A guess."""
BYTES_PER_VOXEL = 50
"""Peak memory of preprocessing a case, for each channel and each voxel before or after resampling, whichever are more:
what nnU-Net took for one channel of 320^3 voxels; more channels take less each. See docs/measurements.md."""
BYTES_PER_WORKER = 600e6
"""A worker's own: Python, torch and nnU-Net."""


@dataclass
class PreparingAhead:
    """A context in which `start` begins to preprocess what later stages need; its end ends that too."""

    chain: Chain
    "The chain, which is recorded: the process reads its record."
    processes: int
    "At most so many workers; 0 prepares nothing ahead."
    _child: subprocess.Popen[bytes] | None = field(default=None, init=False)

    def __enter__(self) -> PreparingAhead:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None and self._child.poll() is None:
            self._child.terminate()
            self._child.wait()

    @property
    def log(self) -> Path:
        """Where it says what it does."""
        return self.chain.folder / "logs" / "preprocessing_ahead.log"

    def start(self, running: Stage) -> int:
        """Starts the process where there is something for it to do; returns its number of workers, or 0.

        What goes wrong in it, or with its start, is no error here: the stage that needs the data tries again, and says
        what is wrong.
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
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        if hasattr(os, "setpriority"):
            with suppress(OSError):  # it may have ended; and only root may make it less nice than it is
                own = os.getpriority(os.PRIO_PROCESS, 0)
                os.setpriority(os.PRIO_PROCESS, child.pid, max(NICENESS, own))
        return child

    def _workers(self, running: Stage) -> int:
        """How many workers there may be: the most that fit into the memory, at most as many as cases are missing."""
        if self.processes == 0:
            return 0
        memory = available_memory()
        later = self.chain.stages[self.chain.stages.index(running) + 1 :]
        most = 0
        for stage in later:
            task, plans = self.chain.tasks[stage.dataset], self.chain.plans[stage]
            if stage.dataset in self.chain.cases_to_preprocess:
                missing = len(missing_cases(task, plans, stage.configuration))
                voxels = max(
                    *(math.prod(shape) for shape in task.fingerprint["shapes_after_crop"]),
                    *resampled_voxels(task.fingerprint, plans, stage.configuration),
                )
                fitting = workers_in(memory, case_bytes(voxels, len(task.channels)))
                most = max(most, min(self.processes, missing, fitting))
        return most


def case_bytes(voxels: int, channels: int) -> float:
    """About the most memory that preprocessing a case takes, in bytes; ``voxels`` before or after resampling."""
    return voxels * channels * BYTES_PER_VOXEL + BYTES_PER_WORKER


def workers_in(memory: float, case: float) -> int:
    """How many workers fit into the share of ``memory`` (bytes) that may be used, each needing ``case`` bytes."""
    return int(SHARE_OF_MEMORY * memory / case)
