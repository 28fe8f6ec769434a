"""How well distances, and what people go by without them, rank the direct transfers that were measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.evaluation.arms import shared_channels
from nnunet_seqtransfer.evaluation.comparison import Ranking
from nnunet_seqtransfer.evaluation.statistics import rank_agreement

LARGEST, MODALITY, RANDOM = "largest source", "same modality", "random"
FEWEST = 3
"""Of fewer transfers no ranking is judged: two are in the right order half of the time."""


def rankings(affinities: Sequence[Affinity], direct: Mapping[str, float]) -> tuple[Ranking, ...]:
    """How well each metric and each trivial baseline ranks the measured direct transfers.

    Args:
        affinities: of one target by several metrics; the first also says sizes and channels.
        direct: full name of a source -> mean Dice of the target after it alone.

    Returns nothing where fewer than three transfers are measured. A metric is judged on the transfers that it has a
    distance for. "random" is what a blind draw has on average: no correlation, and the mean regret.
    """
    if len(direct) < FEWEST or not affinities:
        return ()
    found = [_ranking(affinity.metric, _distances(affinity), direct) for affinity in affinities]
    first = affinities[0]
    sizes = {task.dataset: -float(task.labelled_cases) for task in first.tasks[:-1]}
    channels = {name: -share for name, share in shared_channels(first).items()}
    blind = dict.fromkeys(direct, 0.0)
    for name, costs in ((LARGEST, sizes), (MODALITY, channels), (RANDOM, blind)):
        found.append(_ranking(name, costs, direct))
    return tuple(ranking for ranking in found if ranking.transfers >= FEWEST)


def _distances(affinity: Affinity) -> dict[str, float]:
    distances = {name: affinity.distances[place][-1] for place, name in enumerate(affinity.sources)}
    return {name: distance for name, distance in distances.items() if np.isfinite(distance)}


def _ranking(name: str, costs: Mapping[str, float], direct: Mapping[str, float]) -> Ranking:
    sources = sorted(direct.keys() & costs.keys())
    if not sources:
        return Ranking(name, 0.0, 0.0, 0.0, 0)
    dice = np.array([direct[source] for source in sources])
    agreement = rank_agreement(dice, np.array([costs[source] for source in sources]))
    return Ranking(name, agreement.spearman, agreement.weighted_tau, agreement.regret, len(sources))
