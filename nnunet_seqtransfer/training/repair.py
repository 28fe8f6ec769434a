"""Files that a crash of the machine has cut off: found before a training stumbles over them, and made whole again."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import Any

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.folders import dataset_id, preprocessed_folder
from nnunet_seqtransfer.nnunet.plans import data_folder, plans_path
from nnunet_seqtransfer.nnunet.preprocessing import cut_off_files, preprocessed_cases
from nnunet_seqtransfer.storage import found_json, mend_json, replacing
from nnunet_seqtransfer.tasks.task import Task
from nnunet_seqtransfer.training.stages import Stage


def remove_cut_off(task: Task, plans: dict[str, Any], configuration: str, notify: Callable[[str], None]) -> None:
    """Deletes a source's preprocessed cases whose files end too early, so that they count as missing."""
    folder = data_folder(task.dataset, plans, configuration)
    for identifier, paths in cut_off_files(folder, preprocessed_cases(folder)).items():
        notify(f"{paths[0]} is truncated; {identifier} is preprocessed again")
        for path in (folder / f"{identifier}.pkl", *paths):  # the first makes the case count
            path.unlink(missing_ok=True)


def require_whole_cases(task: Task, plans: dict[str, Any], plans_name: str, configuration: str) -> None:
    """Raises DatasetError where preprocessed files of the target, which nnU-Net has made, end too early."""
    folder = data_folder(task.dataset, plans, configuration)
    cut_off = cut_off_files(folder, preprocessed_cases(folder))
    if cut_off:
        first = next(iter(cut_off.values()))[0]
        raise DatasetError(
            f"{len(cut_off)} preprocessed cases of {task.dataset} are truncated, the first is {first}; run "
            f"nnUNetv2_preprocess -d {dataset_id(task.dataset)} -plans_name {plans_name} -c {configuration}"
        )


def copy_dataset_json(task: Task) -> None:
    """Puts dataset.json beside the preprocessed data, for nnU-Net's trainer, unless a whole one is there."""
    path = preprocessed_folder() / task.dataset / "dataset.json"
    if found_json(path) is None:
        mend_json(path, task.dataset_json)


def copy_references(task: Task) -> None:
    """Copies reference segmentations to where nnU-Net's final validation looks for them: missing and cut off ones."""
    folder = preprocessed_folder() / task.dataset / "gt_segmentations"
    for identifier, case in task.raw.items():
        path = folder / f"{identifier}{task.dataset_json['file_ending']}"
        if not path.is_file() or path.stat().st_size < case.label.stat().st_size:
            with replacing(path) as aside:
                shutil.copyfile(case.label, aside)


def mend_results(stage: Stage, task: Task) -> None:
    """The files beside a finished stage's checkpoint that a prediction reads, written again where they are broken."""
    plans = found_json(plans_path(stage.dataset, stage.plans_name))
    for name, content in (("plans.json", plans), ("dataset.json", task.dataset_json)):
        path = stage.base / name
        if content is not None and stage.base.is_dir() and found_json(path) is None:
            mend_json(path, content)
