"""Results: the curves of one stage, and the differences that a comparison found between paths."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunet_seqtransfer.calibration.calibrate import Calibration
from nnunet_seqtransfer.evaluation.comparison import Comparison, Difference
from nnunet_seqtransfer.evaluation.statistics import case_values, paired_means
from nnunet_seqtransfer.nnunet.training_log import Epoch
from nnunet_seqtransfer.planning.record import SequencePlan
from nnunet_seqtransfer.report.figures import HOPS, INK, PATH, SECOND, SOFT, STRONG, STYLE, save, tip
from nnunet_seqtransfer.report.words import arrows, counted, decimals, interval, path_words, percent, short

MAX_POINTS = 400
"""Epochs drawn at most, evenly spread."""
MAX_ROWS = 15
"""Differences drawn at most: planned paths, then the largest gains."""


@mpl.rc_context(STYLE)
def draw_stage(curve: Sequence[Epoch], labels: Sequence[str], epochs: int) -> Figure:
    """Draw the mean pseudo Dice (thick) and each label (thin, named if known) above the losses.

    ``curve``: at least one finished epoch. ``epochs``: requested number, the end of the axis.
    """
    curve = thinned(curve)
    numbers = [epoch.number + 1 for epoch in curve]
    figure = Figure(figsize=(3.7, 3.7), layout="constrained")
    dice, loss = figure.subplots(2, 1, sharex=True)
    count = max(len(epoch.pseudo_dice) for epoch in curve)
    # names that do not fit the logged values would be attached to the wrong ones
    names = labels if len(labels) == count else [f"label {place + 1}" for place in range(count)]
    for place, name in enumerate(names if count > 1 else ()):
        values = [epoch.pseudo_dice[place] if place < len(epoch.pseudo_dice) else math.nan for epoch in curve]
        _line(dice, numbers, values, f"pseudo Dice of {name}", color=STRONG, linewidth=0.8, alpha=0.7)
    _line(dice, numbers, [epoch.mean_dice for epoch in curve], "mean pseudo Dice", color=STRONG, linewidth=1.8)
    _line(loss, numbers, [epoch.train_loss for epoch in curve], "training loss", color=STRONG, label="training")
    validation = [epoch.validation_loss for epoch in curve]
    _line(loss, numbers, validation, "validation loss", color=SECOND, linestyle="dashed", label="validation")
    dice.set(ylabel="pseudo Dice", ylim=(0, 1.02))
    loss.set(ylabel="loss", xlabel="epoch")
    loss.legend(loc="upper right")
    loss.margins(y=0.1)
    last = max(epochs, numbers[-1])
    # a single epoch gets some room on both sides
    loss.set_xlim((1, last) if last > 1 else (0.5, 1.5))
    loss.xaxis.set_major_locator(MaxNLocator(5, integer=True, min_n_ticks=1))
    for axes in (dice, loss):
        axes.grid(axis="y")
    return figure


def thinned(curve: Sequence[Epoch]) -> list[Epoch]:
    """Return at most `MAX_POINTS` epochs, evenly spread, the last one among them."""
    step = max(1, math.ceil(len(curve) / MAX_POINTS))
    # counted from the end, so that the last epoch stays
    return list(curve)[::-1][::step][::-1]


def _line(axes: Axes, numbers: Sequence[int], values: Sequence[float], name: str, **look: Any) -> None:
    # a line of one or two points is next to invisible
    marker = {"marker": "o", "markersize": 5} if len(numbers) < 3 else {}
    (drawn,) = axes.plot(numbers, values, **({"linewidth": 1.5} | look | marker))
    known = [(value, epoch) for value, epoch in zip(values, numbers, strict=True) if math.isfinite(value)]
    if known:
        ends = (f"{decimals(value)} at epoch {epoch}" for value, epoch in (known[0], known[-1]))
        tip(drawn, name, *dict.fromkeys(ends))


def draw_comparison(comparison: Comparison, folder: Path) -> tuple[Path, ...]:
    """Write the picture with the differences if there are any, as SVG and PDF; return both."""
    figure = draw_differences(comparison)
    return () if figure is None else save(figure, folder / "differences.svg")


def drawn_differences(comparison: Comparison) -> list[Difference]:
    """Return the differences to draw, smallest mean first: those against scratch if there are any, otherwise all."""
    scratch = {arm.name for arm in comparison.arms if "scratch" in arm.roles}
    planned = {arm.name for arm in comparison.arms if "planned" in arm.roles}
    every = list(comparison.differences)
    shown = [one for one in every if one.against in scratch] or every
    shown = sorted(shown, key=lambda one: (one.arm not in planned, -one.mean))[:MAX_ROWS]
    return sorted(shown, key=lambda one: one.mean)


@mpl.rc_context(STYLE)
def draw_differences(comparison: Comparison) -> Figure | None:
    """Draw one row per difference: a dot per case, the mean and the 95 % interval, largest on top.

    Cases are averaged over labels and over the models that both paths have. Planned paths are coloured.
    """
    shown = drawn_differences(comparison)
    if not shown:
        return None
    planned = {arm.name for arm in comparison.arms if "planned" in arm.roles}
    others = list(dict.fromkeys(one.against for one in shown))
    figure = Figure(figsize=(7.5, 0.9 + (0.34 if len(others) == 1 else 0.42) * len(shown)), layout="constrained")
    axes = figure.subplots()
    rng = np.random.default_rng(0)  # the same jitter whenever it is drawn
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


def _draw_mean(axes: Axes, row: int, one: Difference, colour: str) -> None:
    if one.low is not None and one.high is not None:
        axes.plot([one.low, one.high], [row, row], color=colour, linewidth=2.4, zorder=3)
    (mean,) = axes.plot(one.mean, row, "o", color=colour, markersize=7, zorder=4)
    tested = "" if one.p_holm is None else f", p = {one.p_holm:.2g} after Holm"
    told = f"{interval(one.mean, one.low, one.high, '+')}{tested}, {counted(one.cases, 'case')}"
    tip(mean, arrows(f"{one.arm} minus {one.against}"), told)


MAX_PATHS = 12


@mpl.rc_context(STYLE)
def draw_gains(plan: SequencePlan, path: Sequence[str], *, width: float = 7.5) -> Figure:
    """Draw the expected gain of each candidate with its 95 % interval, in the order of the plan.

    ``path``: full names on the path to mark in bold, the target last.
    """
    candidates = plan.candidates[:MAX_PATHS]
    figure = Figure(figsize=(width, 1.0 + 0.28 * len(candidates)), layout="constrained")
    axes = figure.subplots()
    for row, entry in enumerate(candidates):
        alpha = 0.35 if entry.ruled_out else 1.0
        if len(entry.path) > 1:
            axes.plot([entry.low, entry.high], [row, row], color=SOFT, linewidth=2, alpha=alpha, zorder=1)
        (dot,) = axes.plot(entry.gain, row, "o", color=HOPS[0], markersize=5, alpha=alpha, zorder=2)
        gain = interval(entry.gain, entry.low, entry.high, "+")
        tip(dot, path_words(plan.starred(entry.path)), f"expected gain {gain}")
        words = "ruled out" if entry.ruled_out else f"harm {percent(entry.harm)}" if len(entry.path) > 1 else ""
        if words and width >= 5:  # narrow pictures have no room for words
            place = (entry.high, row)
            axes.annotate(words, place, (6, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.axvline(0, color=STRONG, linewidth=0.8, linestyle="--", zorder=0)
    axes.set_yticks(range(len(candidates)), [path_words(plan.starred(entry.path)) for entry in candidates])
    for tick, entry in zip(axes.get_yticklabels(), candidates, strict=True):
        tick.set_fontweight("bold" if entry.path == tuple(path) else "normal")
    axes.set_xlabel("expected gain of Dice over scratch" + ", 95 % interval" * (width >= 5))
    axes.margins(x=0.15)
    axes.set_ylim(len(candidates) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    return figure


@mpl.rc_context(STYLE)
def draw_calibration(calibration: Calibration) -> Figure:
    """Draw measured over predicted gains; each target is left out of its own prediction."""
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.subplots()
    for place, target in enumerate(sorted({entry.transfer.target for entry in calibration.held_out})):
        some = [entry for entry in calibration.held_out if entry.transfer.target == target]
        predicted, measured = [entry.own for entry in some], [entry.transfer.gain for entry in some]
        axes.plot(predicted, measured, "o", color=HOPS[place % len(HOPS)], label=short(target), alpha=0.8)
    axes.axline((0, 0), slope=1, color=SOFT, linewidth=1, zorder=0)
    axes.set_xlabel("predicted gain of Dice over scratch")
    axes.set_ylabel("measured gain")
    axes.legend(fontsize=8, frameon=False)
    return figure
