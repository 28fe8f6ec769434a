"""Path costs: candidates as bars, and measured Dice over fitted cost."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from nnunet_seqtransfer.calibration.record import Calibration, MeasuredPath
from nnunet_seqtransfer.planning.record import CandidatePath, SequencePlan
from nnunet_seqtransfer.report.figures import HOPS, SEARCH, SOFT, START, STRONG, STYLE, tip
from nnunet_seqtransfer.report.words import decimals, path_words, percent, short

MAX_PATHS = 12
COLUMNS = 4
NAMED = 10
"""All measured paths are named up to this many. If there are more, only scratch and both ends are."""


@mpl.rc_context(STYLE)
def draw_costs(plan: SequencePlan, path: Sequence[str], *, width: float = 7.5) -> Figure:
    """Draw what each candidate path costs part by part: start, then hop after hop. Cheapest on top.

    ``path``: full names on the path to mark in bold, the target last.
    """
    candidates = plan.candidates[:MAX_PATHS]
    figure = Figure(figsize=(width, 1.0 + 0.28 * len(candidates)), layout="constrained")
    axes = figure.subplots()
    shares = {win.path: win.share for win in plan.wins}
    for row, candidate in enumerate(candidates):
        _draw_bar(axes, row, candidate)
        words = decimals(candidate.cost, 2) if candidate.cost > 0 or len(candidate.path) > 1 else "not compared"
        if candidate.ruled_out:
            words += ", ruled out"
        elif plan.resamples and candidate.cost > 0 and width >= 5:
            words += f", cheapest in {percent(shares.get(candidate.path, 0.0))}"
        axes.annotate(words, (candidate.cost, row), (4, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(candidates)), [path_words(candidate.path) for candidate in candidates])
    for tick, candidate in zip(axes.get_yticklabels(), candidates, strict=True):
        tick.set_fontweight("bold" if candidate.path == tuple(path) else "normal")
    axes.set_xlabel("cost (lower is better)")
    axes.margins(x=0.25)  # room for the words behind the longest bar
    axes.set_xlim(left=0)
    axes.set_ylim(len(candidates) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    _add_legend(figure, candidates)
    return figure


def cost_parts(candidate: CandidatePath) -> list[tuple[str, float, str]]:
    """Return name, cost and colour for each part that is not 0."""
    hops = zip(candidate.hop_costs, cycle(HOPS), strict=False)
    parts = [("start", candidate.start_cost, START)]
    parts += [(f"hop {place}", cost, colour) for place, (cost, colour) in enumerate(hops, 1)]
    return [part for part in (*parts, ("landmark to target", candidate.search_cost, SEARCH)) if part[1]]


def _draw_bar(axes: Axes, row: int, candidate: CandidatePath) -> None:
    left = 0.0
    for name, cost, colour in cost_parts(candidate):
        (bar,) = axes.barh(row, cost, left=left, color=colour, height=0.62, alpha=0.4 if candidate.ruled_out else 1)
        tip(bar, path_words(candidate.path), f"{name} {decimals(cost)}")
        left += cost


def _add_legend(figure: Figure, candidates: Sequence[CandidatePath]) -> None:
    parts = {name: colour for candidate in candidates for name, _, colour in cost_parts(candidate)}
    # outside of the axes, where it covers no bar
    handles = [Rectangle((0, 0), 1, 1, color=colour) for colour in parts.values()]
    figure.legend(handles, list(parts), loc="outside lower left", ncols=4, handlelength=1, handleheight=1)


@mpl.rc_context(STYLE)
def draw_calibration(calibration: Calibration) -> Figure:
    """Draw measured Dice over fitted cost, one panel per target. The line is the prediction, the band the scatter."""
    targets = calibration.measurements.targets
    columns = min(COLUMNS, len(targets))
    rows = -(-len(targets) // columns)
    figure = Figure(figsize=(3.6 * columns + 0.6, 3.1 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for unused in panels.flat[len(targets) :]:
        unused.set_axis_off()
    for axes, target in zip(panels.flat, targets, strict=False):
        _draw_target(axes, calibration, [entry for entry in calibration.measurements.paths if entry.path[-1] == target])
        axes.set_title(short(target))
    for axes in panels[:, 0]:
        axes.set_ylabel("measured Dice")
    return figure


def _draw_target(axes: Axes, calibration: Calibration, paths: Sequence[MeasuredPath]) -> None:
    costs, dice = np.array([entry.cost for entry in paths]), np.array([entry.dice for entry in paths])
    ends = np.array([costs.min(), costs.max()])
    line = dice.mean() - calibration.dice_per_cost * (ends - costs.mean())
    axes.plot(ends, line, color=SOFT, zorder=1)
    axes.fill_between(
        ends, line - calibration.residual, line + calibration.residual, color=SOFT, alpha=0.2, linewidth=0
    )
    named = _named(paths)
    for entry in paths:
        (point,) = axes.plot(entry.cost, entry.dice, "o", color=STRONG, markersize=5, zorder=2)
        tip(point, path_words(entry.path), f"Dice {decimals(entry.dice)}, cost {decimals(entry.cost)}")
        if entry in named:
            words = path_words(entry.path[:-1]) if len(entry.path) > 2 else path_words(entry.path)
            axes.annotate(words, (entry.cost, entry.dice), (4, 3), textcoords="offset points", fontsize=7.5)
    axes.set_xlabel("cost (lower is better)")
    axes.margins(x=0.2)


def _named(paths: Sequence[MeasuredPath]) -> Sequence[MeasuredPath]:
    if len(paths) <= NAMED:
        return paths
    ordered = sorted(paths, key=lambda entry: entry.dice)
    middle = ordered[NAMED // 2 : -(NAMED // 2)]
    return [entry for entry in ordered if entry not in middle or len(entry.path) == 1]
