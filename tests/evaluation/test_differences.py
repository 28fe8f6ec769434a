"""What is averaged, what is paired and what is corrected together, on scores made by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nnunet_seqtransfer.evaluation.compare import direct_dice
from nnunet_seqtransfer.evaluation.comparison import Score
from nnunet_seqtransfer.evaluation.curves import savings, smoothed
from nnunet_seqtransfer.evaluation.differences import case_values, differences, paired, paired_means, seed_means
from nnunet_seqtransfer.evaluation.rankings import LARGEST, MODALITY, RANDOM, rankings
from support.comparison_cases import A, B, affinity, arm, curve, scores

SCRATCH, PLAN, NEAR = arm(roles=("scratch",)), arm(A, B, roles=("planned",)), arm(B)
CASES = [f"case{number}" for number in range(8)]


def dice(seed):
    return dict(zip(CASES, np.random.default_rng(seed).uniform(0.3, 0.9, 8).tolist(), strict=True))


def test_labels_are_averaged_before_cases_and_nan_is_left_out():
    """A case with labels 0.2, 0.6 and NaN counts 0.4; one with NaN alone is no case."""
    values = [("a", "x", 0.2), ("a", "y", 0.6), ("a", "z", math.nan), ("b", "x", math.nan)]
    found = case_values([Score("scratch", "0", 0, case, label, value, 0.0) for case, label, value in values], "dice")
    assert found == {"scratch": {("0", 0): {"a": pytest.approx(0.4)}}}


def test_all_arms_are_averaged_over_the_same_labels_of_the_same_cases():
    """Where one arm rightly finds nothing, its NaN leaves another's false positive out too, in that seed."""
    empty, full = {"empty": math.nan, "full": 0.8}, {"empty": 0.0, "full": 0.8}
    every = [*scores("careful", empty), *scores("eager", full), *scores("eager", full, seed=1)]
    found = case_values(every, "dice")
    assert found["careful"] == {("0", 0): {"full": 0.8}}
    assert found["eager"] == {("0", 0): {"full": 0.8}, ("0", 1): {"empty": 0.0, "full": 0.8}}


def test_cases_are_paired_over_the_runs_that_both_have():
    """A seed that one arm lacks is left out of both; of the others each case is averaged first."""
    one = {("0", 0): {"a": 0.5, "b": 0.7}, ("0", 1): {"a": 0.7, "b": 0.7}, ("0", 2): {"a": 0.0}}
    other = {("0", 0): {"a": 0.4, "b": 0.9}, ("0", 1): {"a": 0.4, "c": 0.1}}
    assert paired(one, other) == {"a": pytest.approx(0.2), "b": pytest.approx(-0.2)}
    assert paired_means(one, other) == {"a": (pytest.approx(0.6), pytest.approx(0.4)), "b": (0.7, 0.9)}
    assert seed_means(one) == {0: pytest.approx(0.6), 1: pytest.approx(0.7), 2: 0.0}


def test_differences_against_scratch_and_of_the_plan():
    """Every arm against scratch, the plan against the rest; mean, p and Holm are those of the paired differences."""
    by_arm = {one.name: dice(number) for number, one in enumerate((SCRATCH, PLAN, NEAR))}
    every = [score for name, values in by_arm.items() for score in scores(name, values)]
    found = differences((SCRATCH, PLAN, NEAR), every)
    assert [(one.arm, one.against, one.metric) for one in found] == [
        (PLAN.name, "scratch", "dice"),
        (NEAR.name, "scratch", "dice"),
        (PLAN.name, "scratch", "nsd"),
        (NEAR.name, "scratch", "nsd"),
        (PLAN.name, NEAR.name, "dice"),
        (PLAN.name, NEAR.name, "nsd"),
    ]
    apart = [np.array(list(by_arm[one.name].values())) - list(by_arm["scratch"].values()) for one in (PLAN, NEAR)]
    p = [stats.wilcoxon(values).pvalue for values in apart]
    for entry, values, own in zip(found[:2], apart, p, strict=True):
        assert entry.mean == pytest.approx(values.mean()) and entry.cases == 8
        assert entry.low < entry.mean < entry.high
        assert entry.p == pytest.approx(own)
    assert min(one.p_holm for one in found[:2]) == pytest.approx(min(1, 2 * min(p)))
    assert found[4].p_holm == found[4].p, "a family of one"


def test_an_arm_that_is_not_trained_yet_has_no_difference():
    """An interrupted comparison tells the pairs that it has."""
    every = [*scores("scratch", dice(0)), *scores(NEAR.name, dice(1))]
    assert {one.arm for one in differences((SCRATCH, PLAN, NEAR), every)} == {NEAR.name}
    assert differences((SCRATCH, PLAN), []) == ()


def test_epochs_saved():
    """Where the averaged curve first has what scratch has at its end, never where it has not; as long is no arm."""
    arms = (SCRATCH, arm(roles=("long",), extra=3), PLAN, NEAR)
    curves = [
        curve("scratch", (0.1, 0.2, 0.3, 0.4, 0.5, 0.6), 0),
        curve("scratch", (0.1, 0.2, 0.3, 0.4, 0.5, 0.9), 1),
        curve("scratch, as long", (0.1, 0.2, 0.3, 0.4, 0.7, 0.8)),
        curve(PLAN.name, (0.2, 0.4, 0.8, 0.9, 0.9, 0.9), 0),
        curve(PLAN.name, (0.2, 0.7, 0.8, 0.9, 0.9, 0.9), 1),
        curve(NEAR.name, (0.0, 0.1, 0.2, 0.39, 0.4, 0.5), 0),
    ]
    plan, near = savings(arms, curves)
    assert (plan.arm, plan.epochs, plan.of, plan.share) == (PLAN.name, 4, 6, 4 / 6)
    assert plan.reached == pytest.approx((0.5 + 0.6) / 2), "means of the last three epochs"
    assert (near.reached, near.epochs, near.share) == (pytest.approx(0.5), None, None), "with the seed that it has"
    assert savings((PLAN, NEAR), curves) == ()


def test_who_begins_higher_is_not_ahead_for_that():
    """After eight epochs nnU-Net's moving average of scratch is still 0.18: an arm that stays at 0.2 saves nothing."""
    rising, flat = (0.0, 0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6), (0.2,) * 8
    (saving,) = savings((SCRATCH, PLAN), [curve("scratch", rising), curve(PLAN.name, flat)])
    assert saving.reached == pytest.approx(0.5) and saving.epochs is None


@pytest.mark.parametrize(("epochs", "width"), [(1, 1), (2, 2), (8, 3), (40, 4), (250, 10)])
def test_curves_are_means_of_the_last_epochs(epochs, width):
    """A tenth of all epochs, but 3 to 10; before there are so many there is no value."""
    values = np.random.default_rng(0).random(epochs)
    found = np.array(smoothed(values))
    assert np.isnan(found[: width - 1]).all()
    assert found[width - 1 :] == pytest.approx([values[i : i + width].mean() for i in range(epochs - width + 1)])


def test_nan_in_a_curve_reaches_nothing():
    """An epoch without a value is left out of the mean; where there is nothing else nothing is reached."""
    lost = [curve("scratch", (math.nan, math.nan)), curve(PLAN.name, (0.5, 0.6))]
    assert savings((SCRATCH, PLAN), lost)[0].epochs is None
    assert smoothed((0.2, math.nan, 0.4))[-1] == pytest.approx(0.3)


def test_rankings_of_metrics_and_of_no_metric():
    """Distances that fall as Dice rises rank perfectly; size, channel names and a blind draw as their own rules say."""
    direct = dict(zip(affinity().sources, (0.6, 0.8, 0.7, 0.1), strict=True))
    found = {one.metric: one for one in rankings((affinity(), affinity((1, 2, 3, 4), metric="other")), direct)}
    perfect = found["descriptors"]
    assert (perfect.spearman, perfect.regret, perfect.transfers) == (pytest.approx(1), 0, 4)
    assert found["other"].regret == pytest.approx(0.2), "its first choice reached 0.6"
    assert found[LARGEST].regret == pytest.approx(0.1), "80 cases, Dice 0.7"
    assert found[MODALITY].regret == pytest.approx(0.7), "the one called MRI is the worst"
    assert (found[RANDOM].spearman, found[RANDOM].regret) == (0, pytest.approx(0.8 - 0.55))
    assert rankings((affinity(),), {A: 0.5, B: 0.6}) == (), "two are no ranking"


def test_a_metric_without_a_distance_is_judged_on_what_it_has():
    """An infinite distance is none; a metric with distances to fewer than three transfers is not judged."""
    direct = dict(zip(affinity().sources, (0.6, 0.8, 0.7, 0.1), strict=True))
    some = affinity((0.4, 0.2, 0.3, math.inf), metric="some")
    few = affinity((0.4, 0.2, math.inf, math.inf), metric="few")
    found = {one.metric: one.transfers for one in rankings((affinity(), some, few), direct)}
    assert found["some"] == 3 and "few" not in found


def test_direct_transfers_are_compared_on_the_same_runs():
    """A seed that one source lacks is left out for all, so that no source is judged by an easier run."""
    every = [
        *scores("21 -> 4", {"a": 0.5, "b": 0.7}, 0),
        *scores("21 -> 4", {"a": 0.0, "b": 0.0}, 1),
        *scores("22 -> 4", {"a": 0.4, "b": 0.4}, 0),
        *scores(PLAN.name, {"a": 0.9}, 0),
    ]
    assert direct_dice((arm(A), arm(B), PLAN), every) == {A: pytest.approx(0.6), B: pytest.approx(0.4)}
