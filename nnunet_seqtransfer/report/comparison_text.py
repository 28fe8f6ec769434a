"""A comparison in words and tables, for the terminal."""

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from nnunet_seqtransfer.evaluation.comparison import DIFFERENCES, MEASUREMENTS, SCORES, Arm, Budget, Comparison
from nnunet_seqtransfer.evaluation.statistics import case_values, seed_means
from nnunet_seqtransfer.report.words import counted, decimals, duration, span, text_table

FEW_CASES = 10
"""With fewer cases, intervals and p values are called rough."""


def budget_text(arms: Sequence[Arm], budget: Budget, seeds: Sequence[int]) -> str:
    """Return the paths, their roles, and what they take."""
    left = budget.stages - budget.finished
    exception = " (scratch as long as a path has more)" if any(arm.extra_epochs for arm in arms) else ""
    return "\n".join(
        [
            text_table(["path", "why"], [[arm.name, ", ".join(arm.roles)] for arm in arms]),
            "",
            f"{counted(len(arms), 'path')}, {counted(len(seeds), 'seed')}: {counted(budget.stages, 'stage')}, "
            f"shared ones counted once; {budget.finished} finished, {left} left.",
            f"Left: {budget.iterations} iterations, about {duration(budget.hours * 3600)}. "
            f"Every target stage has {budget.target_iterations} iterations{exception}.",
        ]
    )


def comparison_text(comparison: Comparison) -> str:
    """Return tables with results, differences and rankings, and notes."""
    blocks = [
        f"{comparison.target}, {comparison.configuration}: Dice of {evaluated_on(comparison)}",
        _results(comparison),
        *_difference_table(comparison),
        *_ranking_table(comparison),
        "\n".join(_notes(comparison)),
    ]
    return "\n\n".join(blocks)


def evaluated_on(comparison: Comparison) -> str:
    """Return which cases were evaluated, for people."""
    if comparison.test_set is not None:
        return f"{counted(comparison.cases, 'held-out case')} of {comparison.test_set}"
    return f"{counted(comparison.cases, 'validation case')} of fold {', '.join(comparison.folds)}"


def written_text(record: Path, pictures: Sequence[Path]) -> str:
    """Return a list with all files that a comparison wrote."""
    files = (record, *(record.with_name(name) for name in (SCORES, DIFFERENCES, MEASUREMENTS)), *pictures)
    return "written: " + "\n         ".join(str(path) for path in files)


def _results(comparison: Comparison) -> str:
    values = case_values(comparison.scores)
    predicted = any(arm.predicted is not None for arm in comparison.arms)
    scratch = _mean(seed_means(values.get("scratch", {})))
    header = ["path", "", *(f"seed {seed}" for seed in comparison.seeds), "Dice", "spread"]
    rows = []
    for arm in comparison.arms:
        seeds = seed_means(values.get(arm.name, {}))
        means = list(seeds.values())
        reached = _mean(seeds)
        row = [arm.name, ", ".join(role for role in arm.roles if role != arm.name)]
        row += [_known(seeds.get(seed)) for seed in comparison.seeds]
        row += [_known(reached), _known(max(means) - min(means)) if len(means) > 1 else "-" * len(means)]
        if predicted:
            row += [_known(arm.predicted, "+"), _known(reached - scratch, "+")]
        rows.append(row)
    return text_table([*header, *(["predicted gain", "measured gain"] if predicted else [])], rows)


def _difference_table(comparison: Comparison) -> Iterator[str]:
    header = ["path", "against", "cases", "Dice", "95 % interval", "p", "p Holm"]
    rows = [
        [one.arm, one.against, str(one.cases), _known(one.mean, "+"), span(one.low, one.high, sign="+")]
        + ["" if p is None else f"{p:.2g}" for p in (one.p, one.p_holm)]
        for one in comparison.differences
    ]
    if rows:
        yield text_table(header, rows)


def _ranking_table(comparison: Comparison) -> Iterator[str]:
    rows = [
        [one.metric, _known(one.spearman), _known(one.weighted_tau), _known(one.regret), str(one.transfers)]
        for one in comparison.rankings
    ]
    if rows:
        table = text_table(["ranking", "Spearman", "weighted tau", "regret", "transfers"], rows)
        yield f"How well each ranked the direct transfers\n\n{table}"


def _notes(comparison: Comparison) -> Iterator[str]:
    yield (
        "Differences are means over cases; labels and models are averaged first. Intervals are bootstrapped over "
        "cases; p is Wilcoxon's."
    )
    cases = max((one.cases for one in comparison.differences), default=0)
    if 0 < cases < FEW_CASES:
        # the smallest p of a signed-rank test: all differences have one sign
        yield f"With {counted(cases, 'case')}, intervals are rough and p is at least {2 / 2**cases:.2g}."
    if len(comparison.seeds) < 3:
        yield f"With {counted(len(comparison.seeds), 'seed')}, random effects of training can be as large as these."
    if not comparison.complete:
        yield "Some models are not finished; run the same command again."


def _mean(seeds: Mapping[int, float]) -> float:
    return statistics.fmean(seeds.values()) if seeds else math.nan


def _known(value: float | None, sign: str = "") -> str:
    return decimals(value, missing="", sign=sign)
