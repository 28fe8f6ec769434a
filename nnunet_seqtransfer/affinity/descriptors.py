"""Our default metric: image, contrast, label and geometry descriptors of what the network will see."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.optimize import linear_sum_assignment

from nnunet_seqtransfer.affinity.metric import Comparison
from nnunet_seqtransfer.host.preprocessing import CaseData
from nnunet_seqtransfer.tasks.profile import Labels
from nnunet_seqtransfer.tasks.signature import Signature

LEVELS = np.linspace(0.01, 0.99, 50)
"""Quantile levels; the mean absolute difference of two quantile functions is their 1-D Wasserstein distance (W1)."""
SHELL = 3
"""Width in voxels of the shell around an object that stands for its surroundings."""
UNMATCHED = 0.5
"""Cost of a channel or label that has no counterpart in the other task. A guess, to be calibrated."""
WEIGHTS = {"image": 1.0, "contrast": 1.0, "label": 0.5, "geometry": 0.25}
"""Weights of the components in the distance. Guesses, to be calibrated on measured transfers."""

Array = NDArray[np.float32]


class DescriptorMetric:
    """The weighted sum of four components (`WEIGHTS`), each 0 between equal signatures and symmetric.

    Each task is described by the mean of its cases' descriptors (for quantile functions that is the Wasserstein
    barycentre of the cases), so a task is at distance 0 from itself, whatever the spread of its cases.

    - image: W1 between the normalised intensities, plus W1 between their gradient magnitudes, halved; channels are
      matched by the linear assignment that makes the sum smallest.
    - contrast: for matched channels and labels, W1 between the intensities inside the objects, plus W1 between those
      intensities relative to the median of a shell around them, halved.
    - label: size (decades of voxels), position (distance of the centroids as a share of the half diagonal of the
      image), and shape (log ratios of the spreads along the axes and of the surface index), averaged.
    - geometry: log2 ratios of original spacing and of extent in mm, averaged.

    Contrast and label average two comparisons: the union of all labels, and the labels one by one, matched by linear
    assignment. Channels and labels without a counterpart cost `UNMATCHED`, and so does a label that no case of one of
    the two tasks holds, or one without surroundings (it fills the image); where neither has them, there is no cost.
    """

    name = "descriptors"
    version = 1
    view: Literal["raw", "preprocessed"] = "preprocessed"
    unit = 1.0

    def profile(self, case: CaseData, labels: Labels) -> dict[str, NDArray[Any]]:
        """Descriptors of one case with C channels and L labels, the union of all labels added as the first.

        Returns:
            ``image`` and ``gradient`` (C, 50), ``inside`` (1 + L, C, 50) and ``shell`` (1 + L, C) in normalised
            intensities, ``shape`` (1 + L, 8): all float32, NaN where the case does not hold the label.
        """
        seen = case.segmentation >= 0
        if not seen.any():
            seen = np.ones_like(seen)
        union = tuple(sorted({value for values in labels for value in values}))
        objects = [_describe_object(case, seen, values) for values in (union, *labels)]
        return {
            "image": np.stack([_quantiles(channel[seen]) for channel in case.images]),
            "gradient": np.stack([_quantiles(_gradient_magnitude(channel)[seen]) for channel in case.images]),
            "inside": np.stack([inside for inside, _, _ in objects]),
            "shell": np.stack([shell for _, shell, _ in objects]),
            "shape": np.stack([shape for _, _, shape in objects]),
        }

    def compare(self, source: Signature, target: Signature) -> Comparison:
        """See the class."""
        a, b = _mean_profile(source), _mean_profile(target)
        images = (_distances(a["image"], b["image"]) + _distances(a["gradient"], b["gradient"])) / 2
        channels = _assign(images)
        contrasts = _contrasts(a, b, channels)
        labels = _label_distances(a["shape"], b["shape"])
        matched = _assign(contrasts[1:, 1:] + labels[1:, 1:])
        components = {
            "image": _matched_mean(images, channels),
            "contrast": _of_objects(contrasts, matched),
            "label": _of_objects(labels, matched),
            "geometry": _geometry(source, target),
        }
        words = [f"{source.channels[i]} -> {target.channels[j]}" for i, j in channels]
        words += [f"{source.labels[i]} -> {target.labels[j]}" for i, j in matched]
        return Comparison(sum(WEIGHTS[name] * part for name, part in components.items()), components, tuple(words))


def _quantiles(values: NDArray[Any]) -> Array:
    """Quantiles at `LEVELS`, NaN where there are no values."""
    if values.size == 0:
        return np.full(len(LEVELS), np.nan, dtype=np.float32)
    quantiles: Array = np.quantile(values, LEVELS).astype(np.float32)
    return quantiles


def _gradient_magnitude(channel: Array) -> Array:
    """Length of the intensity gradient per voxel, forward differences; one further array of the channel's size."""
    squares = np.zeros_like(channel)
    for axis, length in enumerate(channel.shape):
        if length > 1:
            step = np.diff(channel, axis=axis)
            squares[tuple(slice(0, length - 1) if a == axis else slice(None) for a in range(channel.ndim))] += step**2
    return np.sqrt(squares, out=squares)


def _describe_object(case: CaseData, seen: NDArray[np.bool_], values: tuple[int, ...]) -> tuple[Array, Array, Array]:
    """Quantiles inside (C, 50), median of the shell (C,), and shape (8,) of the voxels with these label values."""
    mask = np.isin(case.segmentation, values)
    channels = len(case.images)
    if not mask.any():
        return (
            np.full((channels, len(LEVELS)), np.nan, dtype=np.float32),
            np.full(channels, np.nan, dtype=np.float32),
            np.full(8, np.nan, dtype=np.float32),
        )
    box = _box_around(mask)
    local = mask[box]
    shell = ndimage.binary_dilation(local, iterations=SHELL) & ~local & seen[box]
    inside = np.stack([_quantiles(channel[box][local]) for channel in case.images])
    medians = [np.median(channel[box][shell]) if shell.any() else np.nan for channel in case.images]
    return inside, np.asarray(medians, dtype=np.float32), _shape(mask, local, box)


def _box_around(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """The bounding box of a mask, widened by the shell."""
    (tight,) = ndimage.find_objects(mask.astype(np.uint8))
    return tuple(
        slice(max(0, part.start - SHELL - 1), min(length, part.stop + SHELL + 1))
        for part, length in zip(tight, mask.shape, strict=True)
    )


def _shape(mask: NDArray[np.bool_], local: NDArray[np.bool_], box: tuple[slice, ...]) -> Array:
    """Log10 voxels, centroid (3, as share of the image), log2 spreads (3, voxels), log2 surface index."""
    points = np.argwhere(local).astype(np.float64) + [part.start for part in box]
    count = len(points)
    centroid = (points.mean(axis=0) + 0.5) / mask.shape
    spreads = np.log2(points.std(axis=0) + 0.5)
    surface = count - int(ndimage.binary_erosion(np.pad(local, 1)).sum())
    return np.asarray([np.log10(count), *centroid, *spreads, np.log2(surface / count ** (2 / 3))], dtype=np.float32)


def _mean_profile(signature: Signature) -> dict[str, Array]:
    """The mean of each descriptor over the cases that have it."""
    mean = {}
    for name in signature.profiles[0]:
        stacked = np.stack([profile[name] for profile in signature.profiles]).astype(np.float64)
        present = np.isfinite(stacked)
        total = np.where(present, stacked, 0.0).sum(axis=0)
        mean[name] = np.where(present.any(axis=0), total / np.maximum(present.sum(axis=0), 1), np.nan)
    return mean


def _distances(a: Array, b: Array) -> NDArray[np.float64]:
    """W1 between every quantile function of ``a`` (n, 50) and of ``b`` (m, 50): shape (n, m)."""
    return _with_absent(np.abs(a[:, None] - b[None]).mean(axis=-1), a, b)


def _with_absent(distances: NDArray[np.float64], a: Array, b: Array) -> NDArray[np.float64]:
    """``distances`` (n, m), but `UNMATCHED` where one of ``a`` (n, ...) and ``b`` (m, ...) is NaN, 0 where both are."""
    missing_a = np.asarray(np.isnan(a).any(axis=-1))[:, None]
    missing_b = np.asarray(np.isnan(b).any(axis=-1))[None]
    return np.where(missing_a & missing_b, 0.0, np.where(missing_a | missing_b, UNMATCHED, distances))


def _contrasts(a: dict[str, Array], b: dict[str, Array], channels: list[tuple[int, int]]) -> NDArray[np.float64]:
    """Contrast between every object of one task and every object of the other, mean over the matched channels."""
    parts = []
    for i, j in channels:
        within = _distances(a["inside"][:, i], b["inside"][:, j])
        relative_a = a["inside"][:, i] - a["shell"][:, i, None]
        relative_b = b["inside"][:, j] - b["shell"][:, j, None]
        parts.append((within + _distances(relative_a, relative_b)) / 2)
    result: NDArray[np.float64] = np.mean(parts, axis=0)
    return result


def _label_distances(a: Array, b: Array) -> NDArray[np.float64]:
    """Label component between every object of ``a`` (n, 8) and of ``b`` (m, 8): shape (n, m)."""
    difference = np.abs(a[:, None] - b[None])
    size = difference[..., 0]
    position = np.linalg.norm(difference[..., 1:4], axis=-1) / (np.sqrt(3) / 2)
    shape = difference[..., 4:].mean(axis=-1)
    return _with_absent((size + position + shape) / 3, a, b)


def _assign(costs: NDArray[np.float64]) -> list[tuple[int, int]]:
    """The one-to-one matching of rows and columns with the smallest sum of costs."""
    rows, columns = linear_sum_assignment(costs)
    return [(int(i), int(j)) for i, j in zip(rows, columns, strict=True)]


def _matched_mean(costs: NDArray[np.float64], pairs: list[tuple[int, int]]) -> float:
    """Mean cost of the matched pairs, each row or column without a partner costing `UNMATCHED`."""
    most = max(costs.shape)
    matched = sum(float(costs[i, j]) for i, j in pairs)
    return float((matched + UNMATCHED * (most - len(pairs))) / most)


def _of_objects(costs: NDArray[np.float64], pairs: list[tuple[int, int]]) -> float:
    """Half from the union of all labels (row and column 0), half from the labels one by one."""
    return (float(costs[0, 0]) + _matched_mean(costs[1:, 1:], pairs)) / 2


def _geometry(source: Signature, target: Signature) -> float:
    """Mean absolute log2 ratio of spacings and extents along the axes that both have.

    Readers give single slices a thickness of their own making (999 for PNG, 1 for NIfTI): an axis along which both
    tasks have one voxel is left out.
    """
    a = np.asarray([source.spacing, source.extent])
    b = np.asarray([target.spacing, target.extent])
    axes = (a[0] != a[1]) | (b[0] != b[1])
    return float(np.abs(np.log2(a / b))[:, axes].mean()) if axes.any() else 0.0
