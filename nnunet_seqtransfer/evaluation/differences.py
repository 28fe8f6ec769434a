"""From scores to differences between arms: what is averaged, what is paired, and what is corrected together."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import numpy as np

from nnunet_seqtransfer.evaluation.comparison import Arm, Difference, Score
from nnunet_seqtransfer.evaluation.statistics import holm, mean_interval, signed_rank_p

Metric = Literal["dice", "nsd"]
METRICS: tuple[Metric, ...] = ("dice", "nsd")
Run = tuple[str, int]
"""Fold and seed of one trained model."""


def differences(arms: Sequence[Arm], scores: Iterable[Score], seed: int = 0) -> tuple[Difference, ...]:
    """Every arm against scratch, and the planned path against every other but scratch; each a family for Holm.

    The unit is the case: its labels are averaged first (NaN left out), then the models that both arms have of it, fold
    by fold and seed by seed. So the interval says how the difference varies between cases, for models averaged over
    the seeds; it does not hold what further seeds would add. Whether seeds agree is told by their own means.

    ``seed``: of the bootstrap.
    """
    values = {metric: case_values(scores, metric) for metric in METRICS}
    scratch = next((arm.name for arm in arms if "scratch" in arm.roles), None)
    planned = next((arm.name for arm in arms if "planned" in arm.roles), None)
    names = [arm.name for arm in arms]
    against_scratch = [(name, scratch) for name in names if scratch is not None and name != scratch]
    against_plan = [(planned, name) for name in names if planned not in (None, scratch) and name != planned]
    families = [against_scratch, [(one, other) for one, other in against_plan if one and other != scratch]]
    return tuple(
        entry
        for family in families
        for metric in METRICS
        for entry in _family([(str(one), str(other)) for one, other in family], values[metric], metric, seed)
    )


def case_values(scores: Iterable[Score], metric: Metric) -> dict[str, dict[Run, dict[str, float]]]:
    """Arm -> fold and seed -> case -> mean over its labels; cases without any value are left out.

    A label of a case counts where every arm of that fold and seed has a value, so that all means are over the same.
    One arm has none (NaN) where the label is absent and it has, rightly, found nothing.
    """
    scores = list(scores)
    undefined = {
        (score.fold, score.seed, score.case, score.label)
        for score in scores
        if math.isnan(float(getattr(score, metric)))
    }
    found: dict[str, dict[Run, dict[str, list[float]]]] = {}
    for score in scores:
        if (score.fold, score.seed, score.case, score.label) not in undefined:
            runs = found.setdefault(score.arm, {}).setdefault((score.fold, score.seed), {})
            runs.setdefault(score.case, []).append(float(getattr(score, metric)))
    return {
        arm: {run: {case: sum(values) / len(values) for case, values in cases.items()} for run, cases in runs.items()}
        for arm, runs in found.items()
    }


def seed_means(runs: Mapping[Run, Mapping[str, float]]) -> dict[int, float]:
    """Seed -> mean over the cases of all folds, from one arm's part of `case_values`."""
    by_seed: dict[int, list[float]] = {}
    for (_, seed), cases in sorted(runs.items()):
        by_seed.setdefault(seed, []).extend(cases.values())
    return {seed: sum(values) / len(values) for seed, values in by_seed.items()}


def paired(one: Mapping[Run, Mapping[str, float]], other: Mapping[Run, Mapping[str, float]]) -> dict[str, float]:
    """Case -> mean difference over the runs that both arms have."""
    return {
        case: sum(first - second for first, second in values) / len(values)
        for case, values in _in_common(one, other).items()
    }


def paired_means(
    one: Mapping[Run, Mapping[str, float]], other: Mapping[Run, Mapping[str, float]]
) -> dict[str, tuple[float, float]]:
    """Case -> what `paired` is the difference of: the means of both arms over the runs that both have."""
    return {
        case: (sum(first for first, _ in values) / len(values), sum(second for _, second in values) / len(values))
        for case, values in _in_common(one, other).items()
    }


def _in_common(
    one: Mapping[Run, Mapping[str, float]], other: Mapping[Run, Mapping[str, float]]
) -> dict[str, list[tuple[float, float]]]:
    """Case -> both arms' values of each run that both have, runs and cases sorted."""
    found: dict[str, list[tuple[float, float]]] = {}
    for run in sorted(one.keys() & other.keys()):
        for case in sorted(one[run].keys() & other[run].keys()):
            found.setdefault(case, []).append((one[run][case], other[run][case]))
    return dict(sorted(found.items()))


def _family(
    pairs: Sequence[tuple[str, str]],
    values: Mapping[str, Mapping[Run, Mapping[str, float]]],
    metric: Metric,
    seed: int,
) -> list[Difference]:
    entries = []
    for one, other in pairs:
        by_case = np.array(list(paired(values.get(one, {}), values.get(other, {})).values()), dtype=np.float64)
        if len(by_case):
            low, high = mean_interval(by_case, seed)
            p = signed_rank_p(by_case)
            entries.append(Difference(one, other, metric, float(by_case.mean()), low, high, p, math.nan, len(by_case)))
    corrected = holm([entry.p for entry in entries])
    return [replace(entry, p_holm=value) for entry, value in zip(entries, corrected, strict=True)]
