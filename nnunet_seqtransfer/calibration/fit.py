"""The mathematics of calibration: costs that are linear in their constants, and the exact best fit of these.

With given exponents p and e, a path costs X theta, theta = (c, w_1 ... w_K, s) >= 0, where the row X of a path holds
n ** -e (n: labelled cases of its first task), for each component k the sum over its hops of c_k ** p, and the number of
its hops. Dice has another level for each target, whatever the path; so X and Dice y are centred within targets (fixed
effects of the targets). Wanted is the theta >= 0 with the largest correlation of -X theta and y, that is, with
A = -X, the largest cosine between y and a point of the cone K = {A theta: theta >= 0}.

It is the projection P of y on K, found by non-negative least squares. Proof: K is a closed convex cone, so
<y - P, P> = 0 and <y - P, z> <= 0 for every z in K. For z in K of length 1 therefore <y, z> <= <P, z> <= |P|, and the
cosine is at most |P| / |y|. z = P / |P| attains it, as <y, P> = <P, P>. Where P = 0, <y, z> <= 0 for all of K: no
constants correlate positively. The length of P makes -X theta a prediction of Dice at the same time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import nnls

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NOTHING = 1e-9
"""A projection, or a part of it, that is so much shorter than Dice itself is 0, up to rounding."""


@dataclass(frozen=True, eq=False)
class TargetTransfers:
    """What was measured for one target, and what is known of its tasks."""

    components: Mapping[str, Floats]
    """Each component of the distance, (n, n), >= 0: [i, j] from task i to task j."""

    counts: Ints
    """(n,) labelled cases of each task, >= 1."""

    paths: tuple[tuple[int, ...], ...]
    """m paths as task indices in training order, the target last; the target alone is scratch."""

    dice: Floats
    """(m,) mean Dice of the target, 0 to 1."""

    def features(self, names: Sequence[str], exponents: Exponents) -> Floats:
        """(m, K + 2): the rows X of the paths for the K components ``names``."""
        powers = [np.asarray(self.components[name], dtype=np.float64) ** exponents.hop for name in names]
        rows = [
            [
                float(self.counts[path[0]]) ** -exponents.start,
                *(sum(power[hop] for hop in pairwise(path)) for power in powers),
                len(path) - 1,
            ]
            for path in self.paths
        ]
        return np.array(rows, dtype=np.float64).reshape(len(rows), len(names) + 2)


@dataclass(frozen=True)
class Exponents:
    """What the cost is not linear in; the defaults are those of `sequence.cost.CostModel`."""

    hop: float = 2.0
    """p > 0."""

    start: float = 0.5
    """e >= 0."""


GRID = (Exponents(), *(Exponents(p, e) for p in (1.0, 1.5, 2.0, 3.0) for e in (0.25, 0.5, 1.0) if (p, e) != (2.0, 0.5)))
"""The exponents that may be chosen, the defaults first: they are left only for something better."""


@dataclass(frozen=True, eq=False)
class Data:
    """The measured paths of several targets as one table."""

    features: Floats
    """(m, q), the rows X."""

    dice: Floats
    """(m,)."""

    groups: Ints
    """(m,) whole numbers from 0 on: which rows belong to one target."""

    @classmethod
    def of(cls, targets: Sequence[TargetTransfers], names: Sequence[str], exponents: Exponents) -> Data:
        """The table of all paths of ``targets``, in their order."""
        return cls(
            np.concatenate([target.features(names, exponents) for target in targets]),
            np.concatenate([target.dice for target in targets]),
            np.repeat(np.arange(len(targets)), [len(target.paths) for target in targets]),
        )

    def rows(self, chosen: NDArray[np.int64] | NDArray[np.bool_]) -> Data:
        """The chosen rows alone."""
        return Data(self.features[chosen], self.dice[chosen], self.groups[chosen])


def centred(values: Floats, groups: Ints) -> Floats:
    """``values``, (m,) or (m, q), minus their mean within each group."""
    columns = values.reshape(len(values), -1)
    counts = np.maximum(np.bincount(groups, minlength=1), 1)
    means = np.stack([np.bincount(groups, column, minlength=1) / counts for column in columns.T], axis=1)
    return np.asarray((columns - means[groups]).reshape(values.shape))


def fit(data: Data, shape: Floats) -> Floats:
    """The constants theta = shape @ phi, phi >= 0, whose cost correlates best with falling Dice, within groups.

    Args:
        data: m measured paths with q features.
        shape: (q, r), >= 0: the r constants that are free, each a mixture of features; the identity frees all.

    Returns:
        (q,), >= 0, in Dice per unit of a feature: -features @ theta predicts Dice, up to a level for each group. All 0
        where no constants correlate positively. Where features depend on each other linearly, theta is one of several
        with the same prediction.
    """
    columns = -centred(data.features @ shape, data.groups)
    dice = centred(data.dice, data.groups)
    lengths = np.linalg.norm(columns, axis=0)
    # A column that does not vary within groups says nothing; the others get one length, for the sake of accuracy.
    varying = lengths > NOTHING * np.maximum(1e-300, np.abs(data.features @ shape).max(axis=0, initial=0.0))
    free = np.zeros(shape.shape[1])
    if varying.any():
        scaled = columns[:, varying] / lengths[varying]
        solution, _ = nnls(scaled, dice, maxiter=100 * scaled.shape[1])
        solution[solution < NOTHING * np.linalg.norm(dice)] = 0.0  # what each column adds, its length being 1
        if np.linalg.norm(scaled @ solution) > NOTHING * np.linalg.norm(dice):
            free[varying] = solution / lengths[varying]
    return np.asarray(shape @ free)


def correlation(data: Data, theta: Floats) -> float:
    """Of Dice and -features @ theta, within groups: -1 to 1; 0 where one of them does not vary."""
    predicted, dice = -centred(data.features @ theta, data.groups), centred(data.dice, data.groups)
    lengths = float(np.linalg.norm(predicted) * np.linalg.norm(dice))
    return float(predicted @ dice / lengths) if lengths > 0 else 0.0
