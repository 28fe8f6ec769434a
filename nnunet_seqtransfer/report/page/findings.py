"""Everything that a report shows, read from the files of a run; what is missing or damaged is said, not an error."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nnunet_seqtransfer.affinity.record import Affinity, affinity_path, read_affinity
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.evaluation.comparison import Comparison, read_comparison
from nnunet_seqtransfer.nnunet.datasets import foreground_labels, raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import cache_folder, results_folder
from nnunet_seqtransfer.nnunet.plans import plans_path, read_plans
from nnunet_seqtransfer.nnunet.training_log import Epoch, read_training
from nnunet_seqtransfer.nnunet.validation import SUMMARY, ValidatedCase, read_validation
from nnunet_seqtransfer.planning.record import SequencePlan, changed_affinity, plan_path, read_plan
from nnunet_seqtransfer.report.page.compared import find_comparisons
from nnunet_seqtransfer.storage import is_whole_archive, read_json
from nnunet_seqtransfer.training.recipe import StageBlock, read_block
from nnunet_seqtransfer.training.run_record import Run, StageEntry, read_run
from nnunet_seqtransfer.training.stage_files import FINAL

Content = TypeVar("Content")
DEFAULT_METRIC = "descriptors"
ALL = "all"
"""nnU-Net's fold that trains on every case, and validates on the same cases."""


@dataclass(frozen=True)
class StageFound:
    """One stage of the run as it is now."""

    entry: StageEntry
    "What the record says of it."
    folder: Path
    "Its results."
    is_target: bool
    "Whether it is the target's."
    begun: bool
    "nnU-Net has written a log."
    trained: bool
    "Its final checkpoint is there, whole."
    validated: bool
    "So is its final validation."
    curve: tuple[Epoch, ...]
    "Its finished epochs."
    block: StageBlock | None
    "What its plans say of the weights that it started from; None where there are none yet."
    machine: dict[str, Any]
    "What nnU-Net wrote down about where it was trained (debug.json); empty where it did not."

    @property
    def status(self) -> str:
        """In words."""
        if self.trained:
            return "finished" if self.validated or not self.is_target else "trained, not validated"
        if self.curve:
            return f"{len(self.curve)} of {self.entry.recipe.epochs} epochs"
        return "begun, no epoch finished" if self.begun else "not begun"


@dataclass(frozen=True)
class Findings:
    """What there is of a run."""

    run: Run
    "Its record."
    stages: tuple[StageFound, ...]
    "In their order."
    plan: SequencePlan | None = None
    "The plan of the target."
    affinity: Affinity | None = None
    "The distances that it rests on, or else those of the default metric."
    affinity_file: Path | None = None
    "Where they are."
    comparisons: tuple[Comparison, ...] = ()
    "Of several paths to this target: on the folds, then on test sets."
    cases: tuple[ValidatedCase, ...] = ()
    "Of all folds that were validated; of fold all only where no other was, since it validates on its training cases."
    labels: dict[str, tuple[int, ...]] = field(default_factory=dict)
    "The target's: name -> values."
    target_json: dict[str, Any] = field(default_factory=dict)
    "Its dataset.json; empty where it is missing."
    case_counts: dict[str, int] = field(default_factory=dict)
    "Dataset -> its labelled cases, where they are known."
    settings: dict[str, Any] = field(default_factory=dict)
    "Of the configuration, from the target's plans; empty where these are missing."
    notes: tuple[str, ...] = ()
    "What could not be read or does not fit, a sentence each."

    @property
    def follows_plan(self) -> bool:
        """Whether the run trains the path that is planned now."""
        return self.plan is not None and self.plan.sources == self.run.request.sources

    @property
    def sources_may_hold_cases(self) -> bool:
        """Whether sources were allowed to hold cases that the target is validated on."""
        return self.run.request.overlap == "allow" and bool(self.run.request.sources)

    @property
    def trained_on_cases(self) -> bool:
        """Whether the validated cases are those that the network was trained on, as in fold all."""
        return any(case.fold == ALL for case in self.cases)


def find(folder: Path) -> Findings:
    """Reads what there is of the run in ``folder``. Raises RecordError where its record cannot be read."""
    run = read_run(folder)
    request = run.request
    place = request.target, request.plans, request.configuration
    notes: list[str] = []
    found = Findings(run, tuple(_stage(run, entry, notes) for entry in run.stages))
    plan = _if_there(plan_path(*place), read_plan, notes)
    if plan is not None and (changed := changed_affinity(plan)):
        notes.append(f"{changed[0].upper()}{changed[1:]}.")
    file = cache_folder(request.target) / plan.affinity_file if plan else affinity_path(*place, DEFAULT_METRIC)
    affinity = _if_there(file, read_affinity, notes)
    comparisons = find_comparisons(run, lambda path: _if_there(path, read_comparison, notes))
    found = replace(found, plan=plan, affinity=affinity, affinity_file=file if affinity else None)
    found = _with_cases(replace(found, comparisons=comparisons), notes)
    settings = _tried(partial(_settings, *place), notes) or {}
    return replace(found, settings=settings, notes=tuple(notes))


def _settings(target: str, plans: str, configuration: str) -> dict[str, Any]:
    settings: dict[str, Any] = read_plans(target, plans, configuration)["configurations"][configuration]
    return settings


def _with_cases(found: Findings, notes: list[str]) -> Findings:
    """The target's labels and validated cases, and how many cases each dataset has."""
    counts = {task.dataset: task.labelled_cases for task in found.affinity.tasks} if found.affinity else {}
    for dataset in dict.fromkeys(stage.entry.dataset for stage in found.stages):
        if dataset not in counts:
            counts[dataset] = _tried(partial(_count, dataset), []) or 0
    target_json = _tried(lambda: read_dataset_json(found.run.request.target), notes)
    if target_json is None:
        return replace(found, case_counts={name: count for name, count in counts.items() if count})
    labels, every = foreground_labels(target_json), list[ValidatedCase]()
    for stage in found.stages:
        if stage.is_target:
            where = stage.folder / "validation", stage.entry.fold
            every += _tried(partial(read_validation, *where, labels, str(target_json["file_ending"])), notes) or ()
    known = {name: count for name, count in counts.items() if count}
    cases = tuple(case for case in every if case.fold != ALL) or tuple(every)
    return replace(found, target_json=target_json, labels=labels, cases=cases, case_counts=known)


def _count(dataset: str) -> int:
    return len(raw_cases(dataset, read_dataset_json(dataset)))


def _stage(run: Run, entry: StageEntry, notes: list[str]) -> StageFound:
    folder = results_folder() / entry.output
    return StageFound(
        entry=entry,
        folder=folder,
        is_target=entry.dataset == run.request.target,
        begun=any(folder.glob("training_log_*.txt")),
        trained=is_whole_archive(folder / FINAL),
        validated=(folder / "validation" / SUMMARY).is_file(),
        curve=read_training(folder).epochs,
        block=_if_there(plans_path(entry.dataset, entry.plans_name), lambda path: _block(path, run, entry), notes),
        machine=_tried(lambda: read_json(folder / "debug.json", "debug.json", ""), []) or {},
    )


def _block(path: Path, run: Run, entry: StageEntry) -> StageBlock | None:
    plans = read_json(path, f"the plans file {entry.plans_name}", "run nnUNetv2_seq_train again")
    return read_block(plans, run.request.configuration, entry.fold)


def _if_there(path: Path, read: Callable[[Path], Content], notes: list[str]) -> Content | None:
    return _tried(lambda: read(path), notes) if path.is_file() else None


def _tried(read: Callable[[], Content], notes: list[str]) -> Content | None:
    """What ``read`` gives; where it cannot, None and a note that says why."""
    try:
        return read()
    except SeqTransferError as error:
        text = " ".join(str(error).split())
        notes.append(f"{text[0].upper()}{text[1:]}.")
        return None
