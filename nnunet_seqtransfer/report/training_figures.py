"""The curves of one stage: pseudo Dice and losses over its epochs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from nnunet_seqtransfer.nnunet.training_log import Epoch
from nnunet_seqtransfer.report.figures import SECOND, STRONG, STYLE, tip
from nnunet_seqtransfer.report.words import decimals

MAX_POINTS = 400
"""Epochs drawn at most, evenly spread."""


@mpl.rc_context(STYLE)
def draw_stage(curve: Sequence[Epoch], labels: Sequence[str], epochs: int) -> Figure:
    """Draw the mean pseudo Dice (thick) and that of each label (thin) above the losses.

    Args:
        curve: the finished epochs, at least one.
        labels: names of the labels if known.
        epochs: requested epochs, the end of the axis.
    """
    curve = thinned(curve)
    numbers = [epoch.number + 1 for epoch in curve]
    figure = Figure(figsize=(3.7, 3.7), layout="constrained")
    dice, loss = figure.subplots(2, 1, sharex=True)
    count = max(len(epoch.pseudo_dice) for epoch in curve)
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
    return list(curve)[::-1][::step][::-1]


def _line(axes: Axes, numbers: Sequence[int], values: Sequence[float], name: str, **look: Any) -> None:
    marker = {"marker": "o", "markersize": 5} if len(numbers) < 3 else {}
    (drawn,) = axes.plot(numbers, values, **({"linewidth": 1.5} | look | marker))
    known = [(value, epoch) for value, epoch in zip(values, numbers, strict=True) if math.isfinite(value)]
    if known:
        ends = (f"{decimals(value)} at epoch {epoch}" for value, epoch in (known[0], known[-1]))
        tip(drawn, name, *dict.fromkeys(ends))
