"""Gains in Dice: expected for the candidates of a plan, and predicted against measured."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib as mpl
from matplotlib.figure import Figure

from nnunet_seqtransfer.calibration.calibrate import Calibration
from nnunet_seqtransfer.planning.record import SequencePlan
from nnunet_seqtransfer.report.figures import HOPS, SOFT, STRONG, STYLE, tip
from nnunet_seqtransfer.report.words import interval, path_words, percent, short

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
        tip(dot, path_words(entry.path), f"expected gain {interval(entry.gain, entry.low, entry.high, '+')}")
        words = "ruled out" if entry.ruled_out else f"harm {percent(entry.harm)}" if len(entry.path) > 1 else ""
        if words and width >= 5:  # narrow pictures have no room for words
            place = (entry.high, row)
            axes.annotate(words, place, (6, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.axvline(0, color=STRONG, linewidth=0.8, linestyle="--", zorder=0)
    axes.set_yticks(range(len(candidates)), [path_words(entry.path) for entry in candidates])
    for tick, entry in zip(axes.get_yticklabels(), candidates, strict=True):
        tick.set_fontweight("bold" if entry.path == tuple(path) else "normal")
    axes.set_xlabel("expected gain of Dice over scratch, 95 % interval")
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
