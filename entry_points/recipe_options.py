"""Options for how stages are trained, generated from `Recipe` fields."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from nnunet_seqtransfer.entry_points.common import (
    Options,
    SeqArgumentParser,
    natural,
    positive_float,
    positive_int,
    positive_share,
    seed,
    share,
    share_below_one,
    tag_name,
)
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.nnunet.folders import trainer_names
from nnunet_seqtransfer.planning.options import Training
from nnunet_seqtransfer.training.recipe import LEAST_PATIENCE, STOCK_TRAINER, WARMUP_EPOCHS, Recipe
from nnunet_seqtransfer.training.stages import DEFAULT_COVERAGE


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


FIELDS = tuple(part.name for part in fields(Recipe))
FLAGS = {part.name: part.metadata["option"] or part.name for part in fields(Recipe)}
"""`Recipe` field -> option without the dash."""
OF_SOURCES = tuple(part.name for part in fields(Recipe) if part.metadata["of_sources"])
MAIN = ("epochs", "iterations")
"""`Recipe` fields whose options are always shown; the rest are for --help_all or a recipe file."""


def add_recipe(
    parser: SeqArgumentParser, names: Collection[str] = FIELDS, of_sources: Collection[str] = OF_SOURCES
) -> None:
    """Add options for recipe fields, -recipe and -tag.

    Args:
        parser: parser of the command.
        names: fields to set.
        of_sources: fields that sources may have of their own; if that is not all, with one value for all sources.
    """
    group = parser.add_argument_group("recipe")
    for part in fields(Recipe):
        if part.name not in names:
            continue
        kind, text = KINDS[part.metadata["kind"]], part.metadata["help"]
        default = WARMUP_EPOCHS if part.name == "warmup_epochs" else part.default
        of_target = " on the target" if part.name == "epochs" else ""
        shown = default if isinstance(default, str) else "" if default is None else f"{default:g}"
        shown = shown and f". Default: {shown}"
        metavar = "NAME" if isinstance(default, str) else "N" if default is None else "X"
        options: dict[str, Any] = {"type": kind, "metavar": metavar, "dest": part.name}
        flag = FLAGS[part.name]
        place = group if part.name in MAIN else parser.expert
        place.add_argument(f"-{flag}", default=default, help=f"{text}{of_target}{shown}", **options)
        if part.name in of_sources:
            # sources have the target's iterations and learning rate, but epochs of their own
            own = default if part.name == "epochs" else None
            text += f" of each source. Default: {f'{own:g}' if own else f'that of -{flag}'}"
            options["dest"] = f"source_{part.name}"
            if of_sources is OF_SOURCES:
                own, options = [own] if own else None, {**options, "nargs": "+"}
            place = group if part.name == "epochs" else parser.expert
            place.add_argument(f"-source_{flag}", default=own, help=text, **options)
    if "warmup_epochs" in names:
        _add_handed_over(parser.expert)
    group.add_argument(
        "-recipe", metavar="FILE", help="File with more options, as lines such as: layer_decay = 0.7"
    )  # `SeqArgumentParser.parse` replaces it by what the file says
    group.add_argument(
        "-tag", type=tag_name, metavar="NAME", help="Name that keeps chains with different recipes apart"
    )


def _add_handed_over(parser: Options) -> None:
    """Add the options that say what a stage keeps of those before it."""
    parser.add_argument(
        "-replay",
        type=share_below_one,
        default=0.0,
        metavar="SHARE",
        help="Share of the batches of each later stage that come from the datasets of the stages before it; in the "
        "target's stage only in the first half of the epochs. Default: 0",
    )
    parser.add_argument(
        "--new_heads",
        action="store_true",
        help="Start all heads from random weights. Default: heads of labels, or of regions, keep their weights if the "
        "name is in both stages",
    )


def add_coverage(parser: Options) -> None:
    """Add the option -min_coverage; `settle_coverage` sets its default."""
    parser.add_argument(
        "-min_coverage",
        type=share,
        metavar="X",
        help=f"Smallest share of the network's parameters, 0 to 1, that -init must provide. Default: "
        f"{DEFAULT_COVERAGE:g}",
    )


def settle_coverage(parser: SeqArgumentParser, options: argparse.Namespace) -> None:
    """Set -min_coverage if it is not given. Exits with status 2 if it is given without -init."""
    if options.min_coverage is None:
        options.min_coverage = DEFAULT_COVERAGE
    elif options.init is None:
        parser.error(
            "-min_coverage is the share of the network that the model of -init must provide; add -init, or leave it out"
        )


def target_recipe(options: argparse.Namespace) -> Recipe:
    """Return the target stage's recipe. The warm-up stays 0: it is decided for each stage."""
    given = {name: value for name, value in vars(options).items() if name in FIELDS and name != "warmup_epochs"}
    return Recipe(**given)


def source_recipes(options: argparse.Namespace, count: int) -> tuple[Recipe, ...]:
    """Return recipes for ``count`` source stages in order.

    Raises SequenceError if an option has several values, but not one for each source.
    """
    common = target_recipe(options)
    values = {name: _of_each(name, options, getattr(common, name), count) for name in OF_SOURCES}
    return tuple(replace(common, **{name: values[name][index] for name in OF_SOURCES}) for index in range(count))


def _of_each(name: str, options: argparse.Namespace, default: Any, count: int) -> Sequence[Any]:
    values = getattr(options, f"source_{name}") or [default]
    if len(values) == 1:
        return [values[0]] * count
    if len(values) != count:
        raise SequenceError(
            f"-source_{FLAGS[name]} has {len(values)} values for {count} source{'' if count == 1 else 's'}; "
            "give one value, or one for each source in their order"
        )
    return list(values)


def training_to_plan(options: argparse.Namespace) -> Training:
    """Return the recipe that a missing plan is priced with.

    Raises SequenceError if options have a value for each source, since the plan has not chosen the sources yet.
    """
    for name in OF_SOURCES:
        if len(getattr(options, f"source_{name}") or ()) > 1:
            raise SequenceError(
                f"-source_{FLAGS[name]} has a value for each source, but there is no plan yet that chose them; "
                "run nnUNetv2_seq_plan first, give the sources with -s, or give one value"
            )
    return Training(
        epochs=options.epochs,
        source_epochs=options.source_epochs[0],
        iterations=options.iterations,
        folds=len(set(options.f)),
        tag=options.tag,
        source_iterations=options.source_iterations[0] if options.source_iterations else None,
    )
