"""Our default metric: image, contrast, label and geometry of what the network will see, each a debiased distance."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.description import describe_case
from nnunet_seqtransfer.affinity.euclidean import (
    EuclideanMetric,
    Squares,
    Summary,
    geometry_rows,
    geometry_squares,
    single_axes,
)
from nnunet_seqtransfer.affinity.matching import UNMATCHED, Match, assign, matched_mean, mean_of_objects
from nnunet_seqtransfer.affinity.mean_distance import Rows, Shared, root_mean, rows_of, squares
from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.tasks.profiling import Labels, View
from nnunet_seqtransfer.tasks.signature import Signature

Array = NDArray[np.float64]


@dataclass(frozen=True)
class DescriptorSummary(Summary):
    """Of T tasks (or resamples) with C channels and L labels; scaled so that squares add up."""

    intensity: Rows
    "R = C."
    structure: Rows
    "R = C."
    inside: Rows
    "R = (1 + L) C, the union of all labels first."
    relief: Rows
    "As inside."
    form: Rows
    "R = 1 + L."


class DescriptorMetric(EuclideanMetric[DescriptorSummary]):
    """Four distances between tasks, each the length of the difference of two mean vectors (see `embedding`).

    - image: W2 between the distributions of normalised intensities, and sliced W2 between those of 3 x 3 x 3 patches
      without their mean (root of the mean square over the projections; Bonneel et al., J. Math. Imaging Vis. 51,
      2015); root mean square of both. Channels are matched by the linear assignment with the smallest sum.
    - contrast: W2 between the intensities inside the objects, and W2 between those less the median of a shell around
      the object; root mean square of both and of the matched channels.
    - label: difference of the log10 of the sizes (decades of voxels), distance of the centroids (as share of the half
      diagonal of the image), root mean square of the differences of the log2 spreads along the axes and of the log2
      surface index; root mean square of the three.
    - geometry: root mean square of the log2 ratios of original spacings and of extents in mm along the axes.

    Intensities are those of the preprocessed cases, thus in standard deviations under z-score normalisation. A task's
    quantile function is the mean of its cases', their Wasserstein barycentre (Agueh and Carlier, SIAM J. Math. Anal.
    43, 2011), so that every one of these distances is Euclidean.

    Contrast and label average two squares: of the union of all labels, and of the labels one by one, matched by linear
    assignment. A channel or label without a counterpart, or a label that no case of just one of the two tasks holds,
    or that has surroundings in just one of them, counts with a square of `UNMATCHED`.
    """

    name = "descriptors"
    version = 2
    view: View = "preprocessed"
    combination = Combination({"image": 1.0, "contrast": 1.0, "label": 0.25, "geometry": 0.0625}, exponent=2.0)

    def profile(self, case: CaseData, labels: Labels) -> dict[str, NDArray[Any]]:
        """See `description.describe_case`."""
        return {**describe_case(case, labels)}

    def summarise(self, task: Signature) -> DescriptorSummary:
        """Kept, since a task is compared with many (signatures are told apart by identity)."""
        return _summary(task)

    def squares(
        self,
        a: DescriptorSummary,
        b: DescriptorSummary,
        shared: Shared,
        matches: tuple[Match, Match] | None = None,
    ) -> Squares:
        """Channels are matched by the image, then labels by contrast and label."""
        image = _images(a, b, shared)
        channels = matches[0] if matches else assign(image)
        contrast = _contrasts(a, b, channels, shared)
        label = squares(a.form, b.form, shared, UNMATCHED)
        labels = matches[1] if matches else assign(contrast[:, 1:, 1:] + label[:, 1:, 1:])
        found = {
            "image": matched_mean(image, channels, UNMATCHED),
            "contrast": mean_of_objects(contrast, labels, UNMATCHED),
            "label": mean_of_objects(label, labels, UNMATCHED),
            "geometry": geometry_squares(a, b, shared),
        }
        return Squares(found, channels, labels)


@lru_cache(maxsize=4096)
def _summary(task: Signature) -> DescriptorSummary:
    stack = {name: np.stack([p[name] for p in task.profiles]).astype(np.float64) for name in task.profiles[0]}
    cases, channels = stack["intensity"].shape[:2]
    objects = stack["form"].shape[1]
    halves = {name: stack[name].reshape(cases, objects * channels, -1) for name in ("inside", "relief")}
    return DescriptorSummary(
        intensity=rows_of(root_mean(stack["intensity"])),
        structure=rows_of(root_mean(stack["structure"].reshape(cases, channels, -1))),
        inside=rows_of(root_mean(halves["inside"])),
        relief=rows_of(root_mean(halves["relief"])),
        form=rows_of(stack["form"] * _FORM_SCALE),
        geometry=geometry_rows(task),
        single=single_axes(task),
    )


_FORM_SCALE = np.sqrt(np.asarray([1.0, *[4 / 3] * 3, *[1 / 4] * 4]) / 3)
"""Thirds of: the size; the place, relative to half the diagonal of the unit cube; the mean of the four of the shape."""


def _images(a: DescriptorSummary, b: DescriptorSummary, shared: Shared) -> Array:
    """(T, C_a, C_b) squares of every channel to every channel."""
    pairs = ((a.intensity, b.intensity), (a.structure, b.structure))
    return np.asarray(sum(squares(*pair, shared, UNMATCHED) for pair in pairs) / 2)


def _contrasts(a: DescriptorSummary, b: DescriptorSummary, channels: Match, shared: Shared) -> Array:
    """(T, 1 + L_a, 1 + L_b) squares of every object to every object, mean of the matched channels."""
    parts = []
    for one, other in ((a.inside, b.inside), (a.relief, b.relief)):
        first = _of_channels(one, a.intensity.mean.shape[1], channels.first)
        second = _of_channels(other, b.intensity.mean.shape[1], channels.second)
        parts.append(squares(first, second, shared, UNMATCHED))
    return np.asarray(sum(parts) / 2)


def _of_channels(rows: Rows, count: int, chosen: NDArray[np.intp]) -> Rows:
    """Rows of objects, R = 1 + L, out of those of objects and channels, the chosen (T, K) channels side by side."""
    if count == 1:
        return rows
    lead = max(len(rows.mean), len(chosen))
    kept, objects = chosen.shape[1], rows.mean.shape[1] // count
    picked = np.broadcast_to(chosen, (lead, kept))

    def pick(values: Array, rest: tuple[int, ...]) -> Array:
        apart = np.broadcast_to(values, (lead, *values.shape[1:])).reshape(lead, objects, count, *rest)
        index = picked.reshape(lead, 1, kept, *(1,) * len(rest))
        return np.take_along_axis(apart, index, axis=2)

    depth = rows.mean.shape[-1]
    mean = pick(rows.mean, (depth,)) / np.sqrt(kept)
    noise = pick(rows.noise, ()).sum(axis=-1) / kept
    # Cases are only looked at where there is one match for all.
    errors = rows.errors.reshape(len(rows.errors), objects, count, depth)[:, :, chosen[0]] / np.sqrt(kept)
    errors = errors.reshape(len(errors), objects, kept * depth)
    present = rows.present.reshape(len(errors), objects, count)[:, :, 0]
    return Rows(mean.reshape(lead, objects, -1), noise, errors, present, drawn=rows.drawn)
