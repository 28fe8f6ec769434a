"""Plan a path for a target: read what is known, let a strategy decide, write the plan."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from nnunet_seqtransfer.affinity.measure import find_affinity
from nnunet_seqtransfer.affinity.metrics import DEFAULT_METRIC
from nnunet_seqtransfer.affinity.record import Affinity, read_affinity, require_fitting
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import EnvironmentNotSetError, RecordError, SeqTransferError, collecting, raise_collected
from nnunet_seqtransfer.nnunet.datasets import read_dataset_json, require_folds
from nnunet_seqtransfer.nnunet.folders import SEQTRANSFER_FOLDER, raw_folder, registered_datasets, results_folder
from nnunet_seqtransfer.nnunet.plans import DEFAULT_CONFIGURATION, DEFAULT_PLANS
from nnunet_seqtransfer.overlap.matching import sharing_sources
from nnunet_seqtransfer.planning.decide import Known, make_plan
from nnunet_seqtransfer.planning.measured import MeasuredTable, read_table
from nnunet_seqtransfer.planning.options import DEFAULT_STRATEGY, PlanOptions, Training
from nnunet_seqtransfer.planning.record import (
    ReadyModel,
    SequencePlan,
    changed_affinity,
    plan_file,
    read_plan,
    write_plan,
)
from nnunet_seqtransfer.tasks.path_syntax import datasets_on
from nnunet_seqtransfer.tasks.task import load_target
from nnunet_seqtransfer.training.history import find_history
from nnunet_seqtransfer.training.ready_models import find_ready_models, require_unchanged
from nnunet_seqtransfer.transfer.correspondence import Pairs
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel
from nnunet_seqtransfer.transfer.probe import read_probes


@dataclass(frozen=True)
class PlannedPath:
    """A planned path as it is trained."""

    sources: tuple[str, ...]
    "Full names of the sources to train, in order."
    compared: Mapping[str, Pairs] = field(default_factory=dict)
    "Source -> channels that the plan's affinity compared; empty if it is gone or has changed."
    model: PretrainedModel | None = None
    "Ready model that the first stage starts from; None for random weights."


@dataclass(frozen=True)
class PlanRequest:
    """The target to plan for, and what to plan with."""

    target: str
    "Full name of the target."
    plans: str = DEFAULT_PLANS
    "Name of the target's plans."
    configuration: str = DEFAULT_CONFIGURATION
    "nnU-Net configuration."
    metric: str = DEFAULT_METRIC
    "Metric of the affinity, which is measured if it is missing."
    affinity_file: Path | None = None
    "An affinity kept elsewhere, with a metric of its own; None for that of the target."
    calibration: Path | None = None
    "The user's measured transfers; None for those that `calibrate` wrote, if there are any."
    models: tuple[Path, ...] | None = ()
    "Models to start from, besides those in nnUNet_results; None to train every source."
    device: str = "cuda"
    "Device to train on, for the times."

    @property
    def key(self) -> tuple[str, str, str]:
        """Target, plans and configuration."""
        return self.target, self.plans, self.configuration


def plan_path(request: PlanRequest, options: PlanOptions, context: Context) -> SequencePlan:
    """Choose the path to train for a target, and write the plan where `nnUNetv2_seq_train` looks for it.

    Stages that are trained cost nothing, and sources that hold cases of the target are left out unless
    ``options.allow_overlap``.

    Raises RecordError if a file is broken or made for something else, SequenceError if no path is as asked.
    """
    affinity, file = find_affinity(request.key, request.metric, context, request.affinity_file)
    models = {}
    if request.models is not None and options.strategy == DEFAULT_STRATEGY:
        models = find_ready_models(*request.key, request.models, context, allow_overlap=options.allow_overlap)
    plan = plan_with(affinity, file, options, context, request.calibration, models, request.device)
    errors: list[SeqTransferError] = []
    # they may have changed since the affinity was measured
    for name in {*datasets_on(plan.path)} & {*registered_datasets()}:
        if not (raw_folder() / name / "dataset.json").is_file():
            continue  # only preprocessed here: whoever trains on it says what is missing
        with collecting(errors):
            read_dataset_json(name)
    raise_collected(errors)
    with contextlib.suppress(RecordError):  # there is none, or an older version made it
        earlier = read_plan(plan_file(*request.key))
        if (earlier.path, earlier.metric, earlier.options) != (plan.path, plan.metric, plan.options):
            context.notify(f"this replaces the plan {' -> '.join(earlier.starred(earlier.path))} (by {earlier.metric})")
    write_plan(plan_file(*request.key), plan)
    return plan


def plan_with(
    affinity: Affinity,
    affinity_file: Path,
    options: PlanOptions,
    context: Context,
    calibration: Path | None = None,
    models: Mapping[str, ReadyModel] | None = None,
    device: str = "cuda",
) -> SequencePlan:
    """Return the plan on an affinity that was read already; nothing is written."""
    names = affinity.target, affinity.plans, affinity.configuration
    here = [task.dataset for task in affinity.tasks[:-1] if task.registered]
    history = find_history(options.training, names, here, device, context.processes)
    known = Known(
        zero_shot={source: probe.dice for source, probe in read_probes(affinity.target).items()},
        shared=frozenset(sharing_sources(affinity.target, here)),
        own=_own_table(calibration),
        models=models or {},
    )
    return make_plan(affinity, affinity_file, options, history, known)


def own_table_file() -> Path:
    """Return where `calibrate` keeps the user's measured transfers by default."""
    return results_folder() / SEQTRANSFER_FOLDER / "measured.json"


def _own_table(given: Path | None) -> MeasuredTable | None:
    """Return the given table; else the default one if it exists."""
    if given is not None:
        return read_table(given)
    with contextlib.suppress(EnvironmentNotSetError):  # planning does without nnUNet_results
        return read_table(own_table_file()) if own_table_file().is_file() else None
    return None


def planned_path(
    target: str,
    plans: str,
    configuration: str,
    folds: Sequence[str],
    training: Training,
    context: Context,
    *,
    device: str = "cuda",
    write: bool = True,
) -> PlannedPath:
    """Return the planned sources in order, and what they start from.

    Args:
        target, plans, configuration: what the plan is for.
        folds: folds of the target to train; checked before a missing plan is made.
        training, device: recipe and device that a missing plan is priced with.
        context: progress and worker processes.
        write: whether a missing plan is made; otherwise it is an error.

    Raises RecordError if the plan is missing, damaged or made for something else, CheckpointError if the model that it
    starts from is gone or has changed.
    """
    key = target, plans, configuration
    path, changed = plan_file(*key), None
    if path.is_file():
        plan = read_plan(path)
        require_fitting(plan, path, key, "nnUNetv2_seq_plan")
        changed = changed_affinity(plan)
        if changed:
            context.notify(changed)
    elif not write:
        raise RecordError(f"there is no plan yet: {path}; run nnUNetv2_seq_plan first, --dry_run writes nothing")
    else:
        require_folds(target, folds, load_target(*key)[0].cases)
        context.notify(f"no plan for {target} yet; making one")
        plan = plan_path(PlanRequest(*key, device=device), PlanOptions(training=training), context)
    gain = f", expected gain {plan.chosen.gain:+.2f} Dice" if plan.sources else ""
    context.notify(f"planned: {' -> '.join(plan.starred(plan.path))}{gain}")
    model = plan.model.model if plan.model else None
    if model is not None:
        require_unchanged(model, configuration)
    file = path.with_name(plan.affinity_file)
    if changed or not file.is_file():
        return PlannedPath(plan.to_train, model=model)
    affinity = read_affinity(file)
    names = (name for name in datasets_on(plan.to_train) if name != target)
    return PlannedPath(plan.to_train, {name: affinity.compared_channels(name) for name in names}, model)
