"""A comparison as paired plots: every case as a line from one path's Dice to another's."""

from __future__ import annotations

from collections.abc import Mapping

from markupsafe import Markup

from nnunet_seqtransfer.evaluation.comparison import Comparison, Difference
from nnunet_seqtransfer.evaluation.differences import case_values, paired_means
from nnunet_seqtransfer.report.page.markup import element
from nnunet_seqtransfer.report.page.naming import arrows, counted, decimals
from nnunet_seqtransfer.report.page.scales import Scale

WIDTH, HEIGHT = 220.0, 240.0
LEFT, RIGHT, TOP, BOTTOM = 38.0, 150.0, 12.0, 40.0
"""Where the two columns and the ends of the scale are; between RIGHT and WIDTH stand mean and interval."""
LONGEST = 20
"""Letters of a name that fit."""


def paired_plots(comparison: Comparison) -> tuple[tuple[str, Markup], ...]:
    """For each difference in Dice, its title and its plot; all on one scale.

    A case is averaged over the models that both paths have of it, as in the difference itself.
    """
    shown = comparison.differences
    arms = case_values(comparison.scores)
    columns = [paired_means(arms.get(entry.against, {}), arms.get(entry.arm, {})) for entry in shown]
    values = [value for cases in columns for both in cases.values() for value in both] or [0.0, 1.0]
    low, high = max(0.0, min(values) - 0.03), min(1.0, max(values) + 0.03)
    ends = (low, high) if high > low else (0.0, 1.0)
    return tuple(
        (arrows(f"{entry.arm} against {entry.against}"), _plot(entry, cases, ends))
        for entry, cases in zip(shown, columns, strict=True)
    )


def difference_words(entry: Difference) -> str:
    """The mean difference with its interval and its corrected p."""
    known = entry.low is not None and entry.high is not None
    interval = f" (95 % interval {entry.low:+.3f} to {entry.high:+.3f})" if known else ""
    tested = "" if entry.p_holm is None else f", p = {entry.p_holm:.2g} after Holm"
    return f"{entry.mean:+.3f}{interval}{tested}, {counted(entry.cases, 'case')}"


def _plot(entry: Difference, cases: Mapping[str, tuple[float, float]], ends: tuple[float, float]) -> Markup:
    """``cases``: of each, the Dice on the left and on the right."""
    up = Scale(*ends, HEIGHT - BOTTOM, TOP)
    parts = []
    for value in up.ticks(5):
        parts.append(element("line", class_="grid", x1=LEFT, x2=RIGHT, y1=up(value), y2=up(value)))
        parts.append(element("text", f"{value:g}", x=LEFT - 6, y=up(value) + 4, class_="tick end"))
    for case, (before, after) in cases.items():
        parts.append(_line(case, before, after, up, entry))
    for x, column, width in ((LEFT + 14, 0, -13.0), (RIGHT - 14, 1, 13.0)):
        if cases:
            mean = up(sum(both[column] for both in cases.values()) / len(cases))
            parts.append(element("line", class_="mean", x1=x, x2=x + width, y1=mean, y2=mean))
    # on two rows: names of long paths would cover each other on one
    parts.append(element("text", arrows(entry.against)[:LONGEST], x=LEFT, y=HEIGHT - 22, class_="tick"))
    parts.append(element("text", arrows(entry.arm)[:LONGEST], x=RIGHT, y=HEIGHT - 6, class_="tick end"))
    parts.append(element("text", f"{entry.mean:+.3f}", x=WIDTH - 2, y=HEIGHT / 2 - 8, class_="big end"))
    if entry.low is not None and entry.high is not None:
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
