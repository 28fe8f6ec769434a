"""What metrics have in common whose components are distances between means of vectors (see `embedding`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.affinity.base import Components
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.matching import Match
from nnunet_seqtransfer.affinity.mean_distance import (
    NONE_SHARED,
    Rows,
    Shared,
    multipliers,
    resampled,
    root_mean,
    rows_of,
    shared_cases,
    squares,
    stacked,
)
from nnunet_seqtransfer.affinity.memory import Memory
from nnunet_seqtransfer.tasks.signature import Signature

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Summary:
    """What is compared of T tasks (or resamples of one); metrics add Rows of their own."""

    geometry: Rows
    "R = axes: log2 of spacing and of extent, scaled so that squares are means over the two."
    single: NDArray[np.bool_]
    "(T, axes): whether all images have one voxel along this axis."


_DRAWN: Memory[Any] = Memory(64)
"""Resamples of tasks, about 1 MB each with one channel and one label."""

SummaryType = TypeVar("SummaryType", bound=Summary)


@dataclass(frozen=True)
class Squares:
    """Squares of the components of T pairs of tasks."""

    components: dict[str, Array]
    "By name, (T,); below 0 by chance."
    channels: Match
    "Which channels were compared with which."
    labels: Match
    "Which labels were."


class EuclideanMetric(ABC, Generic[SummaryType]):
    """Compares tasks, and resamples of tasks, one with many at once, given their summaries and squared distances."""

    combination: Combination

    @abstractmethod
    def summarise(self, task: Signature) -> SummaryType:
        """What is compared of one task; called often, so remembered."""

    @abstractmethod
    def squares(
        self, a: SummaryType, b: SummaryType, shared: Shared, matches: tuple[Match, Match] | None = None
    ) -> Squares:
        """The squares between a and b, each of T tasks or a single one, under matches that are found if not given.

        All tasks of a, and all of b, have the same numbers of channels and labels. ``shared``: see `embedding.squares`.
        """

    def compare(self, source: Signature, target: Signature) -> Components:
        """The components of one distance, and in words what was matched."""
        found = self._pair(source, target)
        words = [f"{source.channels[i]} -> {target.channels[j]}" for i, j in found.channels.pairs]
        words += [f"{source.labels[i]} -> {target.labels[j]}" for i, j in found.labels.pairs]
        return Components({name: float(values[0]) for name, values in _lengths(found).items()}, tuple(words))

    def compare_many(self, source: Signature, targets: Sequence[Signature]) -> dict[str, Array]:
        """Targets of equal numbers of channels and labels, and without a case of the source, go together."""
        result = {name: np.empty(len(targets)) for name in self.combination.weights}
        for members, shared in _batches(source, targets):
            block = stacked_summaries([self.summarise(targets[index]) for index in members])
            several = self.squares(self.summarise(source), block, shared)
            for name, values in _lengths(several).items():
                result[name][members] = values
        return result

    def resample(self, source: Signature, target: Signature, count: int, seed: int) -> dict[str, Array]:
        """Under the match of the whole sample."""
        whole = self._pair(source, target)
        a, b = self._drawn(source, count, seed), self._drawn(target, count, seed)
        shared = shared_cases(source.keys, target.keys)
        lengths = _lengths(self.squares(a, b, shared, (whole.channels, whole.labels)))
        return {name: np.broadcast_to(values, (count,)) for name, values in lengths.items()}

    def _drawn(self, task: Signature, count: int, seed: int) -> SummaryType:
        """Resamples of one task, remembered, since they are compared with those of every other."""

        def draw() -> SummaryType:
            return resampled_summary(self.summarise(task), multipliers(task.keys, count, seed))

        drawn: SummaryType = _DRAWN.recall((type(self), task, count, seed), draw)
        return drawn

    def _pair(self, source: Signature, target: Signature) -> Squares:
        return self.squares(self.summarise(source), self.summarise(target), shared_cases(source.keys, target.keys))


def _lengths(found: Squares) -> dict[str, Array]:
    return {name: np.sqrt(np.maximum(square, 0.0)) for name, square in found.components.items()}


def _batches(source: Signature, targets: Sequence[Signature]) -> Iterator[tuple[list[int], Shared]]:
    """Indices of targets that go together, and the cases that they share with the source: none, unless it is one."""
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
    """T tasks with the same numbers of channels and labels in one; a single one as it is, with its cases."""
    if len(parts) == 1:
        return parts[0]
    single = np.concatenate([part.single for part in parts])
    rows = {name: stacked([getattr(part, name) for part in parts]) for name in _row_names(parts[0])}
    return type(parts[0])(**rows, single=single)


def resampled_summary(part: SummaryType, weights: Array) -> SummaryType:
    """B resamples of a single task, see `embedding.resampled`; ``weights`` (B, n).

    Rows that are not of cases (they have no errors) stay as they are.
    """
    rows = {name: getattr(part, name) for name in _row_names(part)}
    drawn = {name: resampled(row, weights) if len(row.errors) else row for name, row in rows.items()}
    return type(part)(**drawn, single=part.single)


def _row_names(part: Summary) -> list[str]:
    return [field.name for field in fields(part) if field.name != "single"]


def geometry_rows(task: Signature) -> Rows:
    """`Summary.geometry` of one task."""
    return rows_of(root_mean(np.log2(task.geometry).transpose(0, 2, 1)))


def single_axes(task: Signature) -> NDArray[np.bool_]:
    """`Summary.single` of one task."""
    return np.asarray(is_single(task).all(axis=0, keepdims=True))


def is_single(task: Signature) -> NDArray[np.bool_]:
    """(cases, axes): whether a case's image has one voxel along an axis."""
    return np.asarray(task.geometry[:, 0] == task.geometry[:, 1])


def geometry_squares(a: Summary, b: Summary, shared: Shared) -> Array:
    """(T,) squared distances: means over the axes of the squared log2 ratios of spacings and of extents.

    Readers give single slices a thickness of their own making (999 for PNG, 1 for NIfTI): such axes are left out.
    """
    axes = np.diagonal(squares(a.geometry, b.geometry, shared, unmatched=0.0), axis1=1, axis2=2)
    used = np.broadcast_to(~(a.single & b.single), axes.shape)
    return np.asarray((axes * used).sum(axis=1) / np.maximum(used.sum(axis=1), 1))
