"""Models in nnUNet_results that a chain to a target could begin with, so that a plan can offer them."""

from __future__ import annotations

import contextlib
import itertools
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from nnunet_seqtransfer.errors import EnvironmentNotSetError, SeqTransferError
from nnunet_seqtransfer.nnunet.datasets import read_dataset_json
from nnunet_seqtransfer.nnunet.folders import DATASET_NAME, results_folder
from nnunet_seqtransfer.nnunet.network import is_u_net, network_tensors
from nnunet_seqtransfer.nnunet.plans import read_plans
from nnunet_seqtransfer.overlap.shared_cases import share_origin
from nnunet_seqtransfer.training.recipe import KEY
from nnunet_seqtransfer.training.stage_files import FINAL
from nnunet_seqtransfer.training.stages import DEFAULT_COVERAGE
from nnunet_seqtransfer.transfer.adapt import account
from nnunet_seqtransfer.transfer.checkpoints import load_checkpoint
from nnunet_seqtransfer.transfer.pretrained import checkpoint_in

MOST = 5
Shapes = tuple[tuple[str, tuple[int, ...]], ...]


@dataclass(frozen=True)
class Offer:
    """One model, that of a results folder of nnU-Net's."""

    folder: Path
    "TRAINER__PLANS__CONFIGURATION in nnUNet_results."
    distance: float
    "Of its dataset to the target, from the affinity; infinite where it is not known."
    coverage: float
    "Share of the target's network that it gives."

    @property
    def dataset(self) -> str:
        """Full name of the dataset that it was trained on."""
        return self.folder.parent.name

    @property
    def parts(self) -> tuple[str, ...]:
        """Trainer, plans and configuration."""
        return tuple(self.folder.name.split("__"))


@dataclass(frozen=True)
class Offers:
    """The models for one target."""

    best: tuple[Offer, ...]
    "Nearest dataset first, then the highest coverage; at most `MOST`."
    broken: tuple[str, ...]
    "What could not be read of those looked at, and why; a line each."


def find_offers(target: str, plans_name: str, configuration: str, distances: Mapping[str, float]) -> Offers:
    """The models that fit: coverage of at least `DEFAULT_COVERAGE`, not of our own chains, not of the target's cases.

    Datasets are gone through by distance until enough models fit. Of each checkpoint only the names and shapes of the
    tensors are read, nothing that it holds is run. What does not stand in nnU-Net's folders, as on which patients a
    model was pre-trained, is not known.

    Args:
        target: full name.
        plans_name: of the target's plans.
        configuration: of these.
        distances: dataset -> distance to the target, of those in the affinity.
    """
    try:
        plans, dataset_json = read_plans(target, plans_name, configuration), read_dataset_json(target)
    except SeqTransferError:
        return Offers((), ())  # an affinity can be planned on without them, though not trained
    if not is_u_net(plans, configuration):
        return Offers((), ())
    fresh = network_tensors(plans, configuration, dataset_json)
    known: dict[Shapes, float] = {}
    found: list[Offer] = []
    broken: list[str] = []

    def distance(folder: Path) -> float:
        return distances.get(folder.parent.name, math.inf)

    for far, folders in itertools.groupby(sorted(_models(target), key=lambda f: (distance(f), f)), key=distance):
        for folder in folders:
            try:
                coverage = _coverage(checkpoint_in(folder), fresh, known)
            except Exception as error:  # anything can be wrong with a file that nobody asked for: planning goes on
                reason = next(iter(str(error).splitlines()), "") or type(error).__name__
                broken.append(f"{folder} is not offered: {reason[:300]}")
                continue
            if coverage >= DEFAULT_COVERAGE:
                found.append(Offer(folder, far, coverage))
        if len(found) >= MOST:
            break
    best = sorted(found, key=lambda offer: (offer.distance, -offer.coverage, offer.folder))[:MOST]
    return Offers(tuple(best), tuple(broken))


def _models(target: str) -> Iterator[Path]:
    """Results folders with a final checkpoint, of other cases than the target's and not of our own chains."""
    with contextlib.suppress(EnvironmentNotSetError):  # planning does without nnUNet_results
        for dataset in sorted(results_folder().iterdir()):
            if not DATASET_NAME.fullmatch(dataset.name) or share_origin(dataset.name, target):
                continue
            for folder in sorted(dataset.glob("*__*__*")):
                if folder.name.count("__") == 2 and any(folder.glob(f"fold_*/{FINAL}")) and not _is_stage(folder):
                    yield folder


def _is_stage(folder: Path) -> bool:
    """Whether the model is a stage of one of our chains: these are found and shared by their names."""
    try:
        return KEY in json.loads((folder / "plans.json").read_text())
    except (OSError, TypeError, ValueError):
        return False  # nnU-Net's plans are missing or broken; the checkpoint decides


def _coverage(checkpoint: Path, fresh: Mapping[str, Tensor], known: dict[Shapes, float]) -> float:
    """The share of the network with the tensors ``fresh`` that a checkpoint gives; 0 for a stage of our own.

    ``known``: that of networks looked at before, filled in.
    """
    content = load_checkpoint(checkpoint, remedy="restore it, or delete its folder", lazy=True)
    arguments = content.get("init_args")
    if isinstance(arguments, dict) and KEY in (arguments.get("plans") or ()):
        return 0.0
    weights = content["network_weights"]
    shapes = tuple((name, tuple(tensor.shape)) for name, tensor in weights.items())
    if shapes not in known:
        likes = {name: torch.empty_like(tensor, device="meta") for name, tensor in weights.items()}
        known[shapes] = account(likes, fresh).coverage
    return known[shapes]
