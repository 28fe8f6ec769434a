"""Tables of results: validated cases, and what a comparison of paths found."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from nnunet_seqtransfer.evaluation.comparison import Comparison
from nnunet_seqtransfer.nnunet.validation import ValidatedCase
from nnunet_seqtransfer.report.page.naming import MISSING, arrows, interval
from nnunet_seqtransfer.report.page.tables import Cell, figure, table, text


def cases_table(cases: Sequence[ValidatedCase]) -> Markup:
    """Every validated case with its Dice, worst first."""
    labels = list(dict.fromkeys(label for case in cases for label in case.dice))
    ordered = sorted(cases, key=lambda case: (math.isnan(case.mean), case.mean, case.case))
    several = len(labels) > 1
    rows = [
        [
            text(case.case),
            text(case.fold),
            *(figure(case.dice.get(label, math.nan)) for label in labels),
            *([figure(case.mean)] if several else []),
        ]
        for case in ordered
    ]
    header = ["case", "fold", *(f"Dice {label}" for label in labels), *(["Dice mean"] if several else [])]
    return table("Validated cases, worst first", header, rows)


def comparison_tables(comparison: Comparison) -> tuple[tuple[str, Markup], ...]:
    """Differences, epochs saved, and how well distances ranked; those that there are, each with its title."""
    tables: list[tuple[str, Markup]] = []
    if comparison.differences:
        rows = [
            [
                text(arrows(f"{entry.arm} against {entry.against}")),
                Cell(interval(entry.mean, _known(entry.low), _known(entry.high), "+"), float(entry.mean)),
                Cell(_p(_known(entry.p_holm)), _known(entry.p_holm)),
                Cell(str(entry.cases), float(entry.cases)),
            ]
            for entry in comparison.differences
        ]
        header = ["paths", "mean difference (95 % interval)", "p (Holm)", "cases"]
        tables.append(("Differences", table("Differences between paths", header, rows)))
    if comparison.rankings:
        rows = [
            [text(entry.metric), figure(entry.spearman), figure(entry.weighted_tau), figure(entry.regret)]
            for entry in comparison.rankings
        ]
        title = "How well each ranked the sources"
        tables.append((title, table(title, ["by", "Spearman", "weighted tau", "regret"], rows)))
    return tuple(tables)


def _p(value: float) -> str:
    return f"{value:.2g}" if math.isfinite(value) else MISSING


def _known(value: float | None) -> float:
    return math.nan if value is None else value
