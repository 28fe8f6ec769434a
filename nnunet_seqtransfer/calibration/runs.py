"""Finished runs: from a table that a user wrote, and from the chains in nnUNet_results."""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from nnunet_seqtransfer.context import Notify
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.tasks.path_syntax import datasets_on
from nnunet_seqtransfer.training.on_disk import read_stage
from nnunet_seqtransfer.training.recipe import ADDED, Recipe, StageBlock
from nnunet_seqtransfer.training.run_record import find_runs, read_run
from nnunet_seqtransfer.training.stage_files import StageFiles
from nnunet_seqtransfer.training.stages import TRAINER, is_target_of
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel

NEEDED = ("path", "target", "dice")
SCRATCH = ("", "scratch", "none")
ARROW = re.compile(r"\s*(?:->|\N{RIGHTWARDS ARROW}|,)\s*")


Key = TypeVar("Key", bound=tuple[Any, ...])


@dataclass(frozen=True)
class MeasuredRun:
    """One training along one path."""

    sources: tuple[str, ...]
    "Names or numbers of the sources in training order, as given; none for scratch."
    target: str
    "Name or number of the target, as given."
    dice: float
    "Mean Dice of the target, 0 to 1; NaN if it was not measured."
    seed: str
    "Seed or another word that tells runs along one path apart; may be empty."
    place: str
    "Row of the table, or folder, for messages."
    iterations: int = 0
    "Iterations on the target; 0 if unknown."


def read_measurements(path: Path) -> tuple[MeasuredRun, ...]:
    """Return the rows of a CSV with the columns path, target, dice and optionally seed. Names are not looked up.

    Raises RecordError if the file is missing or is not such a CSV, or a Dice is not a number from 0 to 1.
    """
    columns = f"the columns {', '.join(NEEDED)} and optionally seed"
    try:
        # Spreadsheets begin their CSV files with a byte order mark.
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.reader(stream, strict=True))
    except (FileNotFoundError, IsADirectoryError) as error:
        raise RecordError(f"there is no table of measurements {path} ({error}); give a CSV with {columns}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"the table of measurements {path} is not CSV text ({error}); save it as UTF-8") from None
    header = [name.strip().lower() for name in rows[0]] if rows else []
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise RecordError(f"the table of measurements has the column {repeated[0]} twice: {path}; remove one")
    missing = [name for name in NEEDED if name not in header]
    if missing:
        raise RecordError(
            f"the table of measurements lacks the column {' and '.join(missing)} (it has "
            f"{', '.join(header) or 'an empty first row'}): {path}; its first row names {columns}, separated by commas"
        )
    filled = [(number, row) for number, row in enumerate(rows[1:], start=2) if any(cell.strip() for cell in row)]
    for number, row in filled:
        if len(row) != len(header):
            raise RecordError(
                f"row {number} of the measurements has {len(row)} cells, the header {len(header)}: {path}; correct it "
                "(a path with commas needs quotes)"
            )
    return tuple(_run(dict(zip(header, row, strict=True)), f"row {number} of {path.name}") for number, row in filled)


def _run(row: dict[str, str], place: str) -> MeasuredRun:
    sources = split_path(row["path"])
    return MeasuredRun(sources, row["target"].strip(), _dice(row["dice"], place), row.get("seed", "").strip(), place)


def split_path(text: str) -> tuple[str, ...]:
    """Return the tasks of "23 -> 21" or "Dataset023_X Dataset021_Y"; none for an empty text, "scratch" or "none"."""
    if text.strip().lower() in SCRATCH:
        return ()
    parts = ARROW.split(text.strip()) if ARROW.search(text) else text.split()
    return tuple(part for part in parts if part)


def _dice(text: str, place: str) -> float:
    """Return the number, NaN for an empty cell. Raise RecordError if it is not a number from 0 to 1."""
    try:
        value = float(text) if text.strip() else math.nan
    except ValueError:
        raise RecordError(f"the Dice in {place} is {text!r}; give a number from 0 to 1") from None
    if 1 < value <= 100:
        raise RecordError(f"the Dice in {place} is {value:g}, which looks like percent; divide all by 100")
    if not math.isnan(value) and not 0 <= value <= 1:
        raise RecordError(f"the Dice in {place} is {value:g}; give a number from 0 to 1")
    return value


@dataclass(frozen=True)
class TrainedFold:
    """One finished and validated fold of a target, at the end of a chain."""

    block: StageBlock
    "Path of the chain and recipe of the target."
    fold: str
    "Number of the fold."
    dice: float
    "Foreground mean of the validation cases."
    place: str
    "Folder below nnUNet_results."

    @property
    def recipe(self) -> tuple[int, int, float, int]:
        """Epochs, iterations, learning rate, patience (0 for none), which must be equal for Dice to be compared."""
        recipe: Recipe = self.block.recipe
        return recipe.epochs, recipe.iterations, recipe.initial_lr, recipe.patience or 0

    @property
    def fine_tuning(self) -> tuple[int, int, float, int, bool]:
        """Further parts that must be equal between transfers; a training from scratch has none of it."""
        recipe: Recipe = self.block.recipe
        added = recipe.heads_first_epochs, recipe.frozen_encoder_epochs, recipe.layer_decay, recipe.warmup_epochs
        return *added, self.block.keep_heads


def read_trained(
    plans: str, configuration: str, notify: Notify, models: Iterable[PretrainedModel] = ()
) -> tuple[MeasuredRun, ...]:
    """Return one run for each finished chain to a target, with the Dice averaged over folds.

    All paths to a target are compared on the same folds, those that most chains have, and under one recipe of the
    target, the most frequent. ``notify`` receives one line for each chain that is left out, also because it may have
    trained on validation cases. Fold "all" is validated on training cases and does not count. Chains that started from
    one of ``models``, or from the model of a plan, count as paths from its dataset.
    """
    by_target: dict[str, list[TrainedFold]] = {}
    runs = []
    for folder in find_runs():
        with suppress(RecordError):  # nnUNetv2_seq_status names broken records
            runs.append(read_run(folder))
    leaking = {entry.output for run in runs if run.request.overlap == "allow" for entry in run.stages}
    started = [run.request.pretrained for run in runs]
    known = {model.sha256: model.dataset for model in (*started, *models) if model and model.dataset}
    for fold in _finished_folds(plans, configuration, known, notify):
        if fold.place in leaking:
            notify(f"left out: {fold.place}: its sources may hold cases that it validates on (--allow_overlap)")
        else:
            by_target.setdefault(fold.block.target, []).append(fold)
    return tuple(run for _, folds in sorted(by_target.items()) for run in _comparable(folds, notify))


def _finished_folds(plans: str, configuration: str, models: Mapping[str, str], notify: Notify) -> Iterator[TrainedFold]:
    root = results_folder()
    for file in sorted(root.glob(f"Dataset*/{TRAINER}__{plans}_*__{configuration}/plans.json")):
        if not is_target_of(file.parent.name.split("__")[1], plans):
            continue
        try:
            for folder in sorted(file.parent.glob("fold_[0-9]*")):
                on_disk = read_stage(StageFiles(folder), details=True)
                block = on_disk.block
                if block is None or block.role != "target" or block.pretrained not in (None, *models):
                    continue  # without known training data a pretrained model makes no path between datasets
                if block.pretrained is not None:
                    block = replace(block, path=(models[block.pretrained], *block.path))
                if block.mixed or len(datasets_on(block.path)) > len(block.path):
                    continue  # gains are predicted for stages on one dataset
                if on_disk.is_finished("target"):
                    dice = math.nan if on_disk.dice is None else on_disk.dice
                    yield TrainedFold(block, on_disk.files.fold, dice, str(folder.relative_to(root)))
        except RecordError as error:
            notify(f"left out: {error}")


def _comparable(folds: list[TrainedFold], notify: Notify) -> Iterator[MeasuredRun]:
    """Yield the runs to one target that were trained by one recipe and validated on the same folds."""
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
        iterations = block.recipe.epochs * block.recipe.iterations
        yield MeasuredRun(block.path[:-1], block.target, sum(dice) / len(dice), "", place, iterations)


def _tuned_alike(folds: list[TrainedFold], notify: Notify) -> Iterator[TrainedFold]:
    """Yield the trainings from scratch, and the transfers that were fine-tuned in the most frequent way."""
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
    """Return the value that occurs most often; of several, the smallest."""
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))
