"""Rankings of measured transfers by distances, by simple rules, and by SciPy's correlations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from nnunet_seqtransfer.evaluation.rankings import LARGEST, MODALITY, RANDOM, direct_dice, rank_agreement, rankings
from support.comparison_cases import A, B, affinity, arm, scores

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
