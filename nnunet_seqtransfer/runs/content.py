"""The status of runs as JSON, for machines; docs/reference/files.md describes it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from nnunet_seqtransfer.runs.presence import Presence
from nnunet_seqtransfer.runs.status import RunStatus, StageStatus

STATUS_FORMAT = 1


def status_content(runs: Sequence[RunStatus]) -> dict[str, Any]:
    """All runs, in their order."""
    return {"kind": "status", "format": STATUS_FORMAT, "runs": [_run(run) for run in runs]}


def continue_command(run: RunStatus) -> tuple[str, ...] | None:
    """The command that goes on with a run; None where nothing is left to do, or it is not known what."""
    return ("nnUNetv2_seq_continue", run.name) if run.is_left else None


def _run(status: RunStatus) -> dict[str, Any]:
    run, command = status.run, continue_command(status)
    return {
        "name": status.name,
        "folder": str(status.folder),
        "state": status.state.name.lower(),
        "problem": status.problem,
        "target": run.request.target if run else None,
        "sources": list(run.request.sources) if run else [],
        "configuration": run.request.configuration if run else None,
        "folds": list(run.request.folds) if run else [],
        "started": run.started if run else None,
        "version": run.version if run else None,
        "written": _time(status.written),
        "seconds_left": status.seconds_left if run else None,
        "continue": list(command) if command else None,
        "stages": [_stage(stage) for stage in status.stages],
    }


def _stage(stage: StageStatus) -> dict[str, Any]:
    files, last = stage.files, stage.files.end.last
    mean = last.mean_dice if last else math.nan
    return {
        "key": stage.entry.key,
        "dataset": stage.entry.dataset,
        "fold": stage.entry.fold,
        "role": stage.role,
        "after": stage.entry.after,
        "output": stage.entry.output,
        "state": stage.state.name.lower(),
        "epochs": stage.entry.recipe.epochs,
        "epochs_done": stage.epochs_done,
        "epochs_left": stage.epochs_left,
        "epoch_seconds": files.end.median_seconds,
        "seconds_left": stage.seconds_left,
        "pseudo_dice": None if math.isnan(mean) else mean,
        "pseudo_dice_of_labels": [None if math.isnan(dice) else dice for dice in last.pseudo_dice] if last else [],
        "validation_dice": files.dice if files.validated and stage.role == "target" else None,
        "written": _time(files.written),
        "error": stage.error,
        "log": str(files.log) if files.log else None,
        "holder": _holder(files.presence),
        "queue": stage.queue,
    }


def _holder(presence: Presence | None) -> dict[str, Any] | None:
    return asdict(presence) if presence is not None else None


def _time(seconds: float | None) -> str | None:
    """ISO 8601, UTC."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, timezone.utc).isoformat(timespec="seconds")
