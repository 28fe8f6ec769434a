"""Where a training is inside of an epoch: kept in checkpoints, so that an epoch goes on where it was left."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from nnunet_seqtransfer.errors import SeqTransferError

KEY = "seq_transfer"
"""Key of a checkpoint that was written inside of an epoch."""
VARIABLE = "nnUNet_seq_checkpoint_minutes"
"""Environment variable with the minutes between checkpoints; the commands that train set it for their trainings."""
CHECKPOINT_MINUTES = 10.0
"""Minutes between checkpoints where nothing else is said. A guess: the time that few people mind to lose, against the
second or so that writing one takes."""


@dataclass
class Midway:
    """How far an epoch is. Times are from the monotonic clock: somebody who sets the clock changes nothing."""

    epoch: int
    "The epoch, from 0."
    losses: list[float] = field(default_factory=list)
    "Training loss of each iteration that is done."
    seconds: float = 0.0
    "Time spent on this epoch by processes before this one."
    began: float = field(default_factory=time.monotonic)
    "When this process began with it."

    @property
    def iterations(self) -> int:
        """Training iterations that are done."""
        return len(self.losses)

    @property
    def elapsed(self) -> float:
        """Seconds spent on this epoch, those of earlier processes included."""
        return self.seconds + time.monotonic() - self.began

    def content(self) -> dict[str, Any]:
        """What a checkpoint holds; plain numbers, so that it is safe to load."""
        return {"iterations": self.iterations, "losses": list(self.losses), "seconds": self.elapsed}


def read_midway(checkpoint: Mapping[str, Any]) -> Midway | None:
    """Where the epoch of a checkpoint was left; None where it was written between two epochs."""
    content = checkpoint.get(KEY)
    if not isinstance(content, dict) or "losses" not in content:
        return None
    losses = [float(loss) for loss in content["losses"]]
    return Midway(int(checkpoint["current_epoch"]), losses, float(content.get("seconds", 0.0)))


def finished_epochs(logging: Mapping[str, list[Any]], epochs: int) -> dict[str, list[Any]]:
    """nnU-Net's lists without the entries of the epoch that runs: each holds one entry per finished epoch.

    So nnU-Net's logger, here or in a stock trainer, finds what it expects when the epoch begins again.
    """
    return {key: list(values[:epochs]) for key, values in logging.items()}


def checkpoint_seconds(environment: Mapping[str, str] = os.environ) -> float:
    """Seconds between checkpoints inside of an epoch, from the environment; infinite where they are switched off.

    Raises SeqTransferError where the variable is no number of minutes.
    """
    text = environment.get(VARIABLE, "")
    try:
        minutes = float(text) if text.strip() else CHECKPOINT_MINUTES
    except ValueError:
        minutes = math.nan
    if not 0 <= minutes < math.inf:
        raise SeqTransferError(f"{VARIABLE} is {text!r}; set it to minutes, 0 to switch these checkpoints off")
    return 60 * minutes if minutes else math.inf
