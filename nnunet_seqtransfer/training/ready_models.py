"""Find ready models: finished nnU-Net models that a chain to a target can start from without training a source."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import CheckpointError, EnvironmentNotSetError, SeqTransferError, raise_collected
from nnunet_seqtransfer.nnunet.datasets import channel_names, foreground_labels
from nnunet_seqtransfer.nnunet.folders import DATASET_NAME
from nnunet_seqtransfer.overlap.matching import sharing_sources
from nnunet_seqtransfer.planning.record import ReadyModel
from nnunet_seqtransfer.storage import found_json
from nnunet_seqtransfer.tasks.path_syntax import datasets_on
from nnunet_seqtransfer.tasks.task import load_target
from nnunet_seqtransfer.training.recipe import KEY, read_block
from nnunet_seqtransfer.training.stages import DEFAULT_COVERAGE
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel, find_pretrained
from nnunet_seqtransfer.transfer.probe import every_model, model_folders

if TYPE_CHECKING:
    from nnunet_seqtransfer.transfer.handoff import NewNetwork


def find_ready_models(
    target: str,
    plans: str,
    configuration: str,
    files: Sequence[Path],
    context: Context,
    *,
    allow_overlap: bool = False,
) -> dict[str, ReadyModel]:
    """Return dataset -> the model to start from: of the given ones if there is one, else the best in nnUNet_results.

    Models of the target itself, of datasets that share cases with it, and models that give the target's network less
    than `DEFAULT_COVERAGE` are left out. ``context`` is told of each in one line.

    ``files``: checkpoints, exports, results folders, or folders that hold such. ``allow_overlap``: use models that have
    seen cases of the target.

    Raises CheckpointError, or Problems with several, if a given file is no model or cannot be used.
    """
    here = {}
    with suppress(EnvironmentNotSetError):  # planning does without nnUNet_results
        here = {name: models for name, models in every_model(configuration).items() if name != target}
    if not here and not files:
        return {}

    from nnunet_seqtransfer.transfer.handoff import NewNetwork  # noqa: PLC0415 - imports torch

    try:
        task, target_plans = load_target(target, plans, configuration)
    except SeqTransferError as error:
        if files:
            raise
        context.notify(f"models in nnUNet_results are not used: {error}")
        return {}
    network = NewNetwork(task, target_plans, configuration)
    found: dict[str, ReadyModel] = {}
    errors: list[SeqTransferError] = []
    for path in files:
        folders = model_folders(path)
        for folder in folders or [path]:
            try:
                model = _ready(find_pretrained(folder, configuration), network, allow_overlap=allow_overlap)
                found.setdefault(model.dataset, model)
            except SeqTransferError as error:
                if folders:
                    context.notify(f"left out: {error}")
                else:
                    errors.append(error)
    raise_collected(errors)
    for name in sorted(here.keys() - found.keys()):
        reasons = []
        for entry in here[name]:
            try:
                model = _ready(find_pretrained(entry.checkpoint, configuration), network, allow_overlap=allow_overlap)
            except SeqTransferError as error:
                reasons.append(error)
                continue
            found.setdefault(model.dataset, model)
            break
        else:
            context.notify(f"left out: {reasons[0]}")
    return found


def find_named_model(path: Path, configuration: str) -> PretrainedModel:
    """Return the model at ``path`` with the name of the dataset that it was trained on, if it says that.

    Raises CheckpointError if there is no model, or it cannot be read.
    """
    model = find_pretrained(path, configuration)
    checkpoint = model.load(lazy=True)
    with suppress(CheckpointError):
        return replace(model, dataset=_named_dataset(model, checkpoint))
    return model


def require_unchanged(model: PretrainedModel, configuration: str) -> None:
    """Raise CheckpointError if a planned model is gone or has changed."""
    if find_pretrained(model.file, configuration).sha256 != model.sha256:
        raise CheckpointError(f"the planned model has changed: {model}; run nnUNetv2_seq_plan again")


def _ready(model: PretrainedModel, network: NewNetwork, *, allow_overlap: bool) -> ReadyModel:
    """Return a model with all that the plan needs to know. Raises CheckpointError if it cannot be used."""
    from nnunet_seqtransfer.transfer.handoff import from_model  # noqa: PLC0415 - imports torch

    checkpoint, target = model.load(lazy=True), network.task.dataset
    dataset = _named_dataset(model, checkpoint)
    seen = tuple(dict.fromkeys((dataset, *_seen_before(model, checkpoint))))
    shared = (target,) if target in seen else () if allow_overlap else sharing_sources(target, seen)
    if shared:
        raise CheckpointError(f"the model was trained on {shared[0]}, which holds cases of {target}: {model}")
    dataset_json = _told(model, checkpoint, "dataset_json", "dataset.json")
    try:
        labels, channels = tuple(foreground_labels(dataset_json)), channel_names(dataset_json)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise CheckpointError(f"the model does not name its channels and labels: {model}; give it to -init") from None
    cases = dataset_json.get("numTraining")
    return ReadyModel(
        dataset=dataset,
        model=replace(model, dataset=dataset),
        coverage=from_model(model, network, DEFAULT_COVERAGE, check_only=True).adaptation.coverage,
        channels=channels,
        labels=labels,
        cases=cases if isinstance(cases, int) and cases > 0 else None,
    )


def _named_dataset(model: PretrainedModel, checkpoint: dict[str, Any]) -> str:
    name = _told(model, checkpoint, "plans", "plans.json").get("dataset_name")
    if isinstance(name, str) and DATASET_NAME.fullmatch(name):
        return name
    raise CheckpointError(f"the model does not say which dataset it was trained on: {model}; give it to -init")


def _told(model: PretrainedModel, checkpoint: dict[str, Any], key: str, file: str) -> dict[str, Any]:
    """Return what a checkpoint was trained with, from itself or from the results folder around it."""
    arguments = checkpoint.get("init_args")
    content = arguments.get(key) if isinstance(arguments, dict) else None
    if content is None and model.member is None:
        content = found_json(model.file.parents[1] / file)
    return content if isinstance(content, dict) else {}


def _seen_before(model: PretrainedModel, checkpoint: dict[str, Any]) -> tuple[str, ...]:
    """Return the datasets that a model of a chain has seen on the way; none for other trainings."""
    plans = _told(model, checkpoint, "plans", "plans.json")
    block = read_block(plans, str(checkpoint.get("init_args", {}).get("configuration"))) if KEY in plans else None
    if block is None:
        return ()
    if block.pretrained is not None:
        raise CheckpointError(f"the model started from another one, trained on unknown data: {model}")
    return (*datasets_on(block.path), *(mixed.dataset for mixed in block.mixed))
