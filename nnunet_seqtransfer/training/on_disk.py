"""Stage state on disk: the only reader for a stage's folders. Nothing is decided or written here."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.nnunet.training_log import TAIL, TrainingLog, read_log, read_training
from nnunet_seqtransfer.storage import found_json, is_sound_archive, is_whole_archive, read_json, sha256
from nnunet_seqtransfer.training.locks import Holder, other_holder
from nnunet_seqtransfer.training.recipe import StageBlock, read_block
from nnunet_seqtransfer.training.stage_files import FINAL, UNFINISHED, StageFiles


@dataclass(frozen=True)
class StageOnDisk:
    """A stage's files and what they tell."""

    files: StageFiles
    "File names."
    exists: bool = False
    "True if the fold's results folder exists."
    whole: tuple[str, ...] = ()
    "Checkpoint names that are not truncated."
    damaged: tuple[str, ...] = ()
    "Truncated checkpoint names; nnU-Net would try to load them and fail."
    validated: bool = False
    "True if the final validation is complete: the summary is readable."
    dice: float | None = None
    "Mean foreground Dice in the final validation, if the summary has one."
    has_probabilities: bool = False
    "True if every validated case has softmax outputs (--npz). Read only with ``details``."
    shared_weights: bool = False
    "True if the file with starting weights for all folds exists."
    own_weights: bool = False
    "True if the file with starting weights for this fold alone exists."
    weights_sha256: str | None = None
    "Starting weights' SHA-256. Read only with ``checksums``."
    has_siblings: bool = False
    "True if another fold, which shares plans and usually starting weights, has a checkpoint."
    log: TrainingLog = field(default_factory=TrainingLog)
    "Last part from nnU-Net's logs: the last epochs and the last error."
    written: float | None = None
    "Newest file time, in seconds since 1970."
    holder: Holder | None = None
    "Other process that holds a stage lock."
    command_log: Path | None = None
    "Stage command's log in the run's folder, if it exists."
    plans: Mapping[str, Any] | None = None
    "Plans file with all blocks; None if there is none. Read only with ``details``."
    block: StageBlock | None = None
    "Plans block for this configuration and fold. Read only with ``details``."

    @property
    def final(self) -> bool:
        """Return True if the final checkpoint is whole."""
        return FINAL in self.whole

    @property
    def unfinished(self) -> bool:
        """Return True if training can resume from a whole checkpoint."""
        return any(name in self.whole for name in UNFINISHED)

    @property
    def has_begun(self) -> bool:
        """Return True if there is training that would be lost."""
        return bool(self.whole)

    @property
    def is_bound(self) -> bool:
        """Return True if any fold's training rests on the plans, the recipe and the weights on disk."""
        return self.has_begun or self.has_siblings

    def is_finished(self, role: str) -> bool:
        """Return True if nothing is left to do: sources need no validation."""
        return self.final and (role == "source" or self.validated)


def read_stage(
    files: StageFiles,
    *,
    run: Path | None = None,
    now: float | None = None,
    details: bool = False,
    checksums: bool = False,
) -> StageOnDisk:
    """Return a stage's state on disk. Checkpoints are not loaded, only checked for being whole.

    Args:
        files: stage file names.
        run: run folder; the command log there is read too.
        now: present time in seconds since 1970, to judge locks.
        details: whether to read the plans and look for softmax outputs too.
        checksums: with ``details``, whether to read the starting weights too; about a second for large networks.

    Raises RecordError if ``details`` are wanted and the plans are damaged.
    """
    times = _times(files.output)
    checkpoints = {name: _is_whole(files.output / name) for name in (FINAL, *UNFINISHED) if name in times}
    summary = found_json(files.summary) if "validation" in times else None
    plans = read_stage_plans(files) if details else None
    block = read_block(plans, files.configuration, files.fold) if plans is not None else None
    command_log = files.log(run) if run is not None else None
    printed = _times_of(command_log)
    log = read_training(files.output, TAIL) if times else TrainingLog()
    error = (read_log(command_log, TAIL).error if command_log and printed else None) or log.error
    return StageOnDisk(
        files=files,
        exists=files.output.is_dir(),
        whole=tuple(name for name, whole in checkpoints.items() if whole),
        damaged=tuple(name for name, whole in checkpoints.items() if not whole),
        validated=isinstance(summary, dict),
        dice=_mean_dice(summary),
        has_probabilities=details and _has_probabilities(files, summary),
        shared_weights=files.shared_weights.is_file(),
        own_weights=files.own_weights.is_file(),
        weights_sha256=_weights_sha256(files, block) if checksums else None,
        has_siblings=_has_siblings(files),
        log=replace(log, error=error),
        written=max([*(time for name, time in times.items() if name != "validation"), *printed], default=None),
        holder=other_holder(files.locks, now),
        command_log=command_log if printed else None,
        plans=plans,
        block=block,
    )


def read_stage_plans(files: StageFiles) -> dict[str, Any] | None:
    """Return a stage's plans with all blocks; None if there are none.

    If the file is missing or broken, nnU-Net's copy next to the results is read instead.

    Raises RecordError if the file is broken and there is no copy.
    """
    try:
        return read_json(
            files.plans, f"the plans file {files.plans_name}", "delete it and run nnUNetv2_seq_train again"
        )
    except RecordError:
        copy = found_json(files.plans_copy)
        if isinstance(copy, dict) and copy.pop("plans_name", None) == files.plans_name:
            copy.pop("continue_training", None)  # nnU-Net's addition
            return {**copy, "plans_name": files.plans_name}
        if files.plans.is_file():
            raise
        return None


def fault_of(checkpoint: Path, *, deeply: bool) -> str | None:
    """Return what is wrong with an existing checkpoint, or None. ``deeply``: also check all checksums, 1 s per GB."""
    if not is_whole_archive(checkpoint):
        return "truncated"
    return "damaged (a checksum in it does not match)" if deeply and not is_sound_archive(checkpoint) else None


def _times(folder: Path) -> dict[str, float]:
    """Return name -> modification time for everything in a folder; empty if it cannot be read."""
    try:
        with os.scandir(folder) as entries:
            return {entry.name: entry.stat(follow_symlinks=False).st_mtime for entry in entries}
    except OSError:
        return {}


def _times_of(path: Path | None) -> list[float]:
    try:
        return [path.stat().st_mtime] if path is not None else []
    except OSError:
        return []


def _is_whole(path: Path) -> bool:
    try:
        return is_whole_archive(path)
    except OSError:  # a file that cannot be read is of no use
        return False


def _has_siblings(files: StageFiles) -> bool:
    try:
        others = [folder for folder in files.base.iterdir() if folder.name.startswith("fold_")]
    except OSError:
        return False
    names = (FINAL, *UNFINISHED)
    return any(_is_whole(folder / name) for folder in others if folder != files.output for name in names)


def _mean_dice(summary: Any) -> float | None:
    try:
        dice = summary["foreground_mean"]["Dice"]
    except (KeyError, TypeError):
        return None
    return float(dice) if isinstance(dice, (int, float)) and dice == dice else None  # noqa: PLR0124 - NaN


def _has_probabilities(files: StageFiles, summary: Any) -> bool:
    if not isinstance(summary, dict):
        return False
    return len(list(files.summary.parent.glob("*.npz"))) >= len(summary.get("metric_per_case", ()))


def _weights_sha256(files: StageFiles, block: StageBlock | None) -> str | None:
    if block is None or block.init is None:
        return None
    path = files.own_weights if block.fold is not None else files.shared_weights
    return sha256(path) if path.is_file() else None
