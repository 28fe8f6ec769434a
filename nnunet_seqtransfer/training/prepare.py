"""Prepare a stage's data: aligned plans, dataset.json, preprocessed cases; files that a crash truncated are remade."""

import shutil
from copy import deepcopy
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.context import Context, Notify
from nnunet_seqtransfer.errors import DatasetError, StageError
from nnunet_seqtransfer.nnunet.datasets import RawCase, write_missing_splits
from nnunet_seqtransfer.nnunet.folders import dataset_id, output_base, preprocessed_folder
from nnunet_seqtransfer.nnunet.plans import data_folder
from nnunet_seqtransfer.nnunet.preprocessing import (
    cut_off_files,
    preprocess_case_to,
    preprocessed_cases,
    resampled_voxels,
)
from nnunet_seqtransfer.parallel import run_in_processes
from nnunet_seqtransfer.storage import disk_errors_as_user_errors, found_json, mend_json, replacing, write_json
from nnunet_seqtransfer.tasks.task import Task
from nnunet_seqtransfer.training.locks import locked_in_turn
from nnunet_seqtransfer.training.on_disk import read_stage_plans
from nnunet_seqtransfer.training.recipe import KEY, MixedDataset, StageBlock, with_block
from nnunet_seqtransfer.training.stage_files import StageFiles
from nnunet_seqtransfer.training.stages import TRAINER, Stage

BYTES_PER_VOXEL = 4
"""Preprocessed images are float32."""
BYTES_PER_LABEL = 2
"""Segmentations are int16. nnU-Net compresses images and segmentations, so their sum is an upper bound."""


def stage_plans(name: str, dataset_plans: dict[str, Any]) -> dict[str, Any]:
    """Return the plans ``name`` without a block, given the target's own plans, or those aligned to the source."""
    plans = {**deepcopy(dataset_plans), "plans_name": name}
    plans.pop(KEY, None)
    for settings in plans["configurations"].values():
        # A cascade is not part of a chain: for it, nnU-Net would export every validation case of 3d_lowres once more,
        # and fail if the next configuration is not preprocessed.
        settings.pop("next_stage", None)
    return plans


def write_stage_plans(files: StageFiles, plans: dict[str, Any], block: StageBlock) -> None:
    """Write a stage's plans with the block; keep blocks for other configurations, and leave unchanged files alone."""
    existing = read_stage_plans(files) or {}
    content = with_block({**plans, **({KEY: existing[KEY]} if KEY in existing else {})}, files.configuration, block)
    if content != found_json(files.plans):
        write_json(files.plans, content)


def write_data_plans(one: MixedDataset, dataset_plans: dict[str, Any], configuration: str, notify: Notify) -> None:
    """Write the plans that a stage reads a further dataset with, unless a first stage on that dataset has done so.

    Raises StageError if a training rests on other plans of this name.
    """
    files = StageFiles(output_base(one.dataset, TRAINER, one.plans_name, configuration) / "fold_all")
    with locked_in_turn(files.plans_lock, f"plans {one.plans_name}", notify):
        existing = read_stage_plans(files)
        # a block without configurations: the file is ours, and no stage is trained with it so far
        block = {"format": 2, "configurations": {}} if existing is None else existing.get(KEY)
        content = {**stage_plans(one.plans_name, dataset_plans), KEY: block}
        if content == found_json(files.plans):
            return
        trained = [*files.base.parent.glob(f"{TRAINER}__{one.plans_name}__*/fold_*/checkpoint_*.pth")]
        if trained and {**(existing or {}), KEY: block} != content:
            raise StageError(
                f"{trained[0].parents[1]} was trained with other plans than the target's present ones (or the dataset "
                f"has changed); use -tag NAME, or delete {trained[0].parents[1]}"
            )
        write_json(files.plans, content)


def missing_cases(task: Task, plans: dict[str, Any], configuration: str) -> tuple[str, ...]:
    """Return case identifiers that are not preprocessed yet, sorted."""
    return tuple(sorted(set(task.cases) - set(preprocessed_cases(data_folder(task.dataset, plans, configuration)))))


def preprocessed_bytes(task: Task, plans: dict[str, Any], configuration: str, cases: int) -> int:
    """Return an upper bound in bytes for ``cases`` average preprocessed cases."""
    voxels = resampled_voxels(task.fingerprint, plans, configuration)
    per_voxel = len(task.channels) * BYTES_PER_VOXEL + BYTES_PER_LABEL
    return int(sum(voxels) / max(1, len(voxels)) * per_voxel * cases)


def prepare_source(task: Task, plans: dict[str, Any], configuration: str, context: Context) -> None:
    """Preprocess a source's missing and truncated cases; two commands that need it take turns."""
    _copy_dataset_json(task)
    folder = data_folder(task.dataset, plans, configuration)
    lock = folder.with_name(f".{folder.name}.lock")
    with locked_in_turn(lock, f"preprocessing of {task.dataset}", context.notify):
        for identifier, paths in cut_off_files(folder, preprocessed_cases(folder)).items():
            context.notify(f"{paths[0]} is truncated; {identifier} is preprocessed again")
            for path in (folder / f"{identifier}.pkl", *paths):  # the first makes the case count
                path.unlink(missing_ok=True)
        preprocess_missing(task, plans, configuration, context.processes)


def prepare_target(task: Task, plans: dict[str, Any], stage: Stage, plans_name: str) -> None:
    """Check and complete what nnU-Net preprocessed for the target: dataset.json, references, splits.

    Raises DatasetError if preprocessed files are truncated, naming the command that remakes them.
    """
    _copy_dataset_json(task)
    _copy_references(task)
    folder = data_folder(task.dataset, plans, stage.configuration)
    cases = preprocessed_cases(folder)
    cut_off = cut_off_files(folder, cases)
    if cut_off:
        first = next(iter(cut_off.values()))[0]
        raise DatasetError(
            f"{len(cut_off)} preprocessed cases of {task.dataset} are truncated, the first is {first}; run "
            f"nnUNetv2_preprocess -d {dataset_id(task.dataset)} -plans_name {plans_name} -c {stage.configuration}"
        )
    if stage.fold != "all":
        write_missing_splits(task.dataset, cases)


def mend_results(stage: Stage, task: Task) -> None:
    """Rewrite broken files next to a finished stage's checkpoint that a prediction reads."""
    plans = found_json(stage.files.plans)
    for path, content in ((stage.files.plans_copy, plans), (stage.base / "dataset.json", task.dataset_json)):
        if content is not None and stage.base.is_dir() and found_json(path) is None:
            mend_json(path, content)


def _copy_dataset_json(task: Task) -> None:
    """Put dataset.json next to the preprocessed data, for nnU-Net's trainer, unless a whole one is there."""
    path = preprocessed_folder() / task.dataset / "dataset.json"
    if found_json(path) is None:
        mend_json(path, task.dataset_json)


def _copy_references(task: Task) -> None:
    """Copy missing and truncated reference segmentations to the folder that nnU-Net's final validation reads."""
    folder = preprocessed_folder() / task.dataset / "gt_segmentations"
    for identifier, case in task.raw.items():
        path = folder / f"{identifier}{task.dataset_json['file_ending']}"
        if not path.is_file() or path.stat().st_size < case.label.stat().st_size:
            with replacing(path) as aside:
                shutil.copyfile(case.label, aside)


def preprocess_missing(task: Task, plans: dict[str, Any], configuration: str, processes: int) -> None:
    """Preprocess the missing cases one by one: a case counts once all files are whole and in place.

    Raises DatasetError if a case cannot be read or a worker dies.
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
            size = sum(task.raw[case].size for case in missing)
            run_in_processes(_preprocess_one, jobs, processes, f"Preprocessing {task.dataset}", size)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


Job = tuple[Path, Path, str, RawCase, dict[str, Any], str, dict[str, Any]]


def _preprocess_one(job: Job) -> None:
    """Preprocess one case, in a worker process."""
    folder, staging, identifier, case, plans, configuration, dataset_json = job
    preprocess_case_to(staging / identifier, case, plans, configuration, dataset_json)
    for ending in (".b2nd", "_seg.b2nd", ".npz", ".pkl"):  # the pickle last, since it makes the case count
        path = staging / f"{identifier}{ending}"
        if path.is_file():
            path.replace(folder / path.name)
