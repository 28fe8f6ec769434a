"""The nnUNetv2_seq_train command for a request, for people who want to repeat it; the inverse of recipe_options.py."""

from collections.abc import Iterator, Sequence
from dataclasses import fields
from typing import Any

from nnunet_seqtransfer.nnunet.folders import dataset_id
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS
from nnunet_seqtransfer.tasks.path_syntax import numbers
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.recipe import WARMUP_EPOCHS, Recipe
from nnunet_seqtransfer.training.stages import DEFAULT_COVERAGE, ChainRequest

Value = str | int | float | None


def seq_train_command(request: ChainRequest, options: DeviceOptions) -> list[str]:
    """Return the nnUNetv2_seq_train command that asks for ``request``, without defaults.

    Only a pretrained model's file name is given, because reports are sent to others.
    """
    words = ["nnUNetv2_seq_train", str(dataset_id(request.target)), request.configuration, *request.folds]
    words += ["-s", *(map(numbers, request.sources) if request.sources else ["none"])]
    for name, values, usual in (*_recipes(request), *_others(request, options)):
        if any(value not in (usual, None) for value in values):
            words += [name, *(repr(value) if isinstance(value, float) else str(value) for value in values)]
    words += {"allow": ["--allow_overlap"], "exclude": ["--exclude_overlap"]}.get(request.overlap, [])
    return words + ["--new_heads"] * (not request.keep_heads) + ["--npz"] * options.npz


def _recipes(request: ChainRequest) -> Iterator[tuple[str, Sequence[Value], Value | Any]]:
    """Yield options, their values and their defaults."""
    target = request.target_recipe
    sources = request.source_recipes or (request.source_recipe,) * (len(request.path) > 1)
    for part in fields(Recipe):
        own: Value = getattr(target, part.name)
        option = part.metadata["option"] or part.name
        if part.name != "warmup_epochs":  # decided per stage, so it is part of the request
            yield f"-{option}", [own], part.default
        if part.metadata["of_sources"]:
            # sources have the target's iterations and learning rate, but epochs of their own
            usual = part.default if part.name == "epochs" else own
            values = [getattr(recipe, part.name) for recipe in sources]
            yield f"-source_{option}", values[:1] if len(set(values)) == 1 else values, usual


def _others(request: ChainRequest, options: DeviceOptions) -> Iterator[tuple[str, Sequence[Value], Value]]:
    usual = DeviceOptions()
    yield "-p", [request.plans], DEFAULT_PLANS
    yield "-warmup_epochs", [request.warmup_epochs], WARMUP_EPOCHS
    yield "-replay", [request.replay], 0.0
    yield "-tag", [request.tag], None
    yield "-init", [request.pretrained.file.name if request.pretrained else None], None
    yield "-min_coverage", [request.min_coverage if request.pretrained else None], DEFAULT_COVERAGE
    yield "-device", [options.device], usual.device
    yield "-num_gpus", [options.gpus], usual.gpus
    yield "-checkpoint_minutes", [options.checkpoint_minutes], usual.checkpoint_minutes
