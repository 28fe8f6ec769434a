"""What a stage needs before it can train: its plans, its dataset.json, its preprocessed cases, and room for them."""

from __future__ import annotations

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import DatasetError, StageError
from nnunet_seqtransfer.nnunet.datasets import RawCase
from nnunet_seqtransfer.nnunet.folders import preprocessed_folder
from nnunet_seqtransfer.nnunet.plans import data_folder, plans_path
from nnunet_seqtransfer.nnunet.preprocessing import preprocess_case_to, preprocessed_cases, resampled_voxels
from nnunet_seqtransfer.parallel import run_in_processes
from nnunet_seqtransfer.storage import disk_errors_as_user_errors, found_json, size_text, write_json
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.task import Task
from nnunet_seqtransfer.training.plans_file import read_stage_plans
from nnunet_seqtransfer.training.recipe import KEY, StageBlock, with_block
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.training.state import StageState

BYTES_PER_VOXEL = 4
"""Preprocessed images are float32 ..."""
BYTES_PER_LABEL = 2
"""... and segmentations int16. nnU-Net compresses both, so the sum is an upper bound."""


def stage_plans(stage: Stage, target_plans: dict[str, Any], target: Task, task: Task) -> dict[str, Any]:
    """The plans of a stage without its block: the target's own, or those aligned to the source."""
    plans = deepcopy(target_plans) if stage.role == "target" else align_plans(target_plans, target, task)
    plans["plans_name"] = stage.plans_name
    plans.pop(KEY, None)
    for settings in plans["configurations"].values():
        # A cascade is not part of a chain: for it, nnU-Net would export every validation case of 3d_lowres once more,
        # and fail where the next configuration is not preprocessed.
        settings.pop("next_stage", None)
    return plans


def require_batch(plans: dict[str, Any], configuration: str, gpus: int) -> None:
    """Raises StageError where a batch has fewer cases than there are GPUs: nnU-Net gives each GPU a part of it."""
    batch = plans["configurations"][configuration]["batch_size"]
    if gpus > batch:
        raise StageError(
            f"-num_gpus {gpus} is more than the {batch} cases in a batch of {configuration} by the plans "
            f"{plans['plans_name']}, of which every GPU needs one; use at most -num_gpus {batch}"
        )


def require_own_plans(stage: Stage, state: StageState, plans: dict[str, Any]) -> None:
    """Raises StageError where the plans file is someone else's, or differs from what a training there was made with."""
    path = plans_path(stage.dataset, stage.plans_name)
    existing = read_stage_plans(stage)
    if existing is None:
        return
    if KEY not in existing:
        raise StageError(f"{path} exists and was not written by nnunet-seqtransfer; rename it, or use -tag NAME")
    if state.is_bound and {**existing, KEY: None} != {**plans, KEY: None}:
        raise StageError(
            f"{stage.base} was trained with other plans than the target's present ones (or the dataset has changed); "
            f"use -tag NAME, or delete {stage.base}"
        )


def write_stage_plans(stage: Stage, plans: dict[str, Any], block: StageBlock) -> None:
    """Writes a stage's plans with its block, keeping the blocks of other configurations; unchanged files stay."""
    path = plans_path(stage.dataset, stage.plans_name)
    existing = read_stage_plans(stage) or {}
    content = with_block({**plans, **({KEY: existing[KEY]} if KEY in existing else {})}, stage.configuration, block)
    if content != found_json(path):
        write_json(path, content)


def missing_cases(task: Task, plans: dict[str, Any], configuration: str) -> tuple[str, ...]:
    """Identifiers of the cases that are not preprocessed yet."""
    return tuple(sorted(set(task.cases) - set(preprocessed_cases(data_folder(task.dataset, plans, configuration)))))


def preprocessed_bytes(task: Task, plans: dict[str, Any], configuration: str, cases: int) -> int:
    """An upper bound of the size on disk of ``cases`` average preprocessed cases, in bytes."""
    voxels = resampled_voxels(task.fingerprint, plans, configuration)
    per_voxel = len(task.channels) * BYTES_PER_VOXEL + BYTES_PER_LABEL
    return int(sum(voxels) / max(1, len(voxels)) * per_voxel * cases)


def require_space(needs: list[tuple[Task, int]]) -> None:
    """Raises DatasetError where the cases to be preprocessed would not fit on the disk; names the largest source."""
    free = shutil.disk_usage(preprocessed_folder()).free
    total = sum(size for _, size in needs)
    if total > free:
        task, size = max(needs, key=lambda need: need[1])
        raise DatasetError(
            f"preprocessing needs up to {size_text(total)} at the target's spacing ({task.dataset} alone "
            f"{size_text(size)}), but {size_text(free)} are free in {preprocessed_folder()}; free space or leave "
            f"{task.dataset} out"
        )


def preprocess_missing(task: Task, plans: dict[str, Any], configuration: str, processes: int) -> None:
    """Preprocesses what is missing, case by case: a case counts once all its files are whole and in place.

    Raises DatasetError where a case cannot be read or a worker dies.
    """
    missing = missing_cases(task, plans, configuration)
    if not missing:
        return
    absent = [case for case in missing if case not in task.raw]
    if absent:
        raise DatasetError(
            f"{task.dataset}: {len(absent)} cases are not preprocessed and have no raw images, "
            f"the first is {absent[0]}; copy the dataset to nnUNet_raw"
        )
    folder = data_folder(task.dataset, plans, configuration)
    staging = folder.with_name(f".{folder.name}.tmp")
    with disk_errors_as_user_errors(folder):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        folder.mkdir(exist_ok=True)
        jobs = [(folder, staging, case, task.raw[case], plans, configuration, task.dataset_json) for case in missing]
        try:
            run_in_processes(_preprocess_one, jobs, processes, f"Preprocessing {task.dataset}")
        finally:
            shutil.rmtree(staging, ignore_errors=True)


Job = tuple[Path, Path, str, RawCase, dict[str, Any], str, dict[str, Any]]


def _preprocess_one(job: Job) -> None:
    """Runs in a worker process. The properties file is moved last: it makes the case count."""
    folder, staging, identifier, case, plans, configuration, dataset_json = job
    preprocess_case_to(staging / identifier, case, plans, configuration, dataset_json)
    written = [path for path in staging.iterdir() if _belongs_to(path, identifier)]
    for path in sorted(written, key=lambda path: path.suffix == ".pkl"):
        path.replace(folder / path.name)


def _belongs_to(path: Path, identifier: str) -> bool:
    return path.name in {f"{identifier}.b2nd", f"{identifier}_seg.b2nd", f"{identifier}.npz", f"{identifier}.pkl"}
