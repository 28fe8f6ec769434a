"""Checkpoints that survive a full disk and a kill."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import CheckpointError, SeqTransferError
from nnunet_seqtransfer.storage import replacing
from nnunet_seqtransfer.training.stage_files import FINAL, LATEST, PREVIOUS
from nnunet_seqtransfer.transfer.checkpoints import save

RETRY_SECONDS = 60.0
"""Seconds for which a failed write is tried again."""
PAUSE_SECONDS = 5.0
"""Seconds between two attempts."""


class CheckpointNotWrittenError(CheckpointError):
    """A checkpoint could not be written; the earlier one is unchanged."""


def write_checkpoint(path: Path, checkpoint: dict[str, Any], *, same_training: bool = True) -> None:
    """Write a checkpoint aside and rename it; the latest one becomes the previous one.

    Args:
        path: file of the checkpoint.
        checkpoint: what nnU-Net stores in it.
        same_training: whether the files there are of this training. If not (nnUNetv2_train was called again without
            --c), the previous checkpoint is deleted, so that recovery never falls back to another training.

    Raises SeqTransferError if the disk is full or read-only, OSError if writing fails otherwise; then nothing has
    changed.
    """
    previous = path.with_name(PREVIOUS) if path.name == LATEST else None
    keep = previous if same_training else None
    with replacing(path, keep=keep) as aside, aside.open("wb") as stream:
        save(checkpoint, stream)
    if previous is not None and not same_training:
        previous.unlink(missing_ok=True)


def write_patiently(
    path: Path,
    checkpoint: dict[str, Any],
    say: Callable[[str], None],
    in_a_hurry: Callable[[], bool],
    *,
    same_training: bool = True,
) -> None:
    """Call `write_checkpoint` again for a minute if it fails, unless ``in_a_hurry()``.

    A training that continued without checkpoints would lose hours at the next interruption, so it waits.

    Raises CheckpointNotWrittenError after that minute.
    """
    deadline, warned = time.monotonic() + RETRY_SECONDS, False
    while True:
        try:
            write_checkpoint(path, checkpoint, same_training=same_training)
            return
        except (SeqTransferError, OSError) as error:
            # an input/output error is no user's mistake, but as good a reason to wait as a full disk
            why = f"cannot write {path}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
            if in_a_hurry() or time.monotonic() >= deadline:
                raise CheckpointNotWrittenError(f"{why}; the earlier checkpoints are whole") from error
            if not warned:
                say(f"seq_transfer: {why}; trying again for {RETRY_SECONDS:.0f} s")
            warned = True
        pause = time.monotonic() + PAUSE_SECONDS
        while time.monotonic() < pause and not in_a_hurry():
            time.sleep(0.1)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of a killed training and, next to a final checkpoint, the previous one."""
    for path in folder.glob(".checkpoint_*.tmp*"):
        path.unlink(missing_ok=True)
    if (folder / FINAL).is_file():
        (folder / PREVIOUS).unlink(missing_ok=True)
