"""Survey a comparison: the request, the chain for every arm and seed, and the amount to train."""

import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.affinity.measure import find_affinity
from nnunet_seqtransfer.affinity.metrics import DEFAULT_METRIC, metric_names
from nnunet_seqtransfer.affinity.record import Affinity, affinity_path, read_affinity, require_fitting
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import RecordError, SeqTransferError, collecting, raise_collected
from nnunet_seqtransfer.evaluation.comparison import Arm, Budget, CompareRequest, choose_arms, comparison_path
from nnunet_seqtransfer.evaluation.held_out import HeldOutSet, load_held_out, require_unseen_folds, require_unseen_test
from nnunet_seqtransfer.nnunet.datasets import split_cases
from nnunet_seqtransfer.nnunet.folders import dataset_id, dataset_name, registered_datasets
from nnunet_seqtransfer.nnunet.plans import data_folder
from nnunet_seqtransfer.nnunet.preprocessing import preprocessed_cases
from nnunet_seqtransfer.parallel import one_pool
from nnunet_seqtransfer.planning.options import PlanOptions, Training
from nnunet_seqtransfer.planning.record import SequencePlan, plan_file, read_plan, write_plan
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.tasks.path_syntax import datasets_on, named_path
from nnunet_seqtransfer.tasks.task import Task, load_target, load_tasks
from nnunet_seqtransfer.training.actions import Action
from nnunet_seqtransfer.training.decide import Outlook
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.overlap_guard import find_exclusions
from nnunet_seqtransfer.training.plan import plan_with
from nnunet_seqtransfer.training.ready_models import require_unchanged
from nnunet_seqtransfer.training.stages import ChainRequest, Exclusions, Stage
from nnunet_seqtransfer.training.train import look_ahead

PACKAGES = ("nnunetv2", "torch", "numpy", "scipy")


@dataclass(frozen=True)
class Trial:
    """One arm with one seed."""

    arm: Arm
    "Path to train."
    seed: int
    "Seed for all stages."

    @property
    def title(self) -> str:
        """Return the name for people."""
        return f"{self.arm.name}, seed {self.seed}"


@dataclass(frozen=True)
class CompareSurvey:
    """Everything that a comparison depends on, known before anything is trained."""

    request: CompareRequest
    "The request."
    base: ChainRequest
    "Chain request without path and seed, shared by all trials."
    arms: tuple[Arm, ...]
    "Paths to compare."
    chains: Mapping[Trial, Outlook]
    "Trial -> chain, in training order."
    exclusions: Exclusions
    "Cases that sources are trained without, see `find_exclusions`."
    path: Path
    "Path of the record."
    task: Task
    "The target."
    reader_writer: str
    "Name of the nnU-Net class that reads the target's files."
    test: HeldOutSet | None
    "The test set; None to evaluate each fold on its validation cases."
    cases: int
    "Number of cases to evaluate."
    affinities: tuple[Affinity, ...]
    "Distances by each metric with a record; the first one chose the arms."
    budget: Budget
    "Amount to train."
    provenance: dict[str, Any]
    "Recipe, device, versions, and files with their SHA-256."


@one_pool()
def survey_comparison(request: CompareRequest, context: Context, *, write: bool = True) -> CompareSurvey:
    """Choose the paths, load all chains and check them; train nothing.

    ``write`` allows to make a missing affinity or plan; if False, a missing one is an error.

    Raises a SeqTransferError for whatever would stop the comparison later.
    """
    target = dataset_name(request.target)
    test_name, own = None, list[tuple[str, ...]]()
    errors: list[SeqTransferError] = []
    with collecting(errors):
        test_name = None if request.test is None else dataset_name(request.test)
    for path in request.paths:
        with collecting(errors):
            own.append(named_path(target, path))
    raise_collected(errors)
    affinity, affinity_file = _affinity(request, target, context, write=write)
    plan, plan_file = _plan(request, affinity, affinity_file, test_name, context, write=write) or (None, None)
    arms = choose_arms(affinity, plan, request, own, without=test_name)
    base = _base(request, target)
    task, plans = load_target(target, base.plans, base.configuration)
    splits = split_cases(target, preprocessed_cases(data_folder(target, plans, base.configuration)))
    test = None if test_name is None else load_held_out(test_name, task)
    chains, exclusions = _load_chains(base, arms, request, context)
    if test is None:
        require_unseen_folds(task, base.folds, splits, context)
        cases = sum(len(splits[fold]["val"]) for fold in base.folds)
    else:
        tasks = {name: one for chain in chains.values() for name, one in chain.survey.tasks.items() if name != target}
        of_models = {arm.model.dataset for arm in arms if arm.model and arm.model.dataset in registered_datasets()}
        tasks |= {one.dataset: one for one in load_tasks(sorted(filter(None, of_models)), context)}
        require_unseen_test(test, task, tasks.values(), base.folds, splits, context)
        cases = len(test.cases)
    return CompareSurvey(
        request=request,
        base=base,
        arms=arms,
        chains=chains,
        exclusions=exclusions,
        path=comparison_path(target, base.plans, base.configuration, base.tag, test_name),
        task=task,
        reader_writer=str(plans["image_reader_writer"]),
        test=test,
        cases=cases,
        affinities=(affinity, *_other_metrics(affinity)),
        budget=count_budget(list(chains.values()), request, 0 if test is None else cases),
        provenance=_provenance(request, base, [file for file in (affinity_file, plan_file) if file], test),
    )


def trial_request(base: ChainRequest, trial: Trial) -> ChainRequest:
    """Return a trial's chain request; the tag tells seeds, and scratch trained as long as a path, apart.

    Paths with the same seed share stages, like all chains with a common start.
    """
    extra = trial.arm.extra_epochs
    parts = [base.tag, f"long{extra}" if extra else None, f"seed{trial.seed}"]
    target = base.target_recipe
    return replace(
        base,
        sources=trial.arm.sources,
        pretrained=trial.arm.model,
        source_recipe=replace(base.source_recipe, seed=trial.seed),
        target_recipe=replace(target, epochs=target.epochs + extra, seed=trial.seed),
        tag="_".join(part for part in parts if part),
    )


def exclusions_along(exclusions: Exclusions, sources: Sequence[str]) -> Exclusions:
    """Return the exclusions for these sources alone; stage names depend on whether there are any."""
    found = {
        fold: {name: cases for name, cases in by_source.items() if name in datasets_on(sources)}
        for fold, by_source in exclusions.items()
    }
    return {fold: by_source for fold, by_source in found.items() if by_source}


def load_trial(
    base: ChainRequest, trial: Trial, exclusions: Exclusions, devices: DeviceOptions, context: Context
) -> Outlook:
    """Return the outlook of a trial's chain as it is on disk now. Raises as `look_ahead`."""
    own = exclusions_along(exclusions, trial.arm.sources)
    request = trial_request(base, trial)
    return look_ahead(request, context, options=devices, exclusions=own)


def count_budget(chains: Sequence[Outlook], request: CompareRequest, test_cases: int = 0) -> Budget:
    """Return the amount that all chains train together; a shared stage counts once.

    ``test_cases``: cases of a test set that every model predicts.
    """
    left: dict[str, tuple[Outlook, Stage]] = {}
    done, seconds, preprocessing = set[str](), dict[str, float](), dict[str, float]()
    for chain in chains:
        preprocessing |= chain.preprocessing
        for stage, action in chain.actions.items():
            seconds[stage.key] = chain.seconds[stage]
            if stage.role == "target" and not chain.is_finished:
                seconds[stage.key] += chain.survey.clock.stage(stage.recipe, 0, test_cases)
            if action in (Action.START, Action.RESUME):
                left.setdefault(stage.key, (chain, stage))
            elif action is not Action.NOT_NEEDED:
                done.add(stage.key)
    return Budget(
        stages=len(left.keys() | done),
        finished=len(done - left.keys()),
        iterations=sum(stage.recipe.epochs * stage.recipe.iterations for _, stage in left.values()),
        hours=sum((*seconds.values(), *preprocessing.values())) / 3600,
        target_iterations=request.recipe.epochs * request.recipe.iterations,
    )


def _load_chains(
    base: ChainRequest, arms: Sequence[Arm], request: CompareRequest, context: Context
) -> tuple[dict[Trial, Outlook], Exclusions]:
    """Return all trials with their chains, one seed after the other, and the exclusions.

    Shared cases are looked for once, for all sources together.
    """
    whole = replace(base, sources=tuple(element for arm in arms for element in arm.sources))
    target, plans = load_target(base.target, base.plans, base.configuration)
    tasks = load_tasks(whole.datasets, context)
    by_name = {task.dataset: task for task in [*tasks, target]}
    exclusions = find_exclusions(whole, by_name, plans, context)
    for model in dict.fromkeys(arm.model for arm in arms if arm.model is not None):
        require_unchanged(model, base.configuration)
        # nothing can be excluded from a model: raises if it has seen validation cases
        find_exclusions(replace(base, pretrained=model), by_name, plans, context)
    trials = [Trial(arm, seed) for seed in dict.fromkeys(request.seeds) for arm in arms]
    loaded = {trial: load_trial(base, trial, exclusions, request.devices, context) for trial in trials}
    return loaded, exclusions


def _base(request: CompareRequest, target: str) -> ChainRequest:
    return ChainRequest(
        target=target,
        sources=(),
        plans=request.plans,
        configuration=request.configuration,
        folds=tuple(dict.fromkeys(request.folds)),
        source_recipe=replace(request.recipe, epochs=request.source_epochs),
        target_recipe=request.recipe,
        warmup_epochs=request.warmup_epochs,
        tag=request.tag,
        overlap="exclude" if request.exclude_overlap else "refuse",
        keep_heads=request.keep_heads,
        replay=request.replay,
        min_coverage=request.min_coverage,
    )


def _affinity(request: CompareRequest, target: str, context: Context, *, write: bool) -> tuple[Affinity, Path]:
    """Return the affinity that the arms are chosen by, and its file."""
    names = (target, request.plans, request.configuration)
    path = affinity_path(*names, DEFAULT_METRIC)
    if not (write or request.affinity or path.is_file()):
        raise RecordError(f"there is no affinity yet: {path}; run nnUNetv2_seq_affinity, --dry_run writes nothing")
    return find_affinity(names, DEFAULT_METRIC, context, request.affinity)


def _plan(
    request: CompareRequest, affinity: Affinity, file: Path, test: str | None, context: Context, *, write: bool
) -> tuple[SequencePlan, Path] | None:
    """Return the stored plan and its file, made first if it is missing; None if no arm needs a plan.

    Raises RecordError if the stored plan rests on another metric or leads through the test set.
    """
    if not {"planned", "runner-up"} & set(request.kinds):
        return None
    names = (affinity.target, affinity.plans, affinity.configuration)
    path = plan_file(*names)
    if not path.is_file():
        if not write:
            raise RecordError(f"there is no plan yet: {path}; run nnUNetv2_seq_plan first, --dry_run writes nothing")
        context.notify(f"no plan for {affinity.target} yet; making one")
        recipe = request.recipe
        training = Training(recipe.epochs, request.source_epochs, recipe.iterations, len(request.folds))
        options = PlanOptions(training=training, avoid=() if test not in affinity.sources else (str(test),))
        write_plan(path, plan_with(affinity, file, options, context, device=request.devices.device))
    plan = read_plan(path)
    require_fitting(plan, path, names, "nnUNetv2_seq_plan")
    if plan.metric != affinity.metric:
        raise RecordError(
            f"the plan {path} rests on the metric {plan.metric}, the affinity on {affinity.metric}; give the plan's "
            "affinity after -a, make a plan with nnUNetv2_seq_plan -a, or leave planned and runner-up out of -arms"
        )
    if test in datasets_on(plan.sources):
        command = f"nnUNetv2_seq_plan -t {dataset_id(plan.target)} -c {plan.configuration} -avoid {dataset_id(test)}"
        raise RecordError(f"the plan {path} goes through the test set {test}; run {command}")
    if sha256(file) != plan.affinity_sha256:
        context.notify(f"the plan rests on another affinity than {file}; nnUNetv2_seq_plan makes a new one")
    return plan, path


def _other_metrics(affinity: Affinity) -> list[Affinity]:
    """Return the affinities by other metrics that are on disk, so that their rankings are judged too."""
    key, others = (affinity.target, affinity.plans, affinity.configuration), {*metric_names()} - {affinity.metric}
    paths = [affinity_path(*key, name) for name in sorted(others)]
    return [read_affinity(path) for path in paths if path.is_file()]


def _provenance(
    request: CompareRequest, base: ChainRequest, files: Sequence[Path], test: HeldOutSet | None
) -> dict[str, Any]:
    source, target = asdict(base.source_recipe), asdict(base.target_recipe)
    return {
        "source_recipe": {key: value for key, value in source.items() if key != "seed"},
        "target_recipe": {key: value for key, value in target.items() if key != "seed"},
        "warmup_epochs": base.warmup_epochs,
        "overlap": base.overlap,
        "keep_heads": base.keep_heads,
        "replay": base.replay,
        "test_set": None if test is None else test.name,
        "mirroring": request.mirroring or test is None,  # nnU-Net's validation always mirrors
        "device": request.devices.device,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "files": {path.name: sha256(path) for path in files},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
