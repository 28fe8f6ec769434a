"""A comparison as paired plots: every case as a line from one path's Dice to another's."""

from __future__ import annotations

import math
from collections.abc import Mapping

from markupsafe import Markup

from nnunet_seqtransfer.evaluation.comparison import Comparison, Difference
from nnunet_seqtransfer.report.page.markup import element
from nnunet_seqtransfer.report.page.naming import arrows, counted, decimals
from nnunet_seqtransfer.report.page.scales import Scale

WIDTH, HEIGHT = 220.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 38.0, 150.0, 12.0, 40.0
"""Where the two columns and the ends of the scale are; between RIGHT and WIDTH stand mean and interval."""
LONGEST = 20
"""Letters of a name that fit."""


def case_dice(comparison: Comparison, arm: str) -> dict[str, float]:
    """Case -> Dice of one arm, averaged over its labels, then over the seeds."""
    by_run: dict[tuple[str, int], list[float]] = {}
    for score in comparison.scores:
        if score.arm == arm and not math.isnan(score.dice):
            by_run.setdefault((score.case, score.seed), []).append(score.dice)
    by_case: dict[str, list[float]] = {}
    for (case, _), values in sorted(by_run.items()):
        by_case.setdefault(case, []).append(sum(values) / len(values))
    return {case: sum(values) / len(values) for case, values in by_case.items()}


def paired_plots(comparison: Comparison) -> tuple[tuple[str, Markup], ...]:
    """For each difference in Dice, its title and its plot; all on one scale."""
    shown = [entry for entry in comparison.differences if entry.metric == "dice"]
    arms = {name: case_dice(comparison, name) for entry in shown for name in (entry.arm, entry.against)}
    values = [value for dice in arms.values() for value in dice.values()] or [0.0, 1.0]
    low, high = max(0.0, min(values) - 0.03), min(1.0, max(values) + 0.03)
    ends = (low, high) if high > low else (0.0, 1.0)
    return tuple(
        (arrows(f"{entry.arm} against {entry.against}"), _plot(entry, arms[entry.against], arms[entry.arm], ends))
        for entry in shown
    )


def difference_words(entry: Difference) -> str:
    """The mean difference with its interval and its corrected p."""
    known = math.isfinite(entry.low) and math.isfinite(entry.high)
    interval = f" (95 % interval {entry.low:+.3f} to {entry.high:+.3f})" if known else ""
    tested = f", p = {entry.p_holm:.2g} after Holm" if math.isfinite(entry.p_holm) else ""
    return f"{entry.mean:+.3f}{interval}{tested}, {counted(entry.cases, 'case')}"


def _plot(
    entry: Difference, left: Mapping[str, float], right: Mapping[str, float], ends: tuple[float, float]
) -> Markup:
    up = Scale(*ends, HEIGHT - BOTTOM, TOP)
    cases = sorted(set(left) & set(right))
    parts = []
    for value in up.ticks(5):
        parts.append(element("line", class_="grid", x1=LEFT, x2=RIGHT, y1=up(value), y2=up(value)))
        parts.append(element("text", f"{value:g}", x=LEFT - 6, y=up(value) + 4, class_="tick end"))
    for case in cases:
        parts.append(_line(case, left[case], right[case], up, entry))
    for x, dice, width in ((LEFT + 14, left, -13.0), (RIGHT - 14, right, 13.0)):
        if cases:
            mean = up(sum(dice[case] for case in cases) / len(cases))
            parts.append(element("line", class_="mean", x1=x, x2=x + width, y1=mean, y2=mean))
    # on two rows: names of long paths would cover each other on one
    parts.append(element("text", arrows(entry.against)[:LONGEST], x=LEFT, y=HEIGHT - 22, class_="tick"))
    parts.append(element("text", arrows(entry.arm)[:LONGEST], x=RIGHT, y=HEIGHT - 6, class_="tick end"))
    parts.append(element("text", f"{entry.mean:+.3f}", x=WIDTH - 2, y=HEIGHT / 2 - 8, class_="big end"))
    if math.isfinite(entry.low) and math.isfinite(entry.high):
        for row, text in enumerate((f"{entry.low:+.3f}", f"to {entry.high:+.3f}")):
            parts.append(element("text", text, x=WIDTH - 2, y=HEIGHT / 2 + 9 + 15 * row, class_="tick end"))
    words = f"Dice of {counted(len(cases), 'case')}: {entry.arm} minus {entry.against} {difference_words(entry)}"
    box = f"0 0 {WIDTH:g} {HEIGHT:g}"
    return element("svg", *parts, viewBox=box, class_="paired", role="group", aria_label=words)


def _line(case: str, before: float, after: float, up: Scale, entry: Difference) -> Markup:
    values = f"{entry.against}: {decimals(before)}\n{entry.arm}: {decimals(after)}"
    tip = f"{case}\n{arrows(values)}\ndifference {after - before:+.3f}"
    look = "better" if after > before else "worse" if after < before else "same"
    ends = {"x1": LEFT + 14, "x2": RIGHT - 14, "y1": up(before), "y2": up(after)}
    return element(
        "g",
        element("title", tip),
        element("line", class_="touch", **ends),
        element("line", class_=f"pair {look}", **ends),
        element("circle", cx=LEFT + 14, cy=up(before), r=2.5, class_=f"dot {look}"),
        element("circle", cx=RIGHT - 14, cy=up(after), r=2.5, class_=f"dot {look}"),
        tabindex=0,
        role="img",
        aria_label=tip.replace("\n", "; "),
        data_tip=tip,
    )
