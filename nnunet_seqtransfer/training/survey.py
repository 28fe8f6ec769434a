"""Everything that a chain depends on, read once: tasks, plans, exclusions and stages on disk. Nothing is decided."""

import math
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import SeqTransferError, collecting, raise_collected
from nnunet_seqtransfer.memory import available_memory
from nnunet_seqtransfer.nnunet.datasets import require_folds
from nnunet_seqtransfer.nnunet.fingerprints import has_fingerprint
from nnunet_seqtransfer.nnunet.folders import preprocessed_folder
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.tasks.alignment import align_plans, require_same_dimension
from nnunet_seqtransfer.tasks.task import Task, is_planar_dataset, load_target, load_task, load_tasks, other_dimension
from nnunet_seqtransfer.training.estimate import GUESS, Clock
from nnunet_seqtransfer.training.history import find_clock
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.on_disk import StageOnDisk, read_stage
from nnunet_seqtransfer.training.prepare import missing_cases, stage_plans
from nnunet_seqtransfer.training.stages import ChainRequest, Exclusions, Stage, chain_stages, previous_stage


@dataclass(frozen=True)
class Survey:
    """Everything on disk for a request, before anything is decided."""

    request: ChainRequest
    "Chain to train."
    options: DeviceOptions
    "Devices to train on."
    tasks: Mapping[str, Task]
    "Full name -> task for every readable dataset, the target included."
    target_plans: Mapping[str, Any]
    "Target's plans."
    problems: tuple[SeqTransferError, ...] = ()
    "Folds, sources and records that cannot be used."
    stages: tuple[Stage, ...] = ()
    "Stages in order; empty before `with_stages`."
    on_disk: Mapping[Stage, StageOnDisk] = field(default_factory=dict)
    "Stage -> state on disk."
    plans: Mapping[Stage, dict[str, Any]] = field(default_factory=dict)
    "Stage -> plans, without the block."
    aligned: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    "Source -> the target's plans aligned to it, which the source is preprocessed with."
    missing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    "Source -> identifiers for cases that are not preprocessed yet."
    final_sha256: Mapping[Stage, str] = field(default_factory=dict)
    "Source stage -> final checkpoint's SHA-256, if weights were handed over from it."
    clock: Clock = GUESS
    "Stage times."
    processes: int = 1
    "Workers that preprocess."
    free_bytes: int = 0
    "Free space in nnUNet_preprocessed."
    memory: float = math.inf
    "Memory in bytes that this process can get."

    def previous(self, stage: Stage) -> Stage | None:
        """Return the stage that hands weights to ``stage``."""
        return previous_stage(self.stages, stage)

    def with_stages(self, exclusions: Exclusions) -> "Survey":
        """Return the survey with the stages that result from the excluded cases, read from disk."""
        stages, configuration = chain_stages(self.request, exclusions), self.request.configuration
        target, target_plans = self.tasks[self.request.target], dict(self.target_plans)
        aligned = {name: align_plans(target_plans, target, self.tasks[name]) for name in self.request.datasets}
        return replace(
            self,
            stages=stages,
            plans={one: stage_plans(one.plans_name, aligned.get(one.dataset, target_plans)) for one in stages},
            aligned=aligned,
            missing={name: missing_cases(self.tasks[name], plans, configuration) for name, plans in aligned.items()},
            free_bytes=shutil.disk_usage(preprocessed_folder()).free,
            memory=available_memory(),
        ).read_again(stages)

    def read_again(self, stages: Iterable[Stage]) -> "Survey":
        """Return the survey with some stages read again, as after another stage or process has worked on them."""
        problems = list(self.problems)
        on_disk = dict(self.on_disk)
        for stage in stages:
            on_disk[stage] = StageOnDisk(stage.files)
            with collecting(problems):
                on_disk[stage] = read_stage(stage.files, details=True, checksums=True)
        return replace(self, on_disk=on_disk, problems=tuple(problems), final_sha256=self._checksums(on_disk))

    def _checksums(self, on_disk: Mapping[Stage, StageOnDisk]) -> dict[Stage, str]:
        found: dict[Stage, str] = {}
        for stage in self.stages:
            previous, block = self.previous(stage), on_disk[stage].block
            if previous is not None and previous not in found and block is not None and block.init is not None:
                checkpoint = previous.files.final
                if checkpoint.is_file():
                    found[previous] = sha256(checkpoint)
        return found


def take_survey(request: ChainRequest, options: DeviceOptions, context: Context) -> Survey:
    """Return a request's tasks and target plans; stages follow with `Survey.with_stages`.

    Raises a SeqTransferError with every problem if the target cannot be used; problems with sources and folds are
    collected in the survey.
    """
    errors: list[SeqTransferError] = []
    tasks: dict[str, Task] = {}
    target = None
    with collecting(errors):
        target, plans = load_target(request.target, request.plans, request.configuration)
    known = [source for source in request.datasets if has_fingerprint(source)]
    for source in known:
        with collecting(errors):
            tasks[source] = load_task(source)
    rest = [source for source in request.datasets if source not in known]
    for source in rest:
        with collecting(errors):
            planar = is_planar_dataset(source)
            if target is not None and planar not in (None, target.is_planar):
                raise other_dimension(source, planar, target.dataset)
    if not errors:  # extraction takes minutes, so a request with problems ends before
        with collecting(errors):
            tasks |= {task.dataset: task for task in load_tasks(rest, context)}
    if target is None:
        raise_collected(errors)
        raise AssertionError("unreachable: the target's error was collected")
    for task in tasks.values():
        with collecting(errors):
            require_same_dimension(target, task)
    tasks[target.dataset] = target
    with collecting(errors):
        require_folds(target.dataset, request.folds, target.cases)
    read = plans, target.fingerprint
    clock = find_clock(request.target, request.plans, request.configuration, options.device, read)
    return Survey(request, options, tasks, plans, tuple(errors), clock=clock, processes=context.processes)
