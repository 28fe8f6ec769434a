"""The differences that a comparison found: cases, mean and interval of each pair of paths."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from nnunet_seqtransfer.evaluation.comparison import Comparison, Difference
from nnunet_seqtransfer.evaluation.differences import case_values, paired_means
from nnunet_seqtransfer.report.figures import INK, PATH, SOFT, STYLE, save, tip
from nnunet_seqtransfer.report.words import arrows, counted, decimals

MAX_ROWS = 15
"""Differences drawn at most: those of planned paths, then the largest gains."""


def draw_comparison(comparison: Comparison, folder: Path) -> tuple[Path, ...]:
    """Write the picture of the differences if there are any, and return its PNG."""
    figure = draw_differences(comparison)
    return () if figure is None else save(figure, folder / "differences.png")[:1]


def drawn_differences(comparison: Comparison) -> list[Difference]:
    """Return the differences to draw, smallest mean first: those against scratch if there are any, otherwise all."""
    scratch = {arm.name for arm in comparison.arms if "scratch" in arm.roles}
    planned = {arm.name for arm in comparison.arms if "planned" in arm.roles}
    every = list(comparison.differences)
    shown = [one for one in every if one.against in scratch] or every
    shown = sorted(shown, key=lambda one: (one.arm not in planned, -one.mean))[:MAX_ROWS]
    return sorted(shown, key=lambda one: one.mean)


@mpl.rc_context(STYLE)
def draw_differences(comparison: Comparison, *, width: float = 7.5) -> Figure | None:
    """Draw one row per difference: a dot per case, the mean and its 95 % interval, largest on top.

    A case is averaged over labels and over the models that both paths have of it. Planned paths are coloured.
    """
    shown = drawn_differences(comparison)
    if not shown:
        return None
    planned = {arm.name for arm in comparison.arms if "planned" in arm.roles}
    others = list(dict.fromkeys(one.against for one in shown))
    figure = Figure(figsize=(width, 0.9 + (0.34 if len(others) == 1 else 0.42) * len(shown)), layout="constrained")
    axes = figure.subplots()
    rng = np.random.default_rng(0)
    values = case_values(comparison.scores)
    for row, one in enumerate(shown):
        cases = paired_means(values.get(one.arm, {}), values.get(one.against, {}))
        for case, (value, other) in cases.items():
            (dot,) = axes.plot(value - other, row + rng.uniform(-0.16, 0.16), ".", color=SOFT, alpha=0.6, markersize=6)
            tip(dot, case, f"{one.arm}: {decimals(value)}", f"{one.against}: {decimals(other)}")
        _draw_mean(axes, row, one, PATH if one.arm in planned else INK)
    axes.axvline(0, color=SOFT, linewidth=1)
    names = [arrows(one.arm if len(others) == 1 else f"{one.arm}\nagainst {one.against}") for one in shown]
    axes.set_yticks(range(len(shown)), names)
    for tick, one in zip(axes.get_yticklabels(), shown, strict=True):
        tick.set_fontweight("bold" if one.arm in planned else "normal")
    subtracted = arrows(others[0]) if len(others) == 1 else "the second path"
    axes.set_xlabel(f"Dice minus that of {subtracted}")
    axes.set_ylim(-0.6, len(shown) - 0.4)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x")
    return figure


def difference_words(entry: Difference) -> str:
    """Return the mean difference with its interval, corrected p and number of cases."""
    known = entry.low is not None and entry.high is not None
    interval = f" (95 % interval {entry.low:+.3f} to {entry.high:+.3f})" if known else ""
    tested = "" if entry.p_holm is None else f", p = {entry.p_holm:.2g} after Holm"
    return f"{entry.mean:+.3f}{interval}{tested}, {counted(entry.cases, 'case')}"


def _draw_mean(axes: Axes, row: int, one: Difference, colour: str) -> None:
    if one.low is not None and one.high is not None:
        axes.plot([one.low, one.high], [row, row], color=colour, linewidth=2.4, zorder=3)
    (mean,) = axes.plot(one.mean, row, "o", color=colour, markersize=7, zorder=4)
    tip(mean, arrows(f"{one.arm} minus {one.against}"), difference_words(one))
