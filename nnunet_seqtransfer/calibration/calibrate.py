"""The user's own measured transfers: joined with the affinities of their targets, added to the shipped ones, judged."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from scipy.stats import weightedtau

from nnunet_seqtransfer.affinity.metrics import DEFAULT_METRIC
from nnunet_seqtransfer.affinity.name_match import match_names
from nnunet_seqtransfer.affinity.record import Affinity, affinity_path, read_affinity
from nnunet_seqtransfer.calibration.runs import MeasuredRun, read_measurements, read_trained
from nnunet_seqtransfer.context import Context, Notify
from nnunet_seqtransfer.errors import DatasetError, RecordError, SequenceError
from nnunet_seqtransfer.nnunet.folders import dataset_name
from nnunet_seqtransfer.nnunet.plans import DEFAULT_CONFIGURATION, DEFAULT_PLANS
from nnunet_seqtransfer.planning import measured
from nnunet_seqtransfer.planning.gain import GainModel
from nnunet_seqtransfer.tasks.path_syntax import given_members
from nnunet_seqtransfer.training.ready_models import find_named_model

RESAMPLES = 1000


@dataclass(frozen=True)
class CalibrationRequest:
    """Runs to use, and the affinities to join them with."""

    output: Path
    "JSON file to write."
    table: Path | None = None
    "CSV of measured runs; None for none."
    results: bool = False
    "True to use the finished chains in nnUNet_results."
    affinities: tuple[Path, ...] = ()
    "Affinity files of the targets; none for those that `measure_affinity` wrote."
    plans: str = DEFAULT_PLANS
    "Name of the targets' plans."
    configuration: str = DEFAULT_CONFIGURATION
    "nnU-Net configuration."
    metric: str = DEFAULT_METRIC
    "Metric of the affinities, if no files are given."
    seed: int = 0
    "Seed of the bootstrap over targets."
    models: tuple[Path, ...] = ()
    "Models that chains in nnUNet_results started from with -init."


@dataclass(frozen=True)
class HeldOutGain:
    """One measured transfer, predicted without the target's own runs."""

    transfer: measured.MeasuredTransfer
    "Measured values."
    shipped: float
    "Gain predicted from the shipped measurements alone."
    own: float
    "Gain predicted from the shipped measurements and the user's other targets."


@dataclass(frozen=True)
class Calibration:
    """The user's measured transfers, and how well gains are predicted with and without them."""

    table: measured.MeasuredTable
    "The user's measured transfers."
    metric: str
    "Metric of the affinities."
    held_out: tuple[HeldOutGain, ...]
    "Every single source and pair, each predicted without the target's own runs."
    weighted_tau: tuple[float, float]
    "Mean weighted Kendall's tau over targets: shipped alone, with the user's other targets."
    regret: tuple[float, float]
    "Mean Dice lost by the first choice against the best measured path: shipped alone, with the user's."
    lead: tuple[float, float] | None
    "95 % interval of the fall of the regret, over resampled targets; None with less than two targets."


def calibrate(request: CalibrationRequest, context: Context) -> Calibration:
    """Collect the user's measured transfers, judge what they add, and write them for `plan_path`.

    Raises RecordError if a file is broken, SequenceError if no transfer is left.
    """
    _check_output(request.output)
    runs = read_measurements(request.table) if request.table is not None else ()
    if request.results:
        models = [find_named_model(path, request.configuration) for path in request.models]
        runs += read_trained(request.plans, request.configuration, context.notify, models)
    affinities = _affinities(request, runs, context.notify)
    metric = next((affinity.metric for affinity in affinities.values()), request.metric)
    rows = join(runs, affinities, context.notify)
    if not any(row.sources for row in rows):
        raise SequenceError(
            "no measured transfer is left to calibrate on; measure scratch and at least one path to one target"
        )
    table = measured.MeasuredTable(request.output.stem, rows)
    calibration = judge(table, metric, request.seed)
    measured.write_table(request.output, table)
    return calibration


def join(
    runs: Sequence[MeasuredRun], affinities: Mapping[str, Affinity], notify: Notify
) -> tuple[measured.MeasuredTransfer, ...]:
    """Return one row for each path, sorted by target and path; runs along one path are averaged.

    A target without a run from scratch is left out, since its gains are unknown. ``notify`` receives one line for each
    run or target that is left out.
    """
    dice: dict[tuple[str, tuple[str, ...]], list[MeasuredRun]] = {}
    seen: dict[tuple[str, tuple[str, ...], str], str] = {}
    for run in runs:
        try:
            affinity, path = _path(run, affinities)
            if run.seed and (first := seen.setdefault((affinity.target, path, run.seed), run.place)) != run.place:
                raise DatasetError(f"seed {run.seed} of this path is in {first} already")
        except DatasetError as error:
            notify(f"left out: {run.place}: {error}")
            continue
        dice.setdefault((affinity.target, path), []).append(run)
    for target in sorted({target for target, _ in dice}):
        if (target, ()) not in dice:
            notify(f"left out: {target}: there is no run from scratch, so gains are unknown; train {target} -s none")
    means = {key: sum(run.dice for run in found) / len(found) for key, found in dice.items()}
    return tuple(
        measured.MeasuredTransfer(
            target=target,
            sources=path,
            evidence=tuple(_evidence(affinities[target], name) for name in path),
            scratch=means[target, ()],
            dice=means[target, path],
            iterations=max(run.iterations for run in dice[target, path]),
            own=True,
        )
        for target, path in sorted(dice)
        if path and (target, ()) in dice
    )


def judge(table: measured.MeasuredTable, metric: str, seed: int) -> Calibration:
    """Return how well each target is predicted without it, with and without the user's other targets."""
    rows = [row for row in table.rows if row.sources]
    shipped, targets = measured.shipped_table().rows, sorted({row.target for row in rows})
    models = {
        target: [
            GainModel([row for row in some if row.target != target], metric) for some in (shipped, (*shipped, *rows))
        ]
        for target in targets
    }
    held_out = []
    for row in rows:
        evidence = [source.evidence(metric) for source in row.evidence]
        one, other = (model.gain(evidence, row.scratch) for model in models[row.target])
        held_out.append(HeldOutGain(row, one, other))
    by_target = [[entry for entry in held_out if entry.transfer.target == target] for target in targets]
    taus = np.array([[_tau(some, own=own) for own in (False, True)] for some in by_target])
    regrets = np.array([[_regret(some, own=own) for own in (False, True)] for some in by_target])
    lead = None
    if len(targets) > 1:
        drawn = np.random.default_rng(seed).integers(len(targets), size=(RESAMPLES, len(targets)))
        falls = (regrets[:, 0] - regrets[:, 1])[drawn].mean(axis=1)
        lead = float(np.quantile(falls, 0.025)), float(np.quantile(falls, 0.975))
    return Calibration(
        table=table,
        metric=metric,
        held_out=tuple(held_out),
        weighted_tau=(float(taus[:, 0].mean()), float(taus[:, 1].mean())),
        regret=(float(regrets[:, 0].mean()), float(regrets[:, 1].mean())),
        lead=lead,
    )


def _tau(entries: Sequence[HeldOutGain], *, own: bool) -> float:
    """Return the weighted tau of predicted and measured gains; 0 if one of them does not vary."""
    predicted = [entry.own if own else entry.shipped for entry in entries]
    value = weightedtau(predicted, [entry.transfer.gain for entry in entries]).statistic if len(entries) > 1 else 0.0
    return float(value) if math.isfinite(value) else 0.0


def _regret(entries: Sequence[HeldOutGain], *, own: bool) -> float:
    """Return the best gain, or 0 for scratch, minus that of the path of the highest predicted gain."""
    first = max(entries, key=lambda entry: (entry.own if own else entry.shipped, entry.transfer.sources))
    chosen = first.transfer.gain if (first.own if own else first.shipped) > 0 else 0.0
    return max(0.0, *(entry.transfer.gain for entry in entries)) - chosen


def _evidence(affinity: Affinity, source: str) -> measured.MeasuredSource:
    """Return what the affinity says of a source, with the components that gains are predicted from."""
    place, target = affinity.names.index(source), affinity.tasks[-1]
    task = affinity.tasks[place]
    names = match_names(task, target)
    known = {
        name
        for row in measured.shipped_table().rows
        for entry in row.evidence
        for name in entry.components.get(affinity.metric, ())
    }
    components = {
        name: float(values[place][-1]) for name, values in affinity.components.items() if name in known or not known
    }
    return measured.MeasuredSource(
        {affinity.metric: components}, names.labels, names.channels, zero_shot=None, cases=task.labelled_cases
    )


def _path(run: MeasuredRun, affinities: Mapping[str, Affinity]) -> tuple[Affinity, tuple[str, ...]]:
    """Return the affinity of a run's target and the full names of its sources. Raises DatasetError."""
    if math.isnan(run.dice):
        raise DatasetError("it has no Dice")
    try:
        affinity = affinities[dataset_name(run.target, tuple(affinities))]
    except DatasetError:
        raise DatasetError(
            f"there is no affinity of target {run.target!r}; run nnUNetv2_seq_affinity -t {run.target}"
        ) from None
    if any(len(given_members(element)) > 1 for element in run.sources if element not in affinity.names):
        raise DatasetError("gains are not predicted for datasets that train together")
    try:
        names = [dataset_name(source, affinity.names) for source in run.sources]
    except DatasetError as error:
        raise DatasetError(f"{error}, as in the affinity of {affinity.target}, or add it there") from None
    if names and names[-1] == affinity.target:
        names.pop()
    if affinity.target in names:
        raise DatasetError(f"its path goes through its own target {affinity.target}")
    if len(set(names)) < len(names):
        raise DatasetError("its path goes through one dataset twice")
    if len(names) > 2:
        raise DatasetError(f"its path has {len(names)} sources; gains are predicted for at most 2")
    for one, other in pairwise([*names, affinity.target]):
        i, j = affinity.names.index(one), affinity.names.index(other)
        if not math.isfinite(affinity.distances[i][j]):
            raise DatasetError(f"there is no distance from {one} to {other}")
    return affinity, tuple(names)


def _affinities(request: CalibrationRequest, runs: Iterable[MeasuredRun], notify: Notify) -> dict[str, Affinity]:
    """Return the affinity of each target by full name. Raises RecordError if the given files do not fit together."""
    found: dict[str, Affinity] = {}
    if not request.affinities:
        for given in dict.fromkeys(run.target for run in runs):
            try:
                target = dataset_name(given)
            except DatasetError:
                continue  # its runs are named when they are left out
            path = affinity_path(target, request.plans, request.configuration, request.metric)
            if path.is_file():
                found[target] = read_affinity(path)
        return found
    for file in request.affinities:
        affinity = read_affinity(file)
        if affinity.target in found:
            raise RecordError(f"two affinity files are for {affinity.target}, the second is {file}; leave one out")
        first = next(iter(found.values()), affinity)
        if affinity.metric != first.metric:
            raise RecordError(
                f"{file} is of the metric {affinity.metric}, the affinities before it of {first.metric}; "
                "calibrate each metric alone"
            )
        found[affinity.target] = affinity
    if len({affinity.configuration for affinity in found.values()}) > 1:
        notify("affinities of several configurations are used together: a component counts as the same in all of them")
    return found


def _check_output(path: Path) -> None:
    """Raise RecordError if no table can be written there, before anything is computed."""
    if path.suffix != ".json" or path.is_dir():
        raise RecordError(f"the calibration is written to a file that ends with .json, not to {path}; correct -o")
    above = next(parent for parent in path.absolute().parents if parent.exists())
    if not above.is_dir():
        raise RecordError(f"the calibration cannot be written to {path}: {above} is not a folder; correct -o")
