"""Decide what a chain needs, and find every problem that would stop it: pure functions on a survey."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from nnunet_seqtransfer.errors import DatasetError, SeqTransferError, StageError, collecting
from nnunet_seqtransfer.nnunet.folders import preprocessed_folder, results_folder
from nnunet_seqtransfer.nnunet.preprocessing import resampled_shapes
from nnunet_seqtransfer.nnunet.training_log import TrainingLog
from nnunet_seqtransfer.storage import size_text
from nnunet_seqtransfer.tasks.check import size_problems
from nnunet_seqtransfer.training.actions import DONE, Action, Link, needed_actions
from nnunet_seqtransfer.training.estimate import preprocessing_seconds
from nnunet_seqtransfer.training.on_disk import StageOnDisk
from nnunet_seqtransfer.training.prepare import preprocessed_bytes
from nnunet_seqtransfer.training.recipe import KEY, MixedDataset
from nnunet_seqtransfer.training.run_record import run_folder
from nnunet_seqtransfer.training.stages import ChainRequest, Stage
from nnunet_seqtransfer.training.survey import Survey
from nnunet_seqtransfer.transfer.correspondence import Correspondence, Indices, Pairs, fed_channels
from nnunet_seqtransfer.transfer.handoff import InitialWeights, NewNetwork, match_stages
from nnunet_seqtransfer.transfer.tensor_roles import require_parts


@dataclass(frozen=True)
class Outlook:
    """Actions for a chain, and the problems that stop it."""

    survey: Survey
    "Facts behind the decision."
    actions: Mapping[Stage, Action]
    "Next step for each stage."
    seconds: Mapping[Stage, float]
    "Estimated seconds per stage, without preprocessing; 0 if nothing is left."
    request_problems: tuple[SeqTransferError, ...] = ()
    "Problems with the whole request."
    stage_problems: Mapping[Stage, tuple[SeqTransferError, ...]] | None = None
    "Stage -> problems; None if the stages could not be surveyed."
    initial: Mapping[Stage, InitialWeights] = field(default_factory=dict)
    "Hand-offs to the next stages, without tensors; see `look_ahead`."

    @property
    def problems(self) -> tuple[SeqTransferError, ...]:
        """Return every problem; a chain with problems must not be run."""
        of_stages = (error for errors in (self.stage_problems or {}).values() for error in errors)
        return (*self.request_problems, *of_stages)

    @property
    def request(self) -> ChainRequest:
        """Return what was asked for."""
        return self.survey.request

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Return the stages in order."""
        return self.survey.stages

    @property
    def unfinished(self) -> tuple[Stage, ...]:
        """Return the stages with something left to do, in order."""
        return tuple(stage for stage in self.stages if self.actions[stage] not in DONE)

    @property
    def is_finished(self) -> bool:
        """Return True if nothing is left to do."""
        return bool(self.stages) and not self.unfinished

    @property
    def to_preprocess(self) -> dict[str, tuple[str, ...]]:
        """Return source -> cases that are not preprocessed yet, for the sources that will be trained."""
        left = {name for stage in self.unfinished for name in stage.datasets}
        return {name: cases for name, cases in self.survey.missing.items() if name in left}

    @property
    def folder(self) -> Path:
        """Return the folder for record and logs."""
        return run_folder(self.request, self.stages)

    @property
    def preprocessing(self) -> dict[str, float]:
        """Return source -> estimated seconds to preprocess what is missing of it."""
        survey, configuration = self.survey, self.request.configuration
        return {
            name: preprocessing_seconds(
                resampled_shapes(survey.tasks[name].fingerprint, dict(survey.target_plans), configuration),
                len(cases),
                survey.processes,
            )
            for name, cases in self.to_preprocess.items()
        }

    def seconds_left(self, stage: Stage, log: TrainingLog) -> float:
        """Return the seconds until the chain is finished while ``stage`` trains, given what it has logged so far."""
        clock = self.survey.clock.with_log(log, stage.recipe)
        epochs, cases = _left(self.survey, stage, self.actions[stage])
        epochs = min(epochs, max(0, stage.recipe.epochs - log.epochs_done)) if not log.predicted else 0
        left = clock.stage(stage.recipe, epochs, max(0, cases - log.validated), begins=False)
        if log.iteration is not None:
            left -= clock.epoch(stage.recipe) * log.iteration[0] / log.iteration[1]
        later = self.stages[self.stages.index(stage) + 1 :]
        left += sum(clock.stage(one.recipe, *_left(self.survey, one, self.actions[one])) for one in later)
        datasets = {name for one in later for name in one.datasets} - set(stage.datasets)
        return left + sum(seconds for name, seconds in self.preprocessing.items() if name in datasets)

    def cases_left(self, stage: Stage) -> int:
        """Return how many cases the final validation of a stage predicts; 0 if there is none."""
        return _left(self.survey, stage, self.actions[stage])[1]

    def previous(self, stage: Stage) -> Stage | None:
        """Return the stage that hands weights to ``stage``."""
        return self.survey.previous(stage)

    def log(self, stage: Stage) -> Path:
        """Return a stage's log."""
        return stage.files.log(self.folder)

    def title(self, stage: Stage) -> str:
        """Return a stage's title for people: "stage 2 of 3: Dataset024_X fold all"."""
        number = f"stage {self.stages.index(stage) + 1} of {len(self.stages)}"
        count = len(stage.excluded) + sum(len(one.excluded) for one in stage.mixed)
        left_out = f" without {count} of its cases" if count else ""
        return f"{number}: {stage.path[-1]} fold {stage.fold}{left_out}"

    def match(self, stage: Stage) -> Correspondence:
        """Return which channels and heads match between the previous stage and ``stage``."""
        previous = self.previous(stage)
        if previous is None:
            raise ValueError(f"{stage.key} has no previous stage")
        return match_stages(
            self.survey.tasks[previous.dataset], self.network(stage), self._compared(stage, previous.dataset)
        )

    def fed_channels(self, stage: Stage, name: str) -> Indices | None:
        """Return which channels of a further dataset of ``stage`` feed the inputs of its network."""
        tasks = self.survey.tasks
        return fed_channels(tasks[name], tasks[stage.dataset], self._compared(stage, name))

    def _compared(self, stage: Stage, source: str) -> Pairs:
        # the affinity compared each source with the target, so its pairs count only in the target's stage
        return self.request.compared.get(source, ()) if stage.role == "target" else ()

    def network(self, stage: Stage) -> NewNetwork:
        """Return the network that a stage trains."""
        return NewNetwork(
            self.survey.tasks[stage.dataset],
            self.survey.plans[stage],
            stage.configuration,
            stage.recipe.seed,
            stage.keep_heads,
        )

    def weights_are_stale(self, stage: Stage) -> bool:
        """Return True if the weights from the previous stage must be made: none fit, or they would differ now.

        They differ if the previous stage was trained again since. If no other fold has trained from them, they also
        differ if other channels or heads match.
        """
        previous, on_disk = self.previous(stage), self.survey.on_disk[stage]
        init = on_disk.block.init if on_disk.block is not None and weights_fit(stage, on_disk) else None
        if init is None:
            return True
        if previous is None:
            return False
        if self.survey.final_sha256.get(previous, init.checkpoint_sha256) != init.checkpoint_sha256:
            return True
        if on_disk.has_siblings and not stage.has_own_weights:
            return False
        match = self.match(stage)
        return (init.channels, init.heads) != (match.channels, match.heads.indices if match.heads else None)


def decide(survey: Survey) -> Outlook:
    """Return the actions, the estimate and all problems in a surveyed chain. Nothing is read, raised or written."""
    links = [_link(survey, stage) for stage in survey.stages]
    by_key = needed_actions(links, probabilities=survey.options.npz)
    actions = {stage: by_key[stage.key] for stage in survey.stages}
    seconds = {
        stage: survey.clock.stage(stage.recipe, *_left(survey, stage, actions[stage])) for stage in survey.stages
    }
    outlook = Outlook(survey, actions, seconds)
    return replace(
        outlook,
        request_problems=(*survey.problems, *_request_problems(outlook)),
        stage_problems={stage: tuple(_stage_problems(outlook, stage)) for stage in survey.stages},
    )


def weights_fit(stage: Stage, on_disk: StageOnDisk) -> bool:
    """Return True if the handed-over weights are the recorded ones, made with the requested seed and heads.

    Needs an ``on_disk`` that was read with checksums.
    """
    block = on_disk.block
    if block is None or block.init is None or on_disk.weights_sha256 is None:
        return False
    is_asked_for = (block.keep_heads, block.recipe.seed) == (stage.keep_heads, stage.recipe.seed)
    return is_asked_for and on_disk.weights_sha256 == block.init.weights_sha256


def has_mix(stage: Stage, on_disk: StageOnDisk) -> bool:
    """Return True if the further datasets in a stage's block are those that a training rests on."""
    return on_disk.has_begun or (on_disk.has_siblings and not stage.has_own_weights)


def as_requested(mixed: Sequence[MixedDataset]) -> tuple[MixedDataset, ...]:
    """Return further datasets as a request has them, without what is decided when the stage starts."""
    return tuple(replace(one, channels=None, heads=None, heads_sha256=None) for one in mixed)


def _link(survey: Survey, stage: Stage) -> Link:
    previous, on_disk = survey.previous(stage), survey.on_disk[stage]
    after = previous.key if previous is not None else None
    return Link(stage.key, stage.role, after, on_disk, stage.has_own_weights, weights_fit(stage, on_disk))


def _left(survey: Survey, stage: Stage, action: Action) -> tuple[int, int]:
    """Return the epochs, and the cases of the final validation, that a stage has left."""
    done = survey.on_disk[stage].log.epochs_done if action is Action.RESUME else 0
    epochs = max(0, stage.recipe.epochs - done) if action in (Action.START, Action.RESUME) else 0
    is_validated = stage.role == "target" and action not in DONE
    return epochs, survey.clock.held_out(stage.fold) if is_validated else 0


def _request_problems(outlook: Outlook) -> Iterator[SeqTransferError]:
    """Yield problems with devices and disk."""
    survey, configuration = outlook.survey, outlook.request.configuration
    batch = survey.target_plans["configurations"][configuration]["batch_size"]
    if survey.options.gpus > batch:
        yield StageError(
            f"-num_gpus {survey.options.gpus} exceeds the batch size of {batch} ({outlook.request.plans}, "
            f"{configuration}): each GPU needs at least one case; use -num_gpus {batch}"
        )
    for name, cases in outlook.to_preprocess.items():
        yield from size_problems(survey.tasks[name], survey.aligned[name], configuration, cases, survey.memory)
    sizes = {
        name: preprocessed_bytes(survey.tasks[name], survey.aligned[name], configuration, len(cases))
        for name, cases in outlook.to_preprocess.items()
    }
    if sum(sizes.values()) > survey.free_bytes:
        largest = max(sizes, key=lambda name: sizes[name])
        yield DatasetError(
            f"preprocessing needs up to {size_text(sum(sizes.values()))} at the target's spacing ({largest} alone "
            f"{size_text(sizes[largest])}), but {size_text(survey.free_bytes)} are free in {preprocessed_folder()}; "
            f"free space or leave {largest} out"
        )


def _stage_problems(outlook: Outlook, stage: Stage) -> Iterator[SeqTransferError]:
    """Yield why a stage cannot be trained, or may not reuse what is on disk."""
    survey, on_disk, previous = outlook.survey, outlook.survey.on_disk[stage], outlook.previous(stage)
    if on_disk.is_bound:
        yield from _differences(stage, on_disk)
    yield from _plans_problems(stage, on_disk, survey.plans[stage])
    if stage.recipe.needs_places:
        errors: list[SeqTransferError] = []
        recipe = stage.recipe
        with collecting(errors):
            require_parts(
                outlook.network(stage).tensors,
                levels=recipe.layer_decay != 1,
                heads=recipe.heads_first_epochs > 0,
                encoder=recipe.frozen_encoder_epochs > 0,
            )
        yield from errors
    if previous is None:
        return
    link = _link(survey, stage)
    needs_lost_weights = link.shares_used_weights and not link.weights_fit and not survey.on_disk[previous].final
    if outlook.actions[stage] is Action.START and needs_lost_weights:
        yield StageError(
            f"the weights {stage.weights} that other folds began from are gone or damaged, and so is the final "
            f"checkpoint of {previous.base} they were made from; restore one of them, give this chain a name "
            f"of its own with -tag NAME, or delete {stage.base}"
        )
    init = on_disk.block.init if on_disk.block is not None else None
    if init is None or not (on_disk.has_begun or link.shares_used_weights):
        return
    if survey.final_sha256.get(previous, init.checkpoint_sha256) != init.checkpoint_sha256:
        yield StageError(
            f"{stage.base} started from another {previous.files.final.relative_to(results_folder())} than the present "
            f"one (SHA-256 differs); delete {stage.base} to train it again, or restore the old checkpoint"
        )


def _differences(stage: Stage, on_disk: StageOnDisk) -> Iterator[SeqTransferError]:
    """Yield the first way in which training on disk differs from the request: it is never reused or overwritten."""
    remedy = f"give this chain a name of its own with -tag NAME, or delete {stage.base}"
    block = on_disk.block
    if block is None:
        yield StageError(f"{stage.base} holds a training whose plans {stage.plans_name} are gone; {remedy}")
    elif block.path != stage.path:
        yield StageError(f"{stage.plans_name} was trained along {' -> '.join(block.path)}; {remedy}")
    elif block.pretrained != stage.pretrained:
        yield StageError(f"{stage.base} started from another pretrained model than -init gives now; {remedy}")
    elif block.recipe != stage.recipe:
        differing = block.recipe.differences(stage.recipe).items()
        listed = ", ".join(f"{name}: {there} on disk, {asked} requested" for name, (there, asked) in differing)
        yield StageError(f"{stage.base} was trained with a different recipe ({listed}); {remedy}")
    elif block.keep_heads != stage.keep_heads:
        there, option = ("kept", "leave out") if block.keep_heads else ("new", "give")
        yield StageError(f"{stage.base} was trained with {there} heads; {option} --new_heads, {remedy}")
    elif block.excluded != stage.excluded:
        yield StageError(
            f"{stage.base} was trained without {_count(block.excluded)}, but {_count(stage.excluded)} would be "
            f"excluded now (the splits or the data have changed); {remedy}"
        )
    elif has_mix(stage, on_disk) and as_requested(block.mixed) != stage.mixed:
        yield StageError(f"{stage.base} was trained with other shares or cases of further datasets; {remedy}")


def _count(cases: Sequence[str]) -> str:
    return f"{len(cases)} cases ({cases[0]} ...)" if len(cases) > 1 else f"the case {cases[0]}" if cases else "no case"


def _plans_problems(stage: Stage, on_disk: StageOnDisk, plans: Mapping[str, object]) -> Iterator[SeqTransferError]:
    """Yield a problem if the plans file is not ours, or differs from plans that a training rests on."""
    if on_disk.plans is None:
        return
    if KEY not in on_disk.plans:
        if on_disk.is_bound:  # its plans count as gone, which is reported already
            return
        yield StageError(
            f"{stage.files.plans} exists and was not written by nnunet-seqtransfer; rename it, or use -tag NAME"
        )
    elif on_disk.is_bound and {**on_disk.plans, KEY: None} != {**plans, KEY: None}:
        yield StageError(
            f"{stage.base} was trained with other plans than the target's present ones (or the dataset has changed); "
            f"use -tag NAME, or delete {stage.base}"
        )
