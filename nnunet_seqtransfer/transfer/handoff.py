"""Make the weights that a stage starts from, given the previous stage or a pretrained model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.nnunet.network import fresh_network, is_u_net, network_outputs, network_tensors
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.tasks.task import Task
from nnunet_seqtransfer.transfer.adapt import Adaptation, account, adapt, require_coverage, require_same_architecture
from nnunet_seqtransfer.transfer.correspondence import (
    Correspondence,
    HeadMatch,
    Pairs,
    correspond,
    match_heads,
    match_names,
)
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel, channel_names, outputs
from nnunet_seqtransfer.transfer.tensor_roles import standard_names

if TYPE_CHECKING:  # importing torch takes a second
    from torch import Tensor


@dataclass(frozen=True)
class NewNetwork:
    """The network that a stage is about to train."""

    task: Task
    "Task of the stage."
    plans: dict[str, Any]
    "Plans of the stage."
    configuration: str
    "Configuration in the plans."
    seed: int | None = None
    "Seed for values that nothing gives; None for 0."
    keep_heads: bool = False
    "True if heads with matching label names are kept."

    @property
    def is_u_net(self) -> bool:
        """Return True for a U-Net that nnU-Net's planners choose."""
        return is_u_net(self.plans, self.configuration)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors without values, on torch's meta device."""
        return network_tensors(self.plans, self.configuration, self.task.dataset_json)

    def fresh(self) -> dict[str, Tensor]:
        """Return all tensors as nnU-Net initialises them."""
        return fresh_network(self.plans, self.configuration, self.task.dataset_json, self.seed or 0).state_dict()


@dataclass(frozen=True)
class InitialWeights:
    """Weights that a stage starts from. Nothing is written yet."""

    origin: str
    "Checkpoint that they are made from: a path, or ARCHIVE!MEMBER."
    sha256: str
    "SHA-256 of the checkpoint; empty if a stage was only checked."
    weights: dict[str, Tensor] = field(repr=False)
    "Tensors without heads, plus kept heads; empty if only checked."
    adaptation: Adaptation
    "Copied, adapted and new tensors."
    channels: tuple[str, ...]
    "Channel names of the old network; empty if unknown."
    match: Correspondence
    "Matching channels and heads."


def match_stages(previous: Task, new: NewNetwork, compared: Pairs = ()) -> Correspondence:
    """Match channels and heads with the stage before, on ``previous``; ``compared``: see `correspond`."""
    if new.is_u_net:
        return correspond(previous, new.task, keep_heads=new.keep_heads, compared=compared)
    unknown = HeadMatch(None, "heads: all new, the network is none of nnU-Net's U-Nets")
    return Correspondence(None, unknown if new.keep_heads else None)


def from_stage(
    checkpoint: Path, previous: Task, new: NewNetwork, match: Correspondence, *, check_only: bool = False
) -> InitialWeights:
    """Make initial weights from the final checkpoint of the stage on ``previous``; ``match`` is from `match_stages`.

    ``check_only``: compare names and shapes only, in milliseconds, and return no weights.

    Raises CheckpointError if the checkpoint is damaged, has another architecture, or (unless ``check_only``) holds NaN.
    """
    from nnunet_seqtransfer.transfer.checkpoints import load_checkpoint  # noqa: PLC0415 - imports torch

    weights = load_checkpoint(checkpoint, lazy=check_only, compared=not check_only)["network_weights"]
    inputs = len(previous.channels), len(new.task.channels)
    # Before channels are matched: the match would look for channels that another network may not have.
    require_same_architecture(account(weights, new.tensors, inputs=inputs), inputs, f"the checkpoint {checkpoint}")
    made, adaptation = _adapted(weights, new, match, inputs, check_only=check_only)
    digest = "" if check_only else sha256(checkpoint)
    return InitialWeights(str(checkpoint), digest, made, adaptation, previous.channels, match)


def from_model(
    model: PretrainedModel, new: NewNetwork, min_coverage: float, *, check_only: bool = False
) -> InitialWeights:
    """Make initial weights from a pretrained model, which must give ``min_coverage`` (0 to 1) of the parameters.

    ``check_only``: compare names and shapes only, and return no weights.

    Raises CheckpointError if the model cannot be read, cannot be matched, or gives less than ``min_coverage``.
    """
    if not new.is_u_net:
        raise CheckpointError(
            f"the network of {new.plans.get('plans_name')} is none of nnU-Net's U-Nets, so -init cannot adapt a model "
            "to it; leave out -init"
        )
    checkpoint = model.load(lazy=check_only)
    weights = standard_names(checkpoint["network_weights"], new.tensors, str(model))
    checkpoint = {**checkpoint, "network_weights": weights}
    names = channel_names(checkpoint)
    heads = match_heads(outputs(checkpoint), network_outputs(new.task.dataset_json)) if new.keep_heads else None
    match = Correspondence(match_names(names, new.task.channels), heads)
    made, adaptation = _adapted(weights, new, match, None, check_only=check_only)
    require_coverage(adaptation, min_coverage, str(model))
    return InitialWeights(str(model), model.sha256, made, adaptation, names, match)


def _adapted(
    weights: Mapping[str, Tensor],
    new: NewNetwork,
    match: Correspondence,
    inputs: tuple[int, int] | None,
    *,
    check_only: bool,
) -> tuple[dict[str, Tensor], Adaptation]:
    kept = match.heads.kept if match.heads else None
    if check_only:
        return {}, account(weights, new.tensors, match.channels, kept, inputs)
    return adapt(weights, new.fresh(), match.channels, kept, inputs)
