"""Measured transfers from nnU-Net's results folder: every finished chain there, with its validation Dice."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from nnunet_seqtransfer.calibration.measurements import MeasuredRun
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.training.on_disk import read_stage
from nnunet_seqtransfer.training.recipe import ADDED, Recipe, StageBlock
from nnunet_seqtransfer.training.run_record import find_runs, read_run
from nnunet_seqtransfer.training.stage_files import StageFiles
from nnunet_seqtransfer.training.stages import TRAINER, is_target_of

Key = TypeVar("Key", bound=tuple[Any, ...])


@dataclass(frozen=True)
class TrainedFold:
    """One finished and validated fold of a target, at the end of a chain."""

    block: StageBlock
    "The path, and how the target was trained."
    fold: str
    "The fold."
    dice: float
    "Foreground mean of its validation cases."
    place: str
    "Its folder below nnUNet_results."

    @property
    def recipe(self) -> tuple[int, int, float, int]:
        """Epochs, iterations, learning rate, patience (0 for none): what must be alike for Dice to be compared."""
        recipe: Recipe = self.block.recipe
        return recipe.epochs, recipe.iterations, recipe.initial_lr, recipe.patience or 0

    @property
    def fine_tuning(self) -> tuple[int, int, float, int, bool]:
        """What must be alike beside `recipe`, but is not there in a training from scratch."""
        recipe: Recipe = self.block.recipe
        added = recipe.heads_first_epochs, recipe.frozen_encoder_epochs, recipe.layer_decay, recipe.warmup_epochs
        return *added, self.block.keep_heads


def read_trained(plans: str, configuration: str, notify: Callable[[str], None]) -> tuple[MeasuredRun, ...]:
    """One run for each finished chain to a target, its Dice averaged over folds.

    Validation cases of different folds differ in difficulty. So all paths to a target are compared on the same folds,
    those that most of its chains have, and under one recipe of the target, the most frequent; ``notify`` is told, a
    line each, what is left out for that, and which chains were allowed to train on validation cases. Fold "all" is
    validated on its own training cases and not used.
    """
    by_target: dict[str, list[TrainedFold]] = {}
    leaking = _overlap_allowed()
    for fold in _finished(plans, configuration, notify):
        if fold.place in leaking:
            notify(f"left out: {fold.place}: its sources may hold cases that it validates on (--allow_overlap)")
        else:
            by_target.setdefault(fold.block.target, []).append(fold)
    return tuple(run for _, folds in sorted(by_target.items()) for run in _comparable(folds, notify))


def _finished(plans: str, configuration: str, notify: Callable[[str], None]) -> Iterator[TrainedFold]:
    root = results_folder()
    for file in sorted(root.glob(f"Dataset*/{TRAINER}__{plans}_*__{configuration}/plans.json")):
        if not is_target_of(file.parent.name.split("__")[1], plans):
            continue
        try:
            for folder in sorted(file.parent.glob("fold_[0-9]*")):
                on_disk = read_stage(StageFiles(folder), details=True)
                block = on_disk.block
                if block is None or block.role != "target" or block.pretrained is not None:
                    continue  # it is unknown what a pretrained model was trained on, so it is no path between datasets
                if on_disk.is_finished("target"):
                    dice = math.nan if on_disk.dice is None else on_disk.dice
                    yield TrainedFold(block, on_disk.files.fold, dice, str(folder.relative_to(root)))
        except RecordError as error:
            notify(f"left out: {error}")


def _overlap_allowed() -> set[str]:
    """The folders, below nnUNet_results, of all stages of runs with --allow_overlap: only a run's record knows."""
    outputs: set[str] = set()
    for folder in find_runs():
        with suppress(RecordError):  # nnUNetv2_seq_status names broken records
            run = read_run(folder)
            if run.request.overlap == "allow":
                outputs.update(entry.output for entry in run.stages)
    return outputs


def _comparable(folds: list[TrainedFold], notify: Callable[[str], None]) -> Iterator[MeasuredRun]:
    """The runs to one target that were trained by one recipe and validated on the same folds."""
    recipe = _most_frequent(fold.recipe for fold in folds)
    for other in (fold for fold in folds if fold.recipe != recipe):
        epochs, iterations, lr, patience = other.recipe
        words = f"{epochs} x {iterations} iterations at {lr:g}{f', patience {patience}' if patience else ''}"
        notify(f"left out: {other.place}: trained by another recipe ({words})")
    chains: dict[str, list[TrainedFold]] = {}
    for fold in _tuned_alike([fold for fold in folds if fold.recipe == recipe], notify):
        chains.setdefault(str(Path(fold.place).parent), []).append(fold)
    wanted = _most_frequent(tuple(sorted(fold.fold for fold in chain)) for chain in chains.values())
    for place, chain in chains.items():
        dice = [fold.dice for fold in chain if fold.fold in wanted]
        if len(dice) < len(wanted):
            notify(f"left out: {place}: it has not finished fold {', '.join(wanted)}, which the others are compared on")
            continue
        block = chain[0].block
        yield MeasuredRun(block.path[:-1], block.target, sum(dice) / len(dice), "", place)


def _tuned_alike(folds: list[TrainedFold], notify: Callable[[str], None]) -> Iterator[TrainedFold]:
    """Those from scratch, and of the others those that were fine-tuned in the most frequent way."""
    transfers = [fold for fold in folds if len(fold.block.path) > 1]
    usual = _most_frequent(fold.fine_tuning for fold in transfers) if transfers else None
    for fold in folds:
        if len(fold.block.path) == 1 or fold.fine_tuning == usual:
            yield fold
        else:
            notify(f"left out: {fold.place}: fine-tuned in another way than most ({_tuning_words(fold.block)})")


def _tuning_words(block: StageBlock) -> str:
    differing = Recipe().differences(block.recipe)
    parts = [f"{name} {differing[name][1]}" for name in (*ADDED, "warmup_epochs") if name in differing]
    return ", ".join([*parts, "heads kept"] if block.keep_heads else parts)


def _most_frequent(values: Iterable[Key]) -> Key:
    """The value that occurs most often; of several, the smallest."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))
