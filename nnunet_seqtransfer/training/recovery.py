"""Which checkpoint an interrupted training goes on from, where the latest one is damaged or missing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.errors import CheckpointError, StageError
from nnunet_seqtransfer.storage import is_sound_archive, is_whole_archive
from nnunet_seqtransfer.training.stage_files import BEST, FINAL, LATEST, PREVIOUS, UNFINISHED
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.training.state import Action
from nnunet_seqtransfer.transfer.checkpoints import load_checkpoint


@dataclass(frozen=True)
class Candidates:
    """The checkpoints of an unfinished training that are sound."""

    latest: bool
    "There is a sound checkpoint_latest.pth."
    best: int | None
    "Finished epochs in checkpoint_best.pth; None if it is missing or damaged."
    previous: int | None
    "Finished epochs in checkpoint_previous.pth; None if it is missing or damaged."


def takes_previous(found: Candidates) -> bool:
    """Whether the previous checkpoint has to take the latest one's name.

    nnU-Net goes on from the latest, else from the best. The latest one is never older than the previous one. The best
    one may be of any epoch: without a latest one it may not win over a previous one that is further.
    """
    if found.latest or found.previous is None:
        return False
    return found.best is None or found.previous > found.best


def recover(stage: Stage, action: Action, notify: Callable[[str], None]) -> None:
    """Leaves what nnU-Net can go on from in a stage's folder, under the name that it looks for.

    Checkpoints that are cut off are renamed ``NAME.damaged``, so that nnU-Net does not stumble over them. Where the
    training goes on, so are those in which a byte has changed. The previous checkpoint takes the place of a latest one
    that is damaged or missing.

    Raises StageError where none is left to go on from.
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
            "stage anew"
        )
    both = not latest and best and previous  # only then is it worth reading how far they are
    found = Candidates(
        latest,
        (_epochs(stage.output / BEST) if both else 0) if best else None,
        (_epochs(stage.output / PREVIOUS) if both else 0) if previous else None,
    )
    if takes_previous(found):
        notify(f"{stage.output / LATEST} is not there; the training goes on from {PREVIOUS}")
        (stage.output / PREVIOUS).replace(stage.output / LATEST)


def _is_kept(path: Path, notify: Callable[[str], None], *, deeply: bool) -> bool:
    """Whether a checkpoint is there and sound; a damaged one is renamed."""
    if not path.is_file():
        return False
    fault = "" if is_whole_archive(path) else "truncated"
    if not fault and deeply and not is_sound_archive(path):
        fault = "damaged (a checksum in it does not fit)"
    if fault:
        notify(f"{path} is {fault}; renamed to {path.name}.damaged")
        path.replace(path.with_name(path.name + ".damaged"))
    return not fault


def _epochs(path: Path) -> int:
    try:
        return int(load_checkpoint(path)["current_epoch"])
    except (CheckpointError, KeyError, TypeError, ValueError):  # readable by nnU-Net perhaps, but not known how far
        return -1
