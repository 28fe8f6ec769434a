"""Models as others leave them: checkpoints, results folders, malicious files."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from support.u_nets import trained
from support.world import TARGET, World

MODEL = "Dataset500_Theirs/nnUNetTrainer__nnUNetPlans__3d_fullres"


CLASS = "dynamic_network_architectures.architectures.unet.PlainConvUNet"


def checkpoint(settings: dict[str, Any], channels: tuple[str, ...] = ("MRI",), seed: int = 7) -> dict[str, Any]:
    """What nnU-Net's trainer saves, as far as it matters: weights, and what the trainer was made with."""
    kwargs = {"network_class_name": CLASS, "arch_kwargs": settings}
    needed = {**kwargs, "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"]}
    plans = {"plans_name": "nnUNetPlans", "configurations": {"3d_fullres": {"architecture": needed}}}
    dataset_json = {"channel_names": {str(i): name for i, name in enumerate(channels)}, "labels": {"background": 0}}
    return {
        "network_weights": trained(settings, len(channels), seed=seed).state_dict(),
        "init_args": {"plans": plans, "configuration": "3d_fullres", "fold": 0, "dataset_json": dataset_json},
        "trainer_name": "nnUNetTrainer",
    }


def save(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)
    return path


class Malicious:
    """Creates a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def theirs(world: World, path: Path) -> tuple[Path, dict[str, Any]]:
    """A model like the target's, one stage less deep and with two channels; and the target's own arch_kwargs."""
    plans = json.loads((world.preprocessed / TARGET / "nnUNetPlans.json").read_text())
    own = plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"]
    shallow = {key: value[:-1] if isinstance(value, list) else value for key, value in own.items()}
    return save(path, checkpoint({**shallow, "n_stages": own["n_stages"] - 1}, ("other", "T1"))), own
