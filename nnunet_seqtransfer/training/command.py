"""The nnUNetv2_seq_train command of a request: what its options would have been, for people who want to repeat it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nnunet_seqtransfer.nnunet.folders import dataset_id
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import DEFAULT_COVERAGE, WARMUP_EPOCHS, ChainRequest

Value = str | int | float | None


def seq_train_command(request: ChainRequest, options: DeviceOptions) -> list[str]:
    """The nnUNetv2_seq_train command that asks for ``request``, with what differs from the defaults.

    Of a model that it begins with only the name is given: pages are sent to others.
    """
    words = ["nnUNetv2_seq_train", str(dataset_id(request.target)), request.configuration, *request.folds]
    words += ["-s", *([str(dataset_id(name)) for name in request.sources] or ["none"])]
    for name, values, usual in (*_recipes(request), *_others(request, options)):
        if any(value not in (usual, None) for value in values):
            words += [name, *(_word(value) for value in values)]
    words += {"allow": ["--allow_overlap"], "exclude": ["--exclude_overlap"]}.get(request.overlap, [])
    return words + ["--keep_heads"] * request.keep_heads + ["--npz"] * options.npz


def _recipes(request: ChainRequest) -> Iterator[tuple[str, Sequence[Value], Value]]:
    """Options, their values, and what they are where they are not given."""
    target, default = request.target_recipe, Recipe()
    sources = request.source_recipes or (request.source_recipe,) * bool(request.sources)
    for name in ("epochs", "iterations", "initial_lr"):
        own: Value = getattr(target, name)
        yield f"-{name}", [own], getattr(default, name)
        # sources have the target's iterations and learning rate, but epochs of their own
        usual = default.epochs if name == "epochs" else own
        yield f"-source_{name}", _shortest([getattr(recipe, name) for recipe in sources]), usual
    for name in ("heads_first_epochs", "frozen_encoder_epochs", "layer_decay", "patience", "seed"):
        yield f"-{name}", [getattr(target, name)], getattr(default, name)


def _others(request: ChainRequest, options: DeviceOptions) -> Iterator[tuple[str, Sequence[Value], Value]]:
    usual = DeviceOptions()
    yield "-p", [request.plans], DEFAULT_PLANS
    yield "-warmup_epochs", [request.warmup_epochs], WARMUP_EPOCHS
    yield "-tag", [request.tag], None
    yield "-init", [request.landmark.file.name if request.landmark else None], None
    yield "-min_coverage", [request.min_coverage if request.landmark else None], DEFAULT_COVERAGE
    yield "-device", [options.device], usual.device
    yield "-num_gpus", [options.gpus], usual.gpus
    yield "-checkpoint_minutes", [options.checkpoint_minutes], usual.checkpoint_minutes


def _shortest(values: list[Value]) -> list[Value]:
    """One value where all are alike, as the options take it."""
    return values[:1] if len(set(values)) == 1 else values


def _word(value: Value) -> str:
    return repr(value) if isinstance(value, float) else str(value)
