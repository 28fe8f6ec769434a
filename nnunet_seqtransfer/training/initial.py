"""Weights that a stage starts from, made from the previous stage's checkpoint or a pretrained model."""

from dataclasses import replace
from pathlib import Path

from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.training.actions import Action
from nnunet_seqtransfer.training.decide import Outlook, weights_fit
from nnunet_seqtransfer.training.recipe import Init, MixedDataset
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.transfer.handoff import InitialWeights, from_model, from_stage


def initial_weights(outlook: Outlook, stage: Stage, *, check_only: bool = False) -> InitialWeights | None:
    """Return the weights that a stage starts from; None if they exist, are not needed, or the source is not trained.

    Args:
        outlook: what the chain needs.
        stage: stage in that chain.
        check_only: compare names and shapes only, and return no weights.

    Raises CheckpointError if the checkpoint is damaged or does not fit the network.
    """
    survey, previous, model = outlook.survey, outlook.previous(stage), outlook.request.pretrained
    if outlook.actions[stage] is not Action.START:
        return None
    if previous is None:
        if model is None or weights_fit(stage, survey.on_disk[stage]):
            return None
        return from_model(model, outlook.network(stage), outlook.request.min_coverage, check_only=check_only)
    if not survey.on_disk[previous].final or not outlook.weights_are_stale(stage):
        return None
    return from_stage(
        previous.files.final,
        survey.tasks[previous.dataset],
        outlook.network(stage),
        outlook.match(stage),
        check_only=check_only,
    )


def mixed_datasets(outlook: Outlook, stage: Stage) -> tuple[MixedDataset, ...]:
    """Return the further datasets of a stage that starts, with their channels and heads.

    A dataset that an earlier stage of the chain was for continues with the heads of that stage.
    """
    mixed = []
    for one in stage.mixed:
        completed = replace(one, channels=outlook.fed_channels(stage, one.dataset))
        earlier = outlook.previous(stage)
        while earlier is not None and earlier.dataset != one.dataset:
            earlier = outlook.previous(earlier)
        if earlier is not None and earlier.files.final.is_file():
            heads = str(earlier.files.final.relative_to(results_folder()))
            completed = replace(completed, heads=heads, heads_sha256=sha256(earlier.files.final))
        mixed.append(completed)
    return tuple(mixed)


def write_initial(initial: InitialWeights, stage: Stage) -> Init:
    """Write the weights that a stage starts from, and return their record."""
    from nnunet_seqtransfer.transfer.checkpoints import write_weights  # noqa: PLC0415 - imports torch

    # checkpoints of stages are recorded relative to nnUNet_results, which may be moved; models of others are not
    from_stage_before = len(stage.path) > 1
    origin = str(Path(initial.origin).relative_to(results_folder())) if from_stage_before else initial.origin
    return Init(
        checkpoint=origin,
        checkpoint_sha256=initial.sha256,
        weights=str(stage.weights.relative_to(results_folder())),
        weights_sha256=write_weights(stage.weights, initial.weights),
        coverage=initial.adaptation.coverage,
        channels=initial.match.channels,
        heads=initial.match.heads.indices if initial.match.heads else None,
    )
