"""Source stages planned for several targets: trained for one of them, used by the others."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.nnunet.folders import cache_folder
from nnunet_seqtransfer.planning.record import SequencePlan, plan_path, write_plan
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.sharing import load_shared
from nnunet_seqtransfer.training.stages import ChainRequest, chain_stages
from support.world import NEAR, TARGET, Outcome, World

TWIN = "Dataset905_Twin"
OWNER, OTHER = "Dataset004_T", "Dataset007_U"


def request(target: str, sources_for: str | None) -> ChainRequest:
    """A chain of two sources."""
    sources = ("Dataset021_A", "Dataset024_B")
    recipe = Recipe(10)
    return ChainRequest(
        target, sources, "nnUNetPlans", "3d_fullres", ("0",), recipe, recipe, 0, sources_for=sources_for
    )


def test_shared_stages_are_the_other_targets() -> None:
    """The sources' stages are equal to those of a chain to the other target; the target's stage is its own."""
    own, shared = chain_stages(request(OWNER, None)), chain_stages(request(OTHER, OWNER))
    assert own[:2] == shared[:2]
    assert [stage.plans_name for stage in shared] == [
        "nnUNetPlans_for4",
        "nnUNetPlans_for4_via21",
        "nnUNetPlans_via21_24",
    ]
    assert [stage.target for stage in shared] == [OWNER, OWNER, OTHER]
    assert shared[2].dataset == OTHER and shared[2] != own[2]


def plans_of(**changes: Any) -> dict[str, Any]:
    """Plans that train sources in one way."""
    return {"transpose_forward": [0, 1, 2], "configurations": {"3d_fullres": {"patch_size": [8, 8, 8], **changes}}}


def test_stages_of_plans_that_differ_now_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """A target that was planned anew since is noticed, with what differs; so are cases that must be left out."""
    monkeypatch.setattr("nnunet_seqtransfer.training.sharing.load_target", lambda *_: ("task", plans_of()))
    assert load_shared(request(OTHER, OWNER), plans_of(data_identifier="x"), {}) == (plans_of(), "task")
    with pytest.raises(
        StageError, match=r"their plans now differ in patch_size; run nnUNetv2_seq_plan for Dataset007_U"
    ):
        load_shared(request(OTHER, OWNER), plans_of(patch_size=[4, 8, 8]), {})
    with pytest.raises(StageError, match=r"cases have to be left out of its sources"):
        load_shared(request(OTHER, OWNER), plans_of(), {"0": {"Dataset021_A": ("case",)}})


@pytest.fixture
def twins(world: World) -> World:
    """A second target with the first one's images and plans, planned to share its stages."""
    for folder in (world.raw, world.preprocessed):
        shutil.copytree(folder / TARGET, folder / TWIN)
    shutil.rmtree(cache_folder(TWIN), ignore_errors=True)
    plans = world.preprocessed / TWIN / "nnUNetPlans.json"
    plans.write_text(plans.read_text().replace(TARGET, TWIN))  # as nnUNetv2_move_plans_between_datasets does
    plan = SequencePlan(
        TWIN, "nnUNetPlans", "3d_fullres", (NEAR,), "exact", "descriptors", "x", (), ("Why.",), trained_for=TARGET
    )
    write_plan(plan_path(TWIN, "nnUNetPlans", "3d_fullres"), plan)
    return world


TRAIN = ("train", "905", "3d_fullres", "0", "-np", "1", "-device", "cpu", "--dry_run", "--allow_overlap")


def test_training_follows_a_shared_plan(twins: World, command: Callable[..., Outcome]) -> None:
    """The source is trained for the first target, from whose data its weights go to the second."""
    outcome = command(*TRAIN)
    assert outcome.status == 0, outcome.err
    stage = f"{NEAR}/nnUNetTrainerSeqTransfer__nnUNetPlans_for901__3d_fullres/fold_all"
    assert f"{stage}\n" in outcome.out and f"weights of {twins.results}/{stage}/checkpoint_final.pth" in outcome.out
    assert f"{TWIN}/nnUNetTrainerSeqTransfer__nnUNetPlans_via902__3d_fullres/fold_0" in outcome.out


def test_training_a_shared_plan_that_does_not_hold_any_more(twins: World, command: Callable[..., Outcome]) -> None:
    """One line, and nothing is written."""
    file = twins.preprocessed / TARGET / "nnUNetPlans.json"
    plans = json.loads(file.read_text())
    plans["configurations"]["3d_fullres"]["batch_size"] += 1
    file.write_text(json.dumps(plans))
    before = twins.snapshot()
    outcome = command(*TRAIN)
    assert outcome.status == 2 and "their plans now differ in batch_size" in outcome.err
    assert twins.snapshot() == before
