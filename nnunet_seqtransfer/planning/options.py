"""What a plan is asked for, in the words of nnUNetv2_seq_plan's options, and what that means for one affinity."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nnunet_seqtransfer.calibration.record import Calibration
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.planner import PLANNERS
from nnunet_seqtransfer.planning.prices import EpochTime, Finished, Training, Unit, stage_price
from nnunet_seqtransfer.planning.problem import Constraints, SequenceProblem

AUTO = "auto"
"""The strategy that plans exactly and falls back to the simplest path that the data cannot tell from the best."""
STRATEGIES = (*PLANNERS, AUTO)
"""Every strategy that a plan can be asked for; the first is the default."""


@dataclass(frozen=True)
class PlanOptions:
    """How to plan. The default is what `nnUNetv2_seq_plan` does without options."""

    strategy: str = STRATEGIES[0]
    """One of `STRATEGIES`."""

    max_sources: int = 2
    """Most sources before the target."""

    top: int = 10
    """Number of cheapest paths among the candidates."""

    communities: int | None = None
    """For the published strategy; None for its default."""

    must: tuple[str, ...] = ()
    """Full names of sources that the path goes through."""

    avoid: tuple[str, ...] = ()
    """Full names of sources that it does not go through."""

    landmark_cases: int = 0
    """Labelled cases that its first source needs."""

    budget: float | None = None
    """Most that the stages still to train may cost together, the target's included; None for no limit."""

    budget_unit: Unit = "GPU hours"
    """What the budget counts."""

    training: Training = field(default_factory=Training)
    """How the stages will be trained, which prices them."""

    start_scale: float | None = None
    """See `CostModel`; None, here and in the next two, for the calibration's constant or the default."""

    start_exponent: float | None = None
    """See `CostModel`."""

    hop_exponent: float | None = None
    """See `CostModel`."""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PlanOptions:
        """The inverse of `dataclasses.asdict`. Raises KeyError or TypeError where a field is missing or unknown."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in content.items()
        }
        fields["training"] = Training(**content["training"])
        return cls(**fields)


def cost_model(options: PlanOptions, unit: float, calibration: Calibration | None) -> CostModel:
    """The constants asked for; for others the calibration's, or the defaults with the metric's ``unit``."""
    given = {
        name: value
        for name in ("start_scale", "start_exponent", "hop_exponent")
        if (value := getattr(options, name)) is not None
    }
    if calibration is None:
        return CostModel(**{"unit": unit, **given})
    if given:
        raise SequenceError(
            f"the calibration {calibration.name} brings its own {', '.join(sorted(given))}; leave out either"
        )
    return CostModel(
        start_scale=calibration.start_scale,
        start_exponent=calibration.start_exponent,
        hop_exponent=calibration.combination.exponent,
        unit=calibration.combination.unit,
        stage_cost=calibration.stage_cost,
    )


def plan_constraints(
    options: PlanOptions, problem: SequenceProblem, epoch: EpochTime, finished: Finished
) -> Constraints:
    """The constraints with names turned into indices, and stages into prices in the budget's unit.

    A source to be avoided may be none of the problem's. Raises SequenceError where one that must be on the path is not.
    """
    places = {name: index for index, name in enumerate(problem.names)}
    lacking = [name for name in options.must if name not in places]
    if lacking:
        raise SequenceError(
            f"{lacking[0]} must be on the path, but is not among the sources that can be planned with; "
            "run nnUNetv2_seq_affinity with it"
        )
    return Constraints(
        must=tuple(places[name] for name in options.must),
        avoid=tuple(places[name] for name in options.avoid if name in places),
        landmark_cases=options.landmark_cases,
        budget=math.inf if options.budget is None else options.budget,
        prices=prices(options.training, problem, epoch, options.budget_unit),
        finished=frozenset(
            tuple(places[name] for name in path) for path in finished.paths if all(name in places for name in path)
        ),
    )


def prices(training: Training, problem: SequenceProblem, epoch: EpochTime, unit: Unit) -> tuple[float, ...]:
    """(n,) price of a stage on each task."""
    return tuple(
        stage_price(training, epoch, unit, is_target=task == problem.target) for task in range(len(problem.names))
    )


def to_train(path: Sequence[int], constraints: Constraints) -> tuple[tuple[int, ...], ...]:
    """The beginnings of ``path`` whose last stage is still to train, the path itself last."""
    beginnings = (tuple(path[: k + 1]) for k in range(len(path)))
    return tuple(part for part in beginnings if len(part) == len(path) or part not in constraints.finished)
