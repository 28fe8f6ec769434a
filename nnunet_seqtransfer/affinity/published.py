"""The published metric (arXiv 2410.06892): Wasserstein distance of PCA scores, and SSIM of masks, on raw volumes.

Formulas come from the paper and from the scripts of its authors. Decisions about cases that both leave open (constant
volumes, 2-D images, masks of unequal shape) are marked "ours".
"""

import hashlib
import math
from collections.abc import Callable, Hashable, Sequence
from functools import lru_cache
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from skimage.transform import resize

from nnunet_seqtransfer.affinity.base import Components, Counterparts
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.mean_distance import multipliers, shared_cases
from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.tasks.profiling import Labels, View
from nnunet_seqtransfer.tasks.signature import Signature

ALPHA = 0.0044
"""Weight of the Wasserstein distance, per unit of stored intensity."""
BETA = 2.4756
"""Weight of the label dissimilarity, 1 - SSIM."""

EDGE_LENGTH = 128
"""Voxels along each axis to which every volume is resized before computing scores."""
KEPT_VARIANCE = 0.75
"""Keep the fewest principal components that explain more than this share of the variance."""
SSIM_CONSTANT = 0.09
"""C1 and C2 of the structural similarity: (K L)^2 with K = 0.3 and L = 1."""
_CONSTANT_BELOW = 1e-12
"""Columns that vary by less than this share of the largest intensity count as constant (ours)."""
_BITS_SET = np.unpackbits(np.arange(256, dtype=np.uint8)[:, None], axis=1).sum(axis=1, dtype=np.uint8)
"""Number of set bits of each byte value."""

Array = NDArray[np.float64]
Profile = dict[str, NDArray[Any]]
Indices = NDArray[np.intp]

Result = TypeVar("Result")


class Memory(Generic[Result]):
    """Cache of the last ``size`` results by key. The inputs are not kept, unlike in `functools.lru_cache`."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._kept: dict[Hashable, Result] = {}

    def recall(self, key: Hashable, compute: Callable[[], Result]) -> Result:
        """Return the result under ``key``; if there is none, call ``compute`` and keep its result."""
        if key not in self._kept:
            result = compute()
            if len(self._kept) >= self._size:
                del self._kept[next(iter(self._kept))]  # the oldest: dictionaries keep the order of insertion
            self._kept[key] = result
        return self._kept[key]


def content_key(*arrays: NDArray[Any]) -> bytes:
    """Return a 16-byte BLAKE2b digest of dtypes, shapes and values of arrays."""
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.digest()


# Tasks may share images or masks: the 84 tasks of the published study have 28 kinds of images and 21 of masks. Each is
# computed once, because tasks that share an image are profiled one after the other by the same process.
_SCORES: Memory[NDArray[np.float32]] = Memory(4)
_TERMS: Memory[float] = Memory(1 << 20)
_GRIDS: Memory[NDArray[np.uint8]] = Memory(1 << 9)


class PublishedMetric:
    """The published distance 0.0044 W - 2.4756 S + 2.4756, on images and masks as stored.

    Components: ``wasserstein``, W in units of stored intensity, and ``dissimilarity``, 1 - S.

    The method is defined for one channel and one label per task. For tasks with more, the metric uses the first channel
    and the union of all labels (ours). Masks of different shapes stop the published scripts; here both are resampled
    to 128^3 by nearest neighbours (ours).

    If two tasks share cases (equal keys, so equal identifiers), only volumes of the same patient are paired, as
    published. The distance of a task to itself is set to 0, because no transfer happens; the formula would give the
    mean over all pairs. Nothing else is debiased: two samples of one task have a distance above 0, as published.

    Profiles hold the complete mask of every case.
    """

    name = "published"
    version = 2
    view: View = "raw"
    combination = Combination({"wasserstein": ALPHA, "dissimilarity": BETA}, exponent=1.0, unit=2.0)
    holds_images = True

    def profile(self, case: CaseData, labels: Labels) -> dict[str, NDArray[Any]]:
        """Return scores, mask and digests of a case.

        ``scores`` (n,) float32: ascending PCA scores of the first channel. ``mask`` (bytes,) uint8: foreground as
        packed bits, axes x, y, z, with ``shape`` (3,). ``contents`` (2, 16) uint8: digests of scores and mask.
        """
        # nnU-Net reads z, y, x; the published scripts read x, y, z. The result depends on the order.
        volume = case.images[0].transpose(2, 1, 0)
        scores = _SCORES.recall(content_key(case.images[0]), lambda: principal_scores(volume).astype(np.float32))
        values = sorted({value for label in labels for value in label})
        mask = np.isin(case.segmentation, values).transpose(2, 1, 0)
        packed, shape = np.packbits(mask), np.asarray(mask.shape)
        contents = content_key(scores) + content_key(packed, shape)
        return {
            "scores": scores,
            "mask": packed,
            "shape": shape,
            "contents": np.frombuffer(contents, dtype=np.uint8).reshape(2, -1),
        }

    def compare(self, source: Signature, target: Signature) -> Components:
        """Return W and 1 - S, averaged over the pairs of cases."""
        if source.digest == target.digest:
            return Components({"wasserstein": 0.0, "dissimilarity": 0.0})
        first, second, same = _pairs(source, target)
        terms = _components(*_terms(source, target, first, second), np.ones((1, len(first))))
        return Components({name: float(values[0]) for name, values in terms.items()}, Counterparts(same_cases=same))

    def compare_many(self, source: Signature, targets: Sequence[Signature]) -> dict[str, Array]:
        """Compare one by one. The slow part, the terms of pairs of volumes, is cached."""
        compared = [self.compare(source, target).distances for target in targets]
        return {name: np.asarray([found[name] for found in compared]) for name in self.combination.weights}

    def resample(self, source: Signature, target: Signature, count: int, seed: int) -> dict[str, Array]:
        """Return weighted means over the same pairs of volumes.

        A pair has the product of the weights of both cases, or the weight of the patient if the same patients are
        paired. Weights are 1 + `multipliers`, as in the Bayesian bootstrap (Rubin, Ann. Statist. 9, 1981).
        """
        if source.digest == target.digest:
            return {name: np.zeros(count) for name in self.combination.weights}
        first, second, same = _pairs(source, target)
        weights = 1 + multipliers(source.keys, count, seed)[:, first]
        if not same:
            weights = weights * (1 + multipliers(target.keys, count, seed)[:, second])
        return _components(*_terms(source, target, first, second), weights)


def _pairs(source: Signature, target: Signature) -> tuple[Indices, Indices, bool]:
    """Return indices of the cases to compare, and True if they are the same patients; False for all pairs."""
    first, second = shared_cases(source.keys, target.keys)
    if len(first):
        return first, second, True
    first, second = np.indices((len(source.cases), len(target.cases))).reshape(2, -1)
    return first, second, False


def _terms(source: Signature, target: Signature, first: Indices, second: Indices) -> tuple[Array, Array]:
    """Return W and S, each (P,), of P pairs of cases."""
    pairs = [(source.profiles[i], target.profiles[j]) for i, j in zip(first, second, strict=True)]
    images = [_remembered(0, _wasserstein, a, b) for a, b in pairs]
    masks = [_remembered(1, _ssim, a, b) for a, b in pairs]
    return np.asarray(images), np.asarray(masks)


def _components(images: Array, masks: Array, weights: Array) -> dict[str, Array]:
    """Return the components, (B,), for weights (B, P) of P pairs."""
    shares = weights / weights.sum(axis=1, keepdims=True)
    # With a covariance of ddof 1, SSIM slightly exceeds 1 for equal masks. Distances must not fall below 0.
    return {"wasserstein": shares @ images, "dissimilarity": np.maximum(0.0, 1 - shares @ masks)}


def _remembered(content: int, formula: Callable[[Profile, Profile], float], a: Profile, b: Profile) -> float:
    """Return the symmetric ``formula(a, b)``, cached by the digests in row ``content``."""
    keyed = {profile["contents"][content].tobytes(): profile for profile in (a, b)}
    keys = sorted(keyed)
    # Call in the order of the digests, so that both directions give the same number bit by bit.
    return _TERMS.recall((content, *keys), lambda: float(formula(keyed[keys[0]], keyed[keys[-1]])))


def _wasserstein(a: Profile, b: Profile) -> float:
    return wasserstein_of_ascending(a["scores"], b["scores"])


def _ssim(a: Profile, b: Profile) -> float:
    if np.array_equal(a["shape"], b["shape"]):
        return packed_ssim(a["mask"], b["mask"], int(np.prod(a["shape"])))
    first, second = (_on_common_grid(profile) for profile in (a, b))
    return packed_ssim(first, second, 8 * len(first))


def _on_common_grid(profile: Profile) -> NDArray[np.uint8]:
    def resized() -> NDArray[np.uint8]:
        shape = tuple(int(length) for length in profile["shape"])
        mask = np.unpackbits(profile["mask"], count=int(np.prod(shape))).reshape(shape).astype(bool)
        return np.packbits(common_grid(mask))

    return _GRIDS.recall(profile["contents"][1].tobytes(), resized)


def principal_scores(volume: NDArray[Any]) -> NDArray[np.float64]:
    """Return the principal component scores of a volume, ascending.

    The volume is resized to 128^3 (linear, anti-aliased). Rows along z are 128 * 128 samples of 128 features. The
    scores belong to the fewest components that explain more than 75 % of the variance, without standardising.

    ``volume``: shape (X, Y, Z), any real dtype, intensities as stored. Returned: shape (16384 * components,), float64,
    in units of intensity.

    Ours: a volume with one slice is resized to a (128, 128) matrix, which gives 128 scores per component. A volume with
    equal rows along z, such as a constant one, has one component of zeros.

    Raises DatasetError if an intensity is NaN or infinite.
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
    """Return the loadings (features, components) of the leading components of ``centred`` (samples, features)."""
    variances, loadings = np.linalg.eigh(centred.T @ centred)
    variances, loadings = np.clip(variances[::-1], 0, None), loadings[:, ::-1]
    explained = np.cumsum(variances / variances.sum())
    kept = loadings[:, : np.searchsorted(explained, KEPT_VARIANCE, side="right") + 1]
    # The sign is free, but W depends on it. Make the largest loading positive, as scikit-learn does since 1.5.
    largest = np.take_along_axis(kept, np.abs(kept).argmax(axis=0, keepdims=True), axis=0)
    signed: NDArray[np.float64] = kept * np.sign(largest)
    return signed


def wasserstein_of_ascending(scores_a: NDArray[np.floating[Any]], scores_b: NDArray[np.floating[Any]]) -> float:
    """Return the 1-D Wasserstein distance W: the integral of |Q_a(u) - Q_b(u)| over u in (0, 1), in the samples' unit.

    The samples are ascending, (n,) and (m,). Q_a steps at i / n, Q_b at j / m. With n = g p and m = g q the pattern of
    steps repeats g times. Scores of volumes have lengths of 16384 times the number of components, so it is short.
    """
    repeats = math.gcd(len(scores_a), len(scores_b))
    a = scores_a.astype(np.float64).reshape(repeats, -1)
    b = scores_b.astype(np.float64).reshape(repeats, -1)
    in_a, in_b, widths = _pattern(a.shape[1], b.shape[1])
    gaps = np.abs(a[:, in_a] - b[:, in_b])
    return float((gaps @ widths).mean())


@lru_cache(maxsize=1024)
def _pattern(p: int, q: int) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    """Return, between neighbouring steps of p and q equal parts of (0, 1), the part of each and the width."""
    # In units of 1 / (p q) the steps are integers, so coinciding steps are exactly equal.
    steps = np.unique(np.concatenate([np.arange(1, p + 1) * q, np.arange(1, q + 1) * p]))
    return (steps - 1) // q, (steps - 1) // p, np.diff(steps, prepend=0) / (p * q)


def packed_ssim(packed_a: NDArray[np.uint8], packed_b: NDArray[np.uint8], voxels: int) -> float:
    """Return the structural similarity S of two masks of ``voxels`` voxels, packed by `numpy.packbits`.

    S = (2 m_a m_b + C1) (2 c_ab + C2) / ((m_a^2 + m_b^2 + C1) (v_a + v_b + C2)), C1 = C2 = 0.09, with means m,
    variances v (ddof 0) and covariance c (ddof 1), as published. The similarity of a mask to itself exceeds 1 by up to
    1 / voxels. At least two voxels are needed. Three counts suffice.
    """
    mean_a = count_bits(packed_a) / voxels
    mean_b = count_bits(packed_b) / voxels
    covariance = (count_bits(packed_a & packed_b) - voxels * mean_a * mean_b) / (voxels - 1)
    variances = mean_a * (1 - mean_a) + mean_b * (1 - mean_b)
    numerator = (2 * mean_a * mean_b + SSIM_CONSTANT) * (2 * covariance + SSIM_CONSTANT)
    return numerator / ((mean_a**2 + mean_b**2 + SSIM_CONSTANT) * (variances + SSIM_CONSTANT))


def count_bits(packed: NDArray[np.uint8]) -> int:
    """Count the set bits of ``packed`` (n,)."""
    if not hasattr(np, "bitwise_count"):  # NumPy below 2
        return int(_BITS_SET[packed].sum(dtype=np.int64))
    whole = len(packed) - len(packed) % 8
    words = np.bitwise_count(packed[:whole].view(np.uint64)).sum(dtype=np.int64)
    return int(words + np.bitwise_count(packed[whole:]).sum(dtype=np.int64))


def common_grid(
    mask: NDArray[np.bool_], shape: tuple[int, int, int] = (EDGE_LENGTH, EDGE_LENGTH, EDGE_LENGTH)
) -> NDArray[np.bool_]:
    """Resample ``mask`` (X, Y, Z) to a grid of ``shape`` by nearest neighbours.

    Ours: used for two masks of different shapes, which stop the published scripts with an error.
    """
    # The centre of new voxel i lies at (i + 1/2) old / new old voxels. Integers keep it exact.
    nearest = [(2 * np.arange(new) + 1) * old // (2 * new) for old, new in zip(mask.shape, shape, strict=True)]
    return mask[np.ix_(*nearest)]
