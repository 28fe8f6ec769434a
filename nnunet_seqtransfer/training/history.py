"""What nnUNet_results says before a path is planned: which source stages are trained, and how long an epoch takes."""

from __future__ import annotations

import contextlib
import glob
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path

from nnunet_seqtransfer.errors import EnvironmentNotSetError, RecordError
from nnunet_seqtransfer.nnunet.folders import dataset_id, results_folder
from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.nnunet.training_log import read_training
from nnunet_seqtransfer.planning.prices import EpochTime, Finished, Training
from nnunet_seqtransfer.storage import is_whole_archive, read_json
from nnunet_seqtransfer.training.recipe import Recipe, StageBlock, read_block
from nnunet_seqtransfer.training.stage_files import FINAL
from nnunet_seqtransfer.training.stages import TRAINER, ChainRequest, Stage, chain_stages

SECONDS_PER_EPOCH = 45.0
"""nnU-Net's published epoch times on an A100 are 41-47 s for 250 iterations with their 50 validation iterations. Its
planner fills the graphics memory whatever the dataset, so that the time hardly depends on the dataset."""
STOCK = Recipe()
"""nnU-Net's numbers of iterations, which trainings without a block of ours have."""


def find_epoch_time(training: Training, target: str, plans: str, configuration: str) -> EpochTime:
    """Given, or the median over trainings for the target in nnUNet_results, or nnU-Net's published time.

    Only trainings with the wanted number of iterations count: few of them are mostly the overhead of an epoch.
    """
    if training.epoch_time is not None:
        return EpochTime(training.epoch_time, "given")
    measured = list(_logged_epochs(target, plans, configuration, training.iterations))
    if measured:
        return EpochTime(statistics.median(measured), f"median of {len(measured)} logged in nnUNet_results")
    share = training.iterations / STOCK.iterations
    return EpochTime(SECONDS_PER_EPOCH * share, "nnU-Net's on an A100, not measured here")


def find_finished(target: str, plans: str, configuration: str, training: Training) -> Finished:
    """The source stages for ``target`` that are trained, by the names and records that a chain goes by.

    Epochs and iterations have to be the wanted ones. Other parts of the recipe are not compared here:
    ``nnUNetv2_seq_train`` does, and refuses a stage that does not fit.
    """
    done: set[tuple[str, ...]] = set()
    others: dict[tuple[str, ...], str] = {}
    for base in _bases("*", TRAINER, f"{plans}_for{dataset_id(target)}", configuration):
        block = _block(plans_path(base.parent.name, base.name.split("__")[1]), configuration)
        if block is None or block.role != "source" or block.target != target:
            continue
        stage = _stage(block.path, target, plans, configuration, training)
        if stage.base != base or not is_whole_archive(stage.output / FINAL):
            continue
        wanted, found = training.of_source, (block.recipe.epochs, block.recipe.iterations)
        if found == wanted:
            done.add(block.path)
        else:
            others[block.path] = f"{found[0]} epochs of {found[1]} iterations, not {wanted[0]} of {wanted[1]}"
    return Finished(frozenset(done), others)


def _stage(path: Sequence[str], target: str, plans: str, configuration: str, training: Training) -> Stage:
    """The last source stage of a chain through ``path``."""
    recipe = Recipe(*training.of_source)
    request = ChainRequest(target, tuple(path), plans, configuration, ("all",), recipe, recipe, 0, training.tag)
    return chain_stages(request)[len(path) - 1]


def _logged_epochs(target: str, plans: str, configuration: str, iterations: int) -> Iterable[float]:
    """Seconds of every epoch logged by trainings of the target's network, sources and target alike."""
    bases = (
        *_bases("*", TRAINER, f"{plans}_for{dataset_id(target)}", configuration),
        *_bases(target, TRAINER, f"{plans}_", configuration),
        *_bases(target, "nnUNetTrainer", f"{plans}__", configuration),
    )
    for base in bases:
        block = _block(base / "plans.json", configuration)
        if (block is not None and block.target != target) or (
            block.recipe if block else STOCK
        ).iterations != iterations:
            continue
        for folder in sorted(base.glob("fold_*")):
            yield from (epoch.seconds for epoch in read_training(folder).epochs if epoch.seconds > 0)


def _bases(dataset: str, trainer: str, plans: str, configuration: str) -> list[Path]:
    """nnU-Net's results folders of one trainer and configuration whose plans name begins with ``plans``, sorted."""
    with contextlib.suppress(EnvironmentNotSetError):  # planning does without nnUNet_results
        pattern = f"{trainer}__{glob.escape(plans)}*{'' if plans.endswith('__') else '__'}{configuration}"
        return sorted(path for path in results_folder().glob(f"{dataset}/{pattern}") if path.is_dir())
    return []


def _block(path: Path, configuration: str) -> StageBlock | None:
    """The block in a plans file, or None where there is no such file or it cannot be read."""
    with contextlib.suppress(RecordError):
        return read_block(read_json(path, "the plans file", "train again"), configuration)
    return None
