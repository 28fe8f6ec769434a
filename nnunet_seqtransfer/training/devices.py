"""Independent stages side by side on the devices of this machine: one stage command for each, in the chain's order."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.nnunet.folders import own_command
from nnunet_seqtransfer.training.chain import Chain
from nnunet_seqtransfer.training.devices_running import RunningStage
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.prefetch import PreparingAhead
from nnunet_seqtransfer.training.run_record import run_name
from nnunet_seqtransfer.training.run_stage import Notify
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.training.state import Action
from nnunet_seqtransfer.training.stop_signals import STOPPED, Stopped
from nnunet_seqtransfer.training.supervise import PATIENCE

_LOOK = 0.2
VISIBLE = "CUDA_VISIBLE_DEVICES"


def next_stage(chain: Chain, begun: Collection[Stage], finished: Collection[Stage]) -> Stage | None:
    """The first stage that is left to do, has not begun, and whose stage before is finished; None where none is."""
    for stage in _left(chain):
        previous = chain.previous(stage)
        if stage not in begun and (previous is None or previous not in _left(chain) or previous in finished):
            return stage
    return None


def _left(chain: Chain) -> list[Stage]:
    return [stage for stage in chain.stages if chain.actions[stage] not in (Action.NOTHING, Action.NOT_NEEDED)]


@dataclass(frozen=True)
class DevicesExecutor:
    """Runs as many stages at once as there are devices."""

    devices: tuple[str, ...]
    "What CUDA_VISIBLE_DEVICES is set to, one for each stage that runs."
    wait: bool = False
    "Wait for another process that is at a stage, rather than say so and stop."
    processes_ahead: int | None = None
    "Workers that preprocess the next sources meanwhile; None for half of the others, 0 for none."

    @property
    def waits(self) -> bool:
        """See Executor."""
        return True

    def describe(self, chain: Chain, options: DeviceOptions, processes: int) -> tuple[str, ...]:
        """See Executor."""
        return (f"independent stages side by side, up to {len(self.devices)}, on devices {', '.join(self.devices)}",)

    def check(self, options: DeviceOptions) -> None:
        """See Executor."""
        if options.gpus > 1:
            raise StageError("-devices trains each stage on one GPU; leave out -num_gpus, or -devices")
        if options.device == "mps" and len(self.devices) > 1:
            raise StageError("there is one mps device; leave out -devices")
        if options.device != "cuda":
            return
        count = "import torch; print(torch.cuda.device_count())"  # in a process of its own, which sees just these
        environment = {**os.environ, VISIBLE: ",".join(self.devices)}
        seen = subprocess.run(
            [sys.executable, "-c", count], env=environment, capture_output=True, text=True, check=False
        )
        visible = seen.stdout.strip() or "0"
        if visible != str(len(self.devices)):
            raise StageError(
                f"of the {len(self.devices)} GPUs in -devices {','.join(self.devices)}, {visible} can be used; "
                "nvidia-smi lists those of this machine"
            )

    def run(self, chain: Chain, options: DeviceOptions, processes: int, notify: Notify) -> None:
        """See Executor. A stage that fails stops those behind it; the others go on.

        Raises StageError where stages have failed, Stopped where one was asked to stop by others than this process.
        """
        for stage in [stage for stage in chain.stages if stage not in _left(chain)]:
            notify(f"{chain.title(stage)} {chain.actions[stage].value}")
        most = max(1, processes // 2) if self.processes_ahead is None else self.processes_ahead
        with PreparingAhead(chain, most) as ahead, _stopping_all(_Work()) as work:
            while self._start_all(chain, options, processes, work, ahead, notify) or work.running:
                for place in [place for place, running in work.running.items() if running.has_ended()]:
                    work.end(place, notify)
                time.sleep(_LOOK)
        _conclude(chain, work)

    def _start_all(
        self,
        chain: Chain,
        options: DeviceOptions,
        processes: int,
        work: _Work,
        ahead: PreparingAhead,
        notify: Notify,
    ) -> bool:
        """Starts stages on free devices; whether it has started any."""
        started = False
        for place, device in enumerate(self.devices):
            stage = next_stage(chain, work.begun, work.finished)
            if place in work.running or stage is None:
                continue
            work.begun.add(stage)
            command = [own_command("continue"), run_name(chain.folder), "-stage", stage.key]
            command += ["-np", str(max(1, processes // len(self.devices))), "-device", options.device]
            environment: Mapping[str, str] = {VISIBLE: device} if options.device == "cuda" else {}
            notify(f"{chain.title(stage)} {chain.actions[stage].value} on device {device}")
            ahead.start(stage)
            command += ["--wait"] if self.wait else []
            work.running[place] = RunningStage(chain, stage, tuple(command), environment, place)
            started = True
        return started


@dataclass
class _Work:
    """What is being done and has been done."""

    running: dict[int, RunningStage] = field(default_factory=dict)
    "By the place of their device."
    begun: set[Stage] = field(default_factory=set)
    finished: set[Stage] = field(default_factory=set)
    stopped: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def end(self, place: int, notify: Notify) -> None:
        """Takes in how a stage has ended."""
        running = self.running.pop(place)
        status = running.close()
        title = running.title
        if status == 0:
            self.finished.add(running.stage)
            notify(f"{title} finished")
        elif status == STOPPED:
            self.stopped.append(title)
            notify(f"{title} stopped at a checkpoint")
        else:
            self.failures.append(running.failure(status))
            notify(self.failures[-1])


@contextmanager
def _stopping_all(work: _Work) -> Iterator[_Work]:
    """Where the block is interrupted, asks all stages to stop at a checkpoint, and waits for them.

    A second Ctrl-C or signal asks them again, which ends their trainings at once.
    """
    try:
        yield work
    except BaseException:
        for running in work.running.values():
            running.child.terminate()
        try:
            _wait_for_all(work, PATIENCE)
        except (KeyboardInterrupt, Stopped, subprocess.TimeoutExpired):
            for running in work.running.values():
                running.child.terminate()
            _wait_for_all(work, None)
        raise
    finally:
        for running in work.running.values():
            running.close()


def _wait_for_all(work: _Work, seconds: float | None) -> None:
    for running in work.running.values():
        running.child.wait(seconds)


def _conclude(chain: Chain, work: _Work) -> None:
    """Raises StageError or Stopped where not all is finished."""
    left = [stage for stage in _left(chain) if stage not in work.finished]
    if work.failures:
        waiting = len(left) - len(work.failures) - len(work.stopped)
        behind = f"; {waiting} behind them not begun" if waiting else ""
        raise StageError(f"{len(work.failures)} stage(s) failed, see above{behind}; the same command does what is left")
    if work.stopped:
        raise Stopped("a signal to " + ", ".join(work.stopped))
