"""Whether a training may begin: another one may have been at the same stage since this one looked."""

from __future__ import annotations

from pathlib import Path

from nnunet_seqtransfer.training.stage_files import FINAL

Seen = dict[str, tuple[int, int]]
"""Name of a checkpoint -> its time of change in ns and its size in bytes."""


def seen(folder: Path) -> Seen:
    """The checkpoints in a fold's folder."""
    found = {}
    for path in folder.glob("checkpoint_*.pth"):
        status = path.stat()
        found[path.name] = (status.st_mtime_ns, status.st_size)
    return found


def objection(at_first: Seen, now: Seen, loaded: str | None) -> str | None:
    """Why a training may not begin; None where it may.

    Args:
        at_first: what was there when its process began.
        now: what is there now that it is alone.
        loaded: the name of the checkpoint that it goes on from; None where it begins anew.
    """
    if now != at_first:
        return "another process has trained here since this one began; start it again, and it goes on from there"
    if FINAL in now and loaded != FINAL:
        return "this is trained to its end; delete the folder to train it anew"
    if now and loaded is None:
        return "there is a checkpoint to go on from; use --c, or delete the folder to train it anew"
    return None
