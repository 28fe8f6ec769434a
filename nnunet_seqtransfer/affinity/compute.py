"""From a target and its sources to an Affinity: tasks, aligned plans, signatures, all pairs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from nnunet_seqtransfer.affinity.affinity import Affinity, TaskEntry
from nnunet_seqtransfer.affinity.metric import AffinityMetric, Comparison
from nnunet_seqtransfer.errors import DatasetError, SequenceError
from nnunet_seqtransfer.host.fingerprints import has_fingerprint
from nnunet_seqtransfer.host.folders import dataset_id, dataset_name, registered_datasets
from nnunet_seqtransfer.host.plans import data_folder, read_plans
from nnunet_seqtransfer.host.preprocessing import preprocessed_cases
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.profile import profile_tasks, request_profile
from nnunet_seqtransfer.tasks.signature import Signature
from nnunet_seqtransfer.tasks.task import Task, load_task, load_tasks

ALL_SOURCES = "all"


@dataclass(frozen=True)
class AffinityRequest:
    """What `compute_affinity` is asked for."""

    target: str
    "Name or number of the target."
    sources: tuple[str, ...]
    'Names or numbers of the sources; only "all" stands for every registered dataset that fits the target.'
    plans: str
    "Name of the target's plans."
    configuration: str
    "nnU-Net configuration."
    cases: int = 10
    "Cases to look at per task (10 in arXiv 2410.06892)."
    seed: int = 0
    "Seed of the case sample."
    processes: int = 1
    "Worker processes."


def resolve_sources(target: str, sources: Sequence[str]) -> tuple[str, ...]:
    """Full names of the sources; "all" stands for every registered dataset but the target. See `named_sources`."""
    if tuple(sources) == (ALL_SOURCES,):
        others = tuple(name for name in registered_datasets() if name != target)
        if not others:
            raise DatasetError(f"no dataset but the target {target} is registered; copy sources to nnUNet_raw")
        return others
    return named_sources(target, sources)


def named_sources(target: str, sources: Sequence[str]) -> tuple[str, ...]:
    """Full names of the sources. Raises DatasetError for the target among them, a repetition, or an unknown one."""
    names = tuple(dataset_name(source) for source in sources)
    if target in names:
        raise DatasetError(f"the target {target} is among its sources; leave it out of -s")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise DatasetError(f"{repeated[0]} is named more than once among the sources; name it once")
    return names


def load_target(target: str, plans_name: str, configuration: str) -> tuple[Task, dict[str, Any]]:
    """The target and its plans. Raises DatasetError where it is not planned and preprocessed for the configuration."""
    plans = read_plans(target, plans_name, configuration)
    folder = data_folder(target, plans, configuration)
    command = f"nnUNetv2_plan_and_preprocess -d {dataset_id(target)} -c {configuration}"
    if not has_fingerprint(target):
        raise DatasetError(f"{target} has plans but no fingerprint; run {command}")
    task = load_task(target)
    missing = sorted(set(task.cases) - set(preprocessed_cases(folder)))
    if missing or not task.cases:
        raise DatasetError(
            f"{target} is not preprocessed for {configuration}: {len(missing)} of {len(task.cases)} cases are missing "
            f"or incomplete in {folder}; run {command}"
        )
    return task, plans


def compute_affinity(request: AffinityRequest, metric: AffinityMetric, notify: Callable[[str], None]) -> Affinity:
    """Profiles what is not yet profiled, and compares all pairs.

    Args:
        request: which tasks.
        metric: how to compare them.
        notify: called with one line of text for each thing that takes time or is left out.

    Raises DatasetError, RecordError or SequenceError for what a user can mend.
    """
    target_name = dataset_name(request.target)
    names = resolve_sources(target_name, request.sources)
    target, plans = load_target(target_name, request.plans, request.configuration)
    sources = _fitting(target, load_tasks(names, request.processes, notify), request.sources, notify)
    profile_requests = [
        request_profile(task, aligned, request.configuration, request.cases, request.seed)
        for task, aligned in [*((source, align_plans(plans, target, source)) for source in sources), (target, plans)]
    ]
    signatures = profile_tasks(profile_requests, metric, request.processes)
    return _compare_all(request, target_name, signatures, metric)


def _fitting(target: Task, sources: list[Task], asked: Sequence[str], notify: Callable[[str], None]) -> list[Task]:
    """Where all datasets were asked for, those that fit the target; those named one by one are checked later."""
    if tuple(asked) != (ALL_SOURCES,):
        return sources
    for source in sources:
        if source.is_planar != target.is_planar:
            notify(f"leaving out {source.dataset}: one of the two has 2-D images, the other volumes")
    fitting = [source for source in sources if source.is_planar == target.is_planar]
    if not fitting:
        raise SequenceError(f"no registered dataset fits the target {target.dataset}; copy sources to nnUNet_raw")
    return fitting


def _compare_all(
    request: AffinityRequest, target: str, signatures: Sequence[Signature], metric: AffinityMetric
) -> Affinity:
    table: list[list[Comparison]] = [[metric.compare(a, b) for b in signatures] for a in signatures]
    names = tuple(table[0][-1].components)
    return Affinity(
        target=target,
        plans=request.plans,
        configuration=request.configuration,
        metric=metric.name,
        unit=metric.unit,
        seed=request.seed,
        cases=request.cases,
        tasks=tuple(
            TaskEntry(s.dataset, s.channels, s.labels, s.labelled_cases, s.cases, s.digest) for s in signatures
        ),
        distances=tuple(tuple(cell.distance for cell in row) for row in table),
        components={name: tuple(tuple(cell.components[name] for cell in row) for row in table) for name in names},
        matches=tuple(row[-1].match for row in table[:-1]),
    )
