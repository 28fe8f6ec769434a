"""The trainings behind a comparison: a chain for each arm and seed, and what all of them cost together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from nnunet_seqtransfer.evaluation.comparison import Arm, Budget
from nnunet_seqtransfer.training.chain import Chain
from nnunet_seqtransfer.training.dry_run import stage_seconds
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import ChainRequest, Stage
from nnunet_seqtransfer.training.state import Action

LEFT = (Action.START, Action.RESUME)


@dataclass(frozen=True)
class Trial:
    """One arm with one seed."""

    arm: Arm
    "The path."
    seed: int
    "Of all its trainings."


def trials(arms: Sequence[Arm], seeds: Sequence[int]) -> tuple[Trial, ...]:
    """All trials, seed by seed: an interrupted comparison has complete pairs."""
    return tuple(Trial(arm, seed) for seed in seeds for arm in arms)


def trial_request(base: ChainRequest, trial: Trial) -> ChainRequest:
    """The chain of a trial; its tag keeps seeds, and scratch trained as long as a path, apart.

    Within a seed the paths share stages, as all chains with a common beginning do.

    ``base``: what all trials have in common; its sources and seeds are replaced, its tag is put in front.
    """
    extra = trial.arm.extra_epochs
    parts = [base.tag, f"long{extra}" if extra else None, f"seed{trial.seed}"]
    target = replace(base.target_recipe, epochs=base.target_recipe.epochs + extra, seed=trial.seed)
    return replace(
        base,
        sources=trial.arm.sources,
        source_recipe=replace(base.source_recipe, seed=trial.seed),
        target_recipe=target,
        tag="_".join(part for part in parts if part),
    )


def budget(chains: Sequence[Chain], recipe: Recipe, device: str, epoch_seconds: float | None) -> Budget:
    """What all chains train together, a stage that several share counted once.

    Args:
        chains: one for each trial.
        recipe: of the target's stage.
        device: where it is trained.
        epoch_seconds: measured or given time of an epoch; None for a rough estimate from the size of the batches.
    """
    needed: dict[str, tuple[Chain, Stage]] = {}
    done = set()
    for chain in chains:
        for stage in chain.stages:
            if chain.actions[stage] in LEFT:
                needed.setdefault(stage.key, (chain, stage))
            elif chain.actions[stage] is not Action.NOT_NEEDED:
                done.add(stage.key)
    seconds = [
        stage_seconds(chain, stage, device) if epoch_seconds is None else epoch_seconds * stage.recipe.epochs
        for chain, stage in needed.values()
    ]
    return Budget(
        stages=len(needed.keys() | done),
        finished=len(done - needed.keys()),
        iterations=sum(stage.recipe.epochs * stage.recipe.iterations for _, stage in needed.values()),
        hours=sum(seconds) / 3600,
        target_iterations=recipe.epochs * recipe.iterations,
    )
