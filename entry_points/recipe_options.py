"""Options for how stages are trained, generated from `Recipe` fields."""

import argparse
from collections.abc import Callable, Collection, Sequence
from dataclasses import fields, replace
from difflib import get_close_matches
from typing import Any

from nnunet_seqtransfer.entry_points import common
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.nnunet.folders import trainer_names
from nnunet_seqtransfer.planning.options import Training
from nnunet_seqtransfer.training.recipe import LEAST_PATIENCE, STOCK_TRAINER, WARMUP_EPOCHS, Recipe
from nnunet_seqtransfer.training.stages import DEFAULT_COVERAGE


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
    "natural": common.natural,
    "patience": common.numbers(
        common.whole, f"a whole number from {LEAST_PATIENCE} on", lambda value: value >= LEAST_PATIENCE
    ),
    "positive_float": common.positive_float,
    "positive_int": common.positive_int,
    "positive_share": common.positive_share,
    "seed": common.seed,
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
    parser: common.SeqArgumentParser, names: Collection[str] = FIELDS, of_sources: Collection[str] = OF_SOURCES
) -> None:
    """Add options for recipe fields, -recipe and -tag.

    ``of_sources``: fields that sources may have of their own; if that is not all, with one value for all sources.
    """
    group = parser.add_argument_group("recipe")
    for part in fields(Recipe):
        if part.name not in names:
            continue
        kind, text = KINDS[part.metadata["kind"]], part.metadata["help"]
        default = WARMUP_EPOCHS if part.name == "warmup_epochs" else part.default
        metavar = "NAME" if isinstance(default, str) else "N" if default is None else "X"
        flag, of_target = FLAGS[part.name], " on the target" * (part.name == "epochs")
        place = group if part.name in MAIN else parser.expert
        common.add(place, f"-{flag} {metavar}", text + of_target, kind, default, dest=part.name)
        if part.name in of_sources:
            # sources have the target's iterations and learning rate, but epochs of their own
            own = default if part.name == "epochs" else None
            text += f" of each source. Default: {f'{own:g}' if own else f'that of -{flag}'}"
            form = f"-source_{flag} {metavar}"
            if of_sources is OF_SOURCES:
                own, form = [own] if own else None, f"{form} ..."
            place = group if part.name == "epochs" else parser.expert
            common.add(place, form, text, kind, own, dest=f"source_{part.name}")
    if "warmup_epochs" in names:
        _add_handed_over(parser.expert)
    # `SeqArgumentParser.parse` replaces it by what the file says
    common.add(group, "-recipe FILE", "File with more options, as lines such as: layer_decay = 0.7")
    common.add(group, "-tag NAME", "Name that keeps chains with different recipes apart", common.tag_name)


def _add_handed_over(parser: common.Options) -> None:
    """Add the options that say what a stage keeps of those before it."""
    text = "Share of the batches of each later stage that come from the datasets of the stages before it; in the "
    text += "target's stage only in the first half of the epochs"
    common.add(parser, "-replay SHARE", text, common.share_below_one, 0.0)
    text = "Start all heads from random weights. Default: heads of labels, or of regions, keep their weights if the "
    common.add(parser, "--new_heads", text + "name is in both stages")


def add_coverage(parser: common.Options) -> None:
    """Add the option -min_coverage; `settle_coverage` sets its default."""
    text = f"Smallest share of the network's parameters, 0 to 1, that -init must provide. Default: {DEFAULT_COVERAGE:g}"
    common.add(parser, "-min_coverage X", text, common.share)


def settle_coverage(parser: common.SeqArgumentParser, options: argparse.Namespace) -> None:
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
    recipe = target_recipe(options)
    values = {name: _of_each(name, options, getattr(recipe, name), count) for name in OF_SOURCES}
    return tuple(replace(recipe, **{name: values[name][index] for name in OF_SOURCES}) for index in range(count))


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
