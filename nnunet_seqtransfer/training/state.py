"""What is left to do: a pure function of the files that exist."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.storage import found_json, is_whole_archive, sha256
from nnunet_seqtransfer.training.plans_file import read_stage_plans
from nnunet_seqtransfer.training.recipe import StageBlock, read_block
from nnunet_seqtransfer.training.stage_files import FINAL, UNFINISHED
from nnunet_seqtransfer.training.stages import Stage, previous_stage


class Action(enum.Enum):
    """What a stage needs."""

    NOTHING = "finished"
    NOT_NEEDED = "not needed, what builds on it is further"
    VALIDATE = "trained, its final validation is missing"
    RESUME = "goes on from its checkpoint"
    START = "starts"


@dataclass(frozen=True)
class StageState:
    """What is on disk of one stage."""

    block: StageBlock | None
    "The block of its plans; None where there are no plans of that name, or none for this configuration."
    final: bool
    "There is a whole final checkpoint."
    unfinished: bool
    "There is a whole checkpoint to go on from."
    validated: bool
    "The final validation is complete."
    weights: bool
    "The weights handed to it are there, are the ones recorded, and of the seed and the choice of heads asked for now."
    damaged: tuple[Path, ...]
    "Truncated checkpoints that nnU-Net would try to load and fail."
    siblings: bool = False
    "Another fold, which shares plans and mostly starting weights with this one, has begun."
    probabilities: bool = False
    "Every case of the final validation has its softmax outputs beside it (--npz)."

    @property
    def has_begun(self) -> bool:
        """Whether there is training that would be lost."""
        return self.final or self.unfinished

    @property
    def is_bound(self) -> bool:
        """Whether training, of this fold or another, rests on the plans, the recipe and the weights that are there."""
        return self.has_begun or self.siblings


def inspect(stage: Stage) -> StageState:
    """Reads what is on disk of a stage; opens no checkpoint, looks only whether it is whole."""
    final = stage.output / FINAL
    unfinished = [stage.output / name for name in UNFINISHED]
    block = _read_stage_block(stage)
    summary = found_json(stage.output / "validation" / "summary.json")
    return StageState(
        block=block,
        final=is_whole_archive(final),
        unfinished=any(is_whole_archive(path) for path in unfinished),
        validated=isinstance(summary, dict),
        weights=block is not None
        and block.init is not None
        and (block.keep_heads, block.recipe.seed) == (stage.keep_heads, stage.recipe.seed)
        and stage.weights.is_file()
        and sha256(stage.weights) == block.init.weights_sha256,
        damaged=tuple(path for path in (final, *unfinished) if path.is_file() and not is_whole_archive(path)),
        siblings=any(
            is_whole_archive(path)
            for path in stage.base.glob("fold_*/checkpoint_*.pth")
            if path.parent != stage.output and path.name in (FINAL, *UNFINISHED)
        ),
        probabilities=isinstance(summary, dict)
        and len(list((stage.output / "validation").glob("*.npz"))) >= len(summary.get("metric_per_case", ())),
    )


def decide(
    stages: Sequence[Stage], states: Mapping[Stage, StageState], *, probabilities: bool = False
) -> dict[Stage, Action]:
    """What each stage needs, the last stages first: a source is needed only by a stage that has yet to start.

    Weights that were handed over count only as long as their source is there, or another fold has trained from them: a
    source that was deleted to be trained anew is. With ``probabilities`` a validation without softmax outputs is not
    complete.

    Raises StageError where a stage with training in it was made with another recipe or path: it is never reused
    silently and never overwritten. So it does where folds would start from differently trained sources.
    """
    actions: dict[Stage, Action] = {}
    needed: set[Stage | None] = {stage for stage in stages if stage.role == "target"}
    for stage in reversed(stages):
        state = states[stage]
        require_same(stage, state)
        actions[stage] = action_of(stage, state, probabilities) if stage in needed or state.final else Action.NOT_NEEDED
        previous = previous_stage(stages, stage)
        source_is_there = previous is not None and states[previous].final
        are_used = state.siblings and not stage.has_own_weights
        if actions[stage] is Action.START and not (state.weights and (source_is_there or are_used)):
            if previous is not None and are_used and not source_is_there:
                raise StageError(
                    f"the weights {stage.weights} that other folds began from are gone or damaged, and so is the final "
                    f"checkpoint of {previous.base} they were made from; restore one of them, give this chain a name "
                    f"of its own with -tag NAME, or delete {stage.base}"
                )
            needed.add(previous)
    return {stage: actions[stage] for stage in stages}


def action_of(stage: Stage, state: StageState, probabilities: bool = False) -> Action:
    """What a stage needs, seen alone."""
    if state.final:
        validated = state.validated and (state.probabilities or not probabilities)
        return Action.NOTHING if stage.role == "source" or validated else Action.VALIDATE
    return Action.RESUME if state.unfinished else Action.START


def require_same(stage: Stage, state: StageState) -> None:
    """Raises StageError where training there was made with another recipe, path, beginning or without other cases."""
    if not state.is_bound:
        return
    remedy = f"give this chain a name of its own with -tag NAME, or delete {stage.base}"
    if state.block is None:
        raise StageError(f"{stage.base} holds a training whose plans {stage.plans_name} are gone; {remedy}")
    if state.block.path != stage.path:
        raise StageError(f"{stage.plans_name} was trained along {' -> '.join(state.block.path)}; {remedy}")
    if state.block.landmark != stage.landmark:
        raise StageError(f"{stage.base} began with another model than -init gives now; {remedy}")
    if state.block.recipe != stage.recipe:
        differences = stage.recipe.differences(state.block.recipe)
        raise StageError(f"{stage.base} was trained with another recipe (asked: {differences} there); {remedy}")
    if state.block.keep_heads != stage.keep_heads:
        settings = ("all heads new", "heads of matching labels kept (--keep_heads)")
        raise StageError(
            f"{stage.base} was trained with {settings[state.block.keep_heads]} at its start, now asked: "
            f"{settings[stage.keep_heads]}; {remedy}"
        )
    if state.block.excluded != stage.excluded:
        raise StageError(
            f"{stage.base} was trained without {_count(state.block.excluded)}, now {_count(stage.excluded)} would be "
            f"left out (the splits or the data have changed); {remedy}"
        )


def _count(cases: Sequence[str]) -> str:
    """In words: "no case", "the case a", "3 cases (a ...)"."""
    return f"{len(cases)} cases ({cases[0]} ...)" if len(cases) > 1 else f"the case {cases[0]}" if cases else "no case"


def require_same_origin(stage: Stage, state: StageState, previous: Stage) -> None:
    """Raises StageError where a stage that has begun started from another checkpoint than the one there now."""
    bound = state.has_begun or (state.siblings and not stage.has_own_weights)
    if not bound or state.block is None or state.block.init is None:
        return
    checkpoint = previous.output / FINAL
    if checkpoint.is_file() and sha256(checkpoint) != state.block.init.checkpoint_sha256:
        raise StageError(
            f"{stage.base} started from another {checkpoint.relative_to(results_folder())} than the one there now "
            f"(SHA-256 differs); delete {stage.base} to train it again from the new one, or restore the old one"
        )


def _read_stage_block(stage: Stage) -> StageBlock | None:
    plans = read_stage_plans(stage)
    return None if plans is None else read_block(plans, stage.configuration, stage.fold)
