"""What is averaged, paired and corrected together, on made-up scores, against SciPy and published examples."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from nnunet_seqtransfer.evaluation.comparison import ModelScores
from nnunet_seqtransfer.evaluation.statistics import (
    LARGEST,
    MODALITY,
    RANDOM,
    case_values,
    differences,
    direct_dice,
    holm,
    mean_interval,
    paired_means,
    rank_agreement,
    rankings,
    seed_means,
    signed_rank_p,
)
from nnunet_seqtransfer.nnunet.validation import CaseDice
from support.comparison_cases import A, B, affinity, arm, scores

SCRATCH, PLAN, NEAR = arm(roles=("scratch",)), arm(A, B, roles=("planned",)), arm(B)
CASES = [f"case{number}" for number in range(8)]
DEPRESSION = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]) - np.array(
    [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
)
"""Hamilton depression scores of nine patients before and after: Hollander and Wolfe, 1973, table 3.1."""


def dice(seed):
    return dict(zip(CASES, np.random.default_rng(seed).uniform(0.3, 0.9, 8).tolist(), strict=True))


def test_labels_are_averaged_before_cases_and_absent_ones_are_left_out():
    """A case with labels 0.2, 0.6 and none counts 0.4; one without any Dice is no case."""
    values = [("a", "x", 0.2), ("a", "y", 0.6), ("a", "z", None), ("b", "x", None)]
    found = case_values([ModelScores("scratch", "0", 0, tuple(CaseDice(*value) for value in values))])
    assert found == {"scratch": {("0", 0): {"a": pytest.approx(0.4)}}}


def test_all_arms_are_averaged_over_the_same_labels_of_the_same_cases():
    """If one arm correctly finds nothing, another's false positive does not count either, for that seed."""
    empty, full = {"empty": None, "full": 0.8}, {"empty": 0.0, "full": 0.8}
    found = case_values([scores("careful", empty), scores("eager", full), scores("eager", full, seed=1)])
    assert found["careful"] == {("0", 0): {"full": 0.8}}
    assert found["eager"] == {("0", 0): {"full": 0.8}, ("0", 1): {"empty": 0.0, "full": 0.8}}


def test_cases_are_paired_over_the_models_that_both_have():
    """A seed that one arm lacks is left out of both; of the others each case is averaged first."""
    one = {("0", 0): {"a": 0.5, "b": 0.7}, ("0", 1): {"a": 0.7, "b": 0.7}, ("0", 2): {"a": 0.0}}
    other = {("0", 0): {"a": 0.4, "b": 0.9}, ("0", 1): {"a": 0.4, "c": 0.1}}
    assert paired_means(one, other) == {"a": (pytest.approx(0.6), pytest.approx(0.4)), "b": (0.7, 0.9)}
    assert seed_means(one) == {0: pytest.approx(0.6), 1: pytest.approx(0.7), 2: 0.0}


def test_differences_against_scratch_and_of_the_plan():
    """Every arm against scratch, the plan against the rest; mean, p and Holm are those of the paired differences."""
    by_arm = {one.name: dice(number) for number, one in enumerate((SCRATCH, PLAN, NEAR))}
    found = differences((SCRATCH, PLAN, NEAR), [scores(name, values) for name, values in by_arm.items()])
    assert [(one.arm, one.against) for one in found] == [
        (PLAN.name, "scratch"),
        (NEAR.name, "scratch"),
        (PLAN.name, NEAR.name),
    ]
    apart = [np.array(list(by_arm[one.name].values())) - list(by_arm["scratch"].values()) for one in (PLAN, NEAR)]
    p = [stats.wilcoxon(values).pvalue for values in apart]
    for entry, values, own in zip(found[:2], apart, p, strict=True):
        assert entry.mean == pytest.approx(values.mean()) and entry.cases == 8
        assert entry.low < entry.mean < entry.high
        assert entry.p == pytest.approx(own)
    assert min(one.p_holm for one in found[:2]) == pytest.approx(min(1, 2 * min(p)))
    assert found[2].p_holm == found[2].p, "a family of one"


def test_an_arm_that_is_not_trained_yet_has_no_difference():
    """An interrupted comparison has the pairs that are finished."""
    every = [scores("scratch", dice(0)), scores(NEAR.name, dice(1))]
    assert {one.arm for one in differences((SCRATCH, PLAN, NEAR), every)} == {NEAR.name}
    assert differences((SCRATCH, PLAN), []) == ()


def test_a_single_case_has_neither_interval_nor_p():
    """Its difference is given all the same."""
    (found,) = differences((SCRATCH, NEAR), [scores("scratch", {"a": 0.5}), scores(NEAR.name, {"a": 0.75})])
    assert (found.mean, found.low, found.high, found.p, found.p_holm, found.cases) == (0.25, None, None, None, None, 1)


def test_the_signed_rank_test_gives_the_published_p():
    """Hollander and Wolfe's example has a one-sided exact p of 0.019531, so a two-sided one of 0.0390625."""
    assert signed_rank_p(DEPRESSION) == pytest.approx(0.0390625, abs=1e-9)
    assert signed_rank_p(-DEPRESSION) == pytest.approx(0.0390625, abs=1e-9)


def test_the_signed_rank_p_is_the_share_of_sign_patterns():
    """For few cases the p equals the enumeration of all signs: twice the share with rank sums as small as observed."""
    values = np.array([0.4, -0.1, 0.3, 0.8, -0.2, 0.7])
    ranks = stats.rankdata(np.abs(values))
    sums = np.array([ranks[np.array(signs)].sum() for signs in itertools.product([False, True], repeat=6)])
    observed = min(ranks[values > 0].sum(), ranks[values < 0].sum())
    assert signed_rank_p(values) == pytest.approx(2 * np.mean(sums <= observed))


def test_without_any_difference_there_is_no_evidence():
    """All differences 0 have p 1; equal differences have an interval without width."""
    assert signed_rank_p(np.zeros(5)) == 1.0
    assert mean_interval(np.full(4, 0.1)) == (0.1, 0.1)


def test_holm_corrects_a_family():
    """Four p values by hand, in any order; a missing one stays and does not count; none exceeds 1."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.04, None, 0.01]) == (0.04, None, 0.02)
    assert holm([0.9, 0.8]) == (1.0, 1.0)
    assert holm([]) == ()


def test_holm_agrees_with_statsmodels():
    """The step-down procedure equals that of statsmodels on random families."""
    multitest = pytest.importorskip("statsmodels.stats.multitest")
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        p = rng.uniform(0, 1, size) ** 3
        assert holm(p.tolist()) == pytest.approx(multitest.multipletests(p, method="holm")[1])


def test_the_interval_is_that_of_scipy_and_covers_the_mean():
    """The interval is SciPy's BCa interval with the same generator, and repeats exactly."""
    values = np.random.default_rng(3).normal(0.1, 0.2, 25)
    wanted = stats.bootstrap(
        (values,), np.mean, n_resamples=9999, method="BCa", random_state=np.random.default_rng(7)
    ).confidence_interval
    assert mean_interval(values, seed=7) == (wanted.low, wanted.high) == mean_interval(values, seed=7)
    assert wanted.low < values.mean() < wanted.high


def test_intervals_hold_the_truth_as_often_as_they_say():
    """Of 200 samples of 30 cases, about 95 % of the intervals hold the true mean: 183 to 198 with probability 0.99."""
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(200):
        low, high = mean_interval(rng.normal(0.05, 0.1, 30), seed)
        held += low <= 0.05 <= high
    assert 180 <= held <= 198


DIRECT = dict(zip(affinity().sources, (0.6, 0.8, 0.7, 0.1), strict=True))


def test_rankings_of_metrics_and_of_no_metric():
    """Distances that fall as Dice rises rank perfectly; size, channel names and a blind draw follow their own rules."""
    found = {one.metric: one for one in rankings((affinity(), affinity((1, 2, 3, 4), metric="other")), DIRECT)}
    perfect = found["descriptors"]
    assert (perfect.spearman, perfect.regret, perfect.transfers) == (pytest.approx(1), 0, 4)
    assert found["other"].regret == pytest.approx(0.2), "its first choice reached 0.6"
    assert found[LARGEST].regret == pytest.approx(0.1), "80 cases, Dice 0.7"
    assert found[MODALITY].regret == pytest.approx(0.7), "the one called MRI is the worst"
    assert (found[RANDOM].spearman, found[RANDOM].regret) == (0, pytest.approx(0.8 - 0.55))
    assert rankings((affinity(),), {A: 0.5, B: 0.6}) == (), "two are no ranking"


def test_a_metric_without_a_distance_is_judged_on_what_it_has():
    """An infinite distance is none; a metric with distances to fewer than three transfers is not judged."""
    some = affinity((0.4, 0.2, 0.3, math.inf), metric="some")
    few = affinity((0.4, 0.2, math.inf, math.inf), metric="few")
    found = {one.metric: one.transfers for one in rankings((affinity(), some, few), DIRECT)}
    assert found["some"] == 3 and "few" not in found


def test_direct_transfers_are_compared_on_the_same_models():
    """A seed that one source lacks is left out for all, so that no source is judged by an easier model."""
    every = [
        scores("21 -> 4", {"a": 0.5, "b": 0.7}, 0),
        scores("21 -> 4", {"a": 0.0, "b": 0.0}, 1),
        scores("22 -> 4", {"a": 0.4, "b": 0.4}, 0),
        scores("21 -> 22 -> 4", {"a": 0.9}, 0),
    ]
    arms = (arm(A), arm(B), arm(A, B, roles=("planned",)))
    assert direct_dice(arms, every) == {A: pytest.approx(0.6), B: pytest.approx(0.4)}


def test_a_perfect_a_reversed_and_a_blind_ranking():
    """Costs that fall as values rise rank perfectly; reversed ones have -1 and the largest regret; equal ones none."""
    values = np.array([0.7, 0.5, 0.6, 0.2])
    assert rank_agreement(values, -values) == pytest.approx((1, 1, 0))
    assert rank_agreement(values, values) == pytest.approx((-1, -1, 0.5))
    assert rank_agreement(values, np.zeros(4)) == pytest.approx((0, 0, 0.7 - 0.5))


def test_rank_agreement_is_scipys():
    """Spearman and weighted tau equal SciPy's on costs turned around; regret is the best minus the first choice."""
    rng = np.random.default_rng(1)
    values, costs = rng.uniform(0, 1, 9), rng.uniform(0, 1, 9)
    spearman, tau, regret = rank_agreement(values, costs)
    assert spearman == pytest.approx(stats.spearmanr(values, -costs)[0])
    assert tau == pytest.approx(stats.weightedtau(values, -costs)[0])
    assert regret == pytest.approx(values.max() - values[costs.argmin()])
