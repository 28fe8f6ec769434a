"""Which paths are compared, by a table of what was asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.evaluation.comparison import KINDS, CompareRequest, choose_arms
from nnunet_seqtransfer.evaluation.trials import Trial, trial_request
from nnunet_seqtransfer.planning.record import ReadyModel
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import ChainRequest
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel
from support.comparison_cases import A, B, C, D, T, affinity, plan


def asked(kinds=KINDS, **options):
    return CompareRequest(T, kinds=kinds, **options)


def paths(arms):
    return [arm.sources for arm in arms]


def roles(arms):
    return {arm.sources: arm.roles for arm in arms if not arm.extra_epochs}


def test_the_default_arms_and_their_roles():
    """Scratch, the plan, its cheapest sequences, the nearest two, and scratch as long."""
    arms = choose_arms(affinity(), plan(), asked())
    found = roles(arms)
    assert paths(arms)[:2] == [(), (A, B)], "scratch and the plan come first"
    assert found[()] == ("scratch",) and found[A, B] == ("planned",)
    assert found[C, B] == found[A, C] == ("runner-up",), "neither the one that is ruled out nor the plan"
    assert {one for one, why in found.items() if "direct" in why} == {(B,), (C,)}
    assert [arm.extra_epochs for arm in arms if "long" in arm.roles] == [500]
    assert arms[0].name == "scratch" and arms[1].name == "21 -> 22 -> 4"


def test_each_path_is_trained_once():
    """A path wanted for several reasons is one arm that names them all."""
    arms = choose_arms(affinity(), plan(), asked(("scratch", "direct", "planned"), nearest=4), [(A, B), (B,)])
    assert len(paths(arms)) == len(set(paths(arms))) == 1 + 4 + 1
    assert roles(arms)[A, B] == ("planned", "own") and roles(arms)[(B,)] == ("direct", "own")


def test_scratch_as_long_as_the_longest_path():
    """It has the epochs of the sources of the longest path on top, and a name of its own."""
    arms = choose_arms(affinity(), plan(), asked(kinds=("scratch", "long", "direct", "planned"), source_epochs=7))
    (longest,) = [arm for arm in arms if arm.extra_epochs]
    assert (longest.name, longest.sources, longest.extra_epochs) == ("scratch, as long", (), 14)


def test_scratch_among_ones_own_paths_is_scratch():
    """As the table of measurements names it; all others are compared with it."""
    arms = choose_arms(affinity(), plan(), asked(("planned",)), [(), (D,)])
    assert roles(arms)[()] == ("scratch",) and roles(arms)[(D,)] == ("own",)


def test_a_plan_from_scratch_is_one_arm_with_scratch():
    """Where the plan is scratch, scratch is the planned path."""
    arms = choose_arms(affinity(), plan(()), asked(kinds=("scratch", "planned", "direct")))
    assert roles(arms)[()] == ("scratch", "planned")


def test_arms_have_the_gains_that_the_plan_predicts():
    """Scratch, on which gains rest, and a path that the plan does not list have none."""
    found = choose_arms(affinity(), plan(), asked(nearest=4))
    gains = {arm.sources: arm.predicted for arm in found if not arm.extra_epochs}
    assert gains[(B,)] == 0.1 and gains[A, B] == pytest.approx(0.08)
    assert gains[()] is None and gains[(D,)] is None
    assert all(arm.predicted is None for arm in choose_arms(affinity(), None, asked(("scratch", "direct"))))


def test_what_is_not_here_or_is_the_test_set_is_no_arm():
    """Sources known by their signature alone, and the test set, are neither near nor on a runner-up."""
    arms = choose_arms(affinity(unregistered=(C,)), plan(), asked(nearest=4), without=A)
    used = {name for arm in arms if "planned" not in arm.roles for name in arm.sources}
    assert used == {B, D}


def test_one_path_is_no_comparison():
    """With a single path there is nothing to compare, and the error says what to ask for."""
    with pytest.raises(SequenceError, match="at least two are needed; add more with -arms"):
        choose_arms(affinity(), None, asked(kinds=("scratch",)))


def test_an_unknown_kind_is_named():
    """With the kinds that there are."""
    with pytest.raises(SequenceError, match="unknown kind of path 'best'; choose from scratch, long"):
        choose_arms(affinity(), None, asked(kinds=("scratch", "best")))


def test_arms_may_start_from_models():
    """A planned path from a ready model trains the rest of it; a given model is one more arm; names have a star."""
    model, given = (PretrainedModel(Path("m.pth"), None, digit * 64, name) for digit, name in (("a", A), ("b", None)))
    ready = replace(plan((A, B)), models={A: ReadyModel(A, model, 1.0, ("MRI",), ("organ",))})
    arms = choose_arms(affinity(), ready, asked(("scratch", "planned", "runner-up", "long"), model=given))
    found = {arm.name: arm for arm in arms}
    assert list(found)[:2] == ["scratch", "21* -> 22 -> 4"]
    assert {*found} == {
        "scratch",
        "21* -> 22 -> 4",
        "21* -> 23 -> 4",
        "23 -> 22 -> 4",
        "m.pth* -> 4",
        "scratch, as long",
    }
    planned = found["21* -> 22 -> 4"]
    assert (planned.sources, planned.model, planned.predicted) == ((B,), model, ready.chosen.gain)
    assert found["m.pth* -> 4"].model == given and found["scratch, as long"].extra_epochs == 500
    base = ChainRequest(T, (), "nnUNetPlans", "3d_fullres", ("0",), Recipe(), Recipe(), 5)
    request = trial_request(base, Trial(planned, 3))
    assert (request.sources, request.pretrained) == ((B,), model)
    assert trial_request(base, Trial(found["scratch"], 3)).pretrained is None
