"""The published metric (arXiv 2410.06892): Wasserstein distance of PCA scores, and SSIM of masks, on raw volumes."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.affinity.metric import Comparison
from nnunet_seqtransfer.affinity.published_terms import (
    common_grid,
    global_ssim,
    principal_scores,
    published_distance,
    wasserstein,
)
from nnunet_seqtransfer.host.preprocessing import CaseData
from nnunet_seqtransfer.tasks.profile import Labels
from nnunet_seqtransfer.tasks.signature import Signature


class PublishedMetric:
    """The published distance 0.0044 W - 2.4756 S + 2.4756, on images and masks as stored.

    The method knows one channel and one label a task. Tasks with more are read as follows (our generalisation): the
    first channel stands for the images, the union of all labels for the mask. Masks of different shapes, which stop
    the published scripts, are brought to one grid of 128^3 by nearest neighbours.

    Where two tasks share cases (equal identifiers), only the same patient's volumes are paired, as published.
    A task's distance to itself is set to 0, since no transfer happens; by formula it would be the mean over all pairs.
    """

    name = "published"
    version = 1
    view: Literal["raw", "preprocessed"] = "raw"
    unit = 2.0

    def profile(self, case: CaseData, labels: Labels) -> dict[str, NDArray[Any]]:
        """Sorted PCA ``scores`` of the first channel (float32), and its foreground ``mask`` as packed bits."""
        # nnU-Net's reader gives z, y, x; the published scripts read x, y, z, and the result depends on it.
        volume = case.images[0].transpose(2, 1, 0)
        values = sorted({value for label in labels for value in label})
        mask = np.isin(case.segmentation, values).transpose(2, 1, 0)
        return {
            "scores": principal_scores(volume).astype(np.float32),
            "mask": np.packbits(mask),
            "shape": np.asarray(mask.shape),
        }

    def compare(self, source: Signature, target: Signature) -> Comparison:
        """See the class."""
        if source.digest == target.digest:
            return Comparison(0.0, {"wasserstein": 0.0, "ssim": 1.0, "pairs": 0.0})
        pairs = _pairs(source, target)
        image = float(np.mean([wasserstein(a["scores"], b["scores"]) for a, b in pairs]))
        ssim = float(np.mean([_ssim(a, b) for a, b in pairs]))
        components = {"wasserstein": image, "ssim": ssim, "pairs": float(len(pairs))}
        paired = "same patients" if len(pairs) < len(source.cases) * len(target.cases) else "all pairs of cases"
        # SSIM with a covariance of ddof 1 exceeds 1 by rounding for equal masks; a distance stays at or above 0.
        return Comparison(max(0.0, published_distance(image, ssim)), components, (paired,))


def _pairs(source: Signature, target: Signature) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Profiles to compare: of the same patients where the tasks share some, else of all pairs of cases."""
    a = dict(zip(source.cases, source.profiles, strict=True))
    b = dict(zip(target.cases, target.profiles, strict=True))
    shared = sorted(set(a) & set(b))
    if shared:
        return [(a[case], b[case]) for case in shared]
    return [(x, y) for x in a.values() for y in b.values()]


def _ssim(a: dict[str, Any], b: dict[str, Any]) -> float:
    masks = [_mask(a), _mask(b)]
    if masks[0].shape != masks[1].shape:
        masks = [common_grid(mask) for mask in masks]
    return global_ssim(masks[0], masks[1])


def _mask(profile: dict[str, Any]) -> NDArray[np.bool_]:
    shape = tuple(int(length) for length in profile["shape"])
    return np.unpackbits(profile["mask"], count=int(np.prod(shape))).reshape(shape).astype(bool)
