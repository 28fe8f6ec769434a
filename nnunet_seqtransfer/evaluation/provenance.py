"""Where a comparison comes from: recipes, files with their checksums, versions, and the machine in words."""

from __future__ import annotations

import os
import platform
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.evaluation.held_out import HeldOutSet
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.training.stages import ChainRequest

PACKAGES = ("nnunetv2", "torch", "numpy", "scipy")


def provenance(
    base: ChainRequest, files: Sequence[Path], device: str, held_out: HeldOutSet | None, *, mirroring: bool
) -> dict[str, Any]:
    """What the record of a comparison says about its origin, as JSON.

    Args:
        base: what all chains have in common.
        files: affinity and plan that the arms were chosen by.
        device: where it is trained.
        held_out: the test set; None for the folds' own cases.
        mirroring: nnU-Net's test time augmentation of the test set; its validation always has it.
    """
    source, target = asdict(base.source_recipe), asdict(base.target_recipe)
    return {
        "source_recipe": {key: value for key, value in source.items() if key != "seed"},
        "target_recipe": {key: value for key, value in target.items() if key != "seed"},
        "warmup_epochs": base.warmup_epochs,
        "overlap": base.overlap,
        "keep_heads": base.keep_heads,
        "test_set": None if held_out is None else held_out.name,
        "mirroring": mirroring or held_out is None,
        "device": device,
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
        "files": {path.name: sha256(path) for path in files},
        "versions": {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}},
    }
