"""nnUNetv2_seq_compare: trains several paths to one target alike, and says by how much which is better."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.affinity.measure import AffinityRequest, find_affinity, measure_affinity
from nnunet_seqtransfer.affinity.metric import DEFAULT_METRIC, metric_names
from nnunet_seqtransfer.affinity.record import Affinity, affinity_path, read_affinity, require_fitting
from nnunet_seqtransfer.calibration.measurements import split_path
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points.common import notify, run_command
from nnunet_seqtransfer.entry_points.compare_options import parse_compare
from nnunet_seqtransfer.entry_points.plan import run_plan
from nnunet_seqtransfer.entry_points.recipe_options import fine_tuned
from nnunet_seqtransfer.errors import RecordError, SeqTransferError
from nnunet_seqtransfer.evaluation.arms import ArmChoice, choose_arms
from nnunet_seqtransfer.evaluation.compare import Setting, load_trials, run_comparison
from nnunet_seqtransfer.evaluation.comparison import Arm, comparison_folder
from nnunet_seqtransfer.evaluation.guard import check_unseen
from nnunet_seqtransfer.evaluation.held_out import load_held_out
from nnunet_seqtransfer.evaluation.provenance import provenance
from nnunet_seqtransfer.evaluation.rankings import FEWEST
from nnunet_seqtransfer.evaluation.scoring import Scorer
from nnunet_seqtransfer.evaluation.trials import budget
from nnunet_seqtransfer.nnunet.datasets import split_cases
from nnunet_seqtransfer.nnunet.evaluation import voxel_size
from nnunet_seqtransfer.nnunet.folders import dataset_id, dataset_name, results_folder
from nnunet_seqtransfer.nnunet.plans import data_folder
from nnunet_seqtransfer.nnunet.preprocessing import preprocessed_cases
from nnunet_seqtransfer.planning.options import PlanOptions
from nnunet_seqtransfer.planning.prices import Training
from nnunet_seqtransfer.planning.record import SequencePlan, plan_path, read_plan
from nnunet_seqtransfer.report.comparison_text import budget_text, comparison_text
from nnunet_seqtransfer.slurm.queue import require_nothing_queued
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.tasks.task import load_target, named_sources
from nnunet_seqtransfer.training.executors import LocalExecutor
from nnunet_seqtransfer.training.history import find_epoch_time
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import ChainRequest


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Compares."""
    options = parse_compare(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    results_folder()
    devices = DeviceOptions(options.device, options.gpus, False, options.checkpoint_minutes)
    executor = LocalExecutor(wait=options.wait, processes_ahead=options.np_ahead)
    target = dataset_name(options.dataset)
    affinity, files = _affinity(options, target)
    plan = _plan(options, affinity, files)
    arms = choose_arms(affinity, plan, _choice(options, target))
    setting, splits = _setting(options, target, arms, affinity, files)
    if not options.dry_run:
        executor.check(devices)
    loaded = load_trials(setting, options.np, notify, write=not options.dry_run)
    chains = list(loaded.chains.values())
    check_unseen(chains, splits, setting.held_out, options.np, notify, write=not options.dry_run)
    seconds, origin = _epoch_seconds(options, setting.base)
    costs = budget(chains, setting.base.target_recipe, options.device, seconds)
    print(budget_text(arms, costs, setting.seeds, origin), flush=True)
    if options.dry_run:
        print("nothing was done (--dry_run)")
        return
    comparison = run_comparison(
        setting, loaded, costs, devices, executor, options.np, notify, before_replacing=require_nothing_queued
    )

    from nnunet_seqtransfer.report.comparison_pictures import draw_comparison  # noqa: PLC0415 - matplotlib is slow

    pictures = draw_comparison(comparison, setting.folder)
    print(f"\n{comparison_text(comparison)}\n")
    written = [
        setting.folder / name for name in ("comparison.json", "scores.csv", "differences.csv", "measurements.csv")
    ]
    print("written: " + "\n         ".join(str(path) for path in (*written, *pictures)))


def _affinity(options: argparse.Namespace, target: str) -> tuple[Affinity, list[Path]]:
    """The affinity that the arms are chosen by, and its file."""
    if options.a is not None:
        path = Path(options.a)
        affinity = read_affinity(path)
        require_fitting(affinity, path, (target, options.p, options.configuration), "nnUNetv2_seq_affinity")
        return affinity, [path]
    path = affinity_path(target, options.p, options.configuration, DEFAULT_METRIC)
    if options.dry_run and not path.is_file():
        raise RecordError(f"there is no affinity yet: {path}; run nnUNetv2_seq_affinity, --dry_run writes nothing")
    affinity, path = find_affinity(
        target, options.p, options.configuration, DEFAULT_METRIC, Context(notify, options.np)
    )
    return affinity, [path]


def _plan(options: argparse.Namespace, affinity: Affinity, files: list[Path]) -> SequencePlan | None:
    """The plan beside the affinity, made where it is wanted and missing; its file is added to ``files``."""
    if not {"planned", "runner-up"} & set(options.arms):
        return None
    path = plan_path(affinity.target, options.p, options.configuration)
    test = None if options.test is None else dataset_name(options.test)
    if path.is_file():
        plan = read_plan(path)
        wanted = (affinity.target, options.p, options.configuration)
        require_fitting(plan, path, wanted, "nnUNetv2_seq_plan")
        _require_of(plan, path, affinity, test)
        if sha256(files[0]) != plan.affinity_sha256:
            notify(f"the plan rests on another affinity than {files[0]}; nnUNetv2_seq_plan makes a new one")
    elif options.dry_run:
        raise RecordError(f"there is no plan yet: {path}; run nnUNetv2_seq_plan first, --dry_run writes nothing")
    else:
        notify(f"no plan for {affinity.target} yet; making one")
        training = Training(options.epochs, options.source_epochs, options.iterations, len(options.folds))
        avoid = tuple({test} & set(affinity.sources)) if test is not None else ()
        plan = run_plan(affinity, files[0], PlanOptions(training=training, avoid=avoid))
    files.append(path)
    return plan


def _require_of(plan: SequencePlan, path: Path, affinity: Affinity, test: str | None) -> None:
    """Raises RecordError where a stored plan is not one to compare: of another metric, or through the test set."""
    if plan.metric != affinity.metric:
        raise RecordError(
            f"the plan {path} is by the metric {plan.metric}, the affinity by {affinity.metric}; give that plan's "
            "affinity after -a, make a plan on this one (nnUNetv2_seq_plan -a), or leave planned and runner-up out of "
            "-arms"
        )
    if test in plan.sources:
        number = dataset_id(str(test))
        raise RecordError(
            f"the plan {path} goes through the test set {test}; run nnUNetv2_seq_plan -t {dataset_id(plan.target)} "
            f"-c {plan.configuration} -avoid {number}"
        )


def _choice(options: argparse.Namespace, target: str) -> ArmChoice:
    given = [*options.path, *(_read_paths(Path(options.paths)) if options.paths is not None else [])]
    return ArmChoice(
        kinds=tuple(options.arms),
        direct=options.top,
        runners_up=options.runners_up,
        own=tuple(named_sources(target, path) for path in given),
        all_direct=options.all_direct,
        all_pairs=options.all_pairs,
        source_epochs=options.source_epochs,
        without=() if options.test is None else (dataset_name(options.test),),
    )


def _read_paths(path: Path) -> list[tuple[str, ...]]:
    """The sources of each line, such as 21 -> 24; empty lines, and those that begin with #, are left out."""
    try:
        lines = path.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise RecordError(f"the file of paths {path} cannot be read ({error}); correct -paths") from None
    return [split_path(line) for line in lines if line.strip() and not line.strip().startswith("#")]


def _setting(
    options: argparse.Namespace, target: str, arms: tuple[Arm, ...], affinity: Affinity, files: list[Path]
) -> tuple[Setting, dict[str, dict[str, tuple[str, ...]]]]:
    """Everything that the comparison depends on, and the splits of the target."""
    task, plans = load_target(target, options.p, options.configuration)
    recipe = fine_tuned(Recipe(options.epochs, options.iterations, options.initial_lr), options)
    base = ChainRequest(
        target=target,
        sources=(),
        plans=options.p,
        configuration=options.configuration,
        folds=tuple(dict.fromkeys(options.folds)),
        source_recipe=replace(recipe, epochs=options.source_epochs),
        target_recipe=recipe,
        warmup_epochs=options.warmup_epochs,
        tag=options.tag,
        overlap="exclude" if options.exclude_overlap else "refuse",
        keep_heads=options.keep_heads,
    )
    splits = split_cases(target, preprocessed_cases(data_folder(target, plans, options.configuration)))
    held_out = None if options.test is None else load_held_out(dataset_name(options.test), task)
    tolerance = voxel_size(plans, options.configuration) if options.tolerance is None else options.tolerance
    affinities = _affinities(options, affinity, arms)
    setting = Setting(
        base=base,
        arms=arms,
        seeds=tuple(dict.fromkeys(options.seeds)),
        folder=comparison_folder(
            target, options.p, options.configuration, options.tag, held_out.dataset if held_out else None
        ),
        scorer=Scorer(str(plans["image_reader_writer"]), task.dataset_json["labels"], tolerance),
        ending=task.dataset_json["file_ending"],
        validation={fold: split["val"] for fold, split in splits.items()},
        held_out=held_out,
        mirroring=not options.disable_tta,
        affinities=affinities,
        provenance=provenance(base, files, options.device, held_out, mirroring=not options.disable_tta),
    )
    return setting, splits


def _affinities(options: argparse.Namespace, affinity: Affinity, arms: tuple[Arm, ...]) -> tuple[Affinity, ...]:
    """The affinities by every metric, for their rankings to be judged; missing ones are computed, if they can be."""
    found = [affinity]
    if sum(len(arm.sources) == 1 for arm in arms) < FEWEST:
        return tuple(found)
    sources = tuple(task.dataset for task in affinity.tasks[:-1] if task.registered)
    for name in (name for name in metric_names() if name != affinity.metric):
        path = affinity_path(affinity.target, options.p, options.configuration, name)
        request = AffinityRequest(affinity.target, sources, options.p, options.configuration, name)
        try:
            if path.is_file():
                found.append(read_affinity(path))
            elif not options.dry_run:
                notify(f"no affinity by {name} yet; its ranking is to be judged")
                found.append(measure_affinity(request, Context(notify, options.np)).affinity)
        except SeqTransferError as error:
            notify(f"the ranking by {name} is not judged: {error}")
    return tuple(found)


def _epoch_seconds(options: argparse.Namespace, base: ChainRequest) -> tuple[float | None, str]:
    """Seconds of an epoch where they were given or measured, and in words where they come from."""
    training = Training(iterations=options.iterations, epoch_time=options.epoch_time)
    epoch = find_epoch_time(training, base.target, base.plans, base.configuration)
    if "not measured" in epoch.origin:
        return None, "a rough estimate"
    return epoch.seconds, f"{epoch.seconds:.3g} s an epoch, {epoch.origin}"
