"""Handing weights from one stage to the next through a checked file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nnunet_seqtransfer.chain.adaptation import Adaptation, adapt, require_coverage
from nnunet_seqtransfer.chain.block import Init
from nnunet_seqtransfer.chain.checkpoints import adapt_weights, load_checkpoint, write_weights
from nnunet_seqtransfer.chain.first_batch import Activations, activations, random_batch, require_same_order
from nnunet_seqtransfer.chain.landmark import Landmark, channel_names, input_channels, known_network
from nnunet_seqtransfer.chain.stages import Stage
from nnunet_seqtransfer.chain.state import FINAL
from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.host.folders import results_folder
from nnunet_seqtransfer.host.network import fresh_network, is_u_net, network_tensors
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.tasks.task import Task


def adapted_weights(
    previous: Stage, previous_task: Task, stage: Stage, task: Task, plans: dict[str, Any]
) -> dict[str, Tensor]:
    """The weights that ``stage`` starts from, nothing written. Raises as `hand_over`."""
    weights = load_checkpoint(previous.output / FINAL)["network_weights"]
    like = network_tensors(plans, stage.configuration, task.dataset_json)
    return adapt_weights(weights, like, (len(previous_task.channels), len(task.channels)))


def hand_over(previous: Stage, previous_task: Task, stage: Stage, task: Task, plans: dict[str, Any]) -> Init:
    """Writes the weights that ``stage`` starts from, made from the final checkpoint of ``previous``.

    Raises CheckpointError where the checkpoint is damaged or of another architecture than ``plans`` describe.
    """
    checkpoint = previous.output / FINAL
    adapted = adapted_weights(previous, previous_task, stage, task, plans)
    return Init(
        checkpoint=str(checkpoint.relative_to(results_folder())),
        checkpoint_sha256=sha256(checkpoint),
        weights=str(stage.weights.relative_to(results_folder())),
        weights_sha256=write_weights(stage.weights, adapted),
    )


@dataclass(frozen=True)
class Beginning:
    """What an existing model gives to the first stage of a chain; nothing of it is written."""

    landmark: Landmark
    "The model."
    weights: dict[str, Tensor]
    "The stage's body."
    adaptation: Adaptation
    "What was copied, adapted and new."
    channels: tuple[int | None, ...] | None
    "For each of the stage's channels the model's of the same name; None where there is nothing to match by."
    before: Activations | None
    "The first batch through the model's own network; None where its checkpoint does not tell how it was built."
    after: Activations
    "The first batch through the stage's network with these weights."


def begin(landmark: Landmark, stage: Stage, task: Task, plans: dict[str, Any], min_coverage: float) -> Beginning:
    """The weights that the first stage of a chain starts from, made from an existing model.

    Raises CheckpointError where the model cannot be read, gives less than ``min_coverage`` of the network, or gives
    features that are not finite or of another order than its own.
    """
    if not is_u_net(plans, stage.configuration):
        raise CheckpointError(f"plans {stage.plans_name} are of none of nnU-Net's U-Nets; -init cannot adapt to them")
    checkpoint = landmark.load()
    network = fresh_network(plans, stage.configuration, task.dataset_json)
    fresh = network.state_dict()
    channels = match_names(channel_names(checkpoint), tuple(task.channels))
    adapted, adaptation = adapt(checkpoint["network_weights"], fresh, channels)
    require_coverage(adaptation, min_coverage, str(landmark))
    network.load_state_dict({**fresh, **adapted})
    architecture = plans["configurations"][stage.configuration]["architecture"]["arch_kwargs"]
    after = activations(network, random_batch(architecture, len(task.channels)))
    before = _first_batch(checkpoint)
    require_same_order(before, after)
    return Beginning(landmark, adapted, adaptation, channels, before, after)


def write_beginning(beginning: Beginning, stage: Stage) -> Init:
    """Writes the weights that the first stage of a chain starts from."""
    return Init(
        checkpoint=str(beginning.landmark),
        checkpoint_sha256=beginning.landmark.sha256,
        weights=str(stage.weights.relative_to(results_folder())),
        weights_sha256=write_weights(stage.weights, beginning.weights),
        coverage=beginning.adaptation.coverage,
        channels=beginning.channels,
    )


def match_names(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[int | None, ...] | None:
    """For each new channel the place of the old one of the same name, whatever the case; None for those without.

    None where names tell nothing: none is in both, they are alike in the same order, or one occurs twice.
    """
    mine, theirs = [name.casefold() for name in old], [name.casefold() for name in new]
    if mine == theirs or not set(mine) & set(theirs) or len(set(mine)) < len(mine) or len(set(theirs)) < len(theirs):
        return None
    return tuple(mine.index(name) if name in mine else None for name in theirs)


def _first_batch(checkpoint: dict[str, Any]) -> Activations | None:
    known = known_network(checkpoint)
    if known is None:
        return None
    network, architecture = known
    return activations(network, random_batch(architecture, input_channels(checkpoint)))
