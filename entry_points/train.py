"""nnUNetv2_seq_train: trains a chain, each stage an ordinary nnUNetv2_train."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points.common import (
    Options,
    SeqArgumentParser,
    add_checkpoint_minutes,
    add_device,
    add_execution,
    add_processes,
    add_target,
    dataset_numbers,
    notify,
    run_command,
    target_of,
)
from nnunet_seqtransfer.entry_points.executor_options import (
    add_executor,
    chosen_executor,
    print_results,
    require_consistent,
)
from nnunet_seqtransfer.entry_points.recipe_options import (
    add_coverage,
    add_recipe,
    settle_coverage,
    source_recipes,
    target_recipe,
    training_to_plan,
)
from nnunet_seqtransfer.nnunet.folders import dataset_name, results_folder
from nnunet_seqtransfer.slurm.queue import require_nothing_queued
from nnunet_seqtransfer.tasks.path_syntax import named_path, whole_path
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.stages import ChainRequest
from nnunet_seqtransfer.transfer.pretrained import find_pretrained

if TYPE_CHECKING:
    from nnunet_seqtransfer.training.plan import PlannedPath

SCRATCH = "none"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Train what is left in a chain."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    from nnunet_seqtransfer.report.chain_text import chain_text
    from nnunet_seqtransfer.training.train import look_ahead, train_chain

    results_folder()
    devices = DeviceOptions(options.device, options.gpus, options.npz, options.checkpoint_minutes)
    executor, context = chosen_executor(options), Context(notify, options.np)
    request = _request(options, context)
    if options.dry_run:
        outlook = look_ahead(request, context, options=devices, write=False)
        print("\n".join((*executor.describe(outlook, devices, context), chain_text(outlook))))
        return
    run = train_chain(request, context, options=devices, executor=executor, before_replacing=require_nothing_queued)
    print_results(run, executor)


def _request(options: argparse.Namespace, context: Context) -> ChainRequest:
    """Return the chain that the options ask for, along the given path or the plan's."""
    target = dataset_name(options.d)
    path = _path(options, target, context)
    pretrained = path.model if options.init is None else find_pretrained(options.init, options.c)
    return ChainRequest(
        target=target,
        sources=path.sources,
        plans=options.p,
        configuration=options.c,
        folds=tuple(dict.fromkeys(options.f)),
        source_recipe=target_recipe(options),
        target_recipe=target_recipe(options),
        warmup_epochs=options.warmup_epochs,
        tag=options.tag,
        overlap="allow" if options.allow_overlap else "exclude" if options.exclude_overlap else "refuse",
        pretrained=pretrained,
        min_coverage=options.min_coverage,
        source_recipes=source_recipes(options, len(whole_path(path.sources, target)) - 1),
        keep_heads=not options.new_heads,
        compared=path.compared,
        replay=options.replay,
    )


def _path(options: argparse.Namespace, target: str, context: Context) -> PlannedPath:
    """Return the path of -s, or the planned one."""
    from nnunet_seqtransfer.training.plan import PlannedPath, planned_path

    if options.s is not None:
        return PlannedPath(() if options.s == [SCRATCH] else named_path(target, options.s))
    training = training_to_plan(options)
    names = target, options.p, options.c
    return planned_path(*names, options.f, training, context, write=not options.dry_run)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Trains a chain: each source, then the target; each stage starts from the weights of the one before. Run it "
        "again after any interruption: it does what is left. Without -s it follows the plan of nnUNetv2_seq_plan, and "
        "makes one with that command's defaults if there is none.",
        "nnUNetv2_seq_train 4 3d_fullres 0 -s 21 24 -epochs 250",
        "TARGET CONFIGURATION FOLD ... ",
    )
    what = add_target(parser, folds=True)
    sources = what.add_argument(
        "-s",
        nargs="+",
        metavar="SOURCE",
        help=f"Sources in their order, or {SCRATCH}: from scratch. 21+22 is one stage on both; a last 21+4 trains the "
        "target 4 together with 21 at first. Default: the plan's",
    )
    sources.completer = dataset_numbers  # type: ignore[attr-defined]
    add_recipe(parser)
    what.add_argument(
        "-init",
        type=Path,
        metavar="MODEL",
        help="Model whose weights the first stage starts from: checkpoint, results folder or exported ZIP",
    )
    add_coverage(parser.expert)
    _add_overlap(what)
    execution = parser.add_argument_group("execution")
    add_device(execution)
    execution.add_argument("--dry_run", action="store_true", help="Print every stage and what it would do; do nothing")
    add_processes(execution)
    parser.expert.add_argument(
        "--npz", action="store_true", help="Keep the softmax outputs of the target's validation, for ensembles"
    )
    add_execution(parser.expert)
    add_executor(parser)
    add_checkpoint_minutes(parser.expert)
    options = parser.parse(arguments)
    target_of(parser, options, needed="cf")
    settle_coverage(parser, options)
    require_consistent(parser, options)
    return options


def _add_overlap(parser: Options) -> None:
    switches = parser.add_mutually_exclusive_group()
    switches.add_argument(
        "--allow_overlap",
        action="store_true",
        help="Train on cases that the target validates on. Default: an error",
    )
    switches.add_argument(
        "--exclude_overlap",
        action="store_true",
        help="Exclude such cases from the sources, fold by fold",
    )
