"""Paired statistics of a comparison, on arrays: interval of a difference, signed ranks, Holm, and rank agreement."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, spearmanr, weightedtau, wilcoxon

from nnunet_seqtransfer.calibration.held_out import regret

Floats = NDArray[np.float64]
RESAMPLES = 9999
LEVEL = 0.95


@dataclass(frozen=True)
class RankAgreement:
    """How well costs rank what was measured."""

    spearman: float
    "Spearman's rank correlation of nearness and value; 0 where all costs, or all values, are equal."
    weighted_tau: float
    "Vigna's weighted Kendall's tau with hyperbolic weights; 0 as above."
    regret: float
    "Largest value minus that of the lowest cost; of several that are equally low, their mean."


def mean_interval(differences: Floats, seed: int = 0) -> tuple[float, float]:
    """The 95 % bootstrap interval of the mean of ``differences``, (n,), whose units are drawn with replacement.

    Bias-corrected and accelerated (Efron, Journal of the American Statistical Association 82, 1987), by SciPy;
    deterministic by ``seed``. NaN for fewer than two units; the value itself where all are equal.
    """
    if len(differences) < 2:
        return math.nan, math.nan
    if np.ptp(differences) == 0:
        return float(differences[0]), float(differences[0])
    found: Any = bootstrap(
        (differences,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="BCa",
        random_state=np.random.default_rng(seed),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def signed_rank_p(differences: Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test that ``differences``, (n,), lie symmetrically around 0.

    Differences of 0 are left out, as Wilcoxon did; 1 where all are 0. NaN for fewer than two units.
    """
    if len(differences) < 2:
        return math.nan
    if not differences.any():
        return 1.0
    result: Any = wilcoxon(differences, zero_method="wilcox")
    return float(result.pvalue)


def holm(p: Sequence[float]) -> tuple[float, ...]:
    """p values of one family of tests, corrected for their number; NaN stays and counts for no test.

    The step-down procedure of Holm (Scandinavian Journal of Statistics 6, 1979): the k-th smallest of m is multiplied
    by m - k + 1, no corrected value is below one before it, none above 1.
    """
    corrected = [math.nan] * len(p)
    known = sorted((value, place) for place, value in enumerate(p) if not math.isnan(value))
    highest = 0.0
    for rank, (value, place) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - rank)))
        corrected[place] = highest
    return tuple(corrected)


def rank_agreement(values: Floats, costs: Floats) -> RankAgreement:
    """How well ``costs``, (n,), low ones first, rank ``values``, (n,), high ones first; n is at least 1.

    Weighted tau: Vigna, Proceedings of the 24th International Conference on World Wide Web, 2015.
    """
    if np.ptp(values) == 0 or np.ptp(costs) == 0:
        return RankAgreement(0.0, 0.0, regret(values, costs))
    rho: Any = spearmanr(values, -costs)[0]
    tau: Any = weightedtau(values, -costs)[0]
    return RankAgreement(float(rho), float(tau) if math.isfinite(tau) else 0.0, regret(values, costs))
