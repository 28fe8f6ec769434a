"""A sketch of one case: a few KB of hashes from which one sees whether another case holds the same image or labels.

The patterns of a channel (`patterns.py`) are a set, and cropping, padding and turning hardly change it. Of this set the
sketch keeps the smallest hashes (bottom-k; Broder 1997): two sketches then hold, below the smaller of their limits, a
random sample of both sets that is drawn alike from both, and so estimate what part the sets have in common. How many
are kept grows with the set, one in `SAMPLING`. With a fixed number, a crop of 48^3 and a volume of 256^3 would have
next to nothing in common: the k smallest of the volume reach as far up as the k/150 smallest of the crop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.overlap.patterns import Voxels, ordinal_patterns

FEWEST, SAMPLING, MOST = 512, 32, 4096
"""Kept of a channel: all patterns up to FEWEST, then one in SAMPLING but at least FEWEST and at most MOST (32 KB)."""
TOO_FEW = 16
"""A channel with fewer patterns (few grey levels) gets a digest of the whole image too, which finds whole copies."""
NO_LIMIT = np.iinfo(np.uint64).max
LEAST_SURFACE = {2: 100, 3: 200}
"""A mask needs as many surface voxels: each is a choice of the annotator, so that two masks do not agree by chance."""
ALL_LABELS = "all labels"
"""The name of the union of a case's labels."""


@dataclass(frozen=True, eq=False)
class ChannelSketch:
    """What is kept of one channel."""

    patterns: NDArray[np.uint64]
    "The smallest distinct patterns, ascending, see `ordinal_patterns`."
    limit: int
    "Every pattern of the channel up to this one is kept."
    whole: int
    "Digest of the whole image up to increasing maps and inversion, where there are few patterns; else 0."


@dataclass(frozen=True, eq=False)
class Sketch:
    """What is kept of one case."""

    channels: tuple[ChannelSketch, ...]
    "In the order of the channels."
    masks: dict[str, int]
    "Label, region, or all labels -> digest of its mask, wherever it lies; masks too simple to tell cases left out."


def sketch_case(case: CaseData, labels: Mapping[str, tuple[int, ...]]) -> Sketch:
    """The sketch of a case whose labels (name -> values) are those of its dataset."""
    return Sketch(tuple(sketch_channel(image) for image in case.images), mask_digests(case.segmentation, labels))


def sketch_channel(image: Voxels) -> ChannelSketch:
    """The sketch of one channel, shape (x, y, z), float32."""
    patterns = ordinal_patterns(image)
    count = int(np.clip(len(patterns) // SAMPLING, FEWEST, MOST))
    if len(patterns) > count:
        return ChannelSketch(patterns[:count], int(patterns[count - 1]) | 1, 0)
    return ChannelSketch(patterns, NO_LIMIT, _whole(image) if len(patterns) < TOO_FEW else 0)


def _whole(image: Voxels) -> int:
    """Digest of the dense ranks of an image or of its inverse; 0 where there is hardly anything in the image."""
    levels, ranks = np.unique(image, return_inverse=True)
    counts = np.bincount(ranks.reshape(-1))
    if len(levels) < 3 or image.size - counts.max() < LEAST_SURFACE[3] or not np.isfinite(levels).all():
        return 0
    shaped = ranks.reshape(image.shape).astype("<i4")
    return min(_digest(shaped), _digest(len(levels) - 1 - shaped))


def mask_digests(segmentation: NDArray[np.int16], labels: Mapping[str, tuple[int, ...]]) -> dict[str, int]:
    """Digests of the masks of all labels and of their union, independent of position and orientation.

    Left out are masks that could agree by chance: empty ones, solid boxes, and those with little surface.
    """
    present = np.clip(segmentation, 0, None)
    boxes = ndimage.find_objects(present)
    wanted = dict(labels)
    if len(labels) > 1:
        wanted[ALL_LABELS] = tuple(sorted({value for values in labels.values() for value in values}))
    digests = {}
    for name, values in wanted.items():
        parts = [boxes[value - 1] for value in values if 0 < value <= len(boxes) and boxes[value - 1] is not None]
        if parts:
            box = tuple(
                slice(min(part[axis].start for part in parts), max(part[axis].stop for part in parts))
                for axis in range(present.ndim)
            )
            digests[name] = _mask_digest(np.isin(present[box], values))
    return {name: digest for name, digest in digests.items() if digest}


def _mask_digest(mask: NDArray[np.bool_]) -> int:
    """Digest of a mask that fills its bounding box, brought into a standard orientation; 0 for a too simple one."""
    dimensions = 3 if min(mask.shape) > 1 else 2
    surface = np.count_nonzero(mask) - np.count_nonzero(_eroded(mask))
    return 0 if mask.all() or surface < LEAST_SURFACE[dimensions] else _digest(_upright(mask))


def _eroded(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask without its surface: voxels outside of the box count as empty, along axes of one voxel as filled."""
    inner = mask.copy()
    for axis in range(mask.ndim):
        if mask.shape[axis] == 1:
            continue
        moved, source = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        moved[1:] &= source[:-1]
        moved[:-1] &= source[1:]
        moved[[0, -1]] = False
    return inner


def _upright(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The mask with its heavier half first along each axis, axes sorted by length and spread; exact whole numbers.

    Where two axes, or two halves, are alike in both numbers, the orientation stays as stored.
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
    """64 bits of the shape and the content of an array; never 0."""
    content = np.packbits(array.astype(bool)) if array.dtype == bool else np.ascontiguousarray(array)
    found = hashlib.blake2b(repr(array.shape).encode(), digest_size=8)
    found.update(content.tobytes())
    return int.from_bytes(found.digest(), "little") or 1
