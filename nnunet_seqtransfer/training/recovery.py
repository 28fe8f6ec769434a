"""Choose the checkpoint that an interrupted training resumes from, if the latest one is damaged or missing."""

from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.context import Notify
from nnunet_seqtransfer.errors import CheckpointError, StageError
from nnunet_seqtransfer.training.actions import Action
from nnunet_seqtransfer.training.on_disk import fault_of
from nnunet_seqtransfer.training.stage_files import BEST, FINAL, LATEST, PREVIOUS, UNFINISHED
from nnunet_seqtransfer.training.stages import Stage


@dataclass(frozen=True)
class Candidates:
    """Sound checkpoints in an unfinished training."""

    latest: bool
    "True if checkpoint_latest.pth is sound."
    best: int | None
    "Epoch in checkpoint_best.pth; None if it is missing or damaged."
    previous: int | None
    "Epoch in checkpoint_previous.pth; None if it is missing or damaged."


def takes_previous(found: Candidates) -> bool:
    """Return True if the previous checkpoint has to be renamed to the latest.

    nnU-Net resumes from the latest checkpoint, otherwise from the best. The latest is never older than the previous
    one, but the best may be of any epoch: it must not win over a previous checkpoint that is further.
    """
    if found.latest or found.previous is None:
        return False
    return found.best is None or found.previous > found.best


def recover(stage: Stage, action: Action, notify: Notify) -> None:
    """Leave only checkpoints in a stage's folder that nnU-Net can load, under the names that it looks for.

    Truncated checkpoints are renamed to ``NAME.damaged``. If the training resumes, so are checkpoints in which a byte
    has changed, and the previous checkpoint replaces a latest one that is damaged or missing.

    Raises StageError if the training should resume and no checkpoint is left.
    """
    if action is not Action.RESUME:
        for name in (FINAL, *UNFINISHED):
            _is_kept(stage.output / name, notify, deeply=False)
        return
    latest, best, previous = (_is_kept(stage.output / name, notify, deeply=True) for name in (LATEST, BEST, PREVIOUS))
    _is_kept(stage.output / FINAL, notify, deeply=False)
    if not (latest or best or previous):
        raise StageError(
            f"every checkpoint in {stage.output} is damaged and was renamed; run the same command again to train this "
            "stage from its start"
        )
    matters = not latest and best and previous  # only then is it worth loading both for their epochs
    found = Candidates(
        latest,
        (_epoch(stage.output / BEST) if matters else 0) if best else None,
        (_epoch(stage.output / PREVIOUS) if matters else 0) if previous else None,
    )
    if takes_previous(found):
        notify(f"{stage.output / LATEST} is not there; the training resumes from {PREVIOUS}")
        (stage.output / PREVIOUS).replace(stage.output / LATEST)


def _is_kept(path: Path, notify: Notify, *, deeply: bool) -> bool:
    """Return True if a checkpoint exists and is sound; rename a damaged one."""
    if not path.is_file():
        return False
    fault = fault_of(path, deeply=deeply)
    if fault is not None:
        notify(f"{path} is {fault}; renamed to {path.name}.damaged")
        path.replace(path.with_name(path.name + ".damaged"))
    return fault is None


def _epoch(path: Path) -> int:
    from nnunet_seqtransfer.transfer.checkpoints import load_checkpoint  # noqa: PLC0415 - imports torch

    try:
        return int(load_checkpoint(path)["current_epoch"])
    except (CheckpointError, KeyError, TypeError, ValueError):  # nnU-Net may be able to read it, but the epoch is lost
        return -1
