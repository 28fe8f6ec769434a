"""The published metric (arXiv 2410.06892): Wasserstein distance of PCA scores, and SSIM of masks, on raw volumes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.affinity.base import Components
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.mean_distance import multipliers, shared_cases
from nnunet_seqtransfer.affinity.memory import Memory, content_key
from nnunet_seqtransfer.affinity.published_terms import (
    ALPHA,
    BETA,
    common_grid,
    packed_ssim,
    principal_scores,
    wasserstein_of_ascending,
)
from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.tasks.profiling import Labels, View
from nnunet_seqtransfer.tasks.signature import Signature

Array = NDArray[np.float64]
Profile = dict[str, NDArray[Any]]
Places = NDArray[np.intp]

# Tasks may share images, or masks: 84 tasks of a published study have 28 kinds of images and 21 of masks. What depends
# on them is computed once; tasks that share an image are profiled one after the other, by the same process.
_SCORES: Memory[NDArray[np.float32]] = Memory(4)
_TERMS: Memory[float] = Memory(1 << 20)
_GRIDS: Memory[NDArray[np.uint8]] = Memory(1 << 9)


class PublishedMetric:
    """The published distance 0.0044 W - 2.4756 S + 2.4756, on images and masks as stored.

    Components: ``wasserstein``, W in units of stored intensity, and ``dissimilarity``, 1 - S.

    The method knows one channel and one label a task. Tasks with more are read as follows (our generalisation): the
    first channel stands for the images, the union of all labels for the mask. Masks of different shapes, which stop
    the published scripts, are brought to one grid of 128^3 by nearest neighbours.

    Where two tasks share cases (equal keys, thus equal identifiers), only the same patient's volumes are paired, as
    published. A task's distance to itself is set to 0, since no transfer happens; by formula it would be the mean over
    all pairs. That is the only debiasing: the distance of two samples of one task is not 0, as published, and resamples
    scatter around the distance of the samples.

    Its profiles hold every case's mask, bit by bit.
    """

    name = "published"
    version = 2
    view: View = "raw"
    combination = Combination({"wasserstein": ALPHA, "dissimilarity": BETA}, exponent=1.0, unit=2.0)
    holds_images = True

    def profile(self, case: CaseData, labels: Labels) -> dict[str, NDArray[Any]]:
        """Returns what is compared of a case.

        ``scores`` (n,) float32: ascending PCA scores of the first channel. ``mask`` (bytes,) uint8: its foreground as
        packed bits, axes x, y, z, of ``shape`` (3,). ``contents`` (2, 16) uint8: digests of the scores and the mask.
        """
        # nnU-Net's reader gives z, y, x; the published scripts read x, y, z, and the result depends on it.
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
        """See the class."""
        if source.digest == target.digest:
            return Components({"wasserstein": 0.0, "dissimilarity": 0.0})
        first, second, same = _pairs(source, target)
        terms = _components(*_terms(source, target, first, second), np.ones((1, len(first))))
        paired = "same patients" if same else "all pairs of cases"
        return Components({name: float(values[0]) for name, values in terms.items()}, (paired,))

    def compare_many(self, source: Signature, targets: Sequence[Signature]) -> dict[str, Array]:
        """One by one: what takes time, the terms of pairs of volumes, is remembered."""
        compared = [self.compare(source, target).components for target in targets]
        return {name: np.asarray([found[name] for found in compared]) for name in self.combination.weights}

    def resample(self, source: Signature, target: Signature, count: int, seed: int) -> dict[str, Array]:
        """Means over the same pairs of volumes, weighted by the products of their cases' weights.

        Where the same patients are paired, by the weight of the patient. Weights are 1 + `embedding.multipliers`, thus
        those of the Bayesian bootstrap (Rubin, Ann. Statist. 9, 1981).
        """
        if source.digest == target.digest:
            return {name: np.zeros(count) for name in self.combination.weights}
        first, second, same = _pairs(source, target)
        weights = 1 + multipliers(source.keys, count, seed)[:, first]
        if not same:
            weights = weights * (1 + multipliers(target.keys, count, seed)[:, second])
        return _components(*_terms(source, target, first, second), weights)


def _pairs(source: Signature, target: Signature) -> tuple[Places, Places, bool]:
    """Cases to compare, indices in either: the same patients where the tasks share some (True), else all pairs."""
    first, second = shared_cases(source.keys, target.keys)
    if len(first):
        return first, second, True
    first, second = np.indices((len(source.cases), len(target.cases))).reshape(2, -1)
    return first, second, False


def _terms(source: Signature, target: Signature, first: Places, second: Places) -> tuple[Array, Array]:
    """W and S, each (P,), of P pairs of cases."""
    pairs = [(source.profiles[i], target.profiles[j]) for i, j in zip(first, second, strict=True)]
    images = [_remembered(0, _wasserstein, a, b) for a, b in pairs]
    masks = [_remembered(1, _ssim, a, b) for a, b in pairs]
    return np.asarray(images), np.asarray(masks)


def _components(images: Array, masks: Array, weights: Array) -> dict[str, Array]:
    """The components, (B,), for B weightings (B, P) of P pairs."""
    shares = weights / weights.sum(axis=1, keepdims=True)
    # SSIM with a covariance of ddof 1 exceeds 1 by rounding for equal masks; a distance stays at or above 0.
    return {"wasserstein": shares @ images, "dissimilarity": np.maximum(0.0, 1 - shares @ masks)}


def _remembered(content: int, formula: Callable[[Profile, Profile], float], a: Profile, b: Profile) -> float:
    """``formula(a, b)``, symmetric, which depends on nothing but the digests in row ``content``."""
    keyed = {profile["contents"][content].tobytes(): profile for profile in (a, b)}
    keys = sorted(keyed)
    # In the order of the digests: the same number, bit by bit, whichever way round.
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
