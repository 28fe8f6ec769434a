"""From a path to stages: who trains, on what, under which name, after whom."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from nnunet_seqtransfer.nnunet.folders import dataset_id, output_base
from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stage_files import stage_lock, weights_file
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel

if TYPE_CHECKING:
    from nnunet_seqtransfer.transfer.correspondence import Pairs

TRAINER = "nnUNetTrainerSeqTransfer"
DEFAULT_COVERAGE = 0.5
"""The smallest coverage that is worth the name of pre-training. A guess."""
WARMUP_EPOCHS = 5
"""Epochs of warm-up after a hand-off, unless asked otherwise. A guess."""
Exclusions = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Fold of the target -> source -> its cases that are left out, since the fold validates on them."""


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
    without: str | None = None
    "The fold of the target whose validation cases are left out of the sources up to here; None where nothing is."
    excluded: tuple[str, ...] = ()
    "The cases that are left out of this stage's own training, sorted."
    landmark: str | None = None
    "SHA-256 of the model that the chain begins with; None where its first stage starts from random weights."
    keep_heads: bool = False
    "Whether it starts with the heads of labels whose names are in both; False where no weights are handed to it."

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
    def key(self) -> str:
        """By what the record of a run, which is of one configuration, and commands know it: DATASET/PLANS/fold_K."""
        return f"{self.dataset}/{self.plans_name}/fold_{self.fold}"

    @property
    def lock(self) -> Path:
        """The lock of whoever is at this stage."""
        return stage_lock(self.output)

    @property
    def plans_lock(self) -> Path:
        """The lock of whoever writes the plans file, which all folds and configurations share."""
        return plans_lock(self.dataset, self.plans_name)

    @property
    def has_own_weights(self) -> bool:
        """Whether this fold starts from weights of its own, its sources having been trained without its cases."""
        return self.role == "target" and self.without is not None

    @property
    def weights(self) -> Path:
        """The weights handed to this stage; all folds start from the same, unless cases are left out for each."""
        return weights_file(self.base, self.fold if self.has_own_weights else None)


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
    "Recipe of the source stages; parts that are for a network with weights are left out of a first one without."
    target_recipe: Recipe
    "Recipe of the target's stage."
    warmup_epochs: int
    "Warm-up of every stage that starts from another's weights."
    tag: str | None = None
    "Told apart from chains along the same path with another recipe."
    overlap: Literal["refuse", "allow", "exclude"] = "refuse"
    "What is done about cases of the sources that the target validates on."
    landmark: PretrainedModel | None = None
    "An existing model whose weights the first stage starts from; None for random weights."
    min_coverage: float = DEFAULT_COVERAGE
    "The least share of the network's parameters that the landmark must give."
    source_recipes: tuple[Recipe, ...] = ()
    "One for each source in their order, where they differ; empty where `source_recipe` is that of all."
    keep_heads: bool = False
    "Whether heads of labels with matching names are kept at every hand-off."
    compared: Mapping[str, Pairs] = field(default_factory=dict)
    "Source -> its channels and the target's that the affinity of the plan compared; empty for an order of one's own."

    def recipe(self, path: Sequence[str], role: Literal["source", "target"]) -> Recipe:
        """The recipe asked for of the stage at the end of ``path``, whatever weights it starts from."""
        if role == "target":
            return self.target_recipe
        return self.source_recipes[len(path) - 1] if self.source_recipes else self.source_recipe


def chain_stages(request: ChainRequest, exclusions: Exclusions | None = None) -> tuple[Stage, ...]:
    """The stages of a chain in their order: the sources, then one stage for each fold of the target.

    A stage's plans name spells its path (tag left out): source 101 for target 110 trains under nnUNetPlans_for110,
    source 102 after 101 under nnUNetPlans_for110_via101, the target after both under nnUNetPlans_via101_102, its
    sources trained for another target under that one's number. So
    chains with a common beginning share its stages. So do the folds of the target, but for sources from which, or from
    one before which, cases are left out: these are trained once for each such fold, 0 say, under names that end in
    _without0. The target's plans name then ends in _disjoint, for all of its numbered folds alike. All names in a chain
    that begins with an existing model end in _init and the first digits of its checkpoint's SHA-256.

    Args:
        request: what is to be trained.
        exclusions: of all folds of the target, whether asked for or not, so that a name does not depend on that; None
            and empty where nothing is left out.
    """
    path = (*request.sources, request.target)
    suffix = f"_init{request.landmark.sha256[:8]}" if request.landmark else ""
    suffix += f"_{request.tag}" if request.tag else ""
    stages = []
    for place, source in enumerate(request.sources):
        via = _via(path[:place])
        name = f"{request.plans}_for{dataset_id(request.target)}{via}"
        folds = {fold: _excludes(exclusions or {}, fold, path[: place + 1]) for fold in request.folds}
        for without in dict.fromkeys(fold if excludes else None for fold, excludes in folds.items()):
            excluded = () if without is None else tuple(sorted((exclusions or {})[without].get(source, ())))
            mark = "" if without is None else f"_without{without}"
            stage = _stage(request, path[: place + 1], f"{name}{mark}{suffix}", "all", "source")
            stages.append(replace(stage, without=without, excluded=excluded))
    name = f"{request.plans}{_via(request.sources) or ('' if request.landmark else '_scratch')}"
    for fold in request.folds:
        without = fold if exclusions and fold != "all" else None
        stage = _stage(request, path, f"{name}{'' if without is None else '_disjoint'}{suffix}", fold, "target")
        stages.append(replace(stage, without=without))
    return tuple(stages)


def plans_lock(dataset: str, plans_name: str) -> Path:
    """See `Stage.plans_lock`."""
    path = plans_path(dataset, plans_name)
    return path.with_name(f".{path.name}.lock")


def previous_stage(stages: Iterable[Stage], stage: Stage) -> Stage | None:
    """The stage whose weights ``stage`` starts from: the one trained without the same cases, else the common one."""
    before = {other.without: other for other in stages if other.path == stage.path[:-1]}
    return before.get(stage.without, before.get(None))


def _excludes(exclusions: Exclusions, fold: str, path: Sequence[str]) -> bool:
    """Whether cases are left out for a fold anywhere along the path."""
    return any(exclusions.get(fold, {}).get(dataset) for dataset in path)


def _stage(
    request: ChainRequest, path: tuple[str, ...], plans_name: str, fold: str, role: Literal["source", "target"]
) -> Stage:
    recipe = request.recipe(path, role)
    starts_from_weights = len(path) > 1 or request.landmark is not None
    warmup = min(request.warmup_epochs, recipe.epochs // 10)
    return Stage(
        path=path,
        target=request.target,
        role=role,
        plans_name=plans_name,
        configuration=request.configuration,
        fold=fold,
        recipe=replace(recipe, warmup_epochs=warmup) if starts_from_weights else recipe.from_random_weights(),
        landmark=request.landmark.sha256 if request.landmark else None,
        keep_heads=request.keep_heads and starts_from_weights,
    )


def is_target_of(plans_name: str, plans: str) -> bool:
    """Whether a plans name can be that of a chain's target under ``plans``, and not under plans with a longer name."""
    path = r"(_scratch|_via\d+(_\d+)*|_init[0-9a-f]{8})(_.*)?"
    return re.fullmatch(re.escape(plans) + path, plans_name) is not None


def _via(datasets: Sequence[str]) -> str:
    return "_via" + "_".join(str(dataset_id(name)) for name in datasets) if datasets else ""
