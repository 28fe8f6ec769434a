"""The options that say how stages are trained."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from nnunet_seqtransfer.entry_points.common import natural, positive_float, positive_int, positive_share, seed, tag_name
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.prices import Training
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import WARMUP_EPOCHS

LEAST_PATIENCE = 10
"""nnU-Net's EMA forgets with a time constant of 1 / (1 - 0.9) = 10 epochs: shorter lulls say nothing."""
Value = TypeVar("Value")


def add_recipe(parser: argparse.ArgumentParser) -> None:
    """How each stage is trained."""
    _add_lengths(parser)
    add_fine_tuning(parser)
    parser.add_argument(
        "-patience",
        type=_patience,
        default=None,
        metavar="N",
        help=f"[OPTIONAL] End a stage after N epochs, at least {LEAST_PATIENCE}, without a new best of nnU-Net's EMA "
        "pseudo Dice. Default: none, every stage has all its epochs",
    )
    parser.add_argument(
        "-seed",
        type=seed,
        default=None,
        metavar="N",
        help="[OPTIONAL] Seed of the training. Default: none, as nnU-Net",
    )
    parser.add_argument(
        "-tag",
        type=tag_name,
        default=None,
        metavar="NAME",
        help="[OPTIONAL] Appended to the plans names, to keep chains with different recipes apart. Default: none",
    )


def _add_lengths(parser: argparse.ArgumentParser) -> None:
    recipe = Recipe()
    each = "of the sources' stages, one value, or one for each source in their order"
    for name, kind, default, what in (
        ("-epochs", positive_int, recipe.epochs, "Epochs of the target's stage"),
        ("-source_epochs", positive_int, [recipe.epochs], f"Epochs {each}"),
        ("-iterations", positive_int, recipe.iterations, "Iterations per epoch"),
        ("-source_iterations", positive_int, None, f"Iterations per epoch {each}"),
        ("-initial_lr", positive_float, recipe.initial_lr, "Initial learning rate"),
        ("-source_initial_lr", positive_float, None, f"Initial learning rate {each}"),
    ):
        several = name.startswith("-source")
        shown = f"that of -{name.removeprefix('-source_')}" if default is None else f"{_first(default):g}"
        parser.add_argument(
            name,
            type=kind,
            nargs="+" if several else None,
            default=default,
            metavar="X",
            help=f"[OPTIONAL] {what}. Default: {shown}",
        )


def _first(default: float | list[int]) -> float:
    return default[0] if isinstance(default, list) else default


def add_fine_tuning(parser: argparse.ArgumentParser) -> None:
    """How a stage is trained that starts from another's weights."""
    handed = "where weights were handed over"
    for name, kind, default, what in (
        ("-warmup_epochs", natural, WARMUP_EPOCHS, f"Epochs of warm-up {handed}, at most a tenth of the epochs"),
        ("-heads_first_epochs", natural, 0, f"Epochs at first that train only the segmentation heads, {handed}"),
        ("-frozen_encoder_epochs", natural, 0, f"Epochs at first that leave the encoder as it is, {handed}"),
        (
            "-layer_decay",
            positive_share,
            1.0,
            f"Factor of the learning rate from level to level, from the heads to the input, {handed}",
        ),
    ):
        parser.add_argument(
            name, type=kind, default=default, metavar="X", help=f"[OPTIONAL] {what}. Default: {default:g}"
        )


def _patience(text: str) -> int:
    if not text.isdecimal() or int(text) < LEAST_PATIENCE:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from {LEAST_PATIENCE} on")
    return int(text)


def target_recipe(options: argparse.Namespace) -> Recipe:
    """The recipe of the target's stage; its warm-up is decided with the chain."""
    recipe = Recipe(
        epochs=options.epochs,
        iterations=options.iterations,
        initial_lr=options.initial_lr,
        seed=options.seed,
        patience=options.patience,
    )
    return fine_tuned(recipe, options)


def fine_tuned(recipe: Recipe, options: argparse.Namespace) -> Recipe:
    """The recipe with what `add_fine_tuning` asks for, but for the warm-up, which is decided with the chain."""
    return replace(
        recipe,
        heads_first_epochs=options.heads_first_epochs,
        frozen_encoder_epochs=options.frozen_encoder_epochs,
        layer_decay=options.layer_decay,
    )


def source_recipes(options: argparse.Namespace, count: int) -> tuple[Recipe, ...]:
    """The recipes of ``count`` sources' stages, in their order.

    Raises SequenceError where an option has several values, but not one for each source.
    """
    common = target_recipe(options)
    epochs = _of_each("-source_epochs", options.source_epochs, common.epochs, count)
    iterations = _of_each("-source_iterations", options.source_iterations, common.iterations, count)
    rates = _of_each("-source_initial_lr", options.source_initial_lr, common.initial_lr, count)
    return tuple(
        replace(common, epochs=epochs[place], iterations=iterations[place], initial_lr=rates[place])
        for place in range(count)
    )


def _of_each(option: str, given: Sequence[Value] | None, default: Value, count: int) -> Sequence[Value]:
    values = given or [default]
    if len(values) == 1:
        return [values[0]] * count
    if len(values) != count:
        raise SequenceError(
            f"{option} has {len(values)} values for {count} source{'' if count == 1 else 's'}; "
            "give one value, or one for each source in their order"
        )
    return values


def training_to_plan(options: argparse.Namespace) -> Training:
    """What a plan is priced with, where none was made yet.

    Raises SequenceError where the sources, which are not chosen yet, have values of their own.
    """
    for option in ("source_epochs", "source_iterations", "source_initial_lr"):
        if len(getattr(options, option) or ()) > 1:
            raise SequenceError(
                f"-{option} has a value for each source, but there is no plan yet that chose them; "
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
