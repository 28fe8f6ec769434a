"""From a path to stages: who trains, on what, under which name, after whom."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from nnunet_seqtransfer.chain.block import Recipe
from nnunet_seqtransfer.host.folders import dataset_id, output_base

TRAINER = "nnUNetTrainerSeqTransfer"


@dataclass(frozen=True)
class Stage:
    """One training: a dataset under plans of its own name, for one fold."""

    path: tuple[str, ...]
    "Full names of the datasets up to and including this stage's."
    target: str
    "Full name of the target."
    role: Literal["source", "target"]
    "What it is in the chain."
    plans_name: str
    "Name of the stage's plans; it spells the path."
    configuration: str
    "nnU-Net configuration."
    fold: str
    "all for sources; a fold of the target."
    recipe: Recipe
    "How it is trained."

    @property
    def dataset(self) -> str:
        """The dataset that this stage trains on."""
        return self.path[-1]

    @property
    def base(self) -> Path:
        """nnU-Net's results folder of this stage, all folds."""
        return output_base(self.dataset, TRAINER, self.plans_name, self.configuration)

    @property
    def output(self) -> Path:
        """nnU-Net's results folder of this stage's fold."""
        return self.base / f"fold_{self.fold}"

    @property
    def weights(self) -> Path:
        """The weights handed to this stage; all folds start from the same."""
        return self.base / "seq_transfer_init.pth"


@dataclass(frozen=True)
class ChainRequest:
    """What is to be trained."""

    target: str
    "Full name of the target."
    sources: tuple[str, ...]
    "Full names of the sources in their order; none trains the target from scratch."
    plans: str
    "Name of the target's plans."
    configuration: str
    "nnU-Net configuration."
    folds: tuple[str, ...]
    "Folds of the target."
    source_recipe: Recipe
    "Recipe of the source stages."
    target_recipe: Recipe
    "Recipe of the target's stage."
    warmup_epochs: int
    "Warm-up of every stage that starts from another's weights."
    tag: str | None = None
    "Told apart from chains along the same path with another recipe."


def chain_stages(request: ChainRequest) -> tuple[Stage, ...]:
    """The stages of a chain in their order: each source once, then one stage for each fold of the target.

    A stage's plans name spells its path (tag left out): source 101 for target 110 trains under nnUNetPlans_for110,
    source 102 after 101 under nnUNetPlans_for110_via101, the target after both under nnUNetPlans_via101_102. So
    chains with a common beginning share its stages.
    """
    path = (*request.sources, request.target)
    suffix = f"_{request.tag}" if request.tag else ""
    stages = []
    for place in range(len(request.sources)):
        via = _via(path[:place])
        name = f"{request.plans}_for{dataset_id(request.target)}{via}{suffix}"
        stages.append(_stage(request, path[: place + 1], name, "all", request.source_recipe, "source"))
    name = f"{request.plans}{_via(request.sources) or '_scratch'}{suffix}"
    stages += [_stage(request, path, name, fold, request.target_recipe, "target") for fold in request.folds]
    return tuple(stages)


def _stage(
    request: ChainRequest,
    path: tuple[str, ...],
    plans_name: str,
    fold: str,
    recipe: Recipe,
    role: Literal["source", "target"],
) -> Stage:
    warmup = min(request.warmup_epochs, recipe.epochs // 10) if len(path) > 1 else 0
    return Stage(
        path=path,
        target=request.target,
        role=role,
        plans_name=plans_name,
        configuration=request.configuration,
        fold=fold,
        recipe=Recipe(recipe.epochs, recipe.iterations, recipe.initial_lr, warmup, recipe.seed),
    )


def _via(datasets: Sequence[str]) -> str:
    return "_via" + "_".join(str(dataset_id(name)) for name in datasets) if datasets else ""
