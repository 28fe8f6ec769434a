"""The chains behind a comparison and what they cost, before anything is trained."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.evaluation.comparison import Arm, CompareRequest
from nnunet_seqtransfer.evaluation.trials import Trial, count_budget, exclusions_along, trial_request
from nnunet_seqtransfer.training.actions import Action
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import ChainRequest, chain_stages
from nnunet_seqtransfer.training.train import look_ahead
from support.comparison_cases import A, B, T, arm
from support.world import FAR, NEAR, TARGET

RECIPE = Recipe(4, 10)
BASE = ChainRequest(T, (), "nnUNetPlans", "3d_fullres", ("0",), replace(RECIPE, epochs=3), RECIPE, 0, "mine")
SCRATCH, LONG, PAIR, NEAREST = arm(), arm(extra=6), arm(A, B), arm(A)


def test_seeds_are_apart_and_share_stages_within():
    """The seed is in the recipe and in all plans names; paths with a common beginning share it within a seed."""
    stages = {
        (one.name, seed): chain_stages(trial_request(BASE, Trial(one, seed)))
        for one in (SCRATCH, LONG, NEAREST, PAIR)
        for seed in (0, 1)
    }
    assert stages[NEAREST.name, 0][0] == stages[PAIR.name, 0][0]
    assert stages[NEAREST.name, 0][0].plans_name == "nnUNetPlans_for4_mine_seed0"
    names = {key: {stage.key for stage in chain} for key, chain in stages.items()}
    assert not names[PAIR.name, 0] & names[PAIR.name, 1]
    assert all(stage.recipe.seed == seed for (_, seed), chain in stages.items() for stage in chain)


def test_every_target_stage_has_the_same_iterations_but_long_scratch():
    """Equal budgets of the target's stage; scratch as long has the sources' epochs on top, and a name of its own."""
    last = {one.name: chain_stages(trial_request(BASE, Trial(one, 0)))[-1] for one in (SCRATCH, LONG, NEAREST, PAIR)}
    assert {name: stage.recipe.epochs for name, stage in last.items()} == {
        "scratch": 4,
        "scratch, as long": 10,
        "21 -> 4": 4,
        "21 -> 22 -> 4": 4,
    }
    assert last[LONG.name].plans_name == "nnUNetPlans_scratch_mine_long6_seed0"


def test_exclusions_are_those_along_the_path():
    """A source that is not on a path leaves its names alone: the same stage is shared with nnUNetv2_seq_train."""
    every = {"0": {A: ("x",), B: ("y",)}, "1": {B: ("z",)}}
    assert exclusions_along(every, (A,)) == {"0": {A: ("x",)}}
    assert exclusions_along(every, ()) == {}


def test_the_budget_counts_shared_and_finished_stages_once(world):
    """Four paths with a common source; then with that source finished."""
    arms = [Arm(str(path), path, ("own",)) for path in ((), (NEAR,), (FAR,), (NEAR, FAR))]
    base = replace(BASE, target=TARGET)
    chains = [look_ahead(trial_request(base, Trial(one, 0)), Context(), exclusions={}) for one in arms]
    request = CompareRequest(TARGET, recipe=RECIPE)
    whole = count_budget(chains, request)
    # four targets of 4 epochs; 902, 903 and 903 after 902 of 3 epochs
    assert (whole.stages, whole.finished, whole.iterations) == (7, 0, (4 * 4 + 3 * 3) * 10)
    stages = {stage.key: chain.seconds[stage] for chain in chains for stage in chain.stages}
    sources = chains[-1].preprocessing
    assert whole.target_iterations == 40 and len(sources) == 2 and all(sources.values())
    assert whole.hours == pytest.approx((sum(stages.values()) + sum(sources.values())) / 3600)
    assert count_budget(chains, request, test_cases=9).hours > whole.hours
    done = [
        replace(
            chain,
            actions={
                stage: Action.NOTHING if stage.path == (NEAR,) else action for stage, action in chain.actions.items()
            },
        )
        for chain in chains
    ]
    left = count_budget(done, request)
    assert (left.stages, left.finished, left.iterations) == (7, 1, (4 * 4 + 2 * 3) * 10)
