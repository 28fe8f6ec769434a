"""Stages in made-up states, and what is decided about them, without any file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nnunet_seqtransfer.errors import raise_collected
from nnunet_seqtransfer.training.actions import Action, Link, needed_actions
from nnunet_seqtransfer.training.decide import Outlook, decide, weights_fit
from nnunet_seqtransfer.training.estimate import GUESS, Clock
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.on_disk import StageOnDisk
from nnunet_seqtransfer.training.recipe import Init, StageBlock
from nnunet_seqtransfer.training.stage_files import FINAL, LATEST
from nnunet_seqtransfer.training.stages import ChainRequest, Stage, previous_stage
from nnunet_seqtransfer.training.survey import Survey


def block_of(stage: Stage) -> StageBlock:
    """Return the block of a stage that was handed weights if it needs any."""
    init = Init("a", "b", "c", "d") if len(stage.path) > 1 else None
    fold = stage.fold if stage.has_own_weights else None
    return StageBlock(
        stage.target,
        stage.path,
        stage.role,
        stage.recipe,
        init,
        stage.excluded,
        fold,
        keep_heads=stage.keep_heads,
        mixed=stage.mixed,
    )


def state_of(
    stage: Stage,
    *,
    final: bool = False,
    unfinished: bool = False,
    weights: bool = False,
    validated: bool = False,
    siblings: bool = False,
    block: StageBlock | None = None,
) -> StageOnDisk:
    """Return what is on disk of a stage."""
    block = block or block_of(stage)
    whole = (FINAL,) * final + (LATEST,) * unfinished
    digest = block.init.weights_sha256 if weights and block.init else None
    return StageOnDisk(
        stage.files, whole=whole, validated=validated, has_siblings=siblings, block=block, weights_sha256=digest
    )


def actions_of(
    stages: Sequence[Stage], states: Mapping[Stage, StageOnDisk], *, probabilities: bool = False
) -> dict[Stage, Action]:
    """Return the actions by the rule that status uses too."""
    links = []
    for stage in stages:
        previous = previous_stage(stages, stage)
        after = previous.key if previous else None
        disk = states[stage]
        links.append(Link(stage.key, stage.role, after, disk, stage.has_own_weights, weights_fit(stage, disk)))
    actions = needed_actions(links, probabilities=probabilities)
    return {stage: actions[stage.key] for stage in stages}


def outlook_of(
    stages: Sequence[Stage], states: Mapping[Stage, StageOnDisk], clock: Clock = GUESS, **options: Any
) -> Outlook:
    """Return the outlook of stages in these states, by default empty; ``options`` of the devices."""
    states = {stage: states.get(stage, StageOnDisk(stage.files)) for stage in stages}
    last = stages[-1]
    plans = {"configurations": {last.configuration: {"patch_size": [8, 8, 8], "batch_size": 2}}}
    request = ChainRequest(
        last.target, last.path[:-1], "nnUNetPlans", last.configuration, ("0",), last.recipe, last.recipe, 5
    )
    of_each = dict.fromkeys(stages, plans)
    survey = Survey(request, DeviceOptions(**options), {}, plans, stages=tuple(stages), on_disk=states, plans=of_each)
    survey = replace(survey, clock=clock)
    return decide(survey)


def raise_problems(stages: Sequence[Stage], states: Mapping[Stage, StageOnDisk]) -> None:
    """Raise what a command would say about stages in these states."""
    raise_collected(outlook_of(stages, states).problems)
