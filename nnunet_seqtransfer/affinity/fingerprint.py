"""The metric for a first look over many datasets: statistics of foreground intensities and labels, as stored."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.masks import box_around, form, holding
from nnunet_seqtransfer.affinity.matching import UNMATCHED, Match, assign, matched_mean, mean_of_objects
from nnunet_seqtransfer.affinity.mean_distance import (
    MeanDistanceMetric,
    Rows,
    Shared,
    Squares,
    Summary,
    geometry_rows,
    geometry_squares,
    is_single,
    root_mean,
    rows_of,
    single_axes,
    squares,
)
from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.tasks.profiling import Labels, View
from nnunet_seqtransfer.tasks.signature import Signature

Array = NDArray[np.float64]

_CONSTANT_BELOW = 1e-6
"""Intensities with a standard deviation below this share of the largest one count as constant."""
_LABEL_SCALE = np.sqrt(np.asarray([1 / 2, 1 / 2, *[4 / 3] * 3, *[1 / 4] * 4]) / 3)
"""A third each: mean of two sizes; position, relative to half the diagonal of the unit cube; mean of four numbers."""


@dataclass(frozen=True)
class FingerprintSummary(Summary):
    """The vectors of T tasks (or resamples) with C channels and L labels, scaled so that squares add up."""

    intensity: Rows
    "Statistics of the foreground intensities, one row per channel (R = C)."
    label: Rows
    "Size, position and shape of objects, R = 1 + L, the union of all labels first."


class FingerprintMetric(MeanDistanceMetric[FingerprintSummary]):
    """Three distances between tasks, each the length of the difference of two mean vectors (see `mean_distance`).

    - image: root mean square difference of five numbers per case, computed from the foreground intensities minus their
      mean and divided by their standard deviation, both of that case: percentile 0.5, median, percentile 99.5, and
      log2(1 + t) of the lengths t of both tails. Linear assignment matches the channels.
    - label: root mean square of three terms, for objects as stored: the root mean square of the differences of log10
      sizes in mm^3 (mm^2 in single slices) and of log10 shares of the image; distance of centroids (in half diagonals
      of the image); root mean square difference of the log2 spreads in mm and the log2 surface index.
    - geometry: root mean square of the log2 ratios of original spacings and extents in mm along the axes.

    Label averages two squares: one for the union of all labels, one for single labels matched by linear assignment. The
    square is `UNMATCHED` for a channel or label without a counterpart, and for a label that only one task shows.

    Nothing is resampled or preprocessed, so a case takes little longer than reading it. The statistics of nnU-Net's
    dataset fingerprint pool all cases, which fails if scanners scale intensities differently; here each case has a
    scale of its own. Scale, offset and surroundings are not seen: CT differs from MR, or a contrast from its inverse,
    only if the shape of the foreground distribution differs.
    """

    name = "fingerprint"
    version = 2
    view: View = "stored"
    combination = Combination({"image": 1.0, "label": 0.25, "geometry": 0.0625}, exponent=2.0)

    def profile(self, case: CaseData, labels: Labels) -> dict[str, NDArray[Any]]:
        """Return intensities, forms and image size of a case, all float32.

        ``intensity`` (C, 5): see `standardised`. ``form`` (1 + L, 8): see `masks.form`, the union first, NaN if the
        case lacks the label. ``size``, shape (): log10 of the number of voxels in the image.
        """
        union = tuple(sorted({value for values in labels for value in values}))
        boxes = ndimage.find_objects(case.segmentation)
        forms = [_form(case.segmentation, boxes, values) for values in (union, *labels)]
        foreground = holding(case.segmentation, union)
        return {
            "intensity": np.stack([standardised(image[foreground]) for image in case.images]).astype(np.float32),
            "form": np.stack(forms),
            "size": np.asarray(np.log10(case.segmentation.size), dtype=np.float32),
        }

    def summarise(self, task: Signature) -> FingerprintSummary:
        """Return the vectors of a task, cached per signature object."""
        return _summary(task)

    def squares(
        self,
        a: FingerprintSummary,
        b: FingerprintSummary,
        shared: Shared,
        matches: tuple[Match, Match] | None = None,
    ) -> Squares:
        """Match channels by image and labels by label."""
        image = squares(a.intensity, b.intensity, shared, UNMATCHED)
        label = squares(a.label, b.label, shared, UNMATCHED)
        channels, labels = matches or (assign(image), assign(label[:, 1:, 1:]))
        found = {
            "image": matched_mean(image, channels, UNMATCHED),
            "label": mean_of_objects(label, labels, UNMATCHED),
            "geometry": geometry_squares(a, b, shared),
        }
        return Squares(found, channels, labels)


def _form(segmentation: NDArray[np.int16], boxes: Any, values: tuple[int, ...]) -> NDArray[np.float32]:
    box = box_around(boxes, values, segmentation.shape)
    if box is None:
        return np.full(8, np.nan, dtype=np.float32)
    return form(holding(segmentation[box], values), tuple(part.start for part in box), segmentation.shape)


@lru_cache(maxsize=4096)
def _summary(task: Signature) -> FingerprintSummary:
    intensities = np.stack([profile["intensity"] for profile in task.profiles]).astype(np.float64)
    return FingerprintSummary(
        intensity=rows_of(root_mean(intensities)),
        label=rows_of(label_vectors(task) * _LABEL_SCALE),
        geometry=geometry_rows(task),
        single=single_axes(task),
    )


def standardised(values: NDArray[Any]) -> Array:
    """Return percentile 0.5, median, percentile 99.5 and both tails of intensities (n,) in standard deviations.

    Percentiles are taken minus the mean. A tail of length t counts as log2(1 + t). Constant intensities give zeros, and
    no intensities give NaN.
    """
    if not len(values):
        return np.full(5, np.nan)
    values = values.astype(np.float64)
    mean, deviation = values.mean(), values.std()
    least, low, middle, high, most = np.percentile(values, [0, 0.5, 50, 99.5, 100])
    if deviation <= _CONSTANT_BELOW * max(abs(least), abs(most)):
        return np.zeros(5)
    points = (np.asarray([low, middle, high]) - mean) / deviation
    return np.concatenate([points, np.log2(1 + np.asarray([low - least, most - high]) / deviation)])


def label_vectors(task: Signature) -> Array:
    """Return nine numbers per object, (cases, 1 + L, 9); NaN if a case lacks the label.

    log10 of the size in mm^3 and of the share of the image, centroid, log2 spreads in mm, log2 surface index. A single
    slice has no thickness, so sizes are in mm^2.
    """
    forms = np.stack([profile["form"] for profile in task.profiles]).astype(np.float64)
    sizes = np.stack([profile["size"] for profile in task.profiles]).astype(np.float64)
    millimetres = np.where(is_single(task), 1.0, task.geometry[:, 0])[:, None]
    voxels, centroid, spreads, surface = np.split(forms, [1, 4, 7], axis=-1)
    volume = voxels + np.log10(millimetres).sum(axis=-1, keepdims=True)
    share = voxels - sizes[:, None, None]
    return np.concatenate([volume, share, centroid, spreads + np.log2(millimetres), surface], axis=-1)
