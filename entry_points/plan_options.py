"""The options of nnUNetv2_seq_plan that say how to plan, and the record that they become."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    natural,
    positive_float,
    positive_int,
    tag_name,
)
from nnunet_seqtransfer.nnunet.folders import dataset_name
from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.options import STRATEGIES, PlanOptions
from nnunet_seqtransfer.planning.prices import Training
from nnunet_seqtransfer.training.estimate import SECONDS_PER_EPOCH

DEFAULTS = PlanOptions()


def add_strategy(parser: argparse.ArgumentParser) -> None:
    """What is chosen, from what, and by which constants."""
    parser.add_argument(
        "-strategy",
        choices=STRATEGIES,
        default=DEFAULTS.strategy,
        help="[OPTIONAL] exact: the cheapest of all paths; published: communities, landmark, one intermediate; auto: "
        f"as exact, but the simplest path that the data cannot tell from the cheapest. Default: {DEFAULTS.strategy}",
    )
    parser.add_argument(
        "-communities",
        type=positive_int,
        metavar="N",
        help="[OPTIONAL] Communities of the published strategy. Default: half as many as sources, at most 9",
    )
    for name, kind, default, what in (
        ("-max_sources", natural, DEFAULTS.max_sources, "Most sources before the target"),
        ("-top", positive_int, DEFAULTS.top, "Number of cheapest paths listed"),
    ):
        parser.add_argument(
            name, type=kind, default=default, metavar="N", help=f"[OPTIONAL] {what}. Default: {default}"
        )
    parser.add_argument(
        "-weights",
        metavar="FILE",
        help="[OPTIONAL] Calibration by nnUNetv2_seq_calibrate: weights of the components, constants of the cost, and "
        "the gain in Dice. Default: guesses",
    )
    for name, constant, what in (
        ("-start_scale", CostModel.start_scale, "cost of starting on a single labelled case"),
        ("-start_exponent", CostModel.start_exponent, "how fast the start gets cheaper with more cases"),
        ("-hop_exponent", CostModel.hop_exponent, "a hop costs (distance / unit) to this power"),
    ):
        parser.add_argument(
            name, type=positive_float, metavar="X", help=f"[OPTIONAL] {what}. Default: {constant:g}, or by -weights"
        )


def add_constraints(parser: argparse.ArgumentParser) -> None:
    """What the path must obey."""
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
    """How the stages will be trained, which says what they take."""
    training = DEFAULTS.training
    for name, default, what in (
        ("-epochs", training.epochs, "Epochs of the target's stage"),
        ("-source_epochs", training.source_epochs, "Epochs of each source's stage"),
        ("-iterations", training.iterations, "Iterations per epoch"),
        ("-source_iterations", training.source_iterations, "Iterations per epoch of each source's stage"),
        ("-folds", training.folds, "Number of folds of the target that will be trained"),
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
    """The options as a record, datasets still as given. Ends with one line where two contradict each other."""
    if options.communities is not None and options.strategy != "published":
        parser.error("-communities is for -strategy published")
    constants = {name: getattr(options, name) for name in ("start_scale", "start_exponent", "hop_exponent")}
    given = [f"-{name}" for name, value in constants.items() if value is not None]
    if options.weights is not None and given:
        parser.error(f"-weights and {given[0]} exclude each other: a calibration brings its own constants")
    in_epochs = options.budget_epochs is not None
    return PlanOptions(
        strategy=options.strategy,
        max_sources=options.max_sources,
        top=options.top,
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
            folds=options.folds,
            tag=options.tag,
            epoch_time=options.epoch_time,
            source_iterations=options.source_iterations,
        ),
        **constants,
    )


def full_names(datasets: Sequence[str]) -> tuple[str, ...]:
    """Full names, each once. Raises DatasetError where one is not registered."""
    return tuple(dict.fromkeys(dataset_name(dataset) for dataset in datasets))
