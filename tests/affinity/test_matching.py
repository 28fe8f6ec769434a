"""Matching against all permutations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.matching import Match, assign, matched_mean

SIZES = [(1, 1), (1, 4), (3, 1), (2, 3), (4, 2), (3, 3), (4, 4)]


def best(cost: np.ndarray) -> float:
    """The smallest sum over all one-to-one matchings."""
    rows, columns = cost.shape
    if rows > columns:
        return best(cost.T)
    return min(cost[range(rows), list(chosen)].sum() for chosen in itertools.permutations(range(columns), rows))


@pytest.mark.parametrize("size", SIZES)
def test_the_match_is_the_best_of_all_permutations(size: tuple[int, int]) -> None:
    """One to one, as many as the smaller side has, and no other choice has a smaller sum; negative costs count as 0."""
    costs = np.random.default_rng(0).normal(1, 1, (40, *size))
    match = assign(costs)
    assert match.first.shape == match.second.shape == (40, min(size))
    for cost, first, second in zip(costs, match.first, match.second, strict=True):
        assert len(set(first)) == len(set(second)) == min(size)
        assert list(first) == sorted(first)
        positive = np.maximum(cost, 0)
        assert positive[first, second].sum() == pytest.approx(best(positive))


def test_noise_below_zero_does_not_match_equal_channels_crosswise() -> None:
    """Two channels that can hardly be told apart keep their order, however the noise in their distances falls."""
    costs = -np.random.default_rng(3).random((50, 2, 2)) * 1e-3
    assert all(list(second) == [0, 1] for second in assign(costs).second)


@pytest.mark.parametrize("size", SIZES)
def test_the_mean_counts_what_has_no_counterpart(size: tuple[int, int]) -> None:
    """Over the larger side: the matched costs, and a fixed one for each that is left."""
    costs = np.random.default_rng(1).random((7, *size))
    found = matched_mean(costs, assign(costs), 0.25)
    expected = [(best(cost) + 0.25 * (max(size) - min(size))) / max(size) for cost in costs]
    np.testing.assert_allclose(found, expected)


def test_one_match_serves_many_resamples() -> None:
    """A single match is applied to any number of tables of costs."""
    costs = np.random.default_rng(2).random((9, 2, 3))
    match = Match(np.asarray([[0, 1]]), np.asarray([[2, 0]]))
    assert match.pairs == [(0, 2), (1, 0)]
    expected = (costs[:, 0, 2] + costs[:, 1, 0] + 0.25) / 3
    np.testing.assert_allclose(matched_mean(costs, match, 0.25), expected)
