"""A comparison from its arms to its record: trains what is left, scores what is finished, writes after every arm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.affinity.affinity import Affinity
from nnunet_seqtransfer.chain.chain import Chain, load_chain
from nnunet_seqtransfer.chain.executor import Executor, run_chain
from nnunet_seqtransfer.chain.job import DeviceOptions
from nnunet_seqtransfer.chain.stages import ChainRequest, Stage
from nnunet_seqtransfer.chain.state import FINAL
from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.evaluation.cache import cached
from nnunet_seqtransfer.evaluation.comparison import Arm, Budget, Comparison, Curve, Score, write_comparison
from nnunet_seqtransfer.evaluation.curves import read_curve, savings
from nnunet_seqtransfer.evaluation.dice import CaseDice, mean_dice
from nnunet_seqtransfer.evaluation.differences import case_values, differences
from nnunet_seqtransfer.evaluation.held_out import HeldOutSet, predict
from nnunet_seqtransfer.evaluation.rankings import rankings
from nnunet_seqtransfer.evaluation.scoring import Scorer, ScoringJob, scored
from nnunet_seqtransfer.evaluation.trials import Trial, trial_request, trials
from nnunet_seqtransfer.host.evaluation import reference_file

Notify = Callable[[str], None]
RECORD = "comparison.json"


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
class Result:
    """What one finished trial gave."""

    scores: tuple[Score, ...]
    "Of all its folds."
    curves: tuple[Curve, ...]
    "One for each fold."


def load_trials(setting: Setting, processes: int, notify: Notify, *, write: bool) -> dict[Trial, Chain]:
    """The chain of every trial, everything checked before anything is trained. Raises as `load_chain`.

    ``write``: whether missing fingerprints and sketches are made and kept.
    """
    said: set[str] = set()

    def once(line: str) -> None:
        if line not in said:
            said.add(line)
            notify(line)

    return {
        trial: load_chain(trial_request(setting.base, trial), processes, once, may_extract=write)
        for trial in trials(setting.arms, setting.seeds)
    }


def run_comparison(
    setting: Setting, budget: Budget, devices: DeviceOptions, executor: Executor, processes: int, notify: Notify
) -> Comparison:
    """Trains, predicts and scores what is left, trial by trial; after each the record holds all that is finished.

    Raises StageError where a training fails; the record then holds what was finished before.
    """
    found: dict[Trial, Result] = {}
    comparison = assemble(setting, budget, found)
    every = trials(setting.arms, setting.seeds)
    for number, trial in enumerate(every, 1):
        title = f"{trial.arm.name}, seed {trial.seed} ({number} of {len(every)})"
        chain = load_chain(trial_request(setting.base, trial), processes, notify)
        notify(f"{title}{': finished' if chain.is_finished else ''}")
        if not chain.is_finished:
            run_chain(chain, devices, executor, processes, notify)
        found[trial] = _result(setting, trial, chain, devices.device, processes)
        comparison = assemble(setting, budget, found)
        write_comparison(setting.folder / RECORD, comparison)
        notify(f"{title}: Dice {_mean(found[trial].curves):.3f}")
    return comparison


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


def _result(setting: Setting, trial: Trial, chain: Chain, device: str, processes: int) -> Result:
    scores, curves = [], []
    for stage in (stage for stage in chain.stages if stage.role == "target"):
        jobs = _jobs(setting, stage, device)
        name = f"{stage.plans_name}_fold_{stage.fold}"
        title = f"Scoring {trial.arm.name}, fold {stage.fold}, seed {trial.seed}"
        part = "" if setting.held_out is None else f"{setting.held_out.dataset}_"
        found = scored(jobs, setting.scorer, setting.folder / "scores" / f"{part}{name}.json", title, processes)
        who = trial.arm.name, stage.fold, trial.seed
        scores += [Score(*who, one.case, one.label, one.dice, one.nsd) for one in found]
        dice = mean_dice(CaseDice(one.case, one.label, one.dice) for one in found)
        curves.append(Curve(*who, *_curve(stage, setting.folder / "curves" / f"{name}.json"), dice))
    return Result(tuple(scores), tuple(curves))


def _jobs(setting: Setting, stage: Stage, device: str) -> list[ScoringJob]:
    """The evaluated cases of one model, predicted: by nnU-Net's own final validation, or now."""
    if setting.held_out is not None:
        folder = predict(setting.held_out, stage, setting.folder, device, mirroring=setting.mirroring)
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
