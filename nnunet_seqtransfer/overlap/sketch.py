"""Sketch one case: a few KB that tell whether another case holds the same image or labels.

A channel's patterns (`patterns.py`) form a set that cropping, padding and turning hardly change. The sketch keeps
the smallest hashes (bottom-k; Broder 1997). Up to the smaller limit, two sketches are random samples
from both sets, drawn alike, so they estimate the common part. A larger set keeps more hashes, one in `SAMPLING`. With a
fixed number, a 48^3 crop and a 256^3 volume would have next to nothing in common: the volume's k smallest hashes
reach only as far as the crop's k/150 smallest.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.overlap.patterns import Voxels, ordinal_patterns
from nnunet_seqtransfer.tasks.masks import box_around, interior

FEWEST, SAMPLING, MOST = 512, 32, 4096
"""A channel keeps one pattern in SAMPLING, at least FEWEST (or all) and at most MOST (32 KB)."""
TOO_FEW = 16
"""A channel with fewer patterns (few grey levels) also gets a whole-image digest, to find copies."""
NO_LIMIT = np.iinfo(np.uint64).max
LEAST_SURFACE = {2: 100, 3: 200}
"""Minimum surface voxels by dimension: the annotator chooses each one, so masks do not agree by chance."""
ALL_LABELS = "all labels"
"""Name for the union over a case's labels."""


@dataclass(frozen=True, eq=False)
class ChannelSketch:
    """Sketched channel."""

    patterns: NDArray[np.uint64]
    "Smallest distinct patterns, ascending, see `ordinal_patterns`."
    limit: int
    "Largest kept hash; every smaller pattern is kept."
    whole: int
    "Whole-image digest, invariant to increasing maps and inversion, if there are few patterns; else 0."


@dataclass(frozen=True, eq=False)
class Sketch:
    """Sketched case."""

    channels: tuple[ChannelSketch, ...]
    "Sketches in channel order."
    masks: dict[str, int]
    "Label, region or all labels -> mask digest, independent from position; too simple masks are left out."


def sketch_case(case: CaseData, labels: Mapping[str, tuple[int, ...]]) -> Sketch:
    """Sketch a case. ``labels`` maps the names in the dataset to label values."""
    return Sketch(tuple(sketch_channel(image) for image in case.images), mask_digests(case.segmentation, labels))


def sketch_channel(image: Voxels) -> ChannelSketch:
    """Sketch one channel, shape (x, y, z), float32."""
    patterns = ordinal_patterns(image)
    count = int(np.clip(len(patterns) // SAMPLING, FEWEST, MOST))
    # | 1: maxima and minima with the same ranks differ in the lowest bit only
    if len(patterns) > count:
        return ChannelSketch(patterns[:count], int(patterns[count - 1]) | 1, 0)
    return ChannelSketch(patterns, NO_LIMIT, _whole(image) if len(patterns) < TOO_FEW else 0)


def _whole(image: Voxels) -> int:
    """Return a digest for dense ranks, equal for the inverted image; 0 if the image is nearly empty."""
    levels, ranks = np.unique(image, return_inverse=True)
    counts = np.bincount(ranks.reshape(-1))
    if len(levels) < 3 or image.size - counts.max() < LEAST_SURFACE[3] or not np.isfinite(levels).all():
        return 0
    shaped = ranks.reshape(image.shape).astype("<i4")
    # equal for an image and its inverse
    return min(_digest(shaped), _digest(len(levels) - 1 - shaped))


def mask_digests(segmentation: NDArray[np.int16], labels: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Return digests for all label masks and their union, independent from position and orientation.

    Masks that could agree by chance are left out: empty ones, solid boxes, and those with little surface.
    """
    # -1 marks voxels outside the non-zero region
    present = np.clip(segmentation, 0, None)
    boxes = ndimage.find_objects(present)
    wanted = dict(labels)
    if len(labels) > 1:
        wanted[ALL_LABELS] = tuple(sorted({value for values in labels.values() for value in values}))
    digests = {}
    for name, values in wanted.items():
        box = box_around(boxes, values, present.shape, shell=0)
        if box is not None:
            digests[name] = _mask_digest(np.isin(present[box], values))
    return {name: digest for name, digest in digests.items() if digest}


def _mask_digest(mask: NDArray[np.bool_]) -> int:
    """Return a digest for a mask that fills the bounding box, in standard orientation; 0 if it is too simple."""
    # nnU-Net stores 2-D images with one slice
    dimensions = 3 if min(mask.shape) > 1 else 2
    surface = np.count_nonzero(mask) - np.count_nonzero(interior(mask))
    return 0 if mask.all() or surface < LEAST_SURFACE[dimensions] else _digest(_upright(mask))


def _upright(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Put the heavier half first along each axis and sort axes by length and spread, in exact whole numbers.

    If two axes or two halves are equal in both numbers, the stored orientation stays.
    """
    keys = []
    for axis in range(mask.ndim):
        profile = mask.sum(axis=tuple(other for other in range(mask.ndim) if other != axis), dtype=np.int64)
        distance = 2 * np.arange(len(profile)) - (len(profile) - 1)
        if int(profile @ distance) > 0:
            mask = np.flip(mask, axis)
        keys.append((len(profile), int(profile @ distance**2), abs(int(profile @ distance))))
    return np.transpose(mask, sorted(range(mask.ndim), key=lambda axis: keys[axis]))


def _digest(array: NDArray[np.generic]) -> int:
    """Return a 64-bit digest over shape and content; never 0."""
    content = np.packbits(array.astype(bool)) if array.dtype == bool else np.ascontiguousarray(array)
    digest = hashlib.blake2b(repr(array.shape).encode() + content.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "little") or 1
