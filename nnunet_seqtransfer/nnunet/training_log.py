"""What a training prints, read line by line into: epoch, pseudo Dice, the time of an epoch."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

_EPOCH = re.compile(r"(?:^|: )Epoch (\d+)\s*$")
_DICE = re.compile(r"Pseudo dice \[(.*)\]")
_TIME = re.compile(r"Epoch time: ([\d.]+) s")
_NUMBER = re.compile(r"(?<![\w.])(?:nan|\d+(?:\.\d+)?(?:e-?\d+)?)(?![\w.])")


@dataclass(frozen=True)
class Progress:
    """How far a training is."""

    epochs_done: int = 0
    "Finished epochs."
    epoch: int | None = None
    "The epoch that runs, from 0."
    pseudo_dice: tuple[float, ...] = ()
    "Pseudo Dice of the last finished epoch, per label."
    epoch_seconds: float | None = None
    "Time of the last finished epoch."

    @property
    def mean_dice(self) -> float | None:
        """Mean pseudo Dice over the labels that have one."""
        known = [dice for dice in self.pseudo_dice if dice == dice]  # noqa: PLR0124 - NaN differs from itself
        return sum(known) / len(known) if known else None


def read_line(progress: Progress, line: str) -> Progress:
    """The progress after one more line of nnU-Net's output; lines that say nothing leave it as it is."""
    if match := _EPOCH.search(line):
        return replace(progress, epoch=int(match[1]))
    if match := _DICE.search(line):
        numbers = match[1].replace("np.float64", "").replace("np.float32", "")
        return replace(progress, pseudo_dice=tuple(float(number) for number in _NUMBER.findall(numbers)))
    if match := _TIME.search(line):
        done = progress.epochs_done + 1 if progress.epoch is None else progress.epoch + 1
        return replace(progress, epochs_done=done, epoch_seconds=float(match[1]))
    return progress


def duration(seconds: float) -> str:
    """Seconds as people say them: "45 s", "12 min", "7.5 h"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
