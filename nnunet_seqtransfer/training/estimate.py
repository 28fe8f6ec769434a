"""The one training time estimate: measured epochs if there are any, otherwise published times."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

from nnunet_seqtransfer.training.on_disk import StageOnDisk
from nnunet_seqtransfer.training.recipe import Recipe

SECONDS_PER_EPOCH = 45.0
"""nnU-Net's published epoch times on an A100 are 41-47 s for 250 iterations with their 50 validation iterations. Its
planner fills the graphics memory for every dataset, so the time hardly depends on the dataset."""
CPU_SECONDS_PER_MEGAVOXEL = 6.0
"""Training iteration with nnU-Net's default width on two CPU cores, per million batch voxels; measured, rough."""


def default_epoch_seconds(recipe: Recipe, device: str = "cuda", batch_voxels: int = 0) -> float:
    """Return seconds per epoch if none was measured; ``batch_voxels`` (patch times batch size) counts on CPU."""
    if device != "cpu":
        return SECONDS_PER_EPOCH * recipe.iterations / Recipe().iterations
    # a validation iteration has no backward pass: about a third of a training iteration
    iterations = recipe.iterations + recipe.validation_iterations / 3
    return CPU_SECONDS_PER_MEGAVOXEL * iterations * batch_voxels / 1e6


def paces(stages: Iterable[tuple[Recipe, StageOnDisk]]) -> dict[int, float]:
    """Return iterations per epoch -> median seconds per epoch over the stages that have logged epochs."""
    known: dict[int, list[float]] = {}
    for recipe, on_disk in stages:
        if on_disk.log.median_seconds is not None:
            known.setdefault(recipe.iterations, []).append(on_disk.log.median_seconds)
    return {iterations: statistics.median(seconds) for iterations, seconds in known.items()}


def epochs_done(recipe: Recipe, on_disk: StageOnDisk) -> int:
    """Return the trained epochs: fewer than requested in a finished stage that ended early."""
    done = on_disk.log.epochs_done
    return (done or recipe.epochs) if on_disk.final else min(done, recipe.epochs)  # logs may be gone


def stage_seconds(recipe: Recipe, on_disk: StageOnDisk, epochs: int, pace: float | None) -> float | None:
    """Return the seconds for ``epochs`` at the stage's own pace, otherwise at ``pace``; None if neither is known."""
    seconds = on_disk.log.median_seconds or pace
    return 0.0 if epochs == 0 else None if seconds is None else epochs * seconds
