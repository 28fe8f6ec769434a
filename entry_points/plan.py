"""nnUNetv2_seq_plan: choose the path to a target, and say what it is worth."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.affinity.metrics import DEFAULT_METRIC
from nnunet_seqtransfer.affinity.record import affinity_path, read_affinity
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points.common import (
    Options,
    SeqArgumentParser,
    add_json,
    add_metric,
    add_processes,
    add_target,
    natural,
    notify,
    positive_float,
    positive_int,
    run_command,
    share,
    target_of,
)
from nnunet_seqtransfer.entry_points.recipe_options import MAIN, add_recipe
from nnunet_seqtransfer.nnunet.folders import dataset_name
from nnunet_seqtransfer.planning.decide import strategies
from nnunet_seqtransfer.planning.options import MOST_SOURCES, PlanOptions, Training
from nnunet_seqtransfer.planning.record import SequencePlan, plan_file
from nnunet_seqtransfer.report.plan_text import plan_text
from nnunet_seqtransfer.storage import json_text
from nnunet_seqtransfer.training.estimate import SECONDS_PER_EPOCH
from nnunet_seqtransfer.training.plan import PlanRequest, plan_path

NO_MODELS = "none"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Plan, write and print a path."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    request = PlanRequest(
        dataset_name(options.d),
        options.p,
        options.c,
        options.m or DEFAULT_METRIC,
        None if options.a is None else Path(options.a),
        None if options.calibration is None else Path(options.calibration),
        None if options.models == [NO_MODELS] else tuple(Path(file) for file in options.models),
    )
    must, avoid = (tuple(dict.fromkeys(map(dataset_name, names))) for names in (options.must, options.avoid))
    asked = replace(options.asked, must=must, avoid=avoid)
    plan = plan_path(request, asked, Context(notify, options.np))
    if options.json:
        print(json_text(plan))
        return
    print(plan_text(plan))
    print(f"\nwritten: {plan_file(*request.key)}\npage:    {_page(plan, request)}")


def _page(plan: SequencePlan, request: PlanRequest) -> Path:
    """Write the page with the plan and its distances."""
    from nnunet_seqtransfer.report.choice_page import write_choice

    file = request.affinity_file or affinity_path(*request.key, plan.metric)
    return write_choice(read_affinity(file), file)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Plans which sources to train on before the target. Scratch, every single source and pairs of near sources "
        "compete by their expected gain in Dice.",
        "nnUNetv2_seq_plan 4 -scratch_dice 0.62",
        "TARGET [CONFIGURATION] ",
    )
    what = add_target(parser)
    add_metric(what, default=None)  # -a names another file, with a metric of its own
    parser.expert.add_argument(
        "-a", metavar="FILE", help="Affinity file. Default: the one nnUNetv2_seq_affinity wrote for it"
    )
    add_strategy(parser, what)
    add_constraints(parser)
    add_training(parser)
    add_json(parser.expert)
    add_processes(parser.expert)
    options = parser.parse(arguments)
    target_of(parser, options)
    if options.a is not None and options.m is not None:
        parser.error("-m and -a exclude each other: an affinity file has its metric")
    options.asked = plan_options(options, parser)
    return options


DEFAULTS = PlanOptions()


def add_strategy(parser: SeqArgumentParser, what: Options) -> None:
    """Add the options that say what is chosen, from what, and by which measurements."""
    parser.expert.add_argument(
        "-strategy",
        choices=tuple(strategies()),
        default=DEFAULTS.strategy,
        help="gain: the path of the highest expected gain; published: communities, landmark, one "
        f"intermediate. Default: {DEFAULTS.strategy}",
    )
    parser.expert.add_argument(
        "-communities",
        type=positive_int,
        metavar="N",
        help="Communities of the published strategy. Default: half as many as sources, at most 9",
    )
    what.add_argument(
        "-max_sources",
        type=int,
        choices=range(MOST_SOURCES + 1),
        default=DEFAULTS.max_sources,
        metavar="N",
        help=f"Most sources before the target, 0 to {MOST_SOURCES}. Default: {DEFAULTS.max_sources}",
    )
    parser.expert.add_argument(
        "-list",
        type=positive_int,
        default=DEFAULTS.listed,
        metavar="N",
        help=f"Number of paths in the plan, best first. Default: {DEFAULTS.listed}",
    )
    what.add_argument(
        "-scratch_dice",
        type=share,
        metavar="X",
        help="Dice of the target trained from scratch, 0 to 1. Default: that of a finished model in "
        "nnUNet_results, else unknown",
    )
    parser.expert.add_argument(
        "-calibration",
        metavar="FILE",
        help="Your measured transfers by nnUNetv2_seq_calibrate. Default: the file that it wrote, if any",
    )
    what.add_argument(
        "-models",
        nargs="+",
        default=[],
        metavar="MODEL",
        help="Models to start from at no cost, besides those in nnUNet_results: checkpoints, exported ZIP files, "
        f"results folders, or folders of such; {NO_MODELS}: train every source",
    )
    parser.expert.add_argument(
        "--allow_overlap", action="store_true", help="Plan with sources that hold cases of the target as well"
    )


def add_constraints(parser: SeqArgumentParser) -> None:
    """Add the options that the path must obey."""
    group = parser.add_argument_group("constraints")
    for name, what in (("-must", "that the path goes through"), ("-avoid", "that it does not go through")):
        group.add_argument(
            name,
            nargs="+",
            default=[],
            metavar="SOURCE",
            help=f"Sources {what}",
        )
    parser.expert.add_argument(
        "-min_landmark_cases",
        type=natural,
        default=DEFAULTS.landmark_cases,
        metavar="N",
        help=f"Labelled cases that the first source needs. Default: {DEFAULTS.landmark_cases}",
    )
    budget = group.add_mutually_exclusive_group()
    for name, what in (("-budget_epochs", "epochs"), ("-budget_gpu_hours", "GPU hours")):
        budget.add_argument(
            name,
            type=positive_float,
            metavar="X",
            help=f"Most {what} to train; finished stages cost none",
        )


def add_training(parser: SeqArgumentParser) -> None:
    """Add the options that say how the stages will be trained, which decides what they cost."""
    add_recipe(parser, MAIN, MAIN)
    parser.expert.add_argument(
        "-n_folds",
        type=positive_int,
        default=DEFAULTS.training.folds,
        metavar="N",
        help=f"Number of folds of the target that will be trained. Default: {DEFAULTS.training.folds}",
    )
    parser.expert.add_argument(
        "-epoch_time",
        type=positive_float,
        metavar="SECONDS",
        help="Time of one epoch. Default: measured on trainings for the target in nnUNet_results, or "
        f"nnU-Net's {SECONDS_PER_EPOCH:g} s for 250 iterations",
    )


def plan_options(options: argparse.Namespace, parser: SeqArgumentParser) -> PlanOptions:
    """Return the options as a record, with datasets as given. Exit with one line if two contradict each other."""
    if options.communities is not None and options.strategy != "published":
        parser.error("-communities is for -strategy published")
    if options.models not in ([], [NO_MODELS]) and options.strategy != DEFAULTS.strategy:
        parser.error(f"-models is for -strategy {DEFAULTS.strategy}")
    in_epochs = options.budget_epochs is not None
    return PlanOptions(
        strategy=options.strategy,
        max_sources=options.max_sources,
        listed=options.list,
        communities=options.communities,
        must=tuple(options.must),
        avoid=tuple(options.avoid),
        landmark_cases=options.min_landmark_cases,
        budget=options.budget_epochs if in_epochs else options.budget_gpu_hours,
        budget_unit="epochs" if in_epochs else "GPU hours",
        training=Training(
            epochs=options.epochs,
            source_epochs=options.source_epochs,
            iterations=options.iterations,
            folds=options.n_folds,
            tag=options.tag,
            epoch_time=options.epoch_time,
            source_iterations=options.source_iterations,
        ),
        scratch_dice=options.scratch_dice,
        allow_overlap=options.allow_overlap,
    )
