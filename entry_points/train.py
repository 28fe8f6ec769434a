"""nnUNetv2_seq_train: trains a chain, each stage an ordinary nnUNetv2_train."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points import common, executor_options, recipe_options
from nnunet_seqtransfer.nnunet.folders import dataset_name, results_folder
from nnunet_seqtransfer.slurm.queue import require_nothing_queued
from nnunet_seqtransfer.tasks.path_syntax import named_path, whole_path
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.stages import ChainRequest
from nnunet_seqtransfer.transfer.pretrained import find_pretrained

if TYPE_CHECKING:
    from nnunet_seqtransfer.training.plan import PlannedPath

SCRATCH = "none"


def _run(options: argparse.Namespace) -> None:
    from nnunet_seqtransfer.report.chain_text import chain_text
    from nnunet_seqtransfer.training.train import look_ahead, train_chain

    results_folder()
    devices = DeviceOptions(options.device, options.gpus, options.npz, options.checkpoint_minutes)
    executor, context = executor_options.chosen_executor(options), Context(common.notify, options.np)
    request = _request(options, context)
    if options.dry_run:
        outlook = look_ahead(request, context, options=devices)
        print("\n".join((*executor.describe(outlook, devices, context), chain_text(outlook))))
        return
    run = train_chain(request, context, options=devices, executor=executor, before_replacing=require_nothing_queued)
    executor_options.print_results(run, executor, report=not options.no_report)


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
        source_recipe=recipe_options.target_recipe(options),
        target_recipe=recipe_options.target_recipe(options),
        warmup_epochs=options.warmup_epochs,
        tag=options.tag,
        overlap="allow" if options.allow_overlap else "exclude" if options.exclude_overlap else "refuse",
        pretrained=pretrained,
        min_coverage=options.min_coverage,
        source_recipes=recipe_options.source_recipes(options, len(whole_path(path.sources, target)) - 1),
        keep_heads=not options.new_heads,
        compared=path.compared,
        replay=options.replay,
    )


def _path(options: argparse.Namespace, target: str, context: Context) -> "PlannedPath":
    """Return the path of -s, or the planned one."""
    from nnunet_seqtransfer.training.plan import PlannedPath, planned_path

    if options.s is not None:
        return PlannedPath(() if options.s == [SCRATCH] else named_path(target, options.s))
    training = recipe_options.training_to_plan(options)
    names = target, options.p, options.c
    return planned_path(*names, options.f, training, context, device=options.device, write=not options.dry_run)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.SeqArgumentParser(
        "Trains a chain: each source, then the target; each stage starts from the weights of the one before. Run it "
        "again after any interruption: it does what is left. Without -s it follows the plan of nnUNetv2_seq_plan, and "
        "makes one with that command's defaults if there is none.",
        "nnUNetv2_seq_train 4 3d_fullres 0 -s 21 24 -epochs 250",
        "TARGET CONFIGURATION FOLD ... ",
    )
    what = common.add_target(parser, folds=True)
    common.add(
        what,
        "-s SOURCE ...",
        f"Sources in their order, or {SCRATCH}: from scratch. 21+22 is one stage on both; a last 21+4 trains the "
        "target 4 together with 21 at first. Default: the plan's",
    )
    recipe_options.add_recipe(parser)
    text = "Model whose weights the first stage starts from: checkpoint, results folder or exported ZIP"
    common.add(what, "-init MODEL", text, Path)
    recipe_options.add_coverage(parser.expert)
    switches = what.add_mutually_exclusive_group()
    common.add(switches, "--allow_overlap", "Train on cases that the target validates on. Default: an error")
    common.add(switches, "--exclude_overlap", "Exclude such cases from the sources, fold by fold")
    execution = parser.add_argument_group("execution")
    common.add_device(execution)
    common.add(execution, "--dry_run", "Print every stage and what it would do; do nothing")
    common.add_processes(execution)
    common.add(parser.expert, "--npz", "Keep the softmax outputs of the target's validation, for ensembles")
    common.add(parser.expert, "--no_report", "Write no report at the end")
    common.add_execution(parser.expert)
    executor_options.add_executor(parser)
    common.add_checkpoint_minutes(parser.expert)
    options = parser.parse(arguments)
    common.target_of(parser, options, needed="cf")
    recipe_options.settle_coverage(parser, options)
    executor_options.require_consistent(parser, options)
    return options


main = common.command(_parse, _run)
