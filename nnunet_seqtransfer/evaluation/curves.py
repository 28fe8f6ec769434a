"""Learning curves out of nnU-Net's own checkpoints, and how early one arm has what another reaches at its end."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.evaluation.comparison import Arm, Curve, Saving
from nnunet_seqtransfer.transfer.checkpoints import load_checkpoint

Run = tuple[str, int]
SMOOTHED = (3, 10)
"""The fewest and the most epochs whose pseudo Dice are averaged. Guesses."""


def read_curve(checkpoint: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean pseudo Dice of each epoch and its moving average, as nnU-Net logged them into a checkpoint.

    Raises CheckpointError where the file is damaged or has no log.
    """
    log: Any = load_checkpoint(checkpoint).get("logging")
    try:
        return tuple(float(value) for value in log["mean_fg_dice"]), tuple(float(value) for value in log["ema_fg_dice"])
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"the checkpoint has no log of its epochs ({error}): {checkpoint}; train that stage again"
        ) from None


def savings(arms: Sequence[Arm], curves: Iterable[Curve]) -> tuple[Saving, ...]:
    """Each arm against scratch of equal epochs: after how many epochs it has what scratch has at its end.

    Curves are averaged over the folds and seeds that both have, and smoothed, so that one lucky epoch counts little.
    Epochs of the sources are not counted; they are in the budget.
    """
    scratch = next((arm for arm in arms if "scratch" in arm.roles), None)
    if scratch is None:
        return ()
    by_arm: dict[str, dict[Run, Curve]] = {}
    for curve in curves:
        by_arm.setdefault(curve.arm, {})[curve.fold, curve.seed] = curve
    base = by_arm.get(scratch.name, {})
    found = []
    for arm in arms:
        runs = sorted(base.keys() & by_arm.get(arm.name, {}).keys())
        if arm is scratch or arm.extra_epochs or not runs:
            continue
        goal = mean_curve([base[run] for run in runs])
        found.append(_saving(arm.name, scratch.name, mean_curve([by_arm[arm.name][run] for run in runs]), goal))
    return tuple(found)


def mean_curve(curves: Sequence[Curve]) -> tuple[float, ...]:
    """The smoothed curves of several runs, averaged epoch by epoch; NaN left out."""
    epochs = min(len(curve.pseudo_dice) for curve in curves)
    return _means([smoothed(curve.pseudo_dice[:epochs]) for curve in curves])


def smoothed(values: Sequence[float]) -> tuple[float, ...]:
    """The mean of the last epochs up to each: a tenth of all, but 3 to 10; NaN left out, NaN before there are so many.

    nnU-Net's own moving average starts with the first epoch's value, which in a short training still counts at its end
    (0.9^7 = 48 % after 8 epochs): whoever begins higher would seem to be ahead.
    """
    width = min(max(SMOOTHED[0], len(values) // 10), SMOOTHED[1], max(len(values), 1))
    windows = [values[max(0, end - width) : end] for end in range(1, len(values) + 1)]
    return tuple(math.nan if len(window) < width else _means([[value] for value in window])[0] for window in windows)


def _means(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    """Of each column; NaN left out, NaN where there is nothing else."""
    table = np.array(rows, dtype=np.float64)
    known = (~np.isnan(table)).sum(axis=0)
    sums = np.nansum(table, axis=0)
    return tuple(float(total / count) if count else math.nan for total, count in zip(sums, known, strict=True))


def _saving(arm: str, against: str, curve: Sequence[float], goal: Sequence[float]) -> Saving:
    reached = goal[-1]
    epochs = next((epoch for epoch, value in enumerate(curve, 1) if value >= reached), None)
    return Saving(arm, against, reached, epochs, len(goal))
