"""How well calibrated costs rank paths that they were not fitted to, and how well rankings do that need no fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from scipy.stats import spearmanr, weightedtau

from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.calibration.fit import GRID, Data, Exponents, Floats, Ints, TargetTransfers, centred
from nnunet_seqtransfer.calibration.model import Model, model_for, smallest_model
from nnunet_seqtransfer.calibration.record import RankingQuality
from nnunet_seqtransfer.planning.cost import CostModel

Tables = Mapping[Exponents, Data]
"""The same measured paths under each choice of exponents."""

TARGETS_FOR_EXPONENTS = 3
"""Fewer targets than this, and the exponents keep their defaults."""
TARGETS_TO_RESAMPLE = TARGETS_FOR_EXPONENTS
"""Fewer targets than this are not resampled themselves: one or two would make many a resample of one alone."""
RANKING_RESAMPLES = 200


def tables(targets: Sequence[TargetTransfers], names: Sequence[str]) -> dict[Exponents, Data]:
    """The table of all paths under every choice of exponents."""
    return {exponents: Data.of(targets, names, exponents) for exponents in GRID}


def choose_exponents(data: Tables, model: Model) -> Exponents:
    """The exponents whose fits best predict targets that they have not seen; the defaults below three targets.

    Best is the largest correlation, within targets, of Dice and the predictions of all left-out targets.
    """
    if len(np.unique(data[GRID[0]].groups)) < TARGETS_FOR_EXPONENTS:
        return GRID[0]
    return max(GRID, key=lambda exponents: _score(data[exponents], model, exponents))


def _score(data: Data, model: Model, exponents: Exponents) -> float:
    predicted = np.zeros(len(data.dice))
    for group in np.unique(data.groups):
        inside = data.groups == group
        predicted[inside] = -data.features[inside] @ model.solve(data.rows(~inside), exponents)
    dice, predicted = centred(data.dice, data.groups), centred(predicted, data.groups)
    lengths = float(np.linalg.norm(dice) * np.linalg.norm(predicted))
    # Rounded, so that exponents which do equally well leave the defaults alone.
    return round(float(dice @ predicted) / lengths, 9) if lengths else 0.0


def held_out_costs(data: Tables, model: Model) -> Floats:
    """(m,) cost of each path by constants that were fitted without its target, comparable within a target.

    The exponents are chosen without the target too. Where there is one target alone, each path is left out by itself;
    its cost is then counted from the mean cost of all paths under the same constants, which uses no Dice of its own.
    What is left may bear fewer constants than all measurements together: it decides which are fitted.

    ``model``: of all measurements; names the components.
    """
    default = data[GRID[0]]
    groups = np.unique(default.groups)
    costs = np.zeros(len(default.dice))
    if len(groups) == 1:
        centre = centred(default.features, default.groups)
        for row in range(len(costs)):
            others = np.arange(len(costs)) != row
            rest = default.rows(others)
            costs[row] = centre[row] @ _bearable(rest, model).solve(rest, GRID[0])
        return costs
    for group in groups:
        inside = default.groups == group
        others = {exponents: table.rows(~inside) for exponents, table in data.items()}
        own = _bearable(others[GRID[0]], model)
        exponents = choose_exponents(others, own)
        costs[inside] = data[exponents].features[inside] @ own.solve(others[exponents], exponents)
    return costs


def _bearable(rest: Data, model: Model) -> Model:
    return model_for(rest, model.default) or smallest_model(model.default)


def left_out(targets: Sequence[TargetTransfers]) -> Literal["target", "path"]:
    """What `held_out_costs` leaves out."""
    return "path" if len(targets) == 1 else "target"


def default_costs(target: TargetTransfers, combination: Combination) -> Floats:
    """(m,) cost of each path by the metric's default combination and the planner's default constants."""
    model = CostModel(unit=combination.unit)
    hops = (combination.distances(target.components) / model.unit) ** model.hop_exponent + model.stage_cost
    starts = model.start_scale * np.asarray(target.counts, dtype=np.float64) ** -model.start_exponent
    return np.array([starts[path[0]] + sum(hops[h] for h in pairwise(path)) for path in target.paths])


def largest_first(target: TargetTransfers) -> Floats:
    """(m,) minus the labelled cases of the first task of each path: the trivial ranking by size."""
    return np.array([-float(target.counts[path[0]]) for path in target.paths])


def quality(ranking: str, costs: Sequence[Floats], targets: Sequence[TargetTransfers]) -> RankingQuality:
    """How well ``costs`` (one array for each target) rank the measured paths: means over the targets.

    A ranking that holds all paths of a target for equal has no correlation (0), and the mean regret of a blind draw.
    """
    pairs = [(target.dice, cost) for target, cost in zip(targets, costs, strict=True)]
    spearman = [_number(spearmanr(dice, -cost)[0]) if _varies(dice, cost) else 0.0 for dice, cost in pairs]
    taus = [_tau(dice, cost) for dice, cost in pairs]
    return RankingQuality(
        ranking=ranking,
        spearman=float(np.mean(spearman)),
        weighted_tau=float(np.mean(taus)),
        regret=float(np.mean([regret(dice, cost) for dice, cost in pairs])),
        taus=tuple(taus),
    )


def leads(
    targets: Sequence[TargetTransfers], costs: Sequence[Sequence[Floats]], rng: np.random.Generator
) -> list[tuple[float, float]]:
    """How much larger the mean weighted tau of the first of ``costs`` is than that of each other: 95 % intervals.

    Bootstrap intervals; all rank the same resamples, which are drawn as those of the constants are, see `draw`.
    """
    sizes = [len(target.paths) for target in targets]
    taus = np.empty((RANKING_RESAMPLES, len(costs)))
    for row in taus:
        drawn = draw(sizes, rng)
        row[:] = [np.mean([_tau(targets[i].dice[rows], ranking[i][rows]) for i, rows in drawn]) for ranking in costs]
    low, high = np.percentile(taus[:, :1] - taus[:, 1:], [2.5, 97.5], axis=0)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def draw(sizes: Sequence[int], rng: np.random.Generator) -> list[tuple[int, Ints]]:
    """A resample: which targets, and which of the paths of each (as many as it has), with replacement.

    The targets are drawn from three on, since the paths of one target go together; fewer are all taken.
    """
    drawn = list(range(len(sizes)))
    if len(sizes) >= TARGETS_TO_RESAMPLE:
        drawn = rng.integers(len(sizes), size=len(sizes)).tolist()
    return [(group, rng.integers(sizes[group], size=sizes[group])) for group in drawn]


def _tau(dice: Floats, costs: Floats) -> float:
    return _number(weightedtau(dice, -costs)[0]) if _varies(dice, costs) else 0.0


def regret(dice: Floats, costs: Floats) -> float:
    """The best Dice minus that of the cheapest path; of several that are equally cheap, their mean."""
    cheapest = np.isclose(costs, costs.min(), rtol=1e-9, atol=1e-12)
    return float(dice.max() - dice[cheapest].mean())


def _varies(dice: Floats, costs: Floats) -> bool:
    return bool(np.ptp(dice) > 0 and np.ptp(costs) > 0)


def _number(statistic: Any) -> float:
    return float(statistic) if np.isfinite(statistic) else 0.0
