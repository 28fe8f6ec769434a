"""Options for how stages are trained, generated from `Recipe` fields."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from nnunet_seqtransfer.entry_points.common import (
    natural,
    positive_float,
    positive_int,
    positive_share,
    seed,
    share_below_one,
    tag_name,
)
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.nnunet.folders import trainer_names
from nnunet_seqtransfer.planning.options import Training
from nnunet_seqtransfer.training.recipe import LEAST_PATIENCE, STOCK_TRAINER, WARMUP_EPOCHS, Recipe

EACH = "of the sources' stages, one value, or one for each source in order"


def patience(text: str) -> int:
    """Return epochs without a new best (an argparse type)."""
    if not text.isdecimal() or int(text) < LEAST_PATIENCE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {LEAST_PATIENCE} on")
    return int(text)


def trainer(text: str) -> str:
    """Return the name of a trainer that nnU-Net finds (an argparse type)."""
    if text == STOCK_TRAINER:
        return text
    known = trainer_names()
    if text not in known:
        nearest = get_close_matches(text, sorted(known), cutoff=0.0)
        raise argparse.ArgumentTypeError(
            f"{text!r} is no trainer of nnU-Net or in nnUNet_extTrainer; the nearest: {', '.join(nearest)}"
        )
    return text


KINDS: dict[str, Callable[[str], Any]] = {
    "natural": natural,
    "patience": patience,
    "positive_float": positive_float,
    "positive_int": positive_int,
    "positive_share": positive_share,
    "seed": seed,
    "trainer": trainer,
}
"""`Recipe` field kind -> argparse type."""


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """Add every recipe option, and -tag."""
    _add(parser, [part for part in fields(Recipe) if not part.metadata["fine_tuning"]])
    add_fine_tuning(parser)
    parser.add_argument(
        "-tag",
        type=tag_name,
        default=None,
        metavar="NAME",
        help="[OPTIONAL] Plans name suffix, to keep chains with different recipes apart. Default: none",
    )


def add_fine_tuning(parser: argparse.ArgumentParser) -> None:
    """Add the options for stages that start from handed-over weights."""
    _add(parser, [part for part in fields(Recipe) if part.metadata["fine_tuning"]])
    parser.add_argument(
        "-replay",
        type=share_below_one,
        default=0.0,
        metavar="SHARE",
        help="[OPTIONAL] Share of the batches of each later stage that come from the datasets of the stages before it, "
        "in equal parts; in the target's stage only in the first half of the epochs. Default: 0",
    )
    parser.add_argument(
        "--new_heads",
        action="store_true",
        help="[OPTIONAL] Start all heads from random weights. Default: heads of labels, or of regions, keep their "
        "weights if the name is in both stages",
    )


def _add(parser: argparse.ArgumentParser, parts: Sequence[Any]) -> None:
    for part in parts:
        kind, text = KINDS[part.metadata["kind"]], part.metadata["help"]
        default = WARMUP_EPOCHS if part.name == "warmup_epochs" else part.default
        of_target = " of the target's stage" if part.name == "epochs" else ""
        shown = default if isinstance(default, str) else "" if default is None else f"{default:g}"
        shown = shown and f". Default: {shown}"
        metavar = "NAME" if isinstance(default, str) else "N" if default is None else "X"
        options: dict[str, Any] = {"type": kind, "metavar": metavar, "dest": part.name}
        flag = part.metadata["option"] or part.name
        parser.add_argument(f"-{flag}", default=default, help=f"[OPTIONAL] {text}{of_target}{shown}", **options)
        if part.metadata["of_sources"]:
            # sources have the target's iterations and learning rate, but epochs of their own
            own = [default] if part.name == "epochs" else None
            shown = f"{default:g}" if own else f"that of -{flag}"
            text, options["dest"] = f"[OPTIONAL] {text} {EACH}. Default: {shown}", f"source_{part.name}"
            parser.add_argument(f"-source_{flag}", nargs="+", default=own, help=text, **options)


def target_recipe(options: argparse.Namespace) -> Recipe:
    """Return the target stage's recipe. The warm-up stays 0: it is decided for each stage."""
    return Recipe(**{part.name: getattr(options, part.name) for part in fields(Recipe) if part.name != "warmup_epochs"})


def fine_tuned(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """Return ``recipe`` with the options from `add_fine_tuning`, except for the warm-up."""
    parts = [part.name for part in fields(Recipe) if part.metadata["fine_tuning"] and part.name != "warmup_epochs"]
    return replace(recipe, **{name: getattr(options, name) for name in parts})


def source_recipes(options: argparse.Namespace, count: int) -> tuple[Recipe, ...]:
    """Return recipes for ``count`` source stages in order.

    Raises SequenceError if an option has several values, but not one for each source.
    """
    common = target_recipe(options)
    names = [part.name for part in fields(Recipe) if part.metadata["of_sources"]]
    values = {name: _of_each(f"source_{name}", options, getattr(common, name), count) for name in names}
    return tuple(replace(common, **{name: values[name][index] for name in names}) for index in range(count))


def _of_each(option: str, options: argparse.Namespace, default: Any, count: int) -> Sequence[Any]:
    values = getattr(options, option) or [default]
    if len(values) == 1:
        return [values[0]] * count
    if len(values) != count:
        raise SequenceError(
            f"-{option} has {len(values)} values for {count} source{'' if count == 1 else 's'}; "
            "give one value, or one for each source in their order"
        )
    return list(values)


def training_to_plan(options: argparse.Namespace) -> Training:
    """Return the recipe that a missing plan is priced with.

    Raises SequenceError if options have a value for each source, since the plan has not chosen the sources yet.
    """
    for part in fields(Recipe):
        if part.metadata["of_sources"] and len(getattr(options, f"source_{part.name}") or ()) > 1:
            raise SequenceError(
                f"-source_{part.name} has a value for each source, but there is no plan yet that chose them; "
                "run nnUNetv2_seq_plan first, give the sources with -s, or give one value"
            )
    return Training(
        epochs=options.epochs,
        source_epochs=options.source_epochs[0],
        iterations=options.iterations,
        folds=len(set(options.folds)),
        tag=options.tag,
        source_iterations=options.source_iterations[0] if options.source_iterations else None,
    )
