"""The curves of a training, read from the logs that nnU-Net wrote into its results folder."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.nnunet.training_log import Progress, read_line
from nnunet_seqtransfer.runs.logs import time_in

_LOSS = re.compile(r": (train|val)_loss (-?[\d.]+(?:e-?\d+)?|nan)\s*$")
_RATE = re.compile(r": Current learning rate: ([\d.]+(?:e-?\d+)?)\s*$")


@dataclass(frozen=True)
class Epoch:
    """What nnU-Net printed about one epoch; NaN where it printed nothing."""

    number: int
    "From 0."
    pseudo_dice: tuple[float, ...]
    "Per label, on patches of the validation cases."
    mean_dice: float
    "Mean over the labels that have one."
    train_loss: float
    "Of the training patches."
    validation_loss: float
    "Of the validation patches."
    learning_rate: float
    "At its beginning."
    seconds: float
    "How long it took."


def read_curve(folder: Path) -> tuple[Epoch, ...]:
    """The finished epochs of a stage in their order.

    A training that was interrupted left several logs; an epoch that was repeated counts as it was the last time, and
    none after it of a training before that.
    """
    found: dict[int, Epoch] = {}
    for log in sorted(folder.glob("training_log_*.txt"), key=time_in):
        epochs = epochs_of(log.read_text(errors="replace"))
        begun = min((epoch.number for epoch in epochs), default=math.inf)
        found = {number: epoch for number, epoch in found.items() if number < begun}
        found |= {epoch.number: epoch for epoch in epochs}
    return tuple(found[number] for number in sorted(found))


def epochs_of(text: str) -> list[Epoch]:
    """The finished epochs in one log."""
    progress, seen, found = Progress(), dict[str, float](), list[Epoch]()
    for line in text.splitlines():
        if match := _LOSS.search(line):
            seen[match[1]] = float(match[2])
        elif match := _RATE.search(line):
            seen["rate"] = float(match[1])
        before, progress = progress, read_line(progress, line)
        if progress.epochs_done != before.epochs_done:
            found.append(_epoch(progress, seen))
            seen = {}
    return found


def _epoch(progress: Progress, seen: dict[str, float]) -> Epoch:
    mean = progress.mean_dice
    return Epoch(
        number=progress.epochs_done - 1,
        pseudo_dice=progress.pseudo_dice,
        mean_dice=math.nan if mean is None else mean,
        train_loss=seen.get("train", math.nan),
        validation_loss=seen.get("val", math.nan),
        learning_rate=seen.get("rate", math.nan),
        seconds=math.nan if progress.epoch_seconds is None else progress.epoch_seconds,
    )
