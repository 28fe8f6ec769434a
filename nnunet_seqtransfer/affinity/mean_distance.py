"""Distances between tasks as distances between mean vectors over their cases, without the noise of the sample.

A case is described by vectors, a task by their mean m over n cases. The squared distance of two means overestimates
that of the true means by the variance of both means. The spread of the cases estimates it, so it is subtracted:

    d^2 = |m_a - m_b|^2 - v_a - v_b + 2 c_ab,   v = sum over cases |x - m|^2 / (n (n - 1))

c_ab is the covariance through the s cases that both tasks hold (equal identifiers): the sum over them of
(x - m_a)(y - m_b) / (n_a n_b - n_a - n_b + s). So for the same patients only differences within patients count, and a
task is at distance 0 from itself. The expectation of d^2 is the squared distance of the true means. It may fall below 0
by chance. (The energy distance E|a - b|^2 - E|a - a'|^2 / 2 - E|b - b'|^2 / 2 over pairs of different cases is the same
number: Szekely and Rizzo, J. Stat. Plan. Inference 143, 2013.)

Resamples come from the multiplier bootstrap: m + sum over cases w e, with e = (x - m) / sqrt(n (n - 1)) and independent
w of mean 0 and variance 1 (van der Vaart and Wellner, Weak Convergence, 1996, section 2.9), so their variance is
exactly v. A case has the same w in all tasks that hold it.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.affinity.base import Components, Counterparts
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.matching import Match
from nnunet_seqtransfer.tasks.signature import Signature

Array = NDArray[np.float64]
Shared = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Indices of the cases that two tasks share, in the first and in the second task."""
NONE_SHARED: Shared = (np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.intp))

_NOISE_FLOOR = 1e-12
"""Squares below this share of the terms they are the difference of are rounding errors, set to 0."""


@dataclass(frozen=True)
class Rows:
    """Mean vectors of T tasks (or T resamples of one task), one vector per row; a row is a channel or a label."""

    mean: Array
    "Mean vectors, (T, R, D); NaN if no case has the row."
    noise: Array
    "Variance v of the mean, summed over D, (T, R); 0 if fewer than two cases have the row."
    errors: Array
    "Scaled deviations e of the n cases of a single task, (n, R, D); (0, R, D) for several tasks."
    present: NDArray[np.bool_]
    "True if a case has a row, (n, R); (0, R) without errors."
    drawn: bool = False
    "True for resamples."

    @property
    def absent(self) -> NDArray[np.bool_]:
        """Return a mask (T, R) of the rows that no case has."""
        return np.isnan(self.mean[..., 0])


def rows_of(values: Array) -> Rows:
    """Return the Rows of one task from the vectors of n cases, (n, R, D); NaN marks a row that a case lacks."""
    present = np.asarray(~np.isnan(values).any(axis=-1, keepdims=True))
    count = present.sum(axis=0)
    filled = np.where(present, values, 0.0)
    # Subtract the first case before averaging: cases that agree give exactly their value, and no noise.
    first = np.take_along_axis(filled, present.argmax(axis=0, keepdims=True), axis=0)
    mean = first + np.where(present, filled - first, 0.0).sum(axis=0) / np.maximum(count, 1)
    scale = np.where(count > 1, 1 / np.sqrt(np.maximum(count * (count - 1), 1)), 0.0)
    errors = np.where(present, filled - mean, 0.0) * scale
    mean = np.where(count > 0, mean, np.nan)
    return Rows(mean, (errors**2).sum(axis=(0, -1))[None], errors, present[..., 0])


def root_mean(values: Array) -> Array:
    """Scale values so that the squared length of a difference is the mean over the last axis."""
    return np.asarray(values / np.sqrt(values.shape[-1]))


def stacked(rows: Sequence[Rows]) -> Rows:
    """Join T tasks with the same R and D into one Rows, without the errors of their cases."""
    return Rows(
        np.concatenate([entry.mean for entry in rows]),
        np.concatenate([entry.noise for entry in rows]),
        rows[0].errors[:0],
        rows[0].present[:0],
    )


def resampled(rows: Rows, multipliers: Array) -> Rows:
    """Return B resamples of a single task with multipliers (B, n)."""
    shifts = np.tensordot(multipliers, rows.errors, axes=1)
    # Twice the noise: resampled means scatter around a mean that has the same noise itself.
    return Rows(rows.mean + shifts, 2 * rows.noise, rows.errors, rows.present, drawn=True)


def squares(a: Rows, b: Rows, shared: Shared, unmatched: float) -> Array:
    """Return the squared distances without noise, (T, R_a, R_b), from each row of ``a`` to each row of ``b``.

    ``a`` and ``b`` hold T tasks (or resamples) each, or one of them holds a single task. ``shared`` names the cases in
    both; it is empty unless both are single tasks, or resamples of such. If one of two rows is absent, the square is
    ``unmatched``; if both are, it is 0.
    """
    # Row by row: all differences at once would not fit into the processor's cache.
    differences = (a.mean[:, row, None] - b.mean for row in range(a.mean.shape[1]))
    plain = np.stack([np.einsum("...d,...d->...", each, each) for each in differences], axis=1)
    noise = a.noise[:, :, None] + b.noise[:, None]
    if len(shared[0]):
        noise = noise - 2 * _covariance(a, b, shared)
    net = plain - noise
    net = np.where(np.abs(net) <= _NOISE_FLOOR * (plain + a.noise[:, :, None] + b.noise[:, None]), 0.0, net)
    lacking = a.absent[:, :, None].astype(int) + b.absent[:, None]
    return np.where(lacking == 0, net, np.where(lacking == 1, unmatched, 0.0))


def _covariance(a: Rows, b: Rows, shared: Shared) -> Array:
    """Return the covariance c of the means through shared cases, (R_a, R_b), plus that of the draws for resamples."""
    through = np.einsum("crd,csd->rs", a.errors[shared[0]], b.errors[shared[1]])
    n_a, n_b = a.present.sum(axis=0)[:, None], b.present.sum(axis=0)[None]
    both = a.present[shared[0]].astype(int).T @ b.present[shared[1]].astype(int)
    # The errors are scaled for the variances. If only some cases are shared, their products fall short of c.
    full = np.maximum(n_a * n_b - n_a - n_b + both, 1)
    short = np.sqrt(n_a * np.maximum(n_a - 1, 0) * n_b * np.maximum(n_b - 1, 0)) / full
    return np.asarray(through * (short + 1 if a.drawn else short))


def shared_cases(a: Sequence[str], b: Sequence[str]) -> Shared:
    """Return the indices of the cases with equal keys, in the first and in the second task."""
    in_b = {key: index for index, key in enumerate(b)}
    found = [(index, in_b[key]) for index, key in enumerate(a) if key in in_b]
    first, second = ([pair[side] for pair in found] for side in (0, 1))
    return np.asarray(first, dtype=np.intp), np.asarray(second, dtype=np.intp)


def multipliers(keys: Sequence[str], count: int, seed: int) -> Array:
    """Return the weights w of n cases, (count, n): exponential minus 1, as in the Bayesian bootstrap.

    A weight depends only on seed and key.
    """
    return np.stack([_multiplier(key, count, seed) for key in keys], axis=1)


@lru_cache(maxsize=1 << 16)
def _multiplier(key: str, count: int, seed: int) -> Array:
    digest = hashlib.sha256(f"{seed}:{key}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big")).standard_exponential(count) - 1.0


@dataclass(frozen=True)
class Summary:
    """The vectors of T tasks (or resamples of one task) that are compared. Metrics add Rows of their own."""

    geometry: Rows
    "One row per axis: log2 of spacing and extent, scaled so that squares are means over the two."
    single: NDArray[np.bool_]
    "True if all images have one voxel along an axis, (T, axes)."


SummaryType = TypeVar("SummaryType", bound=Summary)


@dataclass(frozen=True)
class Squares:
    """Squared components of the distances of T pairs of tasks."""

    components: dict[str, Array]
    "Squares (T,) by name of the component; below 0 by chance."
    channels: Match
    "Matched channels."
    labels: Match
    "Matched labels."


class MeanDistanceMetric(ABC, Generic[SummaryType]):
    """Compare and resample tasks, given their summaries and the squared distances between summaries."""

    combination: Combination

    @abstractmethod
    def summarise(self, task: Signature) -> SummaryType:
        """Return the summary of one task. Called often, so cache it."""

    @abstractmethod
    def squares(
        self, a: SummaryType, b: SummaryType, shared: Shared, matches: tuple[Match, Match] | None = None
    ) -> Squares:
        """Return the squares between ``a`` and ``b``, each of T tasks or of a single one.

        All tasks of ``a`` have the same numbers of channels and labels, and so have all tasks of ``b``. ``shared``: see
        `squares`. ``matches``: matches of channels and labels to use; None to find the best ones.
        """

    def compare(self, source: Signature, target: Signature) -> Components:
        """Return the components of one distance, and the matched channels and labels."""
        found = self._pair(source, target)
        counterparts = Counterparts(
            tuple((source.channels[i], target.channels[j]) for i, j in found.channels.pairs),
            tuple((source.labels[i], target.labels[j]) for i, j in found.labels.pairs),
        )
        return Components({name: float(values[0]) for name, values in _lengths(found).items()}, counterparts)

    def compare_many(self, source: Signature, targets: Sequence[Signature]) -> dict[str, Array]:
        """Compare in batches of targets with equal numbers of channels and labels and no case of the source."""
        result = {name: np.empty(len(targets)) for name in self.combination.weights}
        for members, shared in _batches(source, targets):
            block = stacked_summaries([self.summarise(targets[index]) for index in members])
            several = self.squares(self.summarise(source), block, shared)
            for name, values in _lengths(several).items():
                result[name][members] = values
        return result

    def resample(self, source: Signature, target: Signature, count: int, seed: int) -> dict[str, Array]:
        """Resample with the matches of the whole sample."""
        whole = self._pair(source, target)
        a, b = (_drawn(self, task, count, seed) for task in (source, target))
        shared = shared_cases(source.keys, target.keys)
        lengths = _lengths(self.squares(a, b, shared, (whole.channels, whole.labels)))
        return {name: np.broadcast_to(values, (count,)) for name, values in lengths.items()}

    def _pair(self, source: Signature, target: Signature) -> Squares:
        return self.squares(self.summarise(source), self.summarise(target), shared_cases(source.keys, target.keys))


@lru_cache(maxsize=64)  # about 1 MB each with one channel and one label
def _drawn(metric: MeanDistanceMetric[Any], task: Signature, count: int, seed: int) -> Any:
    """Resample one task once: the resamples are compared with those of every other task."""
    whole, weights = metric.summarise(task), multipliers(task.keys, count, seed)
    drawn = {name: resampled(getattr(whole, name), weights) for name in _row_names(whole)}
    return type(whole)(**drawn, single=whole.single)


def _lengths(found: Squares) -> dict[str, Array]:
    return {name: np.sqrt(np.maximum(square, 0.0)) for name, square in found.components.items()}


def _batches(source: Signature, targets: Sequence[Signature]) -> Iterator[tuple[list[int], Shared]]:
    """Yield indices of targets to compare together, and their shared cases. A target that shares cases goes alone."""
    held = set(source.keys)
    groups: dict[tuple[int, int], list[int]] = {}
    for index, target in enumerate(targets):
        if held.isdisjoint(target.keys):
            groups.setdefault((len(target.channels), len(target.labels)), []).append(index)
        else:
            yield [index], shared_cases(source.keys, target.keys)
    for members in groups.values():
        yield members, NONE_SHARED


def stacked_summaries(parts: Sequence[SummaryType]) -> SummaryType:
    """Join T tasks with the same numbers of channels and labels. A single task keeps the errors of its cases."""
    if len(parts) == 1:
        return parts[0]
    single = np.concatenate([part.single for part in parts])
    rows = {name: stacked([getattr(part, name) for part in parts]) for name in _row_names(parts[0])}
    return type(parts[0])(**rows, single=single)


def _row_names(part: Summary) -> list[str]:
    return [field.name for field in fields(part) if field.name != "single"]


def geometry_squares(a: Summary, b: Summary, shared: Shared) -> Array:
    """Return squared distances (T,): means over the axes of the squared log2 ratios of spacings and of extents."""
    axes = np.diagonal(squares(a.geometry, b.geometry, shared, unmatched=0.0), axis1=1, axis2=2)
    # Readers invent the thickness of single slices (999 for PNG, 1 for NIfTI): leave such axes out.
    used = np.broadcast_to(~(a.single & b.single), axes.shape)
    return np.asarray((axes * used).sum(axis=1) / np.maximum(used.sum(axis=1), 1))
