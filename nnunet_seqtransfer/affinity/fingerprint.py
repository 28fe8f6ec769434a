"""The metric for a first look over hundreds of datasets: nnU-Net's fingerprint and the labels, and no image."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.euclidean import (
    EuclideanMetric,
    Squares,
    Summary,
    geometry_rows,
    geometry_squares,
    is_single,
    single_axes,
)
from nnunet_seqtransfer.affinity.masks import box_around, form, holding
from nnunet_seqtransfer.affinity.matching import UNMATCHED, Match, assign, matched_mean, mean_of_objects
from nnunet_seqtransfer.affinity.mean_distance import NONE_SHARED, Rows, Shared, root_mean, rows_of, squares
from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.tasks.profiling import Labels, View
from nnunet_seqtransfer.tasks.signature import INTENSITY_PROPERTIES, Signature

Array = NDArray[np.float64]

_CONSTANT_BELOW = 1e-6
"""Intensities whose standard deviation is below this share of the largest are constant but for rounding."""
_LABEL_SCALE = np.sqrt(np.asarray([1 / 2, 1 / 2, *[4 / 3] * 3, *[1 / 4] * 4]) / 3)
"""Thirds of: the mean of two sizes; the place, relative to half the diagonal of the unit cube; the mean of four."""


@dataclass(frozen=True)
class FingerprintSummary(Summary):
    """Of T tasks (or resamples) with C channels and L labels; scaled so that squares add up."""

    intensity: Rows
    "R = C, without errors of cases: nnU-Net pools the voxels of all."
    label: Rows
    "R = 1 + L, the union of all labels first."


class FingerprintMetric(EuclideanMetric[FingerprintSummary]):
    """Three distances between tasks, each the length of the difference of two vectors.

    - image: root mean square of the differences of five numbers of nnU-Net's fingerprint, intensities of the foreground
      less their mean and over their standard deviation: percentile 0.5, median, percentile 99.5, and log2(1 + t) of
      the tails t, from the minimum to percentile 0.5 and from percentile 99.5 to the maximum. Channels are matched by
      the linear assignment with the smallest sum.
    - label: of the objects as stored, the difference of the log10 of the sizes, in mm^3 (mm^2 in single slices) and as
      share of the image, root mean square of both; distance of the centroids (as share of the half diagonal of the
      image); root mean square of the differences of the log2 spreads in mm along the axes and of the log2 surface
      index (see `masks.form`); root mean square of the three.
    - geometry: root mean square of the log2 ratios of original spacings and of extents in mm along the axes.

    Label averages two squares: of the union of all labels, and of the labels one by one, matched by linear assignment.
    A channel or label without a counterpart, or a label that no case of just one of the two tasks holds, counts with a
    square of `UNMATCHED`.

    Label and geometry are means over the sampled cases and free of the noise of that sample (see `embedding`). The
    fingerprint's intensities are those of all cases at once: how they scatter is not known, so nothing is subtracted
    from the image's square and resamples leave it as it is. Its numbers do not know scale and offset of intensities,
    nor what surrounds an object: that CT and MR differ, or that a contrast is inverted, is seen only in so far as the
    foreground's distribution changes its shape.
    """

    name = "fingerprint"
    version = 1
    view: View = "labels"
    combination = Combination({"image": 1.0, "label": 0.25, "geometry": 0.0625}, exponent=2.0)

    def profile(self, case: CaseData, labels: Labels) -> dict[str, NDArray[Any]]:
        """``form`` (1 + L, 8), see `masks.form`, of the union and of each label, NaN where the case does not hold it.

        ``size``, shape (): log10 of the number of voxels of the image. Both float32.
        """
        union = tuple(sorted({value for values in labels for value in values}))
        boxes = ndimage.find_objects(case.segmentation)
        forms = [_form(case.segmentation, boxes, values) for values in (union, *labels)]
        return {"form": np.stack(forms), "size": np.asarray(np.log10(case.segmentation.size), dtype=np.float32)}

    def summarise(self, task: Signature) -> FingerprintSummary:
        """Kept, since a task is compared with many (signatures are told apart by identity)."""
        return _summary(task)

    def squares(
        self,
        a: FingerprintSummary,
        b: FingerprintSummary,
        shared: Shared,
        matches: tuple[Match, Match] | None = None,
    ) -> Squares:
        """Channels are matched by the image, labels by the label."""
        image = squares(a.intensity, b.intensity, NONE_SHARED, UNMATCHED)
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
    return FingerprintSummary(
        intensity=_without_cases(root_mean(standardised(task.intensities))),
        label=rows_of(label_vectors(task) * _LABEL_SCALE),
        geometry=geometry_rows(task),
        single=single_axes(task),
    )


def _without_cases(vectors: Array) -> Rows:
    rows, length = vectors.shape
    return Rows(vectors[None], np.zeros((1, rows)), np.zeros((0, rows, length)), np.zeros((0, rows), dtype=bool))


def standardised(intensities: Array) -> Array:
    """(C, 5) of (C, 7) `INTENSITY_PROPERTIES`: percentile 0.5, median, percentile 99.5, and the two tails; see above.

    Zeros where the foreground is constant.
    """
    properties = dict(zip(INTENSITY_PROPERTIES, intensities.T, strict=True))
    largest = np.maximum(np.abs(properties["min"]), np.abs(properties["max"]))
    varies = properties["std"] > _CONSTANT_BELOW * largest
    scale = np.where(varies, properties["std"], np.inf)
    low, middle, high = (properties[name] for name in ("percentile_00_5", "median", "percentile_99_5"))
    ends = [low - properties["min"], properties["max"] - high]
    tails = [np.log2(1 + np.maximum(end, 0) / scale) for end in ends]
    return np.stack([*((value - properties["mean"]) / scale for value in (low, middle, high)), *tails], axis=1)


def label_vectors(task: Signature) -> Array:
    """(cases, 1 + L, 9): log10 of the size in mm^3 and of its share, centroid, log2 spreads in mm, log2 surface index.

    NaN where a case does not hold the label. A single slice has no thickness: its sizes are in mm^2.
    """
    forms = np.stack([profile["form"] for profile in task.profiles]).astype(np.float64)
    sizes = np.stack([profile["size"] for profile in task.profiles]).astype(np.float64)
    millimetres = np.where(is_single(task), 1.0, task.geometry[:, 0])[:, None]
    voxels, centroid, spreads, surface = np.split(forms, [1, 4, 7], axis=-1)
    volume = voxels + np.log10(millimetres).sum(axis=-1, keepdims=True)
    share = voxels - sizes[:, None, None]
    return np.concatenate([volume, share, centroid, spreads + np.log2(millimetres), surface], axis=-1)
