"""The options of nnUNetv2_seq_compare."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_checkpoint_minutes,
    add_device,
    add_execution,
    add_processes,
    natural,
    not_negative_float,
    positive_float,
    positive_int,
    seed,
    tag_name,
)
from nnunet_seqtransfer.entry_points.recipe_options import add_fine_tuning
from nnunet_seqtransfer.evaluation.arms import DEFAULT_KINDS, KINDS, ArmChoice
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS
from nnunet_seqtransfer.training.recipe import Recipe

DEFAULTS = ArmChoice()


def parse_compare(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The parsed options. Exits with status 2 on a wrong one."""
    parser = SeqArgumentParser(
        "Trains several paths to one target with equal numbers of target iterations, evaluates them on cases that no "
        "stage has seen, and says by how much they differ and how well the distances had ranked them. Run it again "
        "after any interruption: it does what is left.",
        "nnUNetv2_seq_compare 4 3d_fullres -folds 0 -seeds 0 1 2 -epochs 250",
    )
    parser.add_argument("dataset", help="[REQUIRED] Name or number of the target dataset")
    parser.add_argument("configuration", help="[REQUIRED] nnU-Net configuration: 2d, 3d_fullres or 3d_lowres")
    parser.add_argument(
        "-folds",
        nargs="+",
        default=["0"],
        metavar="FOLD",
        help="[OPTIONAL] Folds of the target: 0 to 4; with -test also all. Default: 0",
    )
    parser.add_argument(
        "-seeds", nargs="+", type=seed, default=[0], metavar="N", help="[OPTIONAL] Seeds of the trainings. Default: 0"
    )
    parser.add_argument(
        "-p", default=DEFAULT_PLANS, metavar="PLANS", help=f"[OPTIONAL] Plans of the target. Default: {DEFAULT_PLANS}"
    )
    parser.add_argument(
        "-a",
        metavar="FILE",
        help="[OPTIONAL] Affinity file that the paths are chosen by. Default: the one of nnUNetv2_seq_affinity, which "
        "is made where there is none",
    )
    _add_arms(parser)
    _add_recipe(parser)
    _add_evaluation(parser)
    add_device(parser)
    parser.add_argument(
        "--dry_run", action="store_true", help="[OPTIONAL] Print the paths and what they cost; do nothing"
    )
    add_processes(parser)
    add_execution(parser)
    add_checkpoint_minutes(parser)
    return parser.parse(arguments)


def _add_arms(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-arms",
        nargs="+",
        choices=KINDS,
        default=list(DEFAULT_KINDS),
        metavar="KIND",
        help=f"[OPTIONAL] Kinds of paths, of: {', '.join(KINDS)}; long is scratch with as many iterations as all "
        f"stages of the longest path. Default: {' '.join(DEFAULT_KINDS)}",
    )
    parser.add_argument(
        "-top",
        type=natural,
        default=DEFAULTS.direct,
        metavar="N",
        help=f"[OPTIONAL] How many of the nearest sources are trained directly. Default: {DEFAULTS.direct}",
    )
    parser.add_argument(
        "-runners_up",
        type=natural,
        default=DEFAULTS.runners_up,
        metavar="N",
        help=f"[OPTIONAL] How many sequences after the planned path. Default: {DEFAULTS.runners_up}",
    )
    parser.add_argument(
        "-path",
        nargs="+",
        action="append",
        default=[],
        metavar="SOURCE",
        help="[OPTIONAL] A path of your own, its sources in their order; may be repeated. Default: none",
    )
    parser.add_argument(
        "-paths", metavar="FILE", help="[OPTIONAL] File with a path of your own in each line: 21 -> 24. Default: none"
    )
    parser.add_argument("--all_direct", action="store_true", help="[OPTIONAL] Every source directly")
    parser.add_argument("--all_pairs", action="store_true", help="[OPTIONAL] Every ordered pair of sources")


def _add_recipe(parser: argparse.ArgumentParser) -> None:
    recipe = Recipe()
    for name, kind, default, what in (
        ("-epochs", positive_int, recipe.epochs, "Epochs of the target's stage"),
        ("-source_epochs", positive_int, recipe.epochs, "Epochs of each source's stage"),
        ("-iterations", positive_int, recipe.iterations, "Iterations per epoch, all stages"),
        ("-initial_lr", positive_float, recipe.initial_lr, "Initial learning rate, all stages"),
    ):
        parser.add_argument(
            name, type=kind, default=default, metavar="X", help=f"[OPTIONAL] {what}. Default: {default:g}"
        )
    add_fine_tuning(parser)
    parser.add_argument(
        "--keep_heads",
        action="store_true",
        help="[OPTIONAL] Keep the heads of labels, or of regions, of the same name wherever weights are handed over",
    )
    parser.add_argument(
        "-tag",
        type=tag_name,
        default=None,
        metavar="NAME",
        help="[OPTIONAL] Keeps comparisons with other recipes apart. Default: none",
    )


def _add_evaluation(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "-test",
        metavar="DATASET",
        help="[OPTIONAL] Evaluate on the labelled cases of this dataset, with the target's channels and labels, or on "
        "imagesTs and labelsTs where it is the target itself. Default: the cases that each fold holds out",
    )
    parser.add_argument(
        "--disable_tta", action="store_true", help="[OPTIONAL] Predict -test without nnU-Net's test time augmentation"
    )
    parser.add_argument(
        "-tolerance",
        type=not_negative_float,
        default=None,
        metavar="MM",
        help="[OPTIONAL] Tolerance of the normalised surface distance. Default: a voxel of the configuration, a guess",
    )
    parser.add_argument(
        "--exclude_overlap",
        action="store_true",
        help="[OPTIONAL] Leave cases that a fold holds out out of the sources; without it an error",
    )
    parser.add_argument(
        "-epoch_time",
        type=positive_float,
        default=None,
        metavar="SECONDS",
        help="[OPTIONAL] Time of an epoch, for the estimate. Default: from logs, or a rough guess",
    )
