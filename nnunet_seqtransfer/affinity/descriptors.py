"""The default metric: image, contrast, label and geometry of preprocessed cases, as distances without noise."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.matching import UNMATCHED, Match, assign, matched_mean, mean_of_objects
from nnunet_seqtransfer.affinity.mean_distance import (
    MeanDistanceMetric,
    Rows,
    Shared,
    Squares,
    Summary,
    geometry_squares,
    root_mean,
    rows_of,
    squares,
)
from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.tasks import masks
from nnunet_seqtransfer.tasks.profiling import Labels, View
from nnunet_seqtransfer.tasks.signature import Signature

LEVELS = np.linspace(0.01, 0.99, 50)
"""Quantile levels. The root mean square difference of two quantile functions is their 2-Wasserstein distance (W2)."""
PROJECTION_LEVELS = (np.arange(20) + 0.5) / 20
"""Quantile levels of the projections of patches."""
DIRECTIONS = 16
"""Number of projections of a patch."""
SAMPLED = 2**15
"""Number of voxels to sample in the image and in each object."""
PATCHES = 2**12
"""Number of 3 x 3 x 3 patches to sample."""

Array = NDArray[np.float64]
Singles = NDArray[np.float32]


@dataclass(frozen=True)
class DescriptorSummary(Summary):
    """The vectors of T tasks (or resamples) with C channels and L labels, scaled so that squares add up."""

    intensity: Rows
    "Quantiles of the intensities, one row per channel (R = C)."
    structure: Rows
    "Quantiles of the projected patches, one row per channel (R = C)."
    inside: Rows
    "Quantiles of the intensities inside objects, R = (1 + L) C, the union of all labels first."
    relief: Rows
    "Quantiles inside objects minus the median of the shell, rows as in `inside`."
    form: Rows
    "Size, position and shape of objects, R = 1 + L, the union of all labels first."


class DescriptorMetric(MeanDistanceMetric[DescriptorSummary]):
    """Four distances between tasks, each the length of the difference of two mean vectors (see `mean_distance`).

    - image: root mean square of W2 between the distributions of normalised intensities, and sliced W2 between 3 x 3 x
      3 patches minus their mean (root mean square over the projections; Bonneel et al., J. Math. Imaging Vis. 51,
      2015). Linear assignment matches the channels.
    - contrast: root mean square of W2 between the intensities inside objects, and W2 between these intensities minus
      the median of a shell around the object, over the matched channels.
    - label: root mean square of three terms: difference of log10 sizes (decades of voxels); distance of centroids (in
      half diagonals of the image); root mean square difference of the log2 spreads along the axes and the log2 surface
      index.
    - geometry: root mean square of the log2 ratios of original spacings and extents in mm along the axes.

    Intensities come from preprocessed cases, so they are in standard deviations after z-score normalisation. The
    quantile function of a task is the mean over its cases, their Wasserstein barycentre (Agueh and Carlier, SIAM J.
    Math. Anal. 43, 2011). That makes all four distances Euclidean.

    Contrast and label average two squares: one for the union of all labels, one for single labels matched by linear
    assignment. The square is `UNMATCHED` for a channel or label without a counterpart, for a label that only one of the
    two tasks shows, and for surroundings that only one of them has.
    """

    name = "descriptors"
    version = 2
    view: View = "preprocessed"
    combination = Combination({"image": 1.0, "contrast": 1.0, "label": 0.25, "geometry": 0.0625}, exponent=2.0)

    def profile(self, case: CaseData, labels: Labels) -> dict[str, NDArray[Any]]:
        """Return the arrays of `describe_case`."""
        return {**describe_case(case, labels)}

    def summarise(self, task: Signature) -> DescriptorSummary:
        """Return the vectors of a task, cached per signature object."""
        return _summary(task)

    def squares(
        self,
        a: DescriptorSummary,
        b: DescriptorSummary,
        shared: Shared,
        matches: tuple[Match, Match] | None = None,
    ) -> Squares:
        """Match channels by image, then labels by contrast and label."""
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
        geometry=rows_of(root_mean(np.log2(task.geometry).transpose(0, 2, 1))),
        single=(task.geometry[:, 0] == task.geometry[:, 1]).all(axis=0, keepdims=True),  # spacing equals extent
    )


_FORM_SCALE = np.sqrt(np.asarray([1.0, *[4 / 3] * 3, *[1 / 4] * 4]) / 3)
"""A third each: size; position, relative to half the diagonal of the unit cube; mean of the four shape numbers."""


def _images(a: DescriptorSummary, b: DescriptorSummary, shared: Shared) -> Array:
    """Return squares (T, C_a, C_b) from every channel to every channel."""
    pairs = ((a.intensity, b.intensity), (a.structure, b.structure))
    return np.asarray(sum(squares(*pair, shared, UNMATCHED) for pair in pairs) / 2)


def _contrasts(a: DescriptorSummary, b: DescriptorSummary, channels: Match, shared: Shared) -> Array:
    """Return squares (T, 1 + L_a, 1 + L_b) from every object to every object, averaged over the matched channels."""
    parts = []
    for one, other in ((a.inside, b.inside), (a.relief, b.relief)):
        first = _of_channels(one, a.intensity.mean.shape[1], channels.first)
        second = _of_channels(other, b.intensity.mean.shape[1], channels.second)
        parts.append(squares(first, second, shared, UNMATCHED))
    return np.asarray(sum(parts) / 2)


def _of_channels(rows: Rows, count: int, chosen: NDArray[np.intp]) -> Rows:
    """Return rows of objects (R = 1 + L) with the vectors of the chosen (T, K) channels concatenated."""
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
    # Errors of cases exist only for a single task or its resamples, which have one match for all.
    errors = rows.errors.reshape(len(rows.errors), objects, count, depth)[:, :, chosen[0]] / np.sqrt(kept)
    errors = errors.reshape(len(errors), objects, kept * depth)
    present = rows.present.reshape(len(errors), objects, count)[:, :, 0]
    return Rows(mean.reshape(lead, objects, -1), noise, errors, present, drawn=rows.drawn)


def describe_case(case: CaseData, labels: Labels) -> dict[str, Singles]:
    """Return descriptors of one case with C channels and L labels; the union of all labels comes first.

    All arrays are float32. NaN means that the case lacks the label, or that the label has no surroundings.

    - ``intensity`` (C, 50): quantiles of the normalised intensities.
    - ``structure`` (C, 16, 20): quantiles of patches projected on `directions`, so without the mean of a patch.
    - ``inside`` (1 + L, C, 50): quantiles of the intensities inside objects.
    - ``relief`` (1 + L, C, 50): ``inside`` minus the median of the shell around the object.
    - ``form`` (1 + L, 8): see `masks.form`.

    Intensities are sampled in some ten thousand voxels and images are not copied, so a case of 512 x 512 x 300 voxels
    takes no longer than reading it.
    """
    images = case.images.reshape(len(case.images), -1)
    sampled = _seen(case.segmentation.reshape(-1))
    patches = _patches(case.segmentation.shape, sampled[:: max(1, len(sampled) // PATCHES)])
    union = tuple(sorted({value for values in labels for value in values}))
    boxes = ndimage.find_objects(case.segmentation)
    objects = [_describe_object(case, values, (0, *union), boxes) for values in (union, *labels)]
    return {
        "intensity": np.stack([_quantiles(image[sampled]) for image in images]),
        "structure": np.stack([_quantiles(image[patches] @ directions(), PROJECTION_LEVELS).T for image in images]),
        "inside": np.stack([inside for inside, _, _ in objects]),
        "relief": np.stack([relief for _, relief, _ in objects]),
        "form": np.stack([shape for _, _, shape in objects]),
    }


def directions() -> Singles:
    """Return fixed directions (27, 16) of unit length, orthogonal to the constant patch."""
    # Raw bits of PCG64 are equal in every version of NumPy; its normal distribution may change. The sum of twelve
    # uniform numbers is nearly normal.
    bits = np.asarray(np.random.PCG64(241006892).random_raw(27 * DIRECTIONS * 12)) >> np.uint64(11)
    normal = (bits / 2.0**53).reshape(27, DIRECTIONS, 12).sum(axis=-1)
    centred = normal - normal.mean(axis=0)
    return np.asarray(centred / np.linalg.norm(centred, axis=0), dtype=np.float32)


def _seen(segmentation: NDArray[np.int16]) -> NDArray[np.intp]:
    """Return flat positions of about `SAMPLED` voxels that are not masked out (-1), or of any if all are."""
    positions = masks.spread_positions(segmentation.size, SAMPLED)
    seen = positions[segmentation[positions] >= 0]
    if len(seen) < len(positions) // 8:  # little of the image is left: sample only that
        every = np.flatnonzero(segmentation >= 0)
        seen = every[masks.spread_positions(len(every), SAMPLED)]
    return seen if len(seen) else positions


def _quantiles(values: NDArray[Any], levels: Array = LEVELS) -> Singles:
    """Return quantiles along the first axis, linear between order statistics. Several times as fast as NumPy."""
    ordered = np.sort(values, axis=0)
    places = levels * (len(ordered) - 1)
    below = places.astype(np.intp)
    above = np.minimum(below + 1, len(ordered) - 1)
    share = (places - below).astype(np.float32).reshape(-1, *(1,) * (values.ndim - 1))
    # Take the difference first: if both are equal, the quantile is exactly that value.
    return np.asarray(ordered[below] + (ordered[above] - ordered[below]) * share, dtype=np.float32)


def _patches(shape: tuple[int, ...], centres: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return flat positions (n, 27) of the 3 x 3 x 3 patches around ``centres``. Border voxels repeat outside."""
    x, y, z = (
        np.clip(place[:, None] + np.arange(-1, 2), 0, length - 1)
        for place, length in zip(masks.coordinates(centres, shape), shape, strict=True)
    )
    planes = (x[:, :, None, None] * shape[1] + y[:, None, :, None]) * shape[2]
    return np.asarray(planes + z[:, None, None, :]).reshape(len(centres), 27)


def _describe_object(
    case: CaseData, values: tuple[int, ...], known: tuple[int, ...], boxes: masks.Boxes
) -> tuple[Singles, Singles, Singles]:
    """Return inside (C, 50), relief (C, 50) and form (8,) of the voxels with these ``values``."""
    box = masks.box_around(boxes, values, case.segmentation.shape)
    if box is None:
        absent = np.full((len(case.images), len(LEVELS)), np.nan, dtype=np.float32)
        return absent, absent, np.full(8, np.nan, dtype=np.float32)
    segmentation = case.segmentation[box]
    mask = masks.holding(segmentation, values)
    # Voxels that are masked out or labelled "ignore" are no surroundings.
    shell = masks.dilated(mask) & ~mask & masks.holding(segmentation, known)
    images = [image[box] for image in case.images]
    within = masks.members(mask, SAMPLED)
    around = masks.members(shell, SAMPLED)
    inside = np.stack([_quantiles(image[within]) for image in images])
    medians = [np.median(image[around]) if len(around[0]) else np.nan for image in images]
    relief = inside - np.asarray(medians, dtype=np.float32)[:, None]
    return inside, relief, masks.form(mask, tuple(part.start for part in box), case.segmentation.shape)
