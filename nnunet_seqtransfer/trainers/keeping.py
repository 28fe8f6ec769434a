"""Keeping what a training has: checkpoints that survive a full disk, and nnU-Net's small files made whole again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import CheckpointError, SeqTransferError
from nnunet_seqtransfer.storage import replacing
from nnunet_seqtransfer.training.stage_files import FINAL, LATEST, PREVIOUS
from nnunet_seqtransfer.transfer.checkpoints import save

PATIENCE = 60.0
"""Seconds for which a checkpoint is tried again on a disk that does not take it."""
PAUSE = 5.0
"""Seconds between two attempts."""


class NotKeptError(CheckpointError):
    """A checkpoint could not be written; the one before it is as it was."""


def write_checkpoint(path: Path, checkpoint: dict[str, Any], *, same_training: bool = True) -> None:
    """Writes a checkpoint aside and renames it; the latest one so far is kept as the previous one.

    ``same_training``: whether what lies there is this training's own. If not (nnUNetv2_train was called again without
    --c), it is replaced, and no older previous one stays that a damaged checkpoint could give way to.

    Raises SeqTransferError where the disk is full or not to be written to, OSError where it fails otherwise; then
    nothing has changed.
    """
    previous = path.with_name(PREVIOUS) if path.name == LATEST else None
    keep = previous if same_training else None
    with replacing(path, keep=keep) as aside, aside.open("wb") as stream:
        save(checkpoint, stream)
    if previous is not None and not same_training:
        previous.unlink(missing_ok=True)


def keep_checkpoint(
    path: Path,
    checkpoint: dict[str, Any],
    say: Callable[[str], None],
    in_a_hurry: Callable[[], bool],
    *,
    same_training: bool = True,
) -> None:
    """`write_checkpoint`, tried again for a minute where the disk does not take it, unless ``in_a_hurry``.

    A training that went on without checkpoints would lose hours of work at its next interruption, so it waits here.

    Raises NotKeptError when the minute is over.
    """
    deadline, warned = time.monotonic() + PATIENCE, False
    while True:
        try:
            write_checkpoint(path, checkpoint, same_training=same_training)
            return
        except (SeqTransferError, OSError) as error:
            # an input/output error, say: for other files no user's mistake, here as good a reason to wait
            why = f"cannot write {path}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
            if in_a_hurry() or time.monotonic() >= deadline:
                raise NotKeptError(f"{why}; the checkpoints before are whole") from error
            if not warned:
                say(f"seq_transfer: {why}; trying again for {PATIENCE:.0f} s")
            warned = True
        pause = time.monotonic() + PAUSE
        while time.monotonic() < pause and not in_a_hurry():
            time.sleep(0.1)


def sweep(folder: Path) -> None:
    """Removes what a killed training left aside, and after the final checkpoint the previous one."""
    for path in folder.glob(".checkpoint_*.tmp*"):
        path.unlink(missing_ok=True)
    if (folder / FINAL).is_file():
        (folder / PREVIOUS).unlink(missing_ok=True)
