"""nnUNetv2_seq_train: trains a chain of stages, each an ordinary nnUNetv2_train."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.affinity.measure import find_affinity
from nnunet_seqtransfer.affinity.metric import DEFAULT_METRIC
from nnunet_seqtransfer.affinity.record import read_affinity, require_fitting
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_checkpoint_minutes,
    add_device,
    add_execution,
    add_processes,
    notify,
    run_command,
    share,
)
from nnunet_seqtransfer.entry_points.executor_options import add_executor, chosen_executor, require_consistent
from nnunet_seqtransfer.entry_points.plan import (
    run_plan,
)
from nnunet_seqtransfer.entry_points.recipe_options import (
    add_recipe,
    source_recipes,
    target_recipe,
    training_to_plan,
)
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.nnunet.datasets import require_folds
from nnunet_seqtransfer.nnunet.folders import dataset_name, results_folder
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS
from nnunet_seqtransfer.planning.options import PlanOptions
from nnunet_seqtransfer.planning.record import SequencePlan, changed_affinity, plan_path, read_plan
from nnunet_seqtransfer.slurm.queue import require_nothing_queued
from nnunet_seqtransfer.tasks.task import load_target, named_sources
from nnunet_seqtransfer.training.chain import Chain, load_chain
from nnunet_seqtransfer.training.dry_run import describe_chain
from nnunet_seqtransfer.training.executors import Executor, RecordExecutor, run_chain
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.stages import DEFAULT_COVERAGE, TRAINER, ChainRequest
from nnunet_seqtransfer.transfer.correspondence import Pairs
from nnunet_seqtransfer.transfer.pretrained import find_pretrained

SCRATCH = "none"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Trains what is left of a chain."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    results_folder()
    devices = DeviceOptions(options.device, options.gpus, options.npz, options.checkpoint_minutes)
    executor = chosen_executor(options)
    context = Context(notify, options.np)
    target = dataset_name(options.dataset)
    sources, compared = _sources(options, target)
    landmark = find_pretrained(options.init, options.configuration) if options.init is not None else None
    request = replace(chain_request(options, target, sources), landmark=landmark, compared=compared)
    may_train = None if options.dry_run else partial(executor.check, devices)
    chain = load_chain(
        request, options.np, notify, may_extract=not options.dry_run, devices=devices, before_long=may_train
    )
    if options.dry_run:
        print("\n".join((*executor.describe(chain, devices, context), *describe_chain(chain, options.device))))
        return
    run_chain(chain, devices, executor, context, before_replacing=require_nothing_queued)
    if executor.waits or chain.is_finished:
        print_results(chain, executor)


def chain_request(options: argparse.Namespace, target: str, sources: tuple[str, ...]) -> ChainRequest:
    """What the options ask for, along a path; the model of -init, and what a plan knows, come on top."""
    return ChainRequest(
        target=target,
        sources=sources,
        plans=options.p,
        configuration=options.configuration,
        folds=tuple(dict.fromkeys(options.folds)),
        source_recipe=target_recipe(options),
        target_recipe=target_recipe(options),
        warmup_epochs=options.warmup_epochs,
        tag=options.tag,
        overlap="allow" if options.allow_overlap else "exclude" if options.exclude_overlap else "refuse",
        source_recipes=source_recipes(options, len(sources)),
        min_coverage=DEFAULT_COVERAGE if options.min_coverage is None else options.min_coverage,
        keep_heads=options.keep_heads,
    )


def print_results(chain: Chain, executor: Executor) -> None:
    """What was made, and the command that predicts with it; beside the output where that is a list of commands."""
    stream = sys.stderr if isinstance(executor, RecordExecutor) else sys.stdout
    trained = {stage.base: stage for stage in chain.stages if stage.role == "target"}
    for base, last in trained.items():
        folds = [stage.fold for stage in chain.stages if stage.base == base]
        print(
            f"done: {base}\npredict with: nnUNetv2_predict -d {last.dataset} -i IN -o OUT -tr {TRAINER} "
            f"-p {last.plans_name} -c {last.configuration} -f {' '.join(folds)}",
            file=stream,
        )


def _sources(options: argparse.Namespace, target: str) -> tuple[tuple[str, ...], dict[str, Pairs]]:
    """The user's own order, or the plan's; a missing plan is made first.

    And the channels that the affinity of the plan compared, where it is still there and the same.
    """
    if options.s is not None:
        return () if options.s == [SCRATCH] else named_sources(target, options.s), {}
    path, changed = plan_path(target, options.p, options.configuration), None
    if path.is_file():
        plan = read_plan(path)
        require_fitting(plan, path, (target, options.p, options.configuration), "nnUNetv2_seq_plan")
        changed = changed_affinity(plan)
        if changed:
            notify(changed)
    else:
        plan = _new_plan(options, target, path)
    notify(plan.explanation[0])
    file = path.with_name(plan.affinity_file)
    if changed or not file.is_file():
        return plan.sources, {}
    affinity = read_affinity(file)
    return plan.sources, {name: affinity.compared_channels(name) for name in plan.sources}


def _new_plan(options: argparse.Namespace, target: str, path: Path) -> SequencePlan:
    training = training_to_plan(options)
    task, _ = load_target(target, options.p, options.configuration)
    require_folds(target, options.folds, task.cases)
    if options.dry_run:
        raise RecordError(f"there is no plan yet: {path}; run nnUNetv2_seq_plan first, --dry_run writes nothing")
    notify(f"no plan for {target} yet; making one")
    affinity, file = find_affinity(
        target, options.p, options.configuration, DEFAULT_METRIC, Context(notify, options.np)
    )
    return run_plan(affinity, file, PlanOptions(training=training))


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Trains a chain: each source, then the target, the weights handed over from one to the next. Run it again "
        "after any interruption: it does what is left. Without -s it follows the plan of nnUNetv2_seq_plan, which it "
        "makes with that command's defaults where there is none.",
        "nnUNetv2_seq_train 4 3d_fullres 0 -s 21 24 -epochs 250",
    )
    parser.add_argument("dataset", help="[REQUIRED] Name or number of the target dataset")
    parser.add_argument("configuration", help="[REQUIRED] nnU-Net configuration: 2d, 3d_fullres or 3d_lowres")
    parser.add_argument("folds", nargs="+", metavar="fold", help="[REQUIRED] Folds of the target: 0 to 4, or all")
    parser.add_argument(
        "-s",
        nargs="+",
        metavar="SOURCE",
        help=f"[OPTIONAL] Names or numbers of the sources in their order, or {SCRATCH}: from scratch. "
        "Default: the plan's",
    )
    parser.add_argument(
        "-p", default=DEFAULT_PLANS, metavar="PLANS", help=f"[OPTIONAL] Plans of the target. Default: {DEFAULT_PLANS}"
    )
    add_recipe(parser)
    _add_init(parser)
    _add_overlap(parser)
    add_device(parser)
    parser.add_argument(
        "--npz",
        action="store_true",
        help="[OPTIONAL] Keep the softmax outputs of the target's validation, for ensembles",
    )
    parser.add_argument(
        "--dry_run", action="store_true", help="[OPTIONAL] Print every stage and what it would do; do nothing"
    )
    add_processes(parser)
    add_execution(parser)
    add_executor(parser)
    add_checkpoint_minutes(parser)
    options = parser.parse(arguments)
    if options.min_coverage is not None and options.init is None:
        parser.error(
            "-min_coverage says how much of the network the model of -init must give; add -init, or leave it out"
        )
    require_consistent(parser, options)
    return options


def _add_init(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-init",
        type=Path,
        default=None,
        metavar="MODEL",
        help="[OPTIONAL] An existing model whose weights the first stage starts from: a checkpoint, a folder of "
        "nnUNet_results, or an exported ZIP file. Default: random weights",
    )
    parser.add_argument(
        "-min_coverage",
        type=share,
        default=None,
        metavar="X",
        help="[OPTIONAL] Share of the network's parameters, from 0 to 1, that -init must give at least. Default: "
        f"{DEFAULT_COVERAGE:g}",
    )
    parser.add_argument(
        "--keep_heads",
        action="store_true",
        help="[OPTIONAL] Keep the heads of labels, or of regions, of the same name wherever weights are handed over; "
        "without it all heads start anew",
    )


def _add_overlap(parser: argparse.ArgumentParser) -> None:
    switches = parser.add_mutually_exclusive_group()
    switches.add_argument(
        "--allow_overlap",
        action="store_true",
        help="[OPTIONAL] Train on sources that hold cases which the target validates on; without it an error",
    )
    switches.add_argument(
        "--exclude_overlap",
        action="store_true",
        help="[OPTIONAL] Leave such cases out of the sources, for each fold its own; see nnUNetv2_seq_overlap",
    )
