"""The options of nnUNetv2_seq_plan that say how to plan, and the record that they become."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    natural,
    positive_float,
    positive_int,
    share,
    tag_name,
)
from nnunet_seqtransfer.nnunet.folders import dataset_name
from nnunet_seqtransfer.planning.decide import strategies
from nnunet_seqtransfer.planning.options import MOST_SOURCES, PlanOptions, Training
from nnunet_seqtransfer.training.estimate import SECONDS_PER_EPOCH

DEFAULTS = PlanOptions()


def add_strategy(parser: argparse.ArgumentParser) -> None:
    """Add the options that say what is chosen, from what, and by which measurements."""
    parser.add_argument(
        "-strategy",
        choices=tuple(strategies()),
        default=DEFAULTS.strategy,
        help="[OPTIONAL] gain: the path of the highest expected gain; published: communities, landmark, one "
        f"intermediate. Default: {DEFAULTS.strategy}",
    )
    parser.add_argument(
        "-communities",
        type=positive_int,
        metavar="N",
        help="[OPTIONAL] Communities of the published strategy. Default: half as many as sources, at most 9",
    )
    parser.add_argument(
        "-max_sources",
        type=int,
        choices=range(MOST_SOURCES + 1),
        default=DEFAULTS.max_sources,
        metavar="N",
        help=f"[OPTIONAL] Most sources before the target, 0 to {MOST_SOURCES}. Default: {DEFAULTS.max_sources}",
    )
    parser.add_argument(
        "-list",
        type=positive_int,
        default=DEFAULTS.listed,
        metavar="N",
        help=f"[OPTIONAL] Number of paths in the plan, best first. Default: {DEFAULTS.listed}",
    )
    parser.add_argument(
        "-scratch_dice",
        type=share,
        metavar="X",
        help="[OPTIONAL] Dice of the target trained from scratch, 0 to 1. Default: that of a finished model in "
        "nnUNet_results, else unknown",
    )
    parser.add_argument(
        "-calibration",
        metavar="FILE",
        help="[OPTIONAL] Your measured transfers by nnUNetv2_seq_calibrate. Default: the file that it wrote, if any",
    )
    parser.add_argument(
        "--allow_overlap",
        action="store_true",
        help="[OPTIONAL] Plan with sources that hold cases of the target as well",
    )


def add_constraints(parser: argparse.ArgumentParser) -> None:
    """Add the options that the path must obey."""
    for name, what in (("-must", "that the path goes through"), ("-avoid", "that it does not go through")):
        parser.add_argument(
            name,
            nargs="+",
            default=[],
            metavar="SOURCE",
            help=f"[OPTIONAL] Names or numbers of sources {what}. Default: none",
        )
    parser.add_argument(
        "-min_landmark_cases",
        type=natural,
        default=DEFAULTS.landmark_cases,
        metavar="N",
        help=f"[OPTIONAL] Labelled cases that the first source needs. Default: {DEFAULTS.landmark_cases}",
    )
    budget = parser.add_mutually_exclusive_group()
    for name, what in (("-budget_epochs", "epochs"), ("-budget_gpu_hours", "GPU hours")):
        budget.add_argument(
            name,
            type=positive_float,
            metavar="X",
            help=f"[OPTIONAL] Most {what} that may be left to train; stages trained already cost none. Default: any",
        )


def add_training(parser: argparse.ArgumentParser) -> None:
    """Add the options that say how the stages will be trained, which decides what they cost."""
    training = DEFAULTS.training
    for name, default, what in (
        ("-epochs", training.epochs, "Epochs of the target's stage"),
        ("-source_epochs", training.source_epochs, "Epochs of each source's stage"),
        ("-iterations", training.iterations, "Iterations per epoch"),
        ("-source_iterations", training.source_iterations, "Iterations per epoch of each source's stage"),
        ("-n_folds", training.folds, "Number of folds of the target that will be trained"),
    ):
        parser.add_argument(
            name,
            type=positive_int,
            default=default,
            metavar="N",
            help=f"[OPTIONAL] {what}. Default: {default or 'that of -iterations'}",
        )
    parser.add_argument(
        "-epoch_time",
        type=positive_float,
        metavar="SECONDS",
        help="[OPTIONAL] Time of one epoch. Default: measured on trainings for the target in nnUNet_results, or "
        f"nnU-Net's {SECONDS_PER_EPOCH:g} s for 250 iterations",
    )
    parser.add_argument(
        "-tag", type=tag_name, metavar="NAME", help="[OPTIONAL] Tag that the chain will be trained with. Default: none"
    )


def plan_options(options: argparse.Namespace, parser: SeqArgumentParser) -> PlanOptions:
    """Return the options as a record, with datasets as given. Exit with one line if two contradict each other."""
    if options.communities is not None and options.strategy != "published":
        parser.error("-communities is for -strategy published")
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


def full_names(datasets: Sequence[str]) -> tuple[str, ...]:
    """Return full names, each once. Raises DatasetError if one is not registered."""
    return tuple(dict.fromkeys(dataset_name(dataset) for dataset in datasets))
