"""Distances: bars from the sources to the target, and a heat map with all pairs."""

import math
from collections.abc import Collection
from statistics import fmean

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.evaluation.comparison import Comparison
from nnunet_seqtransfer.evaluation.statistics import case_values, seed_means
from nnunet_seqtransfer.report.figures import PATH, SOFT, STRONG, STYLE, WHISKER, readable_ink, tip
from nnunet_seqtransfer.report.words import counted, decimals, number, short, span
from nnunet_seqtransfer.tasks.path_syntax import datasets_on

MAX_ROWS = 15
"""Sources drawn at most, nearest first."""
NUMBERED = 0.3
"""Heat maps have numbers in cells of at least so many inches."""
LINES = {"scratch": "solid", "long": "dashed"}
"""Lines for arms by role."""
FAR = 2.5
"""Colour scales end at this many medians, so that one far source does not take the whole scale."""


@mpl.rc_context(STYLE)
def draw_ranking(affinity: Affinity, marked: Collection[str] = (), *, width: float = 7.5) -> Figure:
    """Draw the distance from each source to the target as a bar with 95 % interval, nearest on top.

    ``marked``: sources on the path, in bold. Brackets join neighbours if the cases leave the order open.
    """
    order = [i for row, i in enumerate(affinity.ranking()) if row < MAX_ROWS or affinity.names[i] in marked]
    figure = Figure(figsize=(width, 0.8 + 0.27 * len(order)), layout="constrained")
    axes = figure.subplots()
    _draw_bars(axes, affinity, order)
    _name_rows(axes, affinity, order, marked, narrow=width < 5)
    uncertain = [row for row in range(min(len(order), MAX_ROWS) - 1) if affinity.indistinct[row]]
    for row in uncertain:
        x, y = [1.005, 1.02, 1.02, 1.005], [row + 0.1, row + 0.1, row + 0.9, row + 0.9]
        axes.plot(x, y, transform=axes.get_yaxis_transform(), color=PATH, linewidth=1.4, clip_on=False)
    metric = f" ({affinity.metric})" if width >= 5 else ""
    axes.set_xlabel(f"distance to the target{metric}" + "\nbracket: order uncertain" * bool(uncertain))
    return figure


@mpl.rc_context(STYLE)
def draw_ranking_and_dice(affinity: Affinity, comparison: Comparison) -> Figure | None:
    """Draw the distances of the sources that were compared alone next to the Dice of the target after each.

    Return None if fewer than two sources were. Dots are seeds. Lines are the means of scratch.
    """
    alone = {arm.sources[0]: arm for arm in comparison.arms if len(datasets_on(arm.sources)) == 1}
    order = [i for i in affinity.ranking() if affinity.names[i] in alone][:MAX_ROWS]
    if len(order) < 2:
        return None
    planned = [name for name, arm in alone.items() if "planned" in arm.roles]
    reached = {name: seed_means(models) for name, models in case_values(comparison.scores).items()}
    figure = Figure(figsize=(9.0, 1.3 + 0.3 * len(order)), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_bars(left, affinity, order)
    _name_rows(left, affinity, order, planned, narrow=False)
    for row, i in enumerate(order):
        arm = alone[affinity.names[i]]
        for seed, dice in reached.get(arm.name, {}).items():
            (dot,) = right.plot(dice, row, "o", color=PATH if "planned" in arm.roles else STRONG, alpha=0.8)
            tip(dot, affinity.names[i], f"seed {seed}: Dice {decimals(dice)}")
    for arm, look in ((arm, look) for arm in comparison.arms for role, look in LINES.items() if role in arm.roles):
        if reached.get(arm.name):
            right.axvline(fmean(reached[arm.name].values()), color=SOFT, linestyle=look, label=arm.name)
    left.set_xlabel(f"distance to the target ({affinity.metric})")
    right.set_xlabel("Dice of the target, a dot for each seed")
    right.grid(axis="x")
    right.tick_params(axis="y", length=0)
    figure.legend(loc="outside lower right", ncols=2)
    return figure


def _draw_bars(axes: Axes, affinity: Affinity, order: Collection[int]) -> None:
    """Draw a bar with the 95 % interval for each source in ``order``, the first on top."""
    for row, i in enumerate(order):
        distance, low, high = affinity.distances[i][-1], affinity.low[i], affinity.high[i]
        if not math.isfinite(distance):
            axes.annotate("no distance", (0, row), (4, 0), textcoords="offset points", va="center", color=SOFT)
            continue
        (bar,) = axes.barh(row, distance, height=0.62, color=WHISKER)
        ends = span(low, high)
        if ends:
            axes.plot([low, high], [row, row], color=STRONG, linewidth=1.6, solid_capstyle="butt")
        tip(bar, affinity.names[i], f"distance {decimals(distance)}", f"95 % interval {ends or 'unknown (one case)'}")
    axes.set_xlim(left=0)
    axes.grid(axis="x")


def _name_rows(
    axes: Axes, affinity: Affinity, order: Collection[int], marked: Collection[str], *, narrow: bool
) -> None:
    tasks = [affinity.tasks[i] for i in order]
    away = {task.dataset: "" if task.registered else ", signature" for task in tasks}
    names = [
        f"{number(task.dataset)} ({task.labelled_cases})"
        if narrow
        else f"{short(task.dataset)} ({counted(task.labelled_cases, 'case')}{away[task.dataset]})"
        for task in tasks
    ]
    axes.set_yticks(range(len(names)), names)
    for tick, task in zip(axes.get_yticklabels(), tasks, strict=True):
        tick.set_fontweight("bold" if task.dataset in marked else "normal")
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


@mpl.rc_context(STYLE)
def draw_heat_map(affinity: Affinity, *, width: float = 12.0) -> Figure:
    """Draw the distances between all tasks, the target first, then the sources, nearest first.

    Only the lower triangle is drawn if the distances are symmetric. The colour scale ends at `FAR` medians.
    ``width``: most inches. Below 5, tasks are numbered instead of named.
    """
    order = [len(affinity.names) - 1, *affinity.ranking()[:MAX_ROWS]]
    table = affinity.matrix()[np.ix_(order, order)]
    # a metric may give a pair two distances, one for each direction
    is_symmetric = bool(np.allclose(table, table.T, equal_nan=True))
    cells = [(i, j) for i in range(len(order)) for j in range(len(order)) if j < i or (i != j and not is_symmetric)]
    names = [affinity.names[i] for i in order]
    written = [(short if width >= 5 else number)(name) for name in names]
    # a letter is about 0.085 inches wide
    label = 1.1 + 0.085 * max(map(len, written))  # room for names and the colour bar, in inches
    side = min(0.46, (width - label) / len(order))
    figure = Figure(figsize=(side * len(order) + label, side * len(order) + 0.75), layout="constrained")
    axes = figure.subplots()
    top, is_cut = scale_end(np.asarray([table[cell] for cell in cells]))
    colours = mpl.colormaps["viridis_r"]
    for i, j in cells:
        ground = mpl.colors.to_hex(colours(min(table[i, j] / top, 1.0)))
        _draw_cell(axes, affinity, (order[i], order[j]), (i, j), ground, numbered=side >= NUMBERED)
    first = 1 if is_symmetric else 0  # the first row and the last column of a lower triangle are empty
    axes.set(xlim=(-0.5, len(order) - 0.5 - first), ylim=(len(order) - 0.5, first - 0.5), aspect="equal")
    axes.set_xticks(range(len(order) - first), [number(name) for name in names][: len(order) - first])
    axes.set_yticks(range(first, len(order)), written[first:])
    axes.tick_params(length=0, labelsize=8.5 if side >= NUMBERED else 7)
    axes.tick_params(axis="x", labelrotation=0 if side >= NUMBERED else 90)
    axes.spines[:].set_visible(False)
    if not is_symmetric:
        axes.set(xlabel="to", ylabel="from")
    scale = mpl.cm.ScalarMappable(mpl.colors.Normalize(0, top), colours)
    figure.colorbar(scale, ax=axes, label="distance", shrink=0.7, pad=0.02, extend="max" if is_cut else "neither")
    return figure


def scale_end(distances: NDArray[np.float64]) -> tuple[float, bool]:
    """Return the distance that gets the darkest colour, and whether some distances exceed it."""
    known = distances[np.isfinite(distances)]
    farthest = float(known.max()) if len(known) else 0.0
    end = min(farthest, FAR * float(np.median(known))) if farthest else 0.0
    return (end, end < farthest) if end else (farthest or 1.0, False)


def _draw_cell(
    axes: Axes, affinity: Affinity, tasks: tuple[int, int], cell: tuple[int, int], ground: str, *, numbered: bool
) -> None:
    (i, j), (row, column) = tasks, cell
    value = affinity.distances[i][j]
    known = math.isfinite(value)
    drawn = Rectangle((column - 0.47, row - 0.47), 0.94, 0.94, facecolor=ground if known else "none", edgecolor="none")
    axes.add_patch(drawn)  # a patch per cell, since an image could not have hover texts
    parts = [f"{name} {decimals(table[i][j])}" for name, table in affinity.components.items()] if known else []
    told = f"distance {decimals(value)}" if known else "no distance"
    tip(drawn, f"{affinity.names[i]} to {affinity.names[j]}", told, *parts)
    if numbered:
        ink = readable_ink(ground) if known else SOFT
        axes.text(column, row, decimals(value, 2), ha="center", va="center", fontsize=8, color=ink)
