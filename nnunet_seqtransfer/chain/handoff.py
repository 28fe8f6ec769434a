"""Handing weights from one stage to the next through a checked file."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nnunet_seqtransfer.chain.block import Init
from nnunet_seqtransfer.chain.checkpoints import adapt_weights, load_checkpoint, write_weights
from nnunet_seqtransfer.chain.stages import Stage
from nnunet_seqtransfer.chain.state import FINAL
from nnunet_seqtransfer.host.folders import results_folder
from nnunet_seqtransfer.host.network import network_tensors
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
