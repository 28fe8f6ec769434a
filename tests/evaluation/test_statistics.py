"""Paired statistics against SciPy, published examples, and closed forms."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from nnunet_seqtransfer.evaluation.statistics import holm, mean_interval, rank_agreement, signed_rank_p

DEPRESSION = np.array([1.83, 0.50, 1.62, 2.48, 1.68, 1.88, 1.55, 3.06, 1.30]) - np.array(
    [0.878, 0.647, 0.598, 2.05, 1.06, 1.29, 1.06, 3.14, 1.29]
)
"""Hamilton depression scores of nine patients before and after: Hollander and Wolfe, 1973, table 3.1."""


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
    """All differences 0 have p 1; a single case has neither p nor interval."""
    assert signed_rank_p(np.zeros(5)) == 1.0
    assert math.isnan(signed_rank_p(np.array([0.3])))
    assert all(math.isnan(end) for end in mean_interval(np.array([0.3])))
    assert mean_interval(np.full(4, 0.1)) == (0.1, 0.1)


def test_holm_corrects_a_family():
    """Four p values by hand, in any order; NaN stays and does not count; the smallest of m becomes m times as large."""
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.04, math.nan, 0.01]) == pytest.approx((0.04, math.nan, 0.02), nan_ok=True)
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


def test_a_perfect_a_reversed_and_a_blind_ranking():
    """Costs that fall as values rise rank perfectly; reversed ones have -1 and the largest regret; equal ones none."""
    values = np.array([0.7, 0.5, 0.6, 0.2])
    perfect = rank_agreement(values, -values)
    assert (perfect.spearman, perfect.weighted_tau, perfect.regret) == pytest.approx((1, 1, 0))
    reverse = rank_agreement(values, values)
    assert (reverse.spearman, reverse.weighted_tau, reverse.regret) == pytest.approx((-1, -1, 0.5))
    blind = rank_agreement(values, np.zeros(4))
    assert (blind.spearman, blind.weighted_tau, blind.regret) == pytest.approx((0, 0, 0.7 - 0.5))


def test_rank_agreement_is_scipys():
    """Spearman and weighted tau equal SciPy's on costs turned around; regret is the best minus the first choice."""
    rng = np.random.default_rng(1)
    values, costs = rng.uniform(0, 1, 9), rng.uniform(0, 1, 9)
    found = rank_agreement(values, costs)
    assert found.spearman == pytest.approx(stats.spearmanr(values, -costs)[0])
    assert found.weighted_tau == pytest.approx(stats.weightedtau(values, -costs)[0])
    assert found.regret == pytest.approx(values.max() - values[costs.argmin()])
