"""What happened in the training of each dataset, in sentences for a methods paragraph."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import MISSING, fields

from nnunet_seqtransfer.report.page.findings import Findings, StageFound
from nnunet_seqtransfer.report.page.naming import counted, listed
from nnunet_seqtransfer.training.recipe import Recipe

TOLD = ("epochs", "iterations", "initial_lr", "warmup_epochs", "seed")
"""Parts of a recipe that have a sentence of their own."""


def training_sentences(found: Findings) -> list[str]:
    """One sentence for stages of a dataset that went alike, then what was handed on."""
    alike: dict[tuple[str, str, Recipe], list[StageFound]] = {}
    for stage in found.stages:
        alike.setdefault((stage.entry.dataset, happened(stage), stage.entry.recipe), []).append(stage)
    datasets = [dataset for dataset, _, _ in alike]
    sentences = []
    for (dataset, what, recipe), stages in alike.items():
        which = _folds(stages) if stages[0].is_target and datasets.count(dataset) > 1 else ""
        cases = "" if stages[0].is_target else cases_of(found, dataset, stages)
        sentences.append(f"Training on {dataset}{which}{cases} {what} of {_recipe_words(recipe)}.")
    return sentences + ([_handed_on(found)] if len(set(datasets)) > 1 else [])


def happened(stage: StageFound) -> str:
    """How far a training got: "took 12 epochs"."""
    asked, recipe = counted(stage.entry.recipe.epochs, "epoch"), stage.entry.recipe
    done = stage.curve[-1].number + 1 if stage.curve else 0
    if not stage.trained:
        return f"is not finished, with {done} of {asked}" if stage.begun else f"has not begun, it is to take {asked}"
    # a finished training may lack logs, but only patience ends it early
    return f"ended early after {done} of {asked}" if recipe.patience and 0 < done < recipe.epochs else f"took {asked}"


def cases_of(found: Findings, dataset: str, stages: Sequence[StageFound] = ()) -> str:
    """How many cases a dataset has, in brackets, and how many of them its stages were trained on."""
    count = found.case_counts.get(dataset, 0)
    excluded = sorted({len(stage.entry.excluded) for stage in stages})
    if not any(excluded):
        return f" ({counted(count, 'labelled case')})" if count else ""
    shared = "shared with the target's validation cases"
    numbers = sorted({count - number for number in excluded} if count else set(excluded))
    told = " to ".join(str(number) for number in dict.fromkeys((numbers[0], numbers[-1])))
    if count:
        return f" ({told} of {counted(count, 'labelled case')}, without those {shared})"
    return f" (without {told} case{'' if told == '1' else 's'} {shared})"


def other_settings(recipe: Recipe) -> str:
    """What a recipe changes beside the numbers that are always told, as ", NAME VALUE"."""
    changed = (
        (entry.name, getattr(recipe, entry.name), None if entry.default is MISSING else entry.default)
        for entry in fields(recipe)
        if entry.name not in TOLD
    )
    return "".join(f", {name.replace('_', ' ')} {value}" for name, value, default in changed if value != default)


def _folds(stages: Sequence[StageFound]) -> str:
    folds = [stage.entry.fold for stage in stages]
    return f", fold{'' if len(folds) == 1 else 's'} {listed(folds)},"


def _recipe_words(recipe: Recipe) -> str:
    warm = f" after a warm-up of {counted(recipe.warmup_epochs, 'epoch')}" if recipe.warmup_epochs else ""
    seed = f", seed {recipe.seed}" if recipe.seed is not None else ", unseeded"
    iterations = counted(recipe.iterations, "iteration")
    return f"{iterations} at an initial learning rate of {recipe.initial_lr:g}{warm}{seed}{other_settings(recipe)}"


def _handed_on(found: Findings) -> str:
    """Which weights go from stage to stage; heads that were to be kept are told as what the hand-offs say of them."""
    made = [stage.block.init for stage in found.stages if stage.block is not None and stage.block.init is not None]
    kept = found.run.request.keep_heads and (not made or any(init.heads is not None for init in made))
    if not kept:
        return "All weights but those of the segmentation heads were handed from each stage to the next."
    return (
        "All weights were handed from each stage to the next, of the segmentation heads only those of labels with the "
        "same name."
    )
