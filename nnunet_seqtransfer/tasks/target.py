"""The target of a transfer, ready to train, and the names of its sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.fingerprints import has_fingerprint
from nnunet_seqtransfer.nnunet.folders import dataset_id, dataset_name
from nnunet_seqtransfer.nnunet.plans import data_folder, read_plans
from nnunet_seqtransfer.nnunet.preprocessing import preprocessed_cases
from nnunet_seqtransfer.tasks.task import Task, load_task


def load_target(name: str, plans_name: str, configuration: str) -> tuple[Task, dict[str, Any]]:
    """The target and its plans. Raises DatasetError where it is not planned and preprocessed for the configuration."""
    plans = read_plans(name, plans_name, configuration)
    folder = data_folder(name, plans, configuration)
    command = f"nnUNetv2_plan_and_preprocess -d {dataset_id(name)} -c {configuration}"
    if not has_fingerprint(name):
        raise DatasetError(f"{name} has plans but no fingerprint; run {command}")
    task = load_task(name)
    missing = sorted(set(task.cases) - set(preprocessed_cases(folder)))
    if missing or not task.cases:
        raise DatasetError(
            f"{name} is not preprocessed for {configuration}: {len(missing)} of {len(task.cases)} cases are missing "
            f"or incomplete in {folder}; run {command}"
        )
    return task, plans


def named_sources(target: str, sources: Sequence[str]) -> tuple[str, ...]:
    """Full names of the sources. Raises DatasetError for the target among them, a repetition, or an unknown one."""
    names = tuple(dataset_name(source) for source in sources)
    if target in names:
        raise DatasetError(f"the target {target} is among its sources; leave it out of -s")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DatasetError(f"{repeated[0]} is named more than once among the sources; name it once")
    return names
