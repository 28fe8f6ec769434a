"""What the files of a stage are called: nnU-Net's checkpoints, and our weights, locks and logs."""

from __future__ import annotations

from pathlib import Path

FINAL = "checkpoint_final.pth"
LATEST, BEST, PREVIOUS = "checkpoint_latest.pth", "checkpoint_best.pth", "checkpoint_previous.pth"
UNFINISHED = (LATEST, BEST, PREVIOUS)
"""Checkpoints that a training can go on from. nnU-Net looks for the first, then the second; see chain/recovery.py."""


def weights_file(base: Path, fold: str | None = None) -> Path:
    """The weights handed to a stage with the results folder ``base``; ``fold``: to this one alone, not to all."""
    return base / f"seq_transfer_init{'' if fold is None else f'_fold_{fold}'}.pth"


def stage_lock(output: Path) -> Path:
    """The lock of whoever is at the stage whose fold has the results folder ``output``."""
    return output.parent / f".{output.name}.lock"


def stage_log(run: Path, dataset: str, plans_name: str, fold: str) -> Path:
    """The log of a stage of the run in the folder ``run``."""
    return run / "logs" / f"{dataset}_{plans_name}_fold_{fold}.log"
