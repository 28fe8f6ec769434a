"""What a chain would do, in words, for --dry_run: every stage, what it reads and writes, and about how long."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnunet_seqtransfer.nnunet.plans import data_folder, plans_path
from nnunet_seqtransfer.nnunet.training_log import duration
from nnunet_seqtransfer.training.chain import Chain
from nnunet_seqtransfer.training.prepare import preprocessed_bytes
from nnunet_seqtransfer.training.stage_files import FINAL
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.training.state import Action, inspect
from nnunet_seqtransfer.transfer.correspondence import Correspondence, channel_words
from nnunet_seqtransfer.transfer.handoff import InitialWeights

GPU_SECONDS_PER_ITERATION = 45 / 250
"""nnU-Net's published epoch times on an A100 are 41-47 s for 250 iterations. Its planner fills the graphics memory
whatever the dataset, so that the time hardly depends on the dataset (small images are faster)."""
CPU_SECONDS_PER_MEGAVOXEL = 6.0
"""An iteration with nnU-Net's default width on two CPU cores, per million voxels of a batch; measured, rough."""


def describe_chain(chain: Chain, device: str) -> tuple[str, ...]:
    """Lines of text, a few for each stage and a total."""
    lines: list[str] = []
    total = 0.0
    for stage in chain.stages:
        seconds = stage_seconds(chain, stage, device)
        total += seconds
        lines += _describe(chain, stage, seconds)
    lines.append(f"in all about {duration(total)} on {_place(device)} (a rough estimate), nothing was done (--dry_run)")
    return tuple(lines)


def _describe(chain: Chain, stage: Stage, seconds: float) -> list[str]:
    action = chain.actions[stage]
    lines = [f"{chain.title(stage)} {action.value}"]
    if action in (Action.NOTHING, Action.NOT_NEEDED):
        return lines
    recipe = stage.recipe
    plans = chain.plans[stage]
    lines.append(
        f"  trains   {recipe.epochs} epochs of {recipe.iterations} iterations, learning rate {recipe.initial_lr:g}, "
        f"warm-up {recipe.warmup_epochs} epochs; about {duration(seconds)}"
    )
    if recipe.added_parts():
        lines.append(f"           {', '.join(recipe.added_parts())}")
    lines.append(f"  reads    {data_folder(stage.dataset, plans, stage.configuration)}")
    missing = chain.cases_to_preprocess.get(stage.dataset, ())
    if missing:
        size = preprocessed_bytes(chain.tasks[stage.dataset], plans, stage.configuration, len(missing))
        lines.append(f"           preprocessing {len(missing)} cases of it first, up to {size / 1e6:.0f} MB")
    if stage.excluded:
        lines.append(f"  without  {', '.join(stage.excluded)}: fold {stage.without} of the target validates on them")
    previous = chain.previous(stage)
    if previous is not None and action is Action.START:
        lines.append(f"           weights of {previous.output / FINAL}")
        before, task = chain.tasks[previous.dataset], chain.tasks[stage.dataset]
        lines += _describe_match(chain.match(previous, stage), before.channels, task.channels)
    initial = None if chain.starts_like_another(stage) else chain.from_model(stage, inspect(stage), check_only=True)
    if initial is not None:
        lines += _describe_initial(initial)
        lines += _describe_match(initial.match, initial.channels, chain.tasks[stage.dataset].channels)
    lines.append(f"  writes   {plans_path(stage.dataset, stage.plans_name)}")
    lines.append(f"           {stage.output}")
    return lines


def _describe_initial(initial: InitialWeights) -> list[str]:
    """Return the model that the stage starts from, and how much of the network it gives."""
    lines = [f"           weights of {initial.origin}", f"           {initial.adaptation.summary()}"]
    if initial.adaptation.coverage < 1:
        lines.append(f"           missing: {initial.adaptation.reasons()}")
    return lines


def _describe_match(match: Correspondence, old: Sequence[str], new: Sequence[str]) -> list[str]:
    """Which channels and heads go together, as far as it is not the usual."""
    words = [] if match.channels is None else [channel_words(match.channels, old, new)]
    return [f"           {line}" for line in (*words, *([match.heads.words] if match.heads else []))]


def stage_seconds(chain: Chain, stage: Stage, device: str) -> float:
    """About how long a stage takes, in seconds; 0 for one that is finished or not needed."""
    if chain.actions[stage] not in (Action.START, Action.RESUME):
        return 0.0
    settings = chain.plans[stage]["configurations"][stage.configuration]
    batch = math.prod(settings["patch_size"]) * settings["batch_size"]
    per_iteration = CPU_SECONDS_PER_MEGAVOXEL * batch / 1e6 if device == "cpu" else GPU_SECONDS_PER_ITERATION
    # a validation iteration has no backward pass: about a third of a training iteration
    return stage.recipe.epochs * (stage.recipe.iterations + stage.recipe.validation_iterations / 3) * per_iteration


def _place(device: str) -> str:
    return "two CPU cores" if device == "cpu" else "one GPU"
