"""The two terms of the published affinity distance, as pure functions of volumes and masks (axes x, y, z).

Formulas: arXiv 2410.06892 and its authors' published scripts. What those leave undefined (constant volumes, 2-D images,
masks of unequal shape) is marked as ours where it is decided.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.transform import resize

from nnunet_seqtransfer.errors import DatasetError

ALPHA = 0.0044
"""Weight of the Wasserstein distance, per unit of stored intensity."""
BETA = 2.4756
"""Weight of the label dissimilarity, 1 - SSIM."""

EDGE_LENGTH = 128
"""Every volume is resized to this many voxels along each axis before its scores are computed."""
KEPT_VARIANCE = 0.75
"""The principal components kept are the fewest that explain more than this share of the variance."""
SSIM_CONSTANT = 0.09
"""C1 and C2 of the structural similarity: (K L)^2 with K = 0.3 and L = 1."""
_CONSTANT_BELOW = 1e-12
"""Columns that vary by less than this share of the largest intensity are constant but for rounding (ours)."""
_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)
"""By the value of a byte."""


def published_distance(wasserstein: float, ssim: float) -> float:
    """Returns d = alpha W + beta (1 - S), without a unit; lower is closer.

    ``wasserstein`` and ``ssim`` are the means over the pairs of cases of two tasks.
    """
    return ALPHA * wasserstein - BETA * ssim + BETA


def principal_scores(volume: NDArray[Any]) -> NDArray[np.float64]:
    """Returns what stands for ``volume`` in the image distance: its principal component scores, ascending.

    The volume is resized to 128^3 (linear, anti-aliased), its rows along z are the 128 * 128 samples of 128 features,
    and the scores are those of the fewest components that explain more than 75 % of the variance, not standardised.

    ``volume``: shape (X, Y, Z), any real dtype, intensities as stored. Returned: shape (16384 * components,), float64,
    in units of intensity. Computed in float64 whatever the dtype given.

    The sign of a component is free, but W depends on it. As in scikit-learn from version 1.5 on, with which the
    published numbers are reproduced, its loading of largest magnitude is positive; earlier versions chose otherwise,
    so the decomposition is done here.

    Ours: a volume with one slice drops that axis and is resized to a (128, 128) matrix, thus 128 scores a component.
    A volume whose rows along z are all alike, a constant one among them, has one component of zeros.

    Raises DatasetError where an intensity is NaN or infinite.
    """
    if not np.isfinite(volume).all():
        raise DatasetError("an image contains NaN or infinite intensities; repair it, the image distance needs numbers")
    if 1 in volume.shape:
        volume = volume.squeeze(axis=volume.shape.index(1))
    resized = resize(
        volume.astype(np.float64), (EDGE_LENGTH,) * volume.ndim, order=1, anti_aliasing=True, preserve_range=True
    )
    samples: NDArray[np.float64] = resized.reshape(-1, EDGE_LENGTH)
    centred = samples - samples.mean(axis=0)
    if np.abs(centred).max() <= _CONSTANT_BELOW * np.abs(samples).max():
        return np.zeros(len(samples))
    return np.sort((centred @ _kept_components(centred)).ravel())


def _kept_components(centred: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns the loadings, shape (features, components), of the leading components of (samples, features)."""
    variances, loadings = np.linalg.eigh(centred.T @ centred)
    variances, loadings = np.clip(variances[::-1], 0, None), loadings[:, ::-1]
    explained = np.cumsum(variances / variances.sum())
    kept = loadings[:, : np.searchsorted(explained, KEPT_VARIANCE, side="right") + 1]
    largest = np.take_along_axis(kept, np.abs(kept).argmax(axis=0, keepdims=True), axis=0)
    signed: NDArray[np.float64] = kept * np.sign(largest)
    return signed


def wasserstein(scores_a: NDArray[np.floating[Any]], scores_b: NDArray[np.floating[Any]]) -> float:
    """Returns the 1-D Wasserstein distance W of two samples: the integral of |Q_a(u) - Q_b(u)| over u in (0, 1).

    Both: shape (n,) and (m,), not empty, in any order. The unit is the scores' own.
    Equal to ``scipy.stats.wasserstein_distance`` but for rounding, and exactly zero for equal samples.
    """
    return wasserstein_of_ascending(np.sort(scores_a), np.sort(scores_b))


def wasserstein_of_ascending(scores_a: NDArray[np.floating[Any]], scores_b: NDArray[np.floating[Any]]) -> float:
    """`wasserstein` of samples that ascend, with nothing sorted.

    Q_a steps at i / n, Q_b at j / m. With n = g p and m = g q the steps repeat g times, p of a's beside q of b's. That
    of scores of volumes, whose lengths are 16384 times the number of components, is a short pattern.
    """
    repeats = math.gcd(len(scores_a), len(scores_b))
    a = scores_a.astype(np.float64).reshape(repeats, -1)
    b = scores_b.astype(np.float64).reshape(repeats, -1)
    in_a, in_b, widths = _pattern(a.shape[1], b.shape[1])
    gaps = np.abs(a[:, in_a] - b[:, in_b])
    return float((gaps @ widths).mean())


@lru_cache(maxsize=1024)
def _pattern(p: int, q: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Between neighbouring steps of p and of q equal parts of (0, 1): the part of either, and the width."""
    # In units of 1 / (p q) the steps are integers, so that coinciding steps are equal.
    steps = np.unique(np.concatenate([np.arange(1, p + 1) * q, np.arange(1, q + 1) * p]))
    return (steps - 1) // q, (steps - 1) // p, np.diff(steps, prepend=0) / (p * q)


def global_ssim(mask_a: NDArray[np.bool_], mask_b: NDArray[np.bool_]) -> float:
    """Returns the structural similarity S of two masks of equal shape, over one window that holds all voxels.

    S = (2 m_a m_b + C1) (2 c_ab + C2) / ((m_a^2 + m_b^2 + C1) (v_a + v_b + C2)), C1 = C2 = 0.09, with means m,
    variances v (ddof 0) and covariance c (ddof 1), as published: a mask's similarity to itself exceeds 1 by up to
    1 / voxels.

    Both: shape (X, Y, Z), two voxels at least. For masks all of these follow from three counts of voxels.
    """
    if mask_a.shape != mask_b.shape:
        raise ValueError(f"masks of shapes {mask_a.shape} and {mask_b.shape} have no SSIM; give both a common_grid")
    return packed_ssim(np.packbits(mask_a), np.packbits(mask_b), mask_a.size)


def packed_ssim(packed_a: NDArray[np.uint8], packed_b: NDArray[np.uint8], voxels: int) -> float:
    """`global_ssim` of two masks of ``voxels`` voxels, packed into bits as `numpy.packbits` does."""
    mean_a = count_bits(packed_a) / voxels
    mean_b = count_bits(packed_b) / voxels
    covariance = (count_bits(packed_a & packed_b) - voxels * mean_a * mean_b) / (voxels - 1)
    variances = mean_a * (1 - mean_a) + mean_b * (1 - mean_b)
    numerator = (2 * mean_a * mean_b + SSIM_CONSTANT) * (2 * covariance + SSIM_CONSTANT)
    return numerator / ((mean_a**2 + mean_b**2 + SSIM_CONSTANT) * (variances + SSIM_CONSTANT))


def count_bits(packed: NDArray[np.uint8]) -> int:
    """How many bits of ``packed``, shape (n,), are set."""
    if not hasattr(np, "bitwise_count"):  # NumPy below 2
        return int(_BITS_SET[packed].sum(dtype=np.int64))
    whole = len(packed) - len(packed) % 8
    words = np.bitwise_count(packed[:whole].view(np.uint64)).sum(dtype=np.int64)
    return int(words + np.bitwise_count(packed[whole:]).sum(dtype=np.int64))


def common_grid(
    mask: NDArray[np.bool_], shape: tuple[int, int, int] = (EDGE_LENGTH, EDGE_LENGTH, EDGE_LENGTH)
) -> NDArray[np.bool_]:
    """Returns ``mask``, shape (X, Y, Z), on a grid of ``shape``: every new voxel's centre takes the voxel it lies in.

    Ours: used on both masks of a pair whose shapes differ, where the published scripts stop with an error.
    """
    # The centre of new voxel i lies at (i + 1/2) old / new old voxels; in integers, hence exact.
    nearest = [(2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(mask.shape, shape, strict=True)]
    return mask[np.ix_(*nearest)]
