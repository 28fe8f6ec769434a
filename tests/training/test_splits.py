"""The target's splits, which nnU-Net would write in place when its first fold begins, are there whole before that."""

from __future__ import annotations

import json
from typing import Any

import nnunetv2.run.run_training as nnunet_run
import torch

from nnunet_seqtransfer.nnunet.datasets import write_missing_splits
from support.world import TARGET, World


def trainer(fold: int) -> Any:
    return nnunet_run.get_trainer_from_args("901", "3d_fullres", fold, device=torch.device("cpu"))


def test_splits_are_those_that_nnunet_makes(world: World) -> None:
    """The same file, byte for byte in its content, and nnU-Net trains by it."""
    path = world.preprocessed / TARGET / "splits_final.json"
    assert not path.exists()
    theirs = trainer(1).do_split()
    made = json.loads(path.read_text())
    path.unlink()
    write_missing_splits(TARGET, [f"case{number}" for number in (3, 1, 0, 2, 5, 4)])
    assert json.loads(path.read_text()) == made and trainer(1).do_split() == theirs


def test_splits_that_are_there_stay(world: World) -> None:
    """A user's own splits are never replaced, whole or broken."""
    path = world.preprocessed / TARGET / "splits_final.json"
    path.write_text("[{")
    write_missing_splits(TARGET, ["case0"])
    assert path.read_text() == "[{"
