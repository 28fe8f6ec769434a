"""A comparison from its arms to its record: trains what is left, scores what is finished, writes after every arm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.errors import RecordError, StageError
from nnunet_seqtransfer.evaluation.cache import cached
from nnunet_seqtransfer.evaluation.comparison import (
    Arm,
    Budget,
    Comparison,
    Curve,
    Score,
    read_comparison,
    write_comparison,
)
from nnunet_seqtransfer.evaluation.curves import read_curve, savings
from nnunet_seqtransfer.evaluation.dice import CaseDice, mean_dice
from nnunet_seqtransfer.evaluation.differences import case_values, differences
from nnunet_seqtransfer.evaluation.held_out import HeldOutSet, predict
from nnunet_seqtransfer.evaluation.measured import write_measurements
from nnunet_seqtransfer.evaluation.rankings import rankings
from nnunet_seqtransfer.evaluation.scoring import Scorer, ScoringJob, scored
from nnunet_seqtransfer.evaluation.trials import Trial, trial_request, trials
from nnunet_seqtransfer.nnunet.evaluation import reference_file
from nnunet_seqtransfer.tasks.task import load_target, load_tasks
from nnunet_seqtransfer.training.chain import Chain, load_chain
from nnunet_seqtransfer.training.executors import Executor, run_chain
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.overlap_guard import find_exclusions
from nnunet_seqtransfer.training.stage_files import FINAL
from nnunet_seqtransfer.training.stages import ChainRequest, Exclusions, Stage

Notify = Callable[[str], None]
RECORD, MEASUREMENTS = "comparison.json", "measurements.csv"


@dataclass(frozen=True)
class Setting:
    """Everything that a comparison depends on."""

    base: ChainRequest
    "What all chains have in common."
    arms: tuple[Arm, ...]
    "What is compared."
    seeds: tuple[int, ...]
    "Seeds of the trainings."
    folder: Path
    "Where the record, scores and predictions are kept."
    scorer: Scorer
    "How cases are scored."
    ending: str
    "nnU-Net's file_ending of the target."
    validation: Mapping[str, tuple[str, ...]]
    "Fold -> the cases that it holds out."
    held_out: HeldOutSet | None = None
    "The test set; None to evaluate each fold on the cases that it holds out."
    mirroring: bool = True
    "Whether a test set is predicted with nnU-Net's test time augmentation."
    affinities: tuple[Affinity, ...] = ()
    "Whose rankings are judged; the first also gives sizes and channels."
    provenance: Mapping[str, Any] = field(default_factory=dict)
    "For the record."


@dataclass(frozen=True)
class Loaded:
    """Everything that will be trained."""

    chains: dict[Trial, Chain]
    "By trial, in the order of the trainings."
    exclusions: Exclusions
    "Of all sources together, see `find_exclusions`."


@dataclass(frozen=True)
class Result:
    """What one finished trial gave."""

    scores: tuple[Score, ...]
    "Of all its folds."
    curves: tuple[Curve, ...]
    "One for each fold."


def load_trials(setting: Setting, processes: int, notify: Notify, *, write: bool) -> Loaded:
    """The chain of every trial, everything checked before anything is trained. Raises as `load_chain`.

    Shared cases are looked for once, for all sources together.

    ``write``: whether missing fingerprints and sketches are made and kept.
    """
    base = setting.base
    sources = tuple(dict.fromkeys(source for arm in setting.arms for source in arm.sources))
    target, plans = load_target(base.target, base.plans, base.configuration)
    tasks = {task.dataset: task for task in [*load_tasks(sources, processes, notify, extract=write), target]}
    exclusions = find_exclusions(replace(base, sources=sources), tasks, plans, processes, notify, write=write)
    chains = {
        trial: load_chain(
            trial_request(base, trial),
            processes,
            notify,
            may_extract=write,
            exclusions=exclusions_along(exclusions, trial.arm.sources),
        )
        for trial in trials(setting.arms, setting.seeds)
    }
    return Loaded(chains, exclusions)


def run_comparison(
    setting: Setting,
    loaded: Loaded,
    budget: Budget,
    devices: DeviceOptions,
    executor: Executor,
    processes: int,
    notify: Notify,
    *,
    before_replacing: Callable[[Path], None] | None = None,
) -> Comparison:
    """Trains, predicts and scores what is left, trial by trial; after each the record holds all that is finished.

    What earlier calls have finished is scored first, so that an interruption takes nothing out of the record.
    ``before_replacing``: see `run_chain`.

    Raises StageError where a training fails; the record then holds what was finished before.
    """
    _say_what_goes(setting, notify)
    found: dict[Trial, Result] = {}
    trials_done = [trial for trial, chain in loaded.chains.items() if chain.is_finished]
    for trial in trials_done:
        found[trial] = _result(setting, trial, loaded.chains[trial], devices.device, processes, notify)
        notify(f"{_title(trial)}: finished, Dice {_mean(found[trial].curves):.3f}")
    comparison = _written(setting, budget, loaded, found)
    for number, trial in enumerate(loaded.chains, 1):
        if trial in found:
            continue
        notify(f"{_title(trial)} ({number} of {len(loaded.chains)})")
        # anew, since the trials before have trained stages that this one shares
        known = exclusions_along(loaded.exclusions, trial.arm.sources)
        chain = load_chain(trial_request(setting.base, trial), processes, notify, exclusions=known)
        if not chain.is_finished:
            run_chain(chain, devices, executor, processes, notify, before_replacing=before_replacing)
        found[trial] = _result(setting, trial, chain, devices.device, processes, notify)
        comparison = _written(setting, budget, loaded, found)
        notify(f"{_title(trial)}: Dice {_mean(found[trial].curves):.3f}")
    return comparison


def _say_what_goes(setting: Setting, notify: Notify) -> None:
    """A line where the record of an earlier call has paths or seeds that this call does not ask for."""
    path = setting.folder / RECORD
    try:
        earlier = read_comparison(path)
    except RecordError:  # none, or a broken one, which is written anew
        return
    gone = [arm.name for arm in earlier.arms if arm not in setting.arms]
    gone += [f"seed {seed}" for seed in earlier.seeds if seed not in setting.seeds]
    if gone:
        notify(
            f"{path} is written anew without {', '.join(gone)}, which this call does not ask for; a call that asks for "
            "all of them brings them back without training them again"
        )


def _title(trial: Trial) -> str:
    return f"{trial.arm.name}, seed {trial.seed}"


def _written(setting: Setting, budget: Budget, loaded: Loaded, found: Mapping[Trial, Result]) -> Comparison:
    """The record of what is finished so far, in the order of the trials; written where there is anything."""
    comparison = assemble(setting, budget, {trial: found[trial] for trial in loaded.chains if trial in found})
    if found:
        write_measurements(setting.folder / MEASUREMENTS, comparison)
        write_comparison(setting.folder / RECORD, comparison)  # the record last: where it is, so are the tables
    return comparison


def exclusions_along(exclusions: Exclusions, sources: Sequence[str]) -> Exclusions:
    """Those that concern some of the sources: the names of stages depend on whether there are any."""
    along = {
        fold: {source: cases for source, cases in by_source.items() if source in sources}
        for fold, by_source in exclusions.items()
    }
    return {fold: by_source for fold, by_source in along.items() if by_source}


def assemble(setting: Setting, budget: Budget, found: Mapping[Trial, Result]) -> Comparison:
    """The record of what is finished, with all statistics that this allows."""
    scores = tuple(score for result in found.values() for score in result.scores)
    curves = tuple(curve for result in found.values() for curve in result.curves)
    base, held_out = setting.base, setting.held_out
    return Comparison(
        target=base.target,
        plans=base.plans,
        configuration=base.configuration,
        folds=base.folds,
        seeds=setting.seeds,
        tolerance=setting.scorer.tolerance,
        evaluated_on=(
            f"{len(held_out.cases)} held-out cases of {held_out.name}"
            if held_out
            else f"the {_held_out_count(setting)} validation cases of fold {', '.join(base.folds)}"
        ),
        budget=budget,
        arms=setting.arms,
        scores=scores,
        curves=curves,
        differences=differences(setting.arms, scores),
        savings=savings(setting.arms, curves),
        rankings=rankings(setting.affinities, direct_dice(setting.arms, scores)),
        provenance=dict(setting.provenance),
    )


def direct_dice(arms: Iterable[Arm], scores: Iterable[Score]) -> dict[str, float]:
    """Full name of a source -> mean Dice after it alone, over the folds and seeds that all direct arms have."""
    values = case_values(scores, "dice")
    direct = {arm.sources[0]: values[arm.name] for arm in arms if len(arm.sources) == 1 and arm.name in values}
    common = set.intersection(*(set(runs) for runs in direct.values())) if direct else set()
    return {
        source: _average([value for run in sorted(common) for value in runs[run].values()])
        for source, runs in direct.items()
        if common
    }


def _result(setting: Setting, trial: Trial, chain: Chain, device: str, processes: int, notify: Notify) -> Result:
    scores, curves = [], []
    for stage in (stage for stage in chain.stages if stage.role == "target"):
        jobs = _jobs(setting, stage, device, notify)
        name = f"{stage.plans_name}_fold_{stage.fold}"
        title = f"Scoring {trial.arm.name}, fold {stage.fold}, seed {trial.seed}"
        part = "" if setting.held_out is None else f"{setting.held_out.dataset}_"
        found = scored(jobs, setting.scorer, setting.folder / "scores" / f"{part}{name}.json", title, processes)
        who = trial.arm.name, stage.fold, trial.seed
        scores += [Score(*who, one.case, one.label, one.dice, one.nsd) for one in found]
        dice = mean_dice(CaseDice(one.case, one.label, one.dice) for one in found)
        curves.append(Curve(*who, *_curve(stage, setting.folder / "curves" / f"{name}.json"), dice))
    return Result(tuple(scores), tuple(curves))


def _jobs(setting: Setting, stage: Stage, device: str, notify: Notify) -> list[ScoringJob]:
    """The evaluated cases of one model, predicted: by nnU-Net's own final validation, or now."""
    if setting.held_out is not None:
        folder = predict(setting.held_out, stage, setting.folder, device, notify, mirroring=setting.mirroring)
        references = {case: files.label for case, files in setting.held_out.cases.items()}
    else:
        folder = stage.output / "validation"
        cases = setting.validation[stage.fold]
        references = {case: reference_file(stage.dataset, case, setting.ending) for case in cases}
    return [
        ScoringJob(case, reference, folder / f"{case}{setting.ending}")
        for case, reference in sorted(references.items())
    ]


def _curve(stage: Stage, cache: Path) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Pseudo Dice and moving average of a finished stage; a checkpoint is large, so it is read once."""
    checkpoint = stage.output / FINAL
    if not checkpoint.is_file():
        raise StageError(f"the checkpoint {checkpoint} is gone; run the same command again")
    values = cached(
        cache, [checkpoint], None, lambda: [[_or_none(value) for value in curve] for curve in read_curve(checkpoint)]
    )
    pseudo, ema = (tuple(math.nan if value is None else float(value) for value in curve) for curve in values)
    return pseudo, ema


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value


def _held_out_count(setting: Setting) -> int:
    return sum(len(setting.validation.get(fold, ())) for fold in setting.base.folds)


def _mean(curves: Sequence[Curve]) -> float:
    return _average([curve.dice for curve in curves])


def _average(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan
