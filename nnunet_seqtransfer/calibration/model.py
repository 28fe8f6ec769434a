"""Which constants of the cost are fitted, given how much was measured; and solving for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.calibration.fit import Data, Exponents, Floats, TargetTransfers, centred, fit
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.cost import CostModel

DEGREES_PER_CONSTANT = 3
"""Measured paths, beyond the first of each target, that each fitted constant needs."""


@dataclass(frozen=True)
class Model:
    """The constants that are free."""

    default: Combination
    """The metric's default combination; its weights name the components."""

    free_weights: bool
    """Whether each component has a weight of its own; else the default weights are scaled by one constant."""

    stage: bool
    """Whether a hop has a cost beside its distance."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the K components."""
        return tuple(self.default.weights)

    @property
    def constants(self) -> int:
        """How many are free: the start, the weights, the cost of a stage."""
        return 1 + (len(self.names) if self.free_weights else 1) + self.stage

    def shape(self, exponents: Exponents) -> Floats:
        """(K + 2, constants): what each free constant scales, see `fit.fit`."""
        k = len(self.names)
        full = np.eye(k + 2)
        if self.free_weights:
            weights = full[:, 1:-1]
        else:
            # (w ** (1 / p0) c) ** p: a component keeps its share of the default distance under another exponent.
            power = exponents.hop / self.default.exponent
            weights = np.array([[0.0, *(self.default.weights[name] ** power for name in self.names), 0.0]]).T
        return np.hstack([full[:, :1], weights, full[:, -1:]] if self.stage else [full[:, :1], weights])

    def solve(self, data: Data, exponents: Exponents) -> Floats:
        """The constants theta, (K + 2,), in Dice (see `fit.fit`); all 0 where none correlate.

        Where no scratch path was measured and larger landmarks were no better, the start is fitted as free, and
        scratch would beat every path without ever having been seen: the start keeps its default then, relative to an
        average measured hop.
        """
        theta = fit(data, self.shape(exponents))
        if start_is_default(data, theta):
            theta[0] = CostModel.start_scale * mean_hop(data, theta)
        return theta


def start_is_default(data: Data, theta: Floats) -> bool:
    """Whether ``data`` say nothing of the start: ``theta`` has it for free, though no scratch path is among them."""
    return bool(theta[0] == 0 and data.features[:, -1].min() > 0)


def mean_hop(data: Data, theta: Floats) -> float:
    """What the weights in ``theta`` let a measured hop cost on average, the cost of a stage left out; >= 0."""
    hops = float(data.features[:, -1].sum())
    return float((data.features[:, 1:-1] @ theta[1:-1]).sum()) / hops if hops else 0.0


def affordable_model(targets: Sequence[TargetTransfers], default: Combination) -> Model:
    """The model with most constants that the number of measurements can bear, see `model_for`.

    Raises SequenceError where the measurements are too few for any, or do not differ within any target.
    """
    data = Data.of(targets, tuple(default.weights), Exponents())
    if not np.any(np.abs(centred(data.dice, data.groups)) > 1e-12):
        raise SequenceError(
            "all measured Dice of each target are equal, so that nothing tells good paths from bad ones"
        )
    model = model_for(data, default)
    if model is not None:
        return model
    constants = smallest_model(default).constants
    raise SequenceError(
        f"{_paths(len(data.dice))} to {len(targets)} target{'s' if len(targets) > 1 else ''} are too few to fit even "
        f"{constants} constants; measure {DEGREES_PER_CONSTANT * constants - _degrees(data)} more "
        f"({DEGREES_PER_CONSTANT} per constant, and one per target)"
    )


def model_for(data: Data, default: Combination) -> Model | None:
    """The model with most constants that the paths in ``data`` can bear; None where they are too few for any.

    In this order: a weight for each component, or one for all; then with a cost for each stage (where paths differ in
    their stages), or without.
    """
    stages_differ = bool(np.any(np.abs(centred(data.features[:, -1], data.groups)) > 0.0))
    models = [
        Model(default, free, stage) for free in (True, False) for stage in (True, False) if stages_differ or not stage
    ]
    return next((model for model in models if _degrees(data) >= DEGREES_PER_CONSTANT * model.constants), None)


def smallest_model(default: Combination) -> Model:
    """The start and one constant for all weights."""
    return Model(default, free_weights=False, stage=False)


def _degrees(data: Data) -> int:
    """Measured paths beyond the first of each target."""
    return len(data.dice) - len(np.unique(data.groups))


def _paths(count: int) -> str:
    return f"{count} measured path{'s' if count != 1 else ''}"
