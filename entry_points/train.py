"""nnUNetv2_seq_train: trains a chain, each stage an ordinary nnUNetv2_train."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

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
from nnunet_seqtransfer.entry_points.executor_options import (
    add_executor,
    chosen_executor,
    print_results,
    require_consistent,
)
from nnunet_seqtransfer.entry_points.recipe_options import (
    add_recipe,
    source_recipes,
    target_recipe,
    training_to_plan,
)
from nnunet_seqtransfer.nnunet.folders import dataset_name, results_folder
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS
from nnunet_seqtransfer.report.chain_text import chain_text
from nnunet_seqtransfer.slurm.queue import require_nothing_queued
from nnunet_seqtransfer.tasks.path_syntax import named_path, whole_path
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.plan import PlannedPath, planned_path
from nnunet_seqtransfer.training.stages import DEFAULT_COVERAGE, ChainRequest
from nnunet_seqtransfer.training.train import look_ahead, train_chain
from nnunet_seqtransfer.transfer.pretrained import find_pretrained

SCRATCH = "none"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Train what is left in a chain."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
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
    target = dataset_name(options.dataset)
    path = _path(options, target, context)
    pretrained = path.model if options.init is None else find_pretrained(options.init, options.configuration)
    return ChainRequest(
        target=target,
        sources=path.sources,
        plans=options.p,
        configuration=options.configuration,
        folds=tuple(dict.fromkeys(options.folds)),
        source_recipe=target_recipe(options),
        target_recipe=target_recipe(options),
        warmup_epochs=options.warmup_epochs,
        tag=options.tag,
        overlap="allow" if options.allow_overlap else "exclude" if options.exclude_overlap else "refuse",
        pretrained=pretrained,
        min_coverage=DEFAULT_COVERAGE if options.min_coverage is None else options.min_coverage,
        source_recipes=source_recipes(options, len(whole_path(path.sources, target)) - 1),
        keep_heads=not options.new_heads,
        compared=path.compared,
        replay=options.replay,
    )


def _path(options: argparse.Namespace, target: str, context: Context) -> PlannedPath:
    """Return the path of -s, or the planned one."""
    if options.s is not None:
        return PlannedPath(() if options.s == [SCRATCH] else named_path(target, options.s))
    training = training_to_plan(options)
    names = target, options.p, options.configuration
    return planned_path(*names, options.folds, training, context, write=not options.dry_run)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Trains a chain: each source, then the target; each stage starts from the weights of the one before. Run it "
        "again after any interruption: it does what is left. Without -s it follows the plan of nnUNetv2_seq_plan, and "
        "makes one with that command's defaults if there is none.",
        "nnUNetv2_seq_train 4 3d_fullres 0 -s 21 24 -epochs 250",
    )
    parser.add_argument("dataset", help="[REQUIRED] Name or number of the target dataset")
    parser.add_argument("configuration", help="[REQUIRED] nnU-Net configuration: 2d, 3d_fullres or 3d_lowres")
    parser.add_argument("folds", nargs="+", metavar="fold", help="[REQUIRED] Folds of the target: 0 to 4, or all")
    parser.add_argument(
        "-s",
        nargs="+",
        metavar="SOURCE",
        help=f"[OPTIONAL] Names or numbers of the sources in their order, or {SCRATCH}: from scratch. 21+22 is one "
        "stage on both; a last 21+4 trains the target 4 together with 21 at first. Default: the plan's",
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
            "-min_coverage is the share of the network that the model of -init must provide; add -init, or leave it out"
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
        help="[OPTIONAL] Smallest share of the network's parameters, 0 to 1, that -init must provide. Default: "
        f"{DEFAULT_COVERAGE:g}",
    )


def _add_overlap(parser: argparse.ArgumentParser) -> None:
    switches = parser.add_mutually_exclusive_group()
    switches.add_argument(
        "--allow_overlap",
        action="store_true",
        help="[OPTIONAL] Train on sources that hold the target's validation cases. Default: an error",
    )
    switches.add_argument(
        "--exclude_overlap",
        action="store_true",
        help="[OPTIONAL] Exclude such cases from the sources, separately for each fold; see nnUNetv2_seq_overlap",
    )
