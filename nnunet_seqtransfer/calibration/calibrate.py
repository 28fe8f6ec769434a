"""From measured transfers to a calibration: which constants, their values, their intervals, and how well they rank."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.calibration.fit import Data, Exponents, Floats, centred, correlation, fit
from nnunet_seqtransfer.calibration.held_out import (
    TARGETS_FOR_EXPONENTS,
    choose_exponents,
    default_costs,
    draw,
    held_out_costs,
    largest_first,
    leads,
    left_out,
    quality,
    tables,
)
from nnunet_seqtransfer.calibration.model import Model, affordable_model, mean_hop, start_is_default
from nnunet_seqtransfer.calibration.record import Calibration, MeasuredPath, Measurements, RankingQuality
from nnunet_seqtransfer.calibration.transfers import MeasuredTarget, run_noise
from nnunet_seqtransfer.errors import SequenceError

RESAMPLES = 1000
CALIBRATED, DEFAULT, LARGEST = "calibrated, held out", "default constants", "largest first source"


@dataclass(frozen=True)
class MetricEntry:
    """The metric whose components are weighed."""

    name: str
    "What users call it."
    version: int
    "Its version."
    combination: Combination
    "Its default combination."


def calibrate(targets: Sequence[MeasuredTarget], metric: MetricEntry, name: str, seed: int) -> Calibration:
    """Fits the constants of the cost to the measured paths; deterministic by ``seed`` (of the bootstrap).

    Raises SequenceError where there are too few measurements, their Dice do not differ, or nothing that is known of
    the paths goes along with their Dice.
    """
    if not targets:
        raise SequenceError("no measured path is left to calibrate on; measure several paths to one target at least")
    model = affordable_model([target.transfers for target in targets], metric.combination)
    all_tables = tables([target.transfers for target in targets], model.names)
    exponents = choose_exponents(all_tables, model)
    data = all_tables[exponents]
    theta = model.solve(data, exponents)
    start_unknown = start_is_default(data, fit(data, model.shape(exponents)))
    scale = mean_hop(data, theta)
    _require_distance(data, theta, scale, metric.name)
    noise = run_noise(targets)
    resampled = bootstrap(data, model.shape(exponents), np.random.default_rng(seed))
    slopes = [mean_hop(data, sample) for sample in resampled]
    return Calibration(
        name=name,
        metric=metric.name,
        metric_version=metric.version,
        combination=Combination(
            {key: float(weight / scale) for key, weight in zip(model.names, theta[1:-1], strict=True)}, exponents.hop
        ),
        start_scale=float(theta[0] / scale),
        start_exponent=exponents.start,
        stage_cost=float(theta[-1] / scale),
        dice_per_cost=scale,
        dice_per_cost_interval=_interval(np.array(slopes)),
        residual=scatter_of_a_run(
            _residual(data, theta, _fitted_constants(model, theta, start_unknown)),
            noise or 0.0,
            [runs for target in targets for runs in target.runs],
        ),
        measurements=Measurements(
            targets=tuple(target.name for target in targets),
            paths=tuple(_measured_paths(targets, data.features @ theta / scale)),
            constants=model.constants,
            free_weights=model.free_weights,
            exponents_chosen=len(targets) >= TARGETS_FOR_EXPONENTS,
            correlation=correlation(data, theta),
            run_noise=noise,
            left_out=left_out([target.transfers for target in targets]),
            held_out=_rankings(targets, held_out_costs(all_tables, model), metric.combination, seed),
            intervals=_intervals(model, resampled / scale, start_unknown),
            notes=tuple(_notes(targets, model, exponents, float(theta[0]), start_unknown)),
        ),
    )


def bootstrap(data: Data, shape: Floats, rng: np.random.Generator, resamples: int = RESAMPLES) -> Floats:
    """(resamples, q): constants fitted to resamples of the measured paths, see `held_out.draw`.

    The exponents and the choice of constants stay as they are.
    """
    members = [np.flatnonzero(data.groups == group) for group in np.unique(data.groups)]
    sizes = [len(rows) for rows in members]
    samples = []
    for _ in range(resamples):
        rows = [members[group][chosen] for group, chosen in draw(sizes, rng)]
        groups = np.repeat(np.arange(len(rows)), [len(chosen) for chosen in rows])
        chosen = np.concatenate(rows)
        samples.append(fit(Data(data.features[chosen], data.dice[chosen], groups), shape))
    return np.array(samples)


def _require_distance(data: Data, theta: Floats, scale: float, metric: str) -> None:
    if not theta.any():
        raise SequenceError(
            f"no weights of the metric {metric} go along with the measured Dice: it rises with every part of the cost; "
            "keep the defaults, or try another metric"
        )
    if scale <= 0:
        raise SequenceError(
            f"the measured Dice falls with no component of the metric {metric}, only with fewer cases or more stages "
            f"(correlation {correlation(data, theta):.2f}); choose the largest source, or try another metric"
        )


def _residual(data: Data, theta: Floats, constants: int) -> float:
    """Standard deviation of Dice around the prediction: one degree of freedom for each target and used constant."""
    errors = centred(data.dice + data.features @ theta, data.groups)
    degrees = len(errors) - len(np.unique(data.groups)) - constants
    return math.sqrt(float(errors @ errors) / max(1, degrees))


def _fitted_constants(model: Model, theta: Floats, start_unknown: bool) -> int:
    """How many constants were fitted and are not 0; weights that share one are one, a start at its default is none."""
    weights = int(np.count_nonzero(theta[1:-1]))
    start, stage = int(theta[0] > 0 and not start_unknown), int(theta[-1] > 0)
    return start + (weights if model.free_weights else min(1, weights)) + stage


def scatter_of_a_run(residual: float, noise: float, runs: Sequence[int]) -> float:
    """Standard deviation of a single run's Dice around the prediction.

    The means of r runs scatter with the variance misfit^2 + noise^2 / r, a run with misfit^2 + noise^2: what averaging
    has taken away of the noise is added again.

    Args:
        residual: standard deviation of the paths' mean Dice around the prediction.
        noise: standard deviation between runs of one path; 0 where none was run twice.
        runs: of each path, >= 1.
    """
    averaged = 1 - sum(1 / count for count in runs) / len(runs)
    return max(noise, math.sqrt(residual**2 + averaged * noise**2))


def _interval(values: Floats) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


def _intervals(model: Model, samples: Floats, start_unknown: bool) -> dict[str, tuple[float, float]]:
    """By the name of each constant that was fitted."""
    names = ["start_scale", *model.names, "stage_cost"]
    fitted = {name: _interval(samples[:, column]) for column, name in enumerate(names)}
    if start_unknown:
        del fitted["start_scale"]
    if not model.stage:
        del fitted["stage_cost"]
    return fitted


def _measured_paths(targets: Sequence[MeasuredTarget], costs: Floats) -> Iterator[MeasuredPath]:
    left = iter(costs.tolist())
    for target in targets:
        for path, dice, runs in zip(target.transfers.paths, target.transfers.dice, target.runs, strict=True):
            yield MeasuredPath(tuple(target.names[task] for task in path), float(dice), runs, next(left))


def _rankings(
    targets: Sequence[MeasuredTarget], held_out: Floats, default: Combination, seed: int
) -> tuple[RankingQuality, ...]:
    transfers = [target.transfers for target in targets]
    own = np.split(held_out, np.cumsum([len(target.paths) for target in transfers])[:-1])
    unfitted = {
        DEFAULT: [default_costs(target, default) for target in transfers],
        LARGEST: [largest_first(target) for target in transfers],
    }
    intervals = leads(transfers, [own, *unfitted.values()], np.random.default_rng(seed))
    return (
        quality(CALIBRATED, own, transfers),
        *(
            replace(quality(name, costs, transfers), lead=interval)
            for (name, costs), interval in zip(unfitted.items(), intervals, strict=True)
        ),
    )


def _notes(
    targets: Sequence[MeasuredTarget], model: Model, exponents: Exponents, start: float, start_unknown: bool
) -> Iterator[str]:
    lengths = {len(path) for target in targets for path in target.transfers.paths}
    if not model.free_weights:
        yield "Too few measurements for a weight per component: the default weights keep their proportions."
    if len(targets) < TARGETS_FOR_EXPONENTS:
        yield (
            f"Fewer than {TARGETS_FOR_EXPONENTS} targets: the exponents keep their defaults, p = {exponents.hop:g} and "
            f"e = {exponents.start:g}, and the intervals do not hold what differs between targets."
        )
    if 1 not in lengths:
        yield "No path from scratch was measured: what refusing all sources costs is extrapolated."
    elif start == 0:
        yield "By these measurements the start costs nothing: scratch will win over every source."
    if start_unknown:
        yield "The start keeps its default: larger first sources were no better, and scratch was not measured."
    if not lengths & set(range(3, max(lengths) + 1)):
        yield "No path of two sources was measured: what an intermediate is worth is extrapolated."
