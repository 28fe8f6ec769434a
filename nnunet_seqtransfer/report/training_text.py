"""Results, leftovers and recipes of trainings: text for the terminal."""

import shlex
from dataclasses import fields

from nnunet_seqtransfer.nnunet.folders import dataset_id
from nnunet_seqtransfer.report.words import text_table, without_folders
from nnunet_seqtransfer.storage import size_text
from nnunet_seqtransfer.training.clean import CATEGORIES, Item
from nnunet_seqtransfer.training.recipe import ADDED, Recipe
from nnunet_seqtransfer.training.run_record import Run, StageEntry
from nnunet_seqtransfer.training.stages import TRAINER

MAX_ITEMS = 20
"""Items listed per category; the rest is summed up."""
MEANINGS = {
    "leftovers": "half-written files, damaged and superseded checkpoints, locks of ended processes",
    "preprocessed": "sources preprocessed for a target, read by no unfinished run",
}
Sized = list[tuple[Item, int]]


def clean_text(items: Sized) -> str:
    """Return a category table, then their items; ``items`` come with sizes in bytes, the largest first."""
    groups = {name: [pair for pair in items if pair[0].category == name] for name in CATEGORIES}
    shown = sorted((name for name in groups if groups[name]), key=lambda name: -_total(groups[name]))
    if not shown:
        return "there is nothing to remove"
    rows = [[size_text(_total(groups[name])), str(len(groups[name])), name, MEANINGS[name]] for name in shown]
    lines = [text_table(["size", "items", "category", "content"], rows)]
    for name in shown:
        lines += ["", f"{name}:", *_listed(groups[name])]
    return "\n".join(lines)


def _listed(items: Sized) -> list[str]:
    lines = [
        f"  {size_text(size).rjust(8)}  {without_folders(str(item.path))}  {item.reason}"
        for item, size in items[:MAX_ITEMS]
    ]
    rest = items[MAX_ITEMS:]
    return [*lines, f"  {size_text(_total(rest)).rjust(8)}  in {len(rest)} more"] if rest else lines


def _total(items: Sized) -> int:
    return sum(size for _, size in items)


def predict_commands(run: Run) -> dict[str, str]:
    """Return trained model (relative to nnUNet_results) -> nnU-Net command that predicts with its finished folds."""
    models: dict[str, list[StageEntry]] = {}  # folds without shared cases have plans of their own
    for entry in run.stages:
        if run.role(entry) == "target":
            models.setdefault(entry.output.rpartition("/")[0], []).append(entry)
    device = run.options.device
    commands = {}
    for folder, every in models.items():
        entries = [entry for entry in every if entry.files.final.is_file()] or every
        words = ["nnUNetv2_predict", "-d", str(dataset_id(run.request.target))]
        words += ["-i", "INPUT_FOLDER", "-o", "OUTPUT_FOLDER", "-tr", TRAINER, "-p", entries[0].plans_name]
        words += ["-c", run.request.configuration, "-f", *(entry.fold for entry in entries)]
        # nnU-Net predicts on a GPU by default and fails without one
        commands[folder] = shlex.join([*words, *(["-device", device] if device != "cuda" else [])])
    return commands


def recipe_text(recipe: Recipe) -> str:
    """Return the recipe in one line. Parts that nnU-Net does not have are named only if they are set."""
    parts = [(part, getattr(recipe, part.name)) for part in fields(Recipe) if part.name in ADDED]
    added = [f"{part.name} {value}" for part, value in parts if value != part.default]
    basic = f"{recipe.epochs} epochs of {recipe.iterations} iterations, learning rate {recipe.initial_lr:g}"
    return ", ".join([basic, f"warm-up {recipe.warmup_epochs} epochs", *added])
