"""Tasks as means of vectors over their cases: squared distances without the noise of the sample, and their resamples.

A case is described by vectors, a task by their mean m over n cases. The squared distance of two means overestimates
that of the true means by the variance of both, which the spread of the cases tells, so it is subtracted:

    d^2 = |m_a - m_b|^2 - v_a - v_b + 2 c_ab,   v = sum over cases |x - m|^2 / (n (n - 1))

with c_ab the covariance through the s cases that both tasks hold (equal identifiers), the sum over them of
(x - m_a)(y - m_b) / (n_a n_b - n_a - n_b + s): for the same patients only the differences within patients count, and a
task is at distance 0 from itself. In expectation d^2 is the squared distance
of the true means; by chance it may fall below 0. (The energy distance E|a - b|^2 - E|a - a'|^2 / 2 - E|b - b'|^2 / 2
over pairs of different cases is the same number: Szekely and Rizzo, J. Stat. Plan. Inference 143, 2013.)

Resamples are those of the multiplier bootstrap: m + sum over cases w e, with e = (x - m) / sqrt(n (n - 1)) and w
independent with mean 0 and variance 1 (van der Vaart and Wellner, Weak Convergence, 1996, section 2.9), so that their
variance is v exactly. A case has the same w in all tasks that hold it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Shared = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Indices of the cases that two tasks share, in the one and in the other."""
NONE_SHARED: Shared = (np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp))

_NOISE_FLOOR = 1e-12
"""Squares below this share of what they are the difference of are rounding, and 0."""


@dataclass(frozen=True)
class Rows:
    """Means of vectors for T tasks (or T resamples of one): one vector for each of R things, such as channels."""

    mean: Array
    "Shape (T, R, D); NaN where no case has the thing."
    noise: Array
    "Shape (T, R): v, the variance of the mean summed over D; 0 where fewer than two cases have it."
    errors: Array
    "Shape (n, R, D): e of each of n cases where the task is a single one, else (0, R, D)."
    present: NDArray[np.bool_]
    "Shape (n, R): whether the case has the thing; (0, R) where there are no errors."
    drawn: bool = False
    "Whether these are resamples."

    @property
    def absent(self) -> NDArray[np.bool_]:
        """(T, R) where no case has the thing."""
        return np.isnan(self.mean[..., 0])


def rows_of(values: Array) -> Rows:
    """The Rows of one task from (n, R, D): vectors of n cases, NaN in all of D where a case lacks the thing."""
    present = np.asarray(~np.isnan(values).any(axis=-1, keepdims=True))
    count = present.sum(axis=0)
    filled = np.where(present, values, 0.0)
    # The first case that has it is taken off before: cases that agree give exactly their value, and no noise.
    first = np.take_along_axis(filled, present.argmax(axis=0, keepdims=True), axis=0)
    mean = first + np.where(present, filled - first, 0.0).sum(axis=0) / np.maximum(count, 1)
    scale = np.where(count > 1, 1 / np.sqrt(np.maximum(count * (count - 1), 1)), 0.0)
    errors = np.where(present, filled - mean, 0.0) * scale
    mean = np.where(count > 0, mean, np.nan)
    return Rows(mean, (errors**2).sum(axis=(0, -1))[None], errors, present[..., 0])


def root_mean(values: Array) -> Array:
    """Values scaled so that the square of a difference's length is the mean over the last axis."""
    return np.asarray(values / np.sqrt(values.shape[-1]))


def stacked(rows: Sequence[Rows]) -> Rows:
    """T tasks with the same R and D in one, without the errors of their cases."""
    return Rows(
        np.concatenate([entry.mean for entry in rows]),
        np.concatenate([entry.noise for entry in rows]),
        rows[0].errors[:0],
        rows[0].present[:0],
    )


def resampled(rows: Rows, multipliers: Array) -> Rows:
    """B resamples of a single task, ``multipliers`` (B, n).

    Their means scatter around one that is itself off by its noise: both are subtracted from squares of distances.
    """
    shifts = np.tensordot(multipliers, rows.errors, axes=1)
    return Rows(rows.mean + shifts, 2 * rows.noise, rows.errors, rows.present, drawn=True)


def squares(a: Rows, b: Rows, shared: Shared, unmatched: float) -> Array:
    """(T, R_a, R_b) squared distances without noise, of each of a's things to each of b's.

    ``a`` and ``b`` hold T tasks (resamples) each, or one of them a single one. ``shared``: indices of the cases that
    both hold, in a and in b, empty unless both are single tasks (or resamples of such). Where just one of the two is
    absent the square is ``unmatched``, where both are it is 0.
    """
    # Thing by thing: differences of all with all would not stay in the processor's cache.
    differences = (a.mean[:, row, None] - b.mean for row in range(a.mean.shape[1]))
    plain = np.stack([np.einsum("...d,...d->...", each, each) for each in differences], axis=1)
    noise = a.noise[:, :, None] + b.noise[:, None]
    if len(shared[0]):
        noise = noise - 2 * _covariance(a, b, shared)
    net = plain - noise
    net = np.where(np.abs(net) <= _NOISE_FLOOR * (plain + a.noise[:, :, None] + b.noise[:, None]), 0.0, net)
    lacking = a.absent[:, :, None].astype(int) + b.absent[:, None]
    return np.where(lacking == 0, net, np.where(lacking == 1, unmatched, 0.0))


def _covariance(a: Rows, b: Rows, shared: tuple[NDArray[np.intp], NDArray[np.intp]]) -> Array:
    """(R_a, R_b) covariance of the means through shared cases, c; of resamples that of their draws besides."""
    through = np.einsum("crd,csd->rs", a.errors[shared[0]], b.errors[shared[1]])
    n_a, n_b = a.present.sum(axis=0)[:, None], b.present.sum(axis=0)[None]
    both = a.present[shared[0]].astype(int).T @ b.present[shared[1]].astype(int)
    # Errors are those of the variances; with fewer shared cases than cases their products fall short of c.
    full = np.maximum(n_a * n_b - n_a - n_b + both, 1)
    short = np.sqrt(n_a * np.maximum(n_a - 1, 0) * n_b * np.maximum(n_b - 1, 0)) / full
    return np.asarray(through * (short + 1 if a.drawn else short))


def shared_cases(a: Sequence[str], b: Sequence[str]) -> Shared:
    """Indices of the cases that two tasks share, by equal keys, in the one and in the other."""
    places = {key: index for index, key in enumerate(b)}
    found = [(index, places[key]) for index, key in enumerate(a) if key in places]
    first, second = ([pair[side] for pair in found] for side in (0, 1))
    return np.asarray(first, dtype=np.intp), np.asarray(second, dtype=np.intp)


def multipliers(keys: Sequence[str], count: int, seed: int) -> Array:
    """(count, n) weights w of n cases: exponential - 1 (as in the Bayesian bootstrap), drawn by seed and key alone."""
    return np.stack([_multiplier(key, count, seed) for key in keys], axis=1)


@lru_cache(maxsize=1 << 16)
def _multiplier(key: str, count: int, seed: int) -> Array:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big")).standard_exponential(count) - 1.0
