"""Judge distances, and simple rules without them, by the direct transfers that were measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr, weightedtau

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.evaluation.comparison import Arm, ModelScores, Ranking
from nnunet_seqtransfer.evaluation.differences import case_values

LARGEST, MODALITY, RANDOM = "largest source", "same modality", "random"
MIN_TRANSFERS = 3
"""Fewer direct transfers are not ranked: two are in the right order every other time."""


def rankings(affinities: Sequence[Affinity], direct: Mapping[str, float]) -> tuple[Ranking, ...]:
    """Judge each metric and three simple rules on the measured direct transfers.

    Args:
        affinities: one target's records by several metrics; the first one also gives sizes and channels.
        direct: full source name -> mean Dice on the target after that source alone.

    A metric is judged on the transfers that it has a distance for. "random" is the expectation for a blind draw. The
    result is empty for fewer than `MIN_TRANSFERS` transfers.
    """
    if len(direct) < MIN_TRANSFERS or not affinities:
        return ()
    costs: list[tuple[str, Mapping[str, float]]] = [(one.metric, _distances(one)) for one in affinities]
    sources = affinities[0].tasks[:-1]
    costs.append((LARGEST, {task.dataset: -float(task.labelled_cases) for task in sources}))
    costs.append((MODALITY, {name: -share for name, share in shared_channels(affinities[0]).items()}))
    costs.append((RANDOM, dict.fromkeys(direct, 0.0)))  # all tie, so regret is the mean over all choices
    found = []
    for name, cost in costs:
        names = sorted(direct.keys() & cost.keys())
        if len(names) >= MIN_TRANSFERS:
            dice = np.array([direct[source] for source in names])
            agreement = rank_agreement(dice, np.array([cost[source] for source in names]))
            found.append(Ranking(name, *agreement, transfers=len(names)))
    return tuple(found)


def rank_agreement(values: NDArray[np.float64], costs: NDArray[np.float64]) -> tuple[float, float, float]:
    """Rank ``values``, shape (n,), by low ``costs``, shape (n,); return Spearman's rho, weighted tau and regret.

    Weighted tau: Vigna, Proceedings of the 24th International Conference on World Wide Web, 2015. Regret is the largest
    value minus the value with the lowest cost, averaged over ties. Correlations are 0 if values or costs are constant.
    """
    # distances that differ by rounding alone are ties
    cheapest = np.isclose(costs, costs.min(), rtol=1e-9, atol=1e-12)
    regret = float(values.max() - values[cheapest].mean())
    if np.ptp(values) == 0 or np.ptp(costs) == 0:
        return 0.0, 0.0, regret
    # -costs: a good ranking has a positive correlation
    rho: Any = spearmanr(values, -costs)[0]
    tau: Any = weightedtau(values, -costs)[0]
    return float(rho), float(tau) if math.isfinite(tau) else 0.0, regret


def direct_dice(arms: Iterable[Arm], scores: Iterable[ModelScores]) -> dict[str, float]:
    """Return source -> mean Dice after that source alone, over the folds and seeds that all direct arms have."""
    values = case_values(scores)
    direct = {arm.sources[0]: values[arm.name] for arm in arms if len(arm.sources) == 1 and arm.name in values}
    common = set.intersection(*(set(models) for models in direct.values())) if direct else set()
    means = {source: [dice for model in common for dice in models[model].values()] for source, models in direct.items()}
    return {source: sum(dice) / len(dice) for source, dice in means.items() if dice}


def shared_channels(affinity: Affinity) -> dict[str, float]:
    """Return source -> channel names in common with the target over all names in either, ignoring case."""
    target = {name.lower() for name in affinity.tasks[-1].channels}
    names = {task.dataset: {name.lower() for name in task.channels} for task in affinity.tasks[:-1]}
    return {name: len(own & target) / len(own | target) for name, own in names.items()}


def _distances(affinity: Affinity) -> dict[str, float]:
    distances = {name: affinity.distances[index][-1] for index, name in enumerate(affinity.sources)}
    return {name: distance for name, distance in distances.items() if math.isfinite(distance)}
