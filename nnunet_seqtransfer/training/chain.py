"""A chain with everything known: its stages, their plans, and what each needs; nothing is written here."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.nnunet.datasets import require_folds
from nnunet_seqtransfer.nnunet.folders import SEQTRANSFER_FOLDER, results_folder
from nnunet_seqtransfer.nnunet.network import network_tensors
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.tasks.alignment import require_same_dimension
from nnunet_seqtransfer.tasks.task import Task, load_target, load_tasks
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.overlap_guard import find_exclusions
from nnunet_seqtransfer.training.prepare import (
    missing_cases,
    preprocessed_bytes,
    require_batch,
    require_own_plans,
    require_space,
    stage_plans,
)
from nnunet_seqtransfer.training.stage_files import FINAL, stage_log
from nnunet_seqtransfer.training.stages import ChainRequest, Exclusions, Stage, chain_stages, previous_stage
from nnunet_seqtransfer.training.state import Action, StageState, action_of, decide, inspect, require_same_origin
from nnunet_seqtransfer.transfer.correspondence import Correspondence
from nnunet_seqtransfer.transfer.handoff import InitialWeights, NewNetwork, from_model, from_stage, match_stages
from nnunet_seqtransfer.transfer.tensor_roles import require_parts


@dataclass(frozen=True)
class Chain:
    """A chain with everything known before anything is written."""

    request: ChainRequest
    "What was asked for."
    stages: tuple[Stage, ...]
    "In their order."
    tasks: dict[str, Task]
    "Every dataset of the chain by its full name."
    plans: dict[Stage, dict[str, Any]]
    "The plans of each stage, without the block."
    actions: dict[Stage, Action]
    "What each stage needs."
    cases_to_preprocess: dict[str, tuple[str, ...]]
    "Source -> identifiers of the cases that are not preprocessed yet, of the sources that will be trained."

    def previous(self, stage: Stage) -> Stage | None:
        """The stage whose weights this one starts from."""
        return previous_stage(self.stages, stage)

    def network(self, stage: Stage) -> NewNetwork:
        """Return the network that a stage trains."""
        task, plans = self.tasks[stage.dataset], self.plans[stage]
        return NewNetwork(task, plans, stage.configuration, stage.recipe.seed, stage.keep_heads)

    def from_model(self, stage: Stage, state: StageState, *, check_only: bool = False) -> InitialWeights | None:
        """Return the pretrained model's weights for a stage that is about to start from it, otherwise None.

        Raises CheckpointError if the model does not fit.
        """
        landmark, is_next = self.request.landmark, self.actions[stage] is Action.START and not state.weights
        if landmark is None or not is_next or self.previous(stage) is not None:
            return None
        return from_model(landmark, self.network(stage), self.request.min_coverage, check_only=check_only)

    def from_previous(self, previous: Stage, stage: Stage, *, check_only: bool = False) -> InitialWeights:
        """Return the weights that ``previous`` hands to ``stage``. Raises CheckpointError if they do not fit."""
        checkpoint, match = previous.output / FINAL, self.match(previous, stage)
        task = self.tasks[previous.dataset]
        return from_stage(checkpoint, task, self.network(stage), match, check_only=check_only)

    def match(self, previous: Stage, stage: Stage) -> Correspondence:
        """Which channels and heads go together at the hand-off from ``previous``."""
        # what the affinity compared is each source with the target, so that it counts at the last hand-off alone
        compared = self.request.compared.get(previous.dataset, ()) if stage.role == "target" else ()
        return match_stages(self.tasks[previous.dataset], self.network(stage), compared)

    def weights_are_stale(self, previous: Stage, stage: Stage, state: StageState) -> bool:
        """Whether the weights handed from ``previous`` must be made: none are there, or they would be others now.

        So they would where the stage before was trained again since, or, unless another fold has trained from them,
        where other channels or heads go together.
        """
        init = state.block.init if state.weights and state.block is not None else None
        if init is None:
            return True
        checkpoint = previous.output / FINAL
        if checkpoint.is_file() and sha256(checkpoint) != init.checkpoint_sha256:
            return True
        if state.siblings and not stage.has_own_weights:
            return False
        match = self.match(previous, stage)
        return (init.channels, init.heads) != (match.channels, match.heads.indices if match.heads else None)

    def starts_like_another(self, stage: Stage) -> bool:
        """Whether an earlier fold starts from the same weights, so that these need no second look."""
        earlier = self.stages[: self.stages.index(stage)]
        return any(other.weights == stage.weights for other in earlier)

    @property
    def unfinished(self) -> tuple[Stage, ...]:
        """Stages that have something left to do, in the order of the chain."""
        done = (Action.NOTHING, Action.NOT_NEEDED)
        return tuple(stage for stage in self.stages if self.actions[stage] not in done)

    @property
    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return not self.unfinished

    @property
    def folder(self) -> Path:
        """Where the record and the logs of this chain are kept."""
        name = f"{self.stages[-1].plans_name}_{self.request.configuration}"
        return results_folder() / self.request.target / SEQTRANSFER_FOLDER / name

    def log(self, stage: Stage) -> Path:
        """The log of a stage."""
        return stage_log(self.folder, stage.dataset, stage.plans_name, stage.fold)

    def title(self, stage: Stage) -> str:
        """What people are shown: "stage 2 of 3: Dataset024_X fold all", and how many cases are left out."""
        number = f"stage {self.stages.index(stage) + 1} of {len(self.stages)}"
        left_out = f" without {len(stage.excluded)} of its cases" if stage.excluded else ""
        return f"{number}: {stage.dataset} fold {stage.fold}{left_out}"


def load_chain(
    request: ChainRequest,
    processes: int,
    notify: Callable[[str], None],
    *,
    may_extract: bool = True,
    devices: DeviceOptions | None = None,
    before_long: Callable[[], None] | None = None,
    exclusions: Exclusions | None = None,
) -> Chain:
    """Reads and checks everything that a chain depends on; writes nothing but missing fingerprints and sketches.

    Without ``may_extract`` it writes nothing at all, and a missing fingerprint is an error. ``devices`` decide
    whether a final validation without softmax outputs is complete, and how large a batch must be. ``before_long`` is
    called, unless nothing is left to do, before all cases are looked at for shared patients, which takes minutes the
    first time: it may raise. They are not looked at where the ``exclusions`` are known, from `find_exclusions` for
    these sources.

    Raises a SeqTransferError for anything that would stop the chain later: unknown folds, unfit sources, sources that
    hold cases the target validates on, too little space, trainings with another recipe.
    """
    devices = devices or DeviceOptions()
    target, target_plans = load_target(request.target, request.plans, request.configuration)
    require_batch(target_plans, request.configuration, devices.gpus)
    require_folds(target.dataset, request.folds, target.cases)
    sources = load_tasks(request.sources, Context(notify, processes), extract=may_extract)
    for source in sources:
        require_same_dimension(target, source)  # before any case is looked at for shared patients
    tasks = {task.dataset: task for task in [*sources, target]}
    looks_finished = _looks_finished(request, exclusions, devices.npz)
    if before_long and not looks_finished:
        before_long()
    if exclusions is None:
        exclusions = find_exclusions(request, tasks, target_plans, processes, notify, write=may_extract)
    stages = chain_stages(request, exclusions)
    plans = {stage: stage_plans(stage, target_plans, target, tasks[stage.dataset]) for stage in stages}
    states = {stage: inspect(stage) for stage in stages}
    actions = decide(stages, states, probabilities=devices.npz)
    to_preprocess = {
        stage.dataset: missing_cases(tasks[stage.dataset], plans[stage], request.configuration)
        for stage in stages
        if stage.role == "source" and actions[stage] in (Action.START, Action.RESUME)
    }
    chain = Chain(request, stages, tasks, plans, actions, to_preprocess)
    if before_long and looks_finished and not chain.is_finished:
        before_long()
    _check_stages(chain, states)
    return chain


def _looks_finished(request: ChainRequest, exclusions: Exclusions | None, probabilities: bool) -> bool:
    """Whether all folds of the target are finished, as far as that is known before cases are compared.

    Whether sources share cases with it is not known then, and where these are left out the names depend on that.
    """
    possible = [exclusions]
    if exclusions is None and request.overlap == "exclude" and request.sources:
        possible.append({fold: {request.sources[0]: ("any",)} for fold in request.folds})
    with suppress(RecordError):  # plans that cannot be read are said later, if they are those of this chain
        return any(
            all(
                action_of(stage, inspect(stage), probabilities) is Action.NOTHING
                for stage in chain_stages(request, one)
                if stage.role == "target"
            )
            for one in possible
        )
    return False


def _check_stages(chain: Chain, states: dict[Stage, StageState]) -> None:
    for stage in chain.stages:
        require_own_plans(stage, states[stage], chain.plans[stage])
        if stage.recipe.needs_places:
            dataset_json = chain.tasks[stage.dataset].dataset_json
            tensors = network_tensors(chain.plans[stage], stage.configuration, dataset_json)
            recipe = stage.recipe
            require_parts(
                tensors,
                levels=recipe.layer_decay != 1,
                heads=recipe.heads_first_epochs > 0,
                encoder=recipe.frozen_encoder_epochs > 0,
            )
        previous = chain.previous(stage)
        if previous is not None:
            require_same_origin(stage, states[stage], previous)
            if _is_next(chain, stage, previous) and chain.weights_are_stale(previous, stage, states[stage]):
                chain.from_previous(previous, stage, check_only=True)  # raises if it cannot be
        elif not chain.starts_like_another(stage):
            chain.from_model(stage, states[stage], check_only=True)  # raises if the model does not fit
    first = {stage.dataset: stage for stage in reversed(chain.stages)}
    configuration = chain.request.configuration
    require_space(
        [
            (
                chain.tasks[name],
                preprocessed_bytes(chain.tasks[name], chain.plans[first[name]], configuration, len(cases)),
            )
            for name, cases in chain.cases_to_preprocess.items()
        ]
    )


def _is_next(chain: Chain, stage: Stage, previous: Stage) -> bool:
    """Whether the next thing that happens to ``stage`` is the hand-off from ``previous``."""
    return chain.actions[stage] is Action.START and chain.actions[previous] is Action.NOTHING
