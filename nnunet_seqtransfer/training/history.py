"""Read nnUNet_results before a path is planned: trained source stages, and epoch times."""

import contextlib
import glob
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from nnunet_seqtransfer.errors import EnvironmentNotSetError, RecordError, SeqTransferError
from nnunet_seqtransfer.nnunet.folders import dataset_id, results_folder
from nnunet_seqtransfer.nnunet.plans import data_folder, read_plans
from nnunet_seqtransfer.nnunet.training_log import LOGS, read_training
from nnunet_seqtransfer.planning.options import EpochTime, History, Training
from nnunet_seqtransfer.storage import found_json
from nnunet_seqtransfer.training.estimate import Clock, Pace, preprocessing_seconds
from nnunet_seqtransfer.training.on_disk import StageOnDisk, read_stage
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stage_files import StageFiles
from nnunet_seqtransfer.training.stages import TRAINER, ChainRequest, chain_stages


def find_history(
    training: Training,
    names: tuple[str, str, str],
    sources: Sequence[str],
    device: str = "cuda",
    processes: int = 1,
) -> History:
    """Return all that earlier trainings say about planning a path to a target, and what the stages take.

    ``names`` are the target, its plans and the configuration. ``device`` and ``processes`` are for training.
    """
    clock, recipe = find_clock(*names, device), Recipe(training.epochs, training.iterations)
    origin: Literal["given", "logged", "published"] = "logged" if clock.pace.epochs else "published"
    if training.epoch_time is not None:
        factor = training.epoch_time / replace(clock, pace=Pace()).epoch(recipe)
        clock, origin = replace(clock, pace=replace(clock.pace, training=factor, epochs=0)), "given"
    of_source = Recipe(*training.of_source)
    return History(
        EpochTime(clock.epoch(recipe), origin, clock.pace.epochs),
        find_trained(*names, training.tag),
        find_scratch_dice(*names),
        source_hours=clock.stage(of_source, of_source.epochs) / 3600,
        target_hours=training.folds * clock.stage(recipe, recipe.epochs, clock.held_out("0")) / 3600,
        preprocessing={name: missing_preprocessing(name, names, processes) / 3600 for name in sources},
    )


def read_clock(
    target: str, plans_name: str, configuration: str, device: str, read: tuple[dict[str, Any], ...] | None = None
) -> Clock:
    """Return how long the stages of a target should take by its plans and cases. What is missing is guessed.

    ``read``: plans and fingerprint, if they have been read.
    """
    from nnunet_seqtransfer.nnunet.datasets import split_cases  # noqa: PLC0415 - imports NumPy
    from nnunet_seqtransfer.nnunet.fingerprints import read_fingerprint  # noqa: PLC0415
    from nnunet_seqtransfer.nnunet.preprocessing import resampled_shapes  # noqa: PLC0415

    settings, shapes, folds = dict[str, Any](), list[tuple[int, ...]](), dict[str, int]()
    with contextlib.suppress(SeqTransferError):
        plans = read[0] if read else read_plans(target, plans_name, configuration)
        settings = plans["configurations"][configuration]
        shapes = resampled_shapes(read[1] if read else read_fingerprint(target), plans, configuration)
        folds = {fold: len(split["val"]) for fold, split in split_cases(target, ()).items()}
    return Clock(settings, shapes, folds, device)


def find_clock(
    target: str, plans_name: str, configuration: str, device: str, read: tuple[dict[str, Any], ...] | None = None
) -> Clock:
    """Return `read_clock` by the newest logged epochs and validation of any stage that trains the target's network."""
    clock = read_clock(target, plans_name, configuration, device, read)
    for fold in _newest_folds(target, plans_name, configuration, device):
        block = _read(fold.parent).block
        if block is not None and block.target != target:
            continue
        known, recipe = clock.pace, block.recipe if block else Recipe()  # nnU-Net's own trainings have no block
        found = clock.with_log(read_training(fold), recipe).pace
        if known.epochs:
            found = replace(found, training=known.training, start=known.start, epochs=known.epochs)
        clock = replace(clock, pace=found)
        if found.epochs and found.pools is not None:
            break
    return clock


def missing_preprocessing(source: str, names: tuple[str, str, str], processes: int) -> float:
    """Return the seconds to preprocess what is missing of a source for the present plans, 0 if that is unknown."""
    from nnunet_seqtransfer.nnunet.preprocessing import preprocessed_cases, resampled_shapes  # noqa: PLC0415
    from nnunet_seqtransfer.tasks.alignment import plans_for  # noqa: PLC0415
    from nnunet_seqtransfer.tasks.task import load_task  # noqa: PLC0415

    target, plans_name, configuration = names
    with contextlib.suppress(SeqTransferError):
        plans, task = read_plans(target, plans_name, configuration), load_task(source)
        done = preprocessed_cases(data_folder(source, plans_for(plans, dataset_id(target), task), configuration))
        shapes = resampled_shapes(task.fingerprint, plans, configuration)
        return preprocessing_seconds(shapes, len(shapes) - len(done), processes)
    return 0.0


def find_trained(
    target: str, plans: str, configuration: str, tag: str | None
) -> dict[tuple[str, ...], tuple[int, int]]:
    """Return path -> epochs and iterations of the trained source stages for ``target``, by the names of a chain.

    ``nnUNetv2_seq_train`` compares the rest of the recipe, and refuses a stage that does not match.
    """
    found: dict[tuple[str, ...], tuple[int, int]] = {}
    recipe = Recipe()
    for base in _bases("*", TRAINER, f"{plans}_for{dataset_id(target)}", configuration):
        on_disk = _read(base)
        block = on_disk.block
        if block is None or block.role != "source" or block.target != target or not on_disk.final:
            continue
        request = ChainRequest(target, block.path, plans, configuration, ("all",), recipe, recipe, 0, tag)
        if chain_stages(request)[len(block.path) - 1].base == base:
            found[block.path] = block.recipe.epochs, block.recipe.iterations
    return found


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


def _newest_folds(target: str, plans: str, configuration: str, device: str) -> list[Path]:
    """Return the results folders of trainings with the target's network on ``device``, the newest log first."""
    bases = (
        *_bases("*", TRAINER, f"{plans}_for{dataset_id(target)}", configuration),
        *_bases(target, TRAINER, f"{plans}_", configuration),
        *_bases(target, "nnUNetTrainer", f"{plans}__", configuration),
    )
    logs = [log for base in bases for log in base.glob(f"fold_*/{LOGS}")]
    folds = dict.fromkeys(log.parent for log in sorted(logs, key=lambda log: log.stat().st_mtime, reverse=True))
    # nnU-Net's notes on a training name the device, "cuda:0" or "cpu"; they may be gone
    noted = {fold: found_json(fold / "debug.json") or {} for fold in folds}
    return [fold for fold in folds if str(noted[fold].get("device", device)).startswith(device)]


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
