"""What nnUNet_results tells before a path is planned: trained source stages, and epoch times."""

from __future__ import annotations

import contextlib
import glob
import statistics
from collections.abc import Iterable
from pathlib import Path

from nnunet_seqtransfer.errors import EnvironmentNotSetError, RecordError
from nnunet_seqtransfer.nnunet.folders import dataset_id, results_folder
from nnunet_seqtransfer.nnunet.training_log import read_training
from nnunet_seqtransfer.planning.options import EpochTime, Finished, History, Training
from nnunet_seqtransfer.training.estimate import default_epoch_seconds
from nnunet_seqtransfer.training.on_disk import StageOnDisk, read_stage
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stage_files import StageFiles
from nnunet_seqtransfer.training.stages import TRAINER, ChainRequest, chain_stages


def find_history(training: Training, target: str, plans: str, configuration: str) -> History:
    """Return all that earlier trainings say about planning a path to a target."""
    return History(
        find_epoch_time(training, target, plans, configuration),
        find_finished(target, plans, configuration, training),
        find_scratch_dice(target, plans, configuration),
    )


def find_epoch_time(training: Training, target: str, plans: str, configuration: str) -> EpochTime:
    """Return the given epoch time, otherwise the logged median, otherwise nnU-Net's published time.

    Logs for the target count if they have as many iterations as requested: an epoch with few iterations
    is mostly overhead.
    """
    if training.epoch_time is not None:
        return EpochTime(training.epoch_time, "given")
    measured = list(_logged_epochs(target, plans, configuration, training.iterations))
    if measured:
        return EpochTime(statistics.median(measured), "logged", len(measured))
    seconds = default_epoch_seconds(Recipe(iterations=training.iterations))
    return EpochTime(seconds, "published")


def find_finished(target: str, plans: str, configuration: str, training: Training) -> Finished:
    """Return the trained source stages for ``target``, by the names and records that a chain uses.

    Epochs and iterations must be the requested ones. ``nnUNetv2_seq_train`` compares the rest, and
    refuses a stage that does not match.
    """
    done: set[tuple[str, ...]] = set()
    others: dict[tuple[str, ...], tuple[int, int]] = {}
    wanted = training.of_source
    recipe = Recipe(*wanted)
    for base in _bases("*", TRAINER, f"{plans}_for{dataset_id(target)}", configuration):
        on_disk = _read(base)
        block = on_disk.block
        if block is None or block.role != "source" or block.target != target or not on_disk.final:
            continue
        request = ChainRequest(target, block.path, plans, configuration, ("all",), recipe, recipe, 0, training.tag)
        if chain_stages(request)[len(block.path) - 1].base != base:
            continue
        found = block.recipe.epochs, block.recipe.iterations
        if found == wanted:
            done.add(block.path)
        else:
            others[block.path] = found
    return Finished(frozenset(done), others)


def find_scratch_dice(target: str, plans: str, configuration: str) -> float | None:
    """Return the validation Dice of a model of the target that was trained from scratch, the mean over its folds.

    A chain without sources comes before nnU-Net's own trainer. Fold "all", which is validated on its own training
    cases, does not count. Return None if there is no such model.
    """
    for trainer, name in ((TRAINER, f"{plans}_scratch"), ("nnUNetTrainer", f"{plans}__")):
        for base in _bases(target, trainer, name, configuration):
            folds = [read_stage(StageFiles(fold), details=True) for fold in sorted(base.glob("fold_[0-9]*"))]
            dice = [fold.dice for fold in folds if fold.is_finished("target") and fold.dice is not None]
            if dice:
                return statistics.mean(dice)
    return None


def _logged_epochs(target: str, plans: str, configuration: str, iterations: int) -> Iterable[float]:
    """Yield seconds for every logged epoch with the target's network, sources and target alike."""
    bases = (
        *_bases("*", TRAINER, f"{plans}_for{dataset_id(target)}", configuration),
        *_bases(target, TRAINER, f"{plans}_", configuration),
        *_bases(target, "nnUNetTrainer", f"{plans}__", configuration),
    )
    for base in bases:
        block = _read(base).block
        recipe = block.recipe if block else Recipe()  # nnU-Net's own trainings have no block
        if (block is not None and block.target != target) or recipe.iterations != iterations:
            continue
        for fold in sorted(base.glob("fold_*")):
            yield from (epoch.seconds for epoch in read_training(fold).epochs)


def _bases(dataset: str, trainer: str, plans: str, configuration: str) -> list[Path]:
    """Return nnU-Net's results folders for one trainer and configuration with plans names that begin with ``plans``."""
    with contextlib.suppress(EnvironmentNotSetError):  # planning does without nnUNet_results
        pattern = f"{trainer}__{glob.escape(plans)}*{'' if plans.endswith('__') else '__'}{configuration}"
        return sorted(path for path in results_folder().glob(f"{dataset}/{pattern}") if path.is_dir())
    return []


def _read(base: Path) -> StageOnDisk:
    """Return a stage, without plans if these are damaged. Sources have the one fold all."""
    files = StageFiles(base / "fold_all")
    with contextlib.suppress(RecordError):
        return read_stage(files, details=True)
    return read_stage(files)
