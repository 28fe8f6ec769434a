"""From single cases to differences between arms, and to how well distances ranked the direct transfers."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import bootstrap, spearmanr, weightedtau, wilcoxon

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.evaluation.comparison import Arm, Comparison, Difference, ModelScores, Ranking
from nnunet_seqtransfer.tasks.path_syntax import datasets_on, numbers

Model = tuple[str, int]
"""Fold and seed, which identify a model within an arm."""
CaseMeans = Mapping[Model, Mapping[str, float]]
"""Fold and seed -> case -> Dice averaged over labels, for one arm."""
RESAMPLES = 9999
LEVEL = 0.95


def differences(arms: Sequence[Arm], scores: Iterable[ModelScores]) -> tuple[Difference, ...]:
    """Compare every arm with scratch, and the planned path with every other arm.

    Both groups are a family for Holm's correction. The unit is the case: labels are averaged first, then
    the models that both arms have. The interval therefore holds for models averaged over these seeds. It does not
    include the spread between seeds.
    """
    values = case_values(scores)
    names = [arm.name for arm in arms]
    # the roles may meet in one arm: a plan can be scratch itself
    scratch = next((arm.name for arm in arms if "scratch" in arm.roles), None)
    planned = next((arm.name for arm in arms if "planned" in arm.roles), None)
    against_scratch = [(name, scratch) for name in names if scratch is not None and name != scratch]
    against_others = [(planned, name) for name in names if planned not in (None, scratch, name) and name != scratch]
    return tuple(
        entry
        for family in (against_scratch, against_others)
        for entry in _family([(str(one), str(other)) for one, other in family], values)
    )


def case_values(scores: Iterable[ModelScores]) -> dict[str, dict[Model, dict[str, float]]]:
    """Return arm -> fold and seed -> case -> Dice averaged over the labels.

    A label in a case counts only if every arm with that fold and seed has a Dice for it, so that all means are over
    the same labels and cases. (An arm has none if the label is absent and it correctly predicts nothing.)
    """
    scores = list(scores)
    undefined = {
        (model.fold, model.seed, one.case, one.label) for model in scores for one in model.cases if one.dice is None
    }
    found: dict[str, dict[Model, dict[str, float]]] = {}
    for model in scores:
        by_case: dict[str, list[float]] = {}
        for one in model.cases:
            if one.dice is not None and (model.fold, model.seed, one.case, one.label) not in undefined:
                by_case.setdefault(one.case, []).append(one.dice)
        means = {case: sum(values) / len(values) for case, values in by_case.items()}
        found.setdefault(model.arm, {})[model.fold, model.seed] = means
    return found


def seed_means(models: CaseMeans) -> dict[int, float]:
    """Return seed -> one arm's mean Dice over the cases from all folds."""
    by_seed: dict[int, list[float]] = {}
    for (_, seed), cases in sorted(models.items()):
        by_seed.setdefault(seed, []).extend(cases.values())
    return {seed: sum(values) / len(values) for seed, values in by_seed.items() if values}


def paired_means(one: CaseMeans, other: CaseMeans) -> dict[str, tuple[float, float]]:
    """Return case -> both arms' mean Dice over the models that both have, sorted by case."""
    found: dict[str, list[tuple[float, float]]] = {}
    for model in sorted(one.keys() & other.keys()):  # sorted, so that sums do not depend on the order of sets
        for case in one[model].keys() & other[model].keys():
            found.setdefault(case, []).append((one[model][case], other[model][case]))
    return {
        case: (sum(first for first, _ in values) / len(values), sum(second for _, second in values) / len(values))
        for case, values in sorted(found.items())
    }


def measurements(comparison: Comparison) -> list[tuple[str, str, str, int]]:
    """Return the rows path, target, Dice and seed that nnUNetv2_seq_calibrate reads.

    There is one row for each arm and seed with all folds, but none for scratch trained as long as a path, or a model of
    an unknown dataset.
    """
    values = case_values(comparison.scores)
    rows = []
    for arm in comparison.arms:
        dataset = arm.model.dataset if arm.model else None
        is_known = not arm.extra_epochs and (arm.model is None or dataset is not None)
        models = values.get(arm.name, {}) if is_known else {}
        path = " -> ".join(map(numbers, (dataset, *arm.sources) if dataset else arm.sources)) or "scratch"
        for seed, dice in seed_means(models).items():
            if all((fold, seed) in models for fold in comparison.folds):  # else it is over other cases than the rest
                rows.append((path, comparison.target, f"{dice:.6f}", seed))
    return rows


def mean_interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float] | None:
    """Return the 95 % bootstrap interval for the mean over ``values``, shape (n,); None for n < 2.

    Bias-corrected and accelerated (Efron, Journal of the American Statistical Association 82, 1987), by SciPy.
    """
    if len(values) < 2:
        return None
    if np.ptp(values) == 0:  # BCa divides by the spread
        return float(values[0]), float(values[0])
    interval = bootstrap(
        (values,), np.mean, n_resamples=RESAMPLES, confidence_level=LEVEL, method="BCa",
        random_state=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    low, high = float(interval.low), float(interval.high)
    return (low, high) if math.isfinite(low + high) else None


def signed_rank_p(values: NDArray[np.float64]) -> float | None:
    """Return the two-sided p, by Wilcoxon's signed-rank test, that ``values``, shape (n,), are symmetric around 0.

    Zeros are dropped, as Wilcoxon did. The result is 1 if all are 0, None for n < 2.
    """
    if len(values) < 2:
        return None
    return float(wilcoxon(values, zero_method="wilcox").pvalue) if values.any() else 1.0


def holm(p: Sequence[float | None]) -> tuple[float | None, ...]:
    """Return one family's p values, corrected for their number; None is no test and stays.

    Step-down procedure (Holm, Scandinavian Journal of Statistics 6, 1979): the k-th smallest among m is multiplied by
    m - k + 1; corrected values never decrease and are at most 1.
    """
    known = sorted((value, index) for index, value in enumerate(p) if value is not None)
    corrected: list[float | None] = [None] * len(p)
    highest = 0.0
    for rank, (value, index) in enumerate(known):
        highest = max(highest, min(1.0, value * (len(known) - rank)))
        corrected[index] = highest
    return tuple(corrected)


def _family(names: Sequence[tuple[str, str]], values: Mapping[str, CaseMeans]) -> list[Difference]:
    entries = []
    for one, other in names:
        pairs = paired_means(values.get(one, {}), values.get(other, {})).values()
        by_case = np.array([first - second for first, second in pairs], dtype=np.float64)
        if len(by_case):
            low, high = mean_interval(by_case) or (None, None)
            p = signed_rank_p(by_case)
            entries.append(Difference(one, other, float(by_case.mean()), low, high, p, p, len(by_case)))
    # after all differences are known: the correction depends on their number
    corrected = holm([entry.p for entry in entries])
    return [replace(entry, p_holm=value) for entry, value in zip(entries, corrected, strict=True)]


LARGEST, MODALITY, RANDOM = "largest source", "same modality", "random"
MIN_TRANSFERS = 3
"""Fewer direct transfers are not ranked: two are in the right order every other time."""


def rankings(affinities: Sequence[Affinity], direct: Mapping[str, float]) -> tuple[Ranking, ...]:
    """Judge each metric and three simple rules on the measured direct transfers.

    Args:
        affinities: one target's records by several metrics; the first one also gives sizes and channels.
        direct: full source name -> mean Dice on the target after that source alone.

    A metric is judged on the transfers that it has a distance for. "random" is the expectation for a blind draw. The
    result is empty for fewer than `MIN_TRANSFERS` transfers.
    """
    if len(direct) < MIN_TRANSFERS or not affinities:
        return ()
    costs: list[tuple[str, Mapping[str, float]]] = [(one.metric, _distances(one)) for one in affinities]
    sources = affinities[0].tasks[:-1]
    costs.append((LARGEST, {task.dataset: -float(task.labelled_cases) for task in sources}))
    costs.append((MODALITY, {name: -share for name, share in shared_channels(affinities[0]).items()}))
    costs.append((RANDOM, dict.fromkeys(direct, 0.0)))  # all tie, so regret is the mean over all choices
    found = []
    for name, cost in costs:
        names = sorted(direct.keys() & cost.keys())
        if len(names) >= MIN_TRANSFERS:
            dice = np.array([direct[source] for source in names])
            agreement = rank_agreement(dice, np.array([cost[source] for source in names]))
            found.append(Ranking(name, *agreement, transfers=len(names)))
    return tuple(found)


def rank_agreement(values: NDArray[np.float64], costs: NDArray[np.float64]) -> tuple[float, float, float]:
    """Rank ``values``, shape (n,), by low ``costs``, shape (n,); return Spearman's rho, weighted tau and regret.

    Weighted tau: Vigna, Proceedings of the 24th International Conference on World Wide Web, 2015. Regret is the largest
    value minus the value with the lowest cost, averaged over ties. Correlations are 0 if values or costs are constant.
    """
    # distances that differ by rounding alone are ties
    cheapest = np.isclose(costs, costs.min(), rtol=1e-9, atol=1e-12)
    regret = float(values.max() - values[cheapest].mean())
    if np.ptp(values) == 0 or np.ptp(costs) == 0:
        return 0.0, 0.0, regret
    # -costs: a good ranking has a positive correlation
    rho: Any = spearmanr(values, -costs)[0]
    tau: Any = weightedtau(values, -costs)[0]
    return float(rho), float(tau) if math.isfinite(tau) else 0.0, regret


def direct_dice(arms: Iterable[Arm], scores: Iterable[ModelScores]) -> dict[str, float]:
    """Return source -> mean Dice after that source alone, over the folds and seeds that all direct arms have."""
    values = case_values(scores)
    direct = {
        arm.sources[0]: values[arm.name] for arm in arms if len(datasets_on(arm.sources)) == 1 and arm.name in values
    }
    common = set.intersection(*(set(models) for models in direct.values())) if direct else set()
    means = {source: [dice for model in common for dice in models[model].values()] for source, models in direct.items()}
    return {source: sum(dice) / len(dice) for source, dice in means.items() if dice}


def shared_channels(affinity: Affinity) -> dict[str, float]:
    """Return source -> channel names in common with the target over all names in either, ignoring case."""
    target = {name.lower() for name in affinity.tasks[-1].channels}
    names = {task.dataset: {name.lower() for name in task.channels} for task in affinity.tasks[:-1]}
    return {name: len(own & target) / len(own | target) for name, own in names.items()}


def _distances(affinity: Affinity) -> dict[str, float]:
    distances = {name: affinity.distances[index][-1] for index, name in enumerate(affinity.sources)}
    return {name: distance for name, distance in distances.items() if math.isfinite(distance)}
