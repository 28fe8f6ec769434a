"""Squared distances of means: unbiased, 0 to oneself, resampled with the variance they have; by brute force."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.mean_distance import (
    Rows,
    multipliers,
    resampled,
    rows_of,
    shared_cases,
    squares,
    stacked,
)

NONE = (np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp))
UNMATCHED = 0.25


def square(a: Rows, b: Rows, shared: tuple[np.ndarray, np.ndarray] = NONE) -> np.ndarray:
    return squares(a, b, shared, UNMATCHED)


def first(count: int) -> tuple[np.ndarray, np.ndarray]:
    """The first cases of both tasks are the same patients."""
    return np.arange(count), np.arange(count)


def energy_distance(a: np.ndarray, b: np.ndarray) -> float:
    """E|a - b|^2 - E|a - a'|^2 / 2 - E|b - b'|^2 / 2 over pairs of different cases, one by one."""
    between = np.mean([((x - y) ** 2).sum() for x in a for y in b])
    within = [np.mean([((x - y) ** 2).sum() for x, y in itertools.permutations(side, 2)]) for side in (a, b)]
    return float(between - within[0] / 2 - within[1] / 2)


def test_squares_are_energy_distances() -> None:
    """Without shared cases the square is the U-statistic of the energy distance, for each pair of things."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (7, 2, 5)), rng.normal(0.4, 2, (4, 3, 5))
    found = square(rows_of(a), rows_of(b))
    assert found.shape == (1, 2, 3)
    for i, j in itertools.product(range(2), range(3)):
        assert found[0, i, j] == pytest.approx(energy_distance(a[:, i], b[:, j]), rel=1e-10)


def test_squares_are_symmetric() -> None:
    """From a to b as from b to a, shared cases included."""
    rng = np.random.default_rng(1)
    a, b = rows_of(rng.normal(size=(6, 2, 5))), rows_of(rng.normal(size=(5, 3, 5)))
    there, back = square(a, b, first(3)), square(b, a, first(3))
    np.testing.assert_allclose(there, back.transpose(0, 2, 1), rtol=1e-12)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("cases", [1, 2, 3, 10])
def test_a_task_is_exactly_0_from_itself(cases: int, scale: float) -> None:
    """0, not nearly 0, whatever the units, an offset, the order of the cases, and cases that lack the thing."""
    values = 1e3 * scale + scale * np.random.default_rng(cases).normal(size=(cases, 3, 20))
    values[: cases // 2, 1] = np.nan
    order = np.random.default_rng(0).permutation(cases)
    a, b = rows_of(values), rows_of(values[order])
    assert (np.diagonal(square(a, a, first(cases)), axis1=1, axis2=2) == 0).all()
    assert (np.diagonal(square(a, b, (order, np.arange(cases))), axis1=1, axis2=2) == 0).all()


def test_cases_that_agree_have_no_noise() -> None:
    """Equal cases give their very value and a variance of exactly 0."""
    value = np.random.default_rng(0).normal(size=(1, 2, 9)) * 1e4 + 0.1
    rows = rows_of(np.repeat(value, 7, axis=0))
    assert (rows.mean == value).all() and (rows.noise == 0).all() and (rows.errors == 0).all()


def test_rows_leave_out_what_a_case_lacks() -> None:
    """Mean and variance of each thing are those of the cases that have it; with one or none there is no variance."""
    values = np.random.default_rng(2).normal(size=(6, 4, 3))
    values[2:4, 1] = np.nan
    values[1:, 2] = np.nan
    values[:, 3] = np.nan
    rows = rows_of(values)
    assert rows.mean.shape == (1, 4, 3) and rows.noise.shape == (1, 4) and rows.errors.shape == (6, 4, 3)
    for thing, kept in ((0, [0, 1, 2, 3, 4, 5]), (1, [0, 1, 4, 5])):
        seen = values[kept, thing]
        np.testing.assert_allclose(rows.mean[0, thing], seen.mean(axis=0), rtol=1e-12)
        assert rows.noise[0, thing] == pytest.approx(seen.var(axis=0, ddof=1).sum() / len(kept))
    assert (rows.mean[0, 2] == values[0, 2]).all() and rows.noise[0, 2] == 0
    assert rows.absent.tolist() == [[False, False, False, True]] and rows.noise[0, 3] == 0
    assert not np.isnan(rows.errors).any()


def test_what_just_one_of_two_has_is_unmatched() -> None:
    """A thing that one task has and the other has not counts a fixed square, one that neither has counts nothing."""
    values = np.random.default_rng(3).normal(size=(4, 2, 3))
    values[:, 1] = np.nan
    found = square(rows_of(values), rows_of(values + 1))[0]
    assert found[0, 1] == found[1, 0] == UNMATCHED
    assert found[1, 1] == 0 and found[0, 0] > 0


def test_many_tasks_at_once_are_one_by_one() -> None:
    """A stack of tasks gives what each of them gives alone."""
    rng = np.random.default_rng(4)
    one = rows_of(rng.normal(size=(5, 2, 6)))
    others = [rows_of(rng.normal(size=(cases, 3, 6))) for cases in (2, 7, 4)]
    together = square(one, stacked(others))
    assert together.shape == (3, 2, 3)
    for found, other in zip(together, others, strict=True):
        np.testing.assert_allclose(found, square(one, other)[0], rtol=1e-12)


def draw(rng: np.random.Generator, cases: int, depth: int, shift: float, shared: int, other: int) -> list[np.ndarray]:
    """Two tasks whose first cases are the same patients: what a patient has in common, and what each task adds."""
    common = rng.normal(0, 1.0, (max(cases, other), 1, depth))
    a = common[:cases] + rng.normal(0, 0.5, (cases, 1, depth))
    b = rng.normal(0, 1.0, (other, 1, depth))
    b[:shared] = common[:shared]
    return [a, b + shift + rng.normal(0, 0.5, b.shape)]


@pytest.mark.parametrize("shift", [0.0, 0.3, 1.0])
@pytest.mark.parametrize(("cases", "other", "shared"), [(10, 10, 0), (3, 6, 0), (10, 10, 10), (6, 6, 3), (4, 8, 2)])
def test_squares_are_unbiased(shift: float, cases: int, other: int, shared: int) -> None:
    """Over many samples the mean square is that of the true means, 0 included, with and without the same patients."""
    rng = np.random.default_rng(5)
    depth, times = 20, 3000
    found = []
    for _ in range(times):
        a, b = draw(rng, cases, depth, shift, shared, other)
        found.append(square(rows_of(a), rows_of(b), first(shared)).item())
    error = np.std(found) / np.sqrt(times)
    assert np.mean(found) == pytest.approx(depth * shift**2, abs=3.5 * error)
    # Without the correction the mean would be off by both variances of the mean.
    assert error < 0.2 * depth * 1.25 * (1 / cases + 1 / other)


def test_the_same_patients_are_compared_more_surely() -> None:
    """With the same patients the squares scatter less than with others."""
    rng = np.random.default_rng(6)
    spread = []
    for shared in (0, 10):
        found = [draw(rng, 10, 20, 1.0, shared, 10) for _ in range(300)]
        spread.append(np.std([square(rows_of(a), rows_of(b), first(shared)).item() for a, b in found]))
    assert spread[1] < 0.7 * spread[0]


def test_shared_cases_are_those_of_equal_keys() -> None:
    """Places in both lists, whatever their order."""
    a, b = shared_cases(["p", "q", "r", "s"], ["s", "x", "q"])
    assert (a.tolist(), b.tolist()) == ([1, 3], [2, 0])
    assert [len(part) for part in shared_cases(["a"], ["b"])] == [0, 0]


def test_multipliers_have_mean_0_and_variance_1() -> None:
    """They are drawn by seed and key alone: alike wherever the key occurs, apart for other keys and seeds."""
    keys = [f"#{number}" for number in range(50)]
    drawn = multipliers(keys, 2000, 0)
    assert drawn.shape == (2000, 50) and drawn.min() >= -1
    assert drawn.mean() == pytest.approx(0, abs=4 / np.sqrt(drawn.size))
    assert drawn.var() == pytest.approx(1, abs=4 * np.sqrt(8 / drawn.size))
    correlation = np.corrcoef(drawn.T) - np.eye(50)
    assert np.abs(correlation).max() < 5.5 / np.sqrt(2000)
    assert (multipliers(keys[::-1], 2000, 0) == drawn[:, ::-1]).all()
    assert (multipliers(keys[:1], 100, 0)[:, 0] == drawn[:100, 0]).all()
    assert np.abs(np.corrcoef(multipliers(keys[:1], 2000, 1)[:, 0], drawn[:, 0])[0, 1]) < 0.1


def test_resampled_means_have_the_variance_of_the_mean() -> None:
    """Around the task's mean, with the variance that the spread of its cases tells."""
    values = np.random.default_rng(7).normal(size=(8, 2, 4))
    values[:3, 1] = np.nan
    rows = rows_of(values)
    many = resampled(rows, multipliers([str(case) for case in range(8)], 20000, 0))
    assert many.mean.shape == (20000, 2, 4)
    np.testing.assert_allclose(many.mean.mean(axis=0), rows.mean[0], atol=0.02)
    np.testing.assert_allclose(many.mean.var(axis=0).sum(axis=-1), rows.noise[0], rtol=0.06)


@pytest.mark.parametrize("shared", [0, 4, 8])
def test_resampled_squares_centre_on_the_square(shared: int) -> None:
    """The mean of the resampled squares is the square of the sample, whichever cases are shared."""
    a, b = draw(np.random.default_rng(8), 8, 6, 0.5, shared, 8)
    keys = [f"a{case}" for case in range(8)]
    others = [*keys[:shared], *(f"b{case}" for case in range(8 - shared))]
    parts = rows_of(a), rows_of(b)
    centre = square(*parts, first(shared)).item()
    drawn = [resampled(part, multipliers(names, 20000, 0)) for part, names in zip(parts, (keys, others), strict=True)]
    found = squares(*drawn, first(shared), UNMATCHED)[:, 0, 0]
    assert found.mean() == pytest.approx(centre, abs=4 * found.std() / np.sqrt(20000))
    assert found.std() > 0.05


def test_intervals_cover_the_true_distance() -> None:
    """Percentile intervals of the distance hold the true one in about 95 of 100 experiments of ten cases each."""
    rng = np.random.default_rng(9)
    times, shift, depth = 300, 1.0, 12
    for shared in (0, 10):
        names = [[f"a{case}" for case in range(10)], [f"{'a' if shared else 'b'}{case}" for case in range(10)]]
        covered = 0
        for experiment in range(times):
            parts = [rows_of(values) for values in draw(rng, 10, depth, shift, shared, 10)]
            weights = [multipliers([f"{experiment}/{name}" for name in side], 200, 0) for side in names]
            drawn = [resampled(part, weight) for part, weight in zip(parts, weights, strict=True)]
            found = np.sqrt(np.maximum(squares(*drawn, first(shared), UNMATCHED)[:, 0, 0], 0))
            low, high = np.quantile(found, [0.025, 0.975])
            covered += low <= shift * np.sqrt(depth) <= high
        assert 0.88 <= covered / times <= 0.99, (shared, covered / times)
