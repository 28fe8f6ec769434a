"""From a path to stages: which dataset is trained under which plans, after which other stage."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from nnunet_seqtransfer.nnunet.folders import dataset_id, output_base
from nnunet_seqtransfer.tasks.path_syntax import datasets_on, members, numbers, whole_path
from nnunet_seqtransfer.training.recipe import MixedDataset, Recipe
from nnunet_seqtransfer.training.stage_files import StageFiles
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel

TRAINER = "nnUNetTrainerSeqTransfer"
DEFAULT_COVERAGE = 0.5
"""Smallest network share that a pretrained model must provide. A guess."""
ALONE_FROM = 0.5
"""Share of the epochs after which a target's stage trains on the target alone. A guess."""
Role = Literal["source", "target"]
Exclusions = Mapping[str, Mapping[str, tuple[str, ...]]]
"""Target fold -> source -> cases excluded from the source because the fold validates on them."""


@dataclass(frozen=True)
class Stage:
    """One training: a dataset under separate plans, for one fold."""

    path: tuple[str, ...]
    "Path elements up to and including this stage's, see `path_syntax`."
    target: str
    "Target's full name."
    role: Role
    "Stage role in the chain."
    plans_name: str
    "Plans name, which spells the path."
    configuration: str
    "nnU-Net configuration."
    fold: str
    "Fold: all for sources, a number or all for the target."
    recipe: Recipe
    "Recipe that the stage is trained with."
    without: str | None = None
    "Target fold with validation cases that are excluded from the sources up to here; None if nothing is."
    excluded: tuple[str, ...] = ()
    "Cases in this stage's dataset that are excluded from training, sorted."
    pretrained: str | None = None
    "Pretrained model's SHA-256 if the chain starts from one; None for random weights."
    keep_heads: bool = False
    "True if heads for labels with matching names are kept; False if no weights are handed to the stage."
    mixed: tuple[MixedDataset, ...] = ()
    "Further datasets that the stage trains on; their channels and heads are decided when the stage starts."

    @property
    def dataset(self) -> str:
        """Return the dataset that the stage's network and plans are for."""
        return members(self.path[-1])[0]

    @property
    def datasets(self) -> tuple[str, ...]:
        """Return all datasets that the stage trains on, its own first."""
        return (self.dataset, *(one.dataset for one in self.mixed))

    @property
    def base(self) -> Path:
        """Return nnU-Net's results folder, which all folds share."""
        return output_base(self.dataset, TRAINER, self.plans_name, self.configuration)

    @property
    def output(self) -> Path:
        """Return nnU-Net's results folder for this fold."""
        return self.base / f"fold_{self.fold}"

    @property
    def files(self) -> StageFiles:
        """Return all file names."""
        return StageFiles(self.output)

    @property
    def key(self) -> str:
        """Return the identifier in run records and on the command line: DATASET/PLANS/fold_K."""
        return f"{self.dataset}/{self.plans_name}/fold_{self.fold}"

    @property
    def has_own_weights(self) -> bool:
        """Return True if this fold has separate starting weights, since the sources exclude cases for it."""
        return self.role == "target" and self.without is not None

    @property
    def weights(self) -> Path:
        """Return the file with the starting weights; all folds share one unless cases are excluded per fold."""
        return self.files.own_weights if self.has_own_weights else self.files.shared_weights


@dataclass(frozen=True)
class ChainRequest:
    """Request for a chain: a path, a plans name, folds and recipes."""

    target: str
    "Target's full name."
    sources: tuple[str, ...]
    "Path elements before the target, or with the target in the last one, see `path_syntax`; empty for scratch."
    plans: str
    "Target's plans name."
    configuration: str
    "nnU-Net configuration."
    folds: tuple[str, ...]
    "Target folds: numbers, or all."
    source_recipe: Recipe
    "Recipe for source stages. Parts for fine-tuning are dropped if the first stage starts from random weights."
    target_recipe: Recipe
    "Recipe for the target's stage."
    warmup_epochs: int
    "Warm-up epochs for every stage that starts from handed-over weights, at most a tenth of all epochs."
    tag: str | None = None
    "Plans name suffix, to keep chains along one path with different recipes apart."
    overlap: Literal["refuse", "allow", "exclude"] = "refuse"
    "Treatment for source cases that the target validates on."
    pretrained: PretrainedModel | None = None
    "Pretrained model that the first stage starts from; None for random weights."
    min_coverage: float = DEFAULT_COVERAGE
    "Smallest share (0 to 1) that the pretrained model must provide to the network's parameters."
    source_recipes: tuple[Recipe, ...] = ()
    "One recipe per source, in order; empty if `source_recipe` is for all."
    keep_heads: bool = True
    "True if heads for labels with matching names are kept whenever weights are handed over."
    compared: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)
    "Source -> pairs (source channel, target channel) that the plan's affinity compared; empty without a plan."
    replay: float = 0.0
    "Share (0 to below 1) of the batches of later stages that come from the datasets of the stages before."

    @property
    def path(self) -> tuple[str, ...]:
        """Return the path, the target's element last."""
        return whole_path(self.sources, self.target)

    @property
    def datasets(self) -> tuple[str, ...]:
        """Return every dataset but the target, once."""
        return tuple(name for name in datasets_on(self.sources) if name != self.target)

    def recipe(self, path: Sequence[str], role: Role) -> Recipe:
        """Return the recipe requested for the stage at the end of ``path``, whatever weights it starts from."""
        if role == "target":
            return self.target_recipe
        return self.source_recipes[len(path) - 1] if self.source_recipes else self.source_recipe


def chain_stages(request: ChainRequest, exclusions: Exclusions | None = None) -> tuple[Stage, ...]:
    """Return a chain's stages in order: the sources, then one stage for each target fold.

    A stage's plans name spells its path. Source 101 for target 110 trains under nnUNetPlans_for110, source 102 after
    101 under nnUNetPlans_for110_via101, the target after both under nnUNetPlans_via101_102. So chains with a common
    start share those stages, and all folds share their sources. If a source's cases are excluded for fold 0, this
    source and those after it are trained once more for that fold, under names that end in _without0; the target's
    plans name then ends in _disjoint for all numbered folds. Names in a chain that starts from a pretrained model
    end in _init and the first SHA-256 digits. Datasets that train together with a stage's own follow as _with22+23,
    and the replayed percentage as _replay25. The tag comes last.

    Args:
        request: what to train.
        exclusions: for all target folds, requested or not, so that a name does not depend on the request; None
            or empty if nothing is excluded.
    """
    path = request.path
    suffix = _suffix(request)
    stages = []
    for index in range(1, len(path)):
        so_far = path[:index]
        name = f"{request.plans}_for{dataset_id(request.target)}{_via(so_far[:-1])}{_mix(request, so_far)}"
        # excluded cases anywhere along the path make a stage of its own for the fold
        excluded = {fold: (exclusions or {}).get(fold, {}) for fold in request.folds}
        along = {fold: any(cases.get(name) for name in datasets_on(so_far)) for fold, cases in excluded.items()}
        for without in dict.fromkeys(fold if own else None for fold, own in along.items()):
            mark = "" if without is None else f"_without{without}"
            stage = _stage(request, so_far, f"{name}{mark}{suffix}", "all", "source")
            stages.append(_without(stage, without, exclusions or {}))
    begin = "" if request.pretrained or len(members(path[-1])) > 1 else "_scratch"
    name = f"{request.plans}{_via(path[:-1]) or begin}{_mix(request, path)}"
    for fold in request.folds:
        without = fold if exclusions and fold != "all" else None
        stage = _stage(request, path, f"{name}{'' if without is None else '_disjoint'}{suffix}", fold, "target")
        stages.append(_without(stage, without, exclusions or {}))
    return tuple(stages)


def previous_stage(stages: Iterable[Stage], stage: Stage) -> Stage | None:
    """Return the stage that ``stage`` gets weights from: trained without the same cases, otherwise the shared one."""
    before = {other.without: other for other in stages if other.path == stage.path[:-1]}
    return before.get(stage.without, before.get(None))


def _without(stage: Stage, without: str | None, exclusions: Exclusions) -> Stage:
    """Return the stage without the cases that are excluded from its datasets for the fold ``without``."""
    if without is None:
        return stage
    excluded = {name: tuple(sorted(exclusions.get(without, {}).get(name, ()))) for name in stage.datasets}
    mixed = tuple(replace(one, excluded=excluded[one.dataset]) for one in stage.mixed)
    return replace(stage, without=without, excluded=excluded[stage.dataset], mixed=mixed)


def _replayed(request: ChainRequest, path: Sequence[str]) -> tuple[str, ...]:
    """Return the datasets that the stage at the end of ``path`` replays."""
    return tuple(name for name in datasets_on(path[:-1]) if name not in members(path[-1])) if request.replay else ()


def _mixed(request: ChainRequest, path: Sequence[str], role: Role) -> tuple[MixedDataset, ...]:
    """Return the further datasets of the stage at the end of ``path``.

    Joined datasets get equal shares of what is not replayed. The target's stage mixes for half of the epochs only.
    """
    together, replayed = members(path[-1]), _replayed(request, path)
    share = (1 - request.replay if replayed else 1) / len(together)
    shares = {**dict.fromkeys(together[1:], share), **{name: request.replay / len(replayed) for name in replayed}}
    until = ALONE_FROM if role == "target" else 1.0
    # the plans of a first stage: a dataset has the same data in all stages
    plans = f"{request.plans}_for{dataset_id(request.target)}{_suffix(request)}"
    return tuple(MixedDataset(name, plans, share, until=until) for name, share in shares.items())


def _mix(request: ChainRequest, path: Sequence[str]) -> str:
    """Return the part of a plans name that tells what the stage at the end of ``path`` trains on besides its own."""
    others = members(path[-1])[1:]
    joined = f"_with{'+'.join(map(numbers, others))}" if others else ""
    percentage = f"{100 * request.replay:g}".replace(".", "p")  # a folder's name should have no ending
    return joined + (f"_replay{percentage}" if _replayed(request, path) else "")


def _stage(request: ChainRequest, path: tuple[str, ...], plans_name: str, fold: str, role: Role) -> Stage:
    recipe = request.recipe(path, role)
    starts_from_weights = len(path) > 1 or request.pretrained is not None
    return Stage(
        path=path,
        target=request.target,
        role=role,
        plans_name=plans_name,
        configuration=request.configuration,
        fold=fold,
        recipe=recipe.after_handover(request.warmup_epochs) if starts_from_weights else recipe.from_random_weights(),
        pretrained=request.pretrained.sha256 if request.pretrained else None,
        keep_heads=request.keep_heads and starts_from_weights,
        mixed=_mixed(request, path, role),
    )


def _suffix(request: ChainRequest) -> str:
    """Return the end of every plans name in a chain."""
    init = f"_init{request.pretrained.sha256[:8]}" if request.pretrained else ""
    return init + (f"_{request.tag}" if request.tag else "")


def is_target_of(plans_name: str, plans: str) -> bool:
    """Return True if a plans name belongs to a chain's target under ``plans``, not under plans with a longer name."""
    path = r"(_scratch|_via\d[\d+]*(_\d[\d+]*)*|_with\d[\d+]*|_init[0-9a-f]{8})(_.*)?"
    return re.fullmatch(re.escape(plans) + path, plans_name) is not None


def _via(path: Sequence[str]) -> str:
    return f"_via{'_'.join(map(numbers, path))}" if path else ""
