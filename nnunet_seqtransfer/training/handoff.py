"""Handing weights from one stage to the next through a checked file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.nnunet.network import fresh_network, is_u_net, network_outputs, network_tensors
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.tasks.task import Task
from nnunet_seqtransfer.training.recipe import Init
from nnunet_seqtransfer.training.stage_files import FINAL
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.transfer.adapt import Adaptation, adapt, require_coverage
from nnunet_seqtransfer.transfer.checkpoints import adapt_weights, load_checkpoint, write_weights
from nnunet_seqtransfer.transfer.correspondence import (
    Correspondence,
    HeadMatch,
    Pairs,
    correspond,
    match_heads,
    match_names,
)
from nnunet_seqtransfer.transfer.first_batch import Activations, activations, random_batch, require_same_order
from nnunet_seqtransfer.transfer.pretrained import Landmark, channel_names, input_channels, known_network, outputs


def stage_correspondence(
    previous_task: Task, stage: Stage, task: Task, plans: dict[str, Any], compared: Pairs = ()
) -> Correspondence:
    """What goes together in ``stage`` and the one before, on ``previous_task``; ``compared``: see `correspond`."""
    if is_u_net(plans, stage.configuration):
        return correspond(previous_task, task, keep_heads=stage.keep_heads, compared=compared)
    unknown = HeadMatch(None, "heads: all new, the network is none of nnU-Net's U-Nets")
    return Correspondence(None, unknown if stage.keep_heads else None)


def adapted_weights(
    previous: Stage, stage: Stage, tasks: tuple[Task, Task], plans: dict[str, Any], match: Correspondence
) -> dict[str, Tensor]:
    """The weights that ``stage`` starts from, nothing written; ``tasks`` are both stages'. Raises as `hand_over`."""
    weights = load_checkpoint(previous.output / FINAL, compared=True)["network_weights"]
    like = network_tensors(plans, stage.configuration, tasks[1].dataset_json)
    adapted = adapt_weights(weights, like, (len(tasks[0].channels), len(tasks[1].channels)))
    kept = match.heads.kept if match.heads else {}
    if match.channels is None and not kept:
        return adapted
    fresh = fresh_network(plans, stage.configuration, tasks[1].dataset_json, stage.recipe.seed or 0)
    return adapt(weights, fresh.state_dict(), match.channels, kept)[0]


def hand_over(
    previous: Stage, stage: Stage, tasks: tuple[Task, Task], plans: dict[str, Any], match: Correspondence
) -> Init:
    """Writes the weights that ``stage`` starts from, made from the final checkpoint of ``previous``.

    Raises CheckpointError where the checkpoint is damaged or of another architecture than ``plans`` describe.
    """
    checkpoint = previous.output / FINAL
    adapted = adapted_weights(previous, stage, tasks, plans, match)
    return Init(
        channels=match.channels,
        heads=match.heads.places if match.heads else None,
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
    names: tuple[str, ...]
    "Its input channels; empty where its checkpoint does not name them."
    match: Correspondence
    "Which of its channels and heads go with which of the stage's."
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
    network = fresh_network(plans, stage.configuration, task.dataset_json, stage.recipe.seed or 0)
    fresh = network.state_dict()
    names = channel_names(checkpoint)
    heads = match_heads(outputs(checkpoint), network_outputs(task.dataset_json)) if stage.keep_heads else None
    match = Correspondence(match_names(names, task.channels), heads)
    adapted, adaptation = adapt(checkpoint["network_weights"], fresh, match.channels, heads.kept if heads else None)
    require_coverage(adaptation, min_coverage, str(landmark))
    network.load_state_dict({**fresh, **adapted})
    architecture = plans["configurations"][stage.configuration]["architecture"]["arch_kwargs"]
    after = activations(network, random_batch(architecture, len(task.channels)))
    before = _first_batch(checkpoint)
    require_same_order(before, after)
    return Beginning(landmark, adapted, adaptation, names, match, before, after)


def write_beginning(beginning: Beginning, stage: Stage) -> Init:
    """Writes the weights that the first stage of a chain starts from."""
    return Init(
        checkpoint=str(beginning.landmark),
        checkpoint_sha256=beginning.landmark.sha256,
        weights=str(stage.weights.relative_to(results_folder())),
        weights_sha256=write_weights(stage.weights, beginning.weights),
        coverage=beginning.adaptation.coverage,
        channels=beginning.match.channels,
        heads=beginning.match.heads.places if beginning.match.heads else None,
    )


def _first_batch(checkpoint: dict[str, Any]) -> Activations | None:
    known = known_network(checkpoint)
    if known is None:
        return None
    network, architecture = known
    return activations(network, random_batch(architecture, input_channels(checkpoint)))
