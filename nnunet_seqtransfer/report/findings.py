"""Everything that a report shows, read from the files of a run. Missing and damaged files become notes, not errors."""

import glob
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from nnunet_seqtransfer.affinity.metrics import DEFAULT_METRIC
from nnunet_seqtransfer.affinity.record import Affinity, affinity_path, read_affinity
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.evaluation.comparison import Comparison, comparison_path, read_comparison
from nnunet_seqtransfer.nnunet.datasets import foreground_labels, raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import cache_folder
from nnunet_seqtransfer.nnunet.plans import read_plans
from nnunet_seqtransfer.nnunet.training_log import Epoch, read_training
from nnunet_seqtransfer.nnunet.validation import ValidatedCase, read_validation
from nnunet_seqtransfer.planning.record import SequencePlan, changed_affinity, plan_file, read_plan
from nnunet_seqtransfer.report.words import sentence
from nnunet_seqtransfer.storage import read_json
from nnunet_seqtransfer.training.on_disk import StageOnDisk, read_stage
from nnunet_seqtransfer.training.run_record import Run, StageEntry, read_run
from nnunet_seqtransfer.training.stages import chain_stages

Content = TypeVar("Content")
ALL = "all"
"""nnU-Net's fold that trains on every case, and validates on the same cases."""


@dataclass(frozen=True)
class StageFound:
    """One stage of the run."""

    entry: StageEntry
    "Entry in the run's record."
    role: str
    "Source or target."
    disk: StageOnDisk
    "Stage files."
    curve: tuple[Epoch, ...]
    "Finished epochs."
    machine: dict[str, Any]
    "nnU-Net's debug.json, which names the GPU; empty without that file."

    @property
    def is_finished(self) -> bool:
        """Return True if nothing is left to do."""
        return self.disk.is_finished(self.role)

    @property
    def status(self) -> str:
        """Return the state in words."""
        if self.disk.final:
            return "finished" if self.is_finished else "trained, not validated"
        if self.curve:
            return f"{len(self.curve)} of {self.entry.recipe.epochs} epochs"
        return "begun, no epoch finished" if self.disk.exists else "not begun"


@dataclass(frozen=True)
class Findings:
    """Everything known about a run."""

    run: Run
    "Recorded request and stages."
    stages: tuple[StageFound, ...]
    "Stages in training order."
    plan: SequencePlan | None = None
    "Present plan for the target."
    affinity: Affinity | None = None
    "Distances that the plan rests on, or those by the default metric."
    affinity_file: Path | None = None
    "File with these distances."
    comparisons: tuple[Comparison, ...] = ()
    "Comparisons between paths to this target: on the folds, then on test sets."
    cases: tuple[ValidatedCase, ...] = ()
    "Validated cases. Fold all counts only if no other fold is validated: its cases were trained on."
    scratch: tuple[ValidatedCase, ...] = ()
    "Cases of a finished training from scratch with the target's recipe; empty without such a training."
    labels: dict[str, tuple[int, ...]] = field(default_factory=dict)
    "Name of each label -> label values."
    target_json: dict[str, Any] = field(default_factory=dict)
    "The target's dataset.json; empty if it is missing."
    case_counts: dict[str, int] = field(default_factory=dict)
    "Dataset -> labelled cases, if known."
    reader: str = ""
    "nnU-Net's image reader for the target; empty if the plans are missing."
    notes: tuple[str, ...] = ()
    "Everything that could not be read or does not fit, a sentence each."

    @property
    def path(self) -> tuple[str, ...]:
        """Return the path, the target last, with the dataset of a ready model before all others."""
        request = self.run.request
        begin = (request.pretrained.dataset,) if request.pretrained and request.pretrained.dataset else ()
        return (*begin, *request.path)

    @property
    def follows_plan(self) -> bool:
        """Return True if the run trains the path that is planned now."""
        return self.plan is not None and self.plan.path == self.path

    @property
    def trained_on_cases(self) -> bool:
        """Return True if the network was trained on the validated cases, as in fold all."""
        return any(case.fold == ALL for case in self.cases)


def read_findings(folder: Path) -> Findings:
    """Read everything known about the run in ``folder``. Raises RecordError if the run's record cannot be read."""
    run = read_run(folder)
    request = run.request
    key = request.target, request.plans, request.configuration
    notes: list[str] = []
    stages = tuple(_stage(run, entry, notes) for entry in run.stages)
    plan = _if_there(plan_file(*key), read_plan, notes)
    if plan is not None and (changed := changed_affinity(plan)):
        notes.append(sentence(changed))
    file = cache_folder(request.target) / plan.affinity_file if plan else affinity_path(*key, DEFAULT_METRIC)
    affinity = _if_there(file, read_affinity, notes)
    plans = _tried(partial(read_plans, *key), notes) or {}
    found = Findings(
        run=run,
        stages=stages,
        plan=plan,
        affinity=affinity,
        affinity_file=file if affinity else None,
        comparisons=find_comparisons(run, lambda path: _if_there(path, read_comparison, notes)),
        reader=str(plans.get("image_reader_writer", "")),
    )
    found = _with_cases(found, notes)
    return replace(found, notes=tuple(notes))


def find_comparisons(run: Run, read: Callable[[Path], Comparison | None]) -> tuple[Comparison, ...]:
    """Return the comparisons that hold this run's path: on the folds, then on test sets by number.

    They are stored under the run's tag. If a comparison trained the run, the tag also has ``longN`` and ``seedN``.

    ``read`` returns the comparison in a file, or None if there is none or it cannot be read.
    """
    tag = run.request.tag
    # a comparison appends these to the tags of the runs that it trains
    own = re.sub(r"(^|_)(long\d+_)?seed\d+$", "", tag or "") or None
    for known in dict.fromkeys((tag, own)):
        path = comparison_path(run.request.target, run.request.plans, run.request.configuration, known)
        on_folds, others = read(path), [read(other) for other in _on_test_sets(path)]
        # A folder's name ends with the tag and the test set, and a tag may look like a test set: the record decides.
        found = [on_folds] if on_folds is not None and on_folds.test_set is None else []
        found += [other for other in others if other is not None and other.test_set is not None]
        if found:
            return tuple(found)
    return ()


def _on_test_sets(path: Path) -> list[Path]:
    """Return the records on test sets next to the one on the folds."""
    mark = f"{path.parent.name}_test"
    found = [(folder.name.removeprefix(mark), folder) for folder in path.parent.parent.glob(f"{glob.escape(mark)}*")]
    numbered = [(int(number), folder) for number, folder in found if number.isdecimal()]
    return [folder / path.name for _, folder in sorted(numbered)]


def _with_cases(found: Findings, notes: list[str]) -> Findings:
    """Add the target's labels and validated cases, and how many cases each dataset has."""
    counts = {task.dataset: task.labelled_cases for task in found.affinity.tasks} if found.affinity else {}
    for dataset in dict.fromkeys(stage.entry.dataset for stage in found.stages):
        if dataset not in counts:  # without an affinity
            counts[dataset] = _tried(partial(_count, dataset), []) or 0
    found = replace(found, case_counts={name: count for name, count in counts.items() if count})
    target_json = _tried(partial(read_dataset_json, found.run.request.target), notes)
    if target_json is None:
        return found
    labels, cases = foreground_labels(target_json), list[ValidatedCase]()
    for stage in found.stages:
        if stage.role == "target":
            source = stage.entry.files.summary.parent, stage.entry.fold
            cases += _tried(partial(read_validation, *source, labels, str(target_json["file_ending"])), notes) or ()
    # fold all validates on training cases: its scores would be mixed with honest ones
    held_out = tuple(case for case in cases if case.fold != ALL)
    scratch = _scratch_cases(found.run, held_out, labels, str(target_json["file_ending"]))
    return replace(found, target_json=target_json, labels=labels, cases=held_out or tuple(cases), scratch=scratch)


def _scratch_cases(
    run: Run, cases: Sequence[ValidatedCase], labels: dict[str, tuple[int, ...]], ending: str
) -> tuple[ValidatedCase, ...]:
    request = run.request
    if not request.sources and request.pretrained is None:
        return ()
    asked = {(case.case, case.fold) for case in cases}
    scratch = replace(request, sources=(), source_recipes=(), pretrained=None, replay=0.0)
    found = list[ValidatedCase]()
    for stage in chain_stages(scratch):
        disk = _tried(partial(read_stage, stage.files, details=True), [])
        block = disk.block if disk is not None and disk.is_finished("target") else None
        if block is not None and block.recipe == stage.recipe:
            read = partial(read_validation, stage.files.summary.parent, stage.fold, labels, ending)
            found += _tried(read, []) or ()
    return tuple(case for case in found if (case.case, case.fold) in asked)


def _count(dataset: str) -> int:
    return len(raw_cases(dataset, read_dataset_json(dataset)))


def _stage(run: Run, entry: StageEntry, notes: list[str]) -> StageFound:
    # damaged plans hide the block, nothing else
    disk = _tried(lambda: read_stage(entry.files, details=True), notes) or read_stage(entry.files)
    debug = entry.files.output / "debug.json"
    machine = _tried(lambda: read_json(debug, "debug.json", ""), []) or {}
    return StageFound(entry, run.role(entry), disk, read_training(entry.files.output).epochs, machine)


def _if_there(path: Path, read: Callable[[Path], Content], notes: list[str]) -> Content | None:
    return _tried(lambda: read(path), notes) if path.is_file() else None


def _tried(read: Callable[[], Content], notes: list[str]) -> Content | None:
    """Return what ``read`` returns. If it cannot, return None and note why."""
    try:
        return read()
    except SeqTransferError as error:
        notes.append(sentence(str(error)))
        return None
