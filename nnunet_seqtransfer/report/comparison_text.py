"""A comparison in words and tables, for the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator

from nnunet_seqtransfer.evaluation.comparison import Arm, Budget, Comparison, Difference
from nnunet_seqtransfer.evaluation.differences import case_values, seed_means
from nnunet_seqtransfer.nnunet.training_log import duration
from nnunet_seqtransfer.report.tables import text_table

FEW = 10
"""Of fewer cases it is said that intervals and p values can tell little."""


def budget_text(arms: tuple[Arm, ...], budget: Budget, seeds: tuple[int, ...], origin: str) -> str:
    """What will be trained and for how long; ``origin``: in words, how the time of an epoch is known."""
    rows = [[arm.name, ", ".join(arm.roles)] for arm in arms]
    left = budget.stages - budget.finished
    return "\n".join(
        [
            text_table(["path", "why"], rows),
            "",
            f"{len(arms)} paths, {len(seeds)} seed{'s' * (len(seeds) > 1)}: {budget.stages} stages, those that several "
            f"paths share counted once; {budget.finished} finished, {left} left.",
            f"Left are {budget.iterations} iterations, at most about {duration(budget.hours * 3600)} ({origin}). "
            f"Every target stage has {budget.target_iterations} iterations"
            + (", but for scratch as long." if any(arm.extra_epochs for arm in arms) else "."),
        ]
    )


def comparison_text(comparison: Comparison) -> str:
    """The tables of what was reached, of the differences and of the rankings."""
    blocks = [
        f"{comparison.target}, {comparison.configuration}: Dice of {comparison.evaluated_on}",
        _results(comparison),
        *_difference_tables(comparison),
        *_ranking_table(comparison),
        "\n".join(_notes(comparison)),
    ]
    return "\n\n".join(block for block in blocks if block)


def _results(comparison: Comparison) -> str:
    dice, nsd = case_values(comparison.scores, "dice"), case_values(comparison.scores, "nsd")
    savings = {saving.arm: saving for saving in comparison.savings}
    header = ["path", "", *(f"seed {seed}" for seed in comparison.seeds), "Dice", "spread", "NSD", "epochs to scratch"]
    rows = []
    for arm in comparison.arms:
        seeds = seed_means(dice.get(arm.name, {}))
        means = list(seeds.values())
        saving = savings.get(arm.name)
        rows.append(
            [
                arm.name,
                ", ".join(role for role in arm.roles if role != arm.name),
                *(_number(seeds.get(seed, math.nan)) for seed in comparison.seeds),
                _number(_mean(means)),
                _number(max(means) - min(means)) if len(means) > 1 else "-" * len(means),
                _number(_mean(list(seed_means(nsd.get(arm.name, {})).values()))),
                "" if saving is None else f"{saving.epochs or 'never'} of {saving.of}",
            ]
        )
    return text_table(header, rows)


def _difference_tables(comparison: Comparison) -> Iterator[str]:
    """One table against scratch, one of the planned path against the others."""
    entries: dict[tuple[str, str], dict[str, Difference]] = {}
    for one in comparison.differences:
        entries.setdefault((one.arm, one.against), {})[one.metric] = one
    header = ["path", "against", "cases", "Dice", "95 % interval", "p", "p Holm", "NSD", "95 % interval", "p Holm"]
    rows = []
    for (arm, against), both in entries.items():
        dice, nsd = both.get("dice"), both.get("nsd")
        rows.append(
            [
                *(arm, against, str(dice.cases if dice else nsd.cases if nsd else 0)),
                *([*_cells(dice), _number(dice.p_holm)] if dice else [""] * 4),
                *([*_cells(nsd)[:2], _number(nsd.p_holm)] if nsd else [""] * 3),
            ]
        )
    if rows:
        yield text_table(header, rows)


def _cells(difference: Difference) -> tuple[str, str, str]:
    interval = "" if math.isnan(difference.low) else f"{difference.low:+.3f} to {difference.high:+.3f}"
    return f"{difference.mean:+.3f}", interval, _number(difference.p)


def _ranking_table(comparison: Comparison) -> Iterator[str]:
    if comparison.rankings:
        rows = [
            [one.metric, _number(one.spearman), _number(one.weighted_tau), _number(one.regret), str(one.transfers)]
            for one in comparison.rankings
        ]
        yield "How well each ranked the direct transfers\n\n" + text_table(
            ["ranking", "Spearman", "weighted tau", "regret", "transfers"], rows
        )


def _notes(comparison: Comparison) -> Iterator[str]:
    seeds = len(comparison.seeds)
    yield (
        "Differences are means over cases, each averaged over labels and models first; intervals are bootstrapped over "
        "cases, p is Wilcoxon's."
    )
    yield f"NSD: normalised surface distance at {comparison.tolerance:.3g} mm."
    if comparison.savings:
        curves = "the training cases themselves" if "all" in comparison.folds else "the validation cases"
        yield (
            "Epochs to scratch: of the target's stage, until the pseudo Dice (smoothed, on patches of "
            f"{curves}) is what scratch has at its end; the sources' epochs come on top."
        )
    cases = max((one.cases for one in comparison.differences), default=0)
    if 0 < cases < FEW:
        yield f"With {cases} case{'s' * (cases > 1)} intervals are rough, and p cannot fall below {2 / 2**cases:.2g}."
    if seeds < 3:
        yield f"With {seeds} seed{'s' * (seeds > 1)} chance of the training can be as large as what is compared."
    if not comparison.complete:
        yield "Not everything is finished; the same command goes on."


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else math.nan


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.3f}"
