"""What is on disk of one stage of a recorded run, each file looked at once and none of them whole."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.nnunet.training_log import TAIL, TrainingLog, read_log, read_training
from nnunet_seqtransfer.runs.presence import Presence, first_presence
from nnunet_seqtransfer.storage import is_whole_archive
from nnunet_seqtransfer.training.locks import training_lock
from nnunet_seqtransfer.training.run_record import Run, StageEntry
from nnunet_seqtransfer.training.stage_files import FINAL, UNFINISHED, stage_lock, stage_log, weights_file
from nnunet_seqtransfer.training.stages import plans_lock


@dataclass(frozen=True)
class StageFiles:
    """What there is of one stage."""

    exists: bool = False
    "Its results folder is there."
    final: bool = False
    "A whole final checkpoint."
    unfinished: bool = False
    "A whole checkpoint to go on from; not looked for beside a final one."
    weights: bool = False
    "The file of weights that were handed to it, and to other folds."
    own_weights: bool = False
    "The file of weights that were handed to this fold alone."
    validated: bool = False
    "The final validation is complete."
    dice: float | None = None
    "Its mean Dice over the foreground."
    end: TrainingLog = field(default_factory=TrainingLog)
    "The last epochs in nnU-Net's logs, and the last error there or in the stage's own log."
    written: float | None = None
    "When a file of it was written last: seconds since 1970."
    presence: Presence | None = None
    "Who is at it, or was."
    log: Path | None = None
    "The stage's own log, where there is one."


def read_stage(run: Run, entry: StageEntry, now: float) -> StageFiles:
    """What there is of a stage now; nothing raises, what cannot be read is not there."""
    output = results_folder() / entry.output
    names = _scan(output)
    final = FINAL in names and is_whole(output / FINAL)
    validated, dice = _validation(output) if "validation" in names else (False, None)
    log = stage_log(run.folder, entry.dataset, entry.plans_name, entry.fold)
    end, printed = read_training(output, TAIL), read_log(log, TAIL)
    times = [*(time for name, time in names.items() if name != "validation"), *_time(log)]
    return StageFiles(
        exists=output.is_dir(),
        final=final,
        unfinished=not final and any(name in names and is_whole(output / name) for name in UNFINISHED),
        weights=weights_file(output.parent).is_file(),
        own_weights=weights_file(output.parent, entry.fold).is_file(),
        validated=validated,
        dice=dice,
        end=replace(end, error=printed.error or end.error),
        written=max(times, default=None),
        presence=first_presence(locks_of(output), now),
        log=log if times and _time(log) else None,
    )


def locks_of(output: Path) -> tuple[Path, Path]:
    """The locks of who is at the stage with that results folder: the command's, `Stage.lock`, and the training's."""
    return stage_lock(output), training_lock(output)


def plans_lock_of(base: Path) -> Path:
    """The lock of whoever writes the plans of the stage with that results folder, all folds; see `Stage.plans_lock`."""
    return plans_lock(base.parent.name, base.name.split("__")[1])


def _scan(folder: Path) -> dict[str, float]:
    """Name -> time of what is in a folder; empty where it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat(follow_symlinks=False).st_mtime for entry in entries}
    except OSError:
        return {}


def _time(path: Path) -> list[float]:
    try:
        return [path.stat().st_mtime]
    except OSError:
        return []


def is_whole(path: Path) -> bool:
    """Whether a checkpoint has its end; a file that cannot be read has none."""
    try:
        return is_whole_archive(path)
    except OSError:
        return False


def is_validated(output: Path) -> bool:
    """Whether the final validation of a stage is complete."""
    return _validation(output)[0]


def _validation(output: Path) -> tuple[bool, float | None]:
    """Whether the final validation is complete, and its mean Dice over the foreground where it says one."""
    try:
        content = json.loads((output / "validation" / "summary.json").read_text())
        if not isinstance(content, dict):
            return False, None
        dice = content["foreground_mean"]["Dice"]
    except (OSError, ValueError, RecursionError):
        return False, None
    except (KeyError, TypeError):
        return True, None
    return True, float(dice) if isinstance(dice, (int, float)) and dice == dice else None  # noqa: PLR0124 - NaN
