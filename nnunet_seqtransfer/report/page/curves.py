"""The curves of one stage as SVG: pseudo Dice and losses over its epochs, with their values when pointed at."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from nnunet_seqtransfer.nnunet.training_log import Epoch
from nnunet_seqtransfer.report.page.markup import element, polyline
from nnunet_seqtransfer.report.page.naming import decimals
from nnunet_seqtransfer.report.page.scales import Scale

WIDTH, HEIGHT = 360.0, 170.0
LEFT, RIGHT, TOP, BOTTOM = 40.0, 8.0, 10.0, 24.0
MOST_POINTS = 400
"""Epochs that are drawn; of more, evenly spread ones."""


@dataclass(frozen=True)
class Line:
    """One line of a plot."""

    name: str
    "What it shows."
    values: tuple[float, ...]
    "One for each epoch that is drawn; NaN leaves a gap."
    look: str
    "Class in the page's style: strong, second or thin."


def dice_plot(curve: Sequence[Epoch], labels: Sequence[str], title: str, epochs: int) -> Markup:
    """Pseudo Dice: the mean over labels, and thinly each label where there are several."""
    curve = thinned(curve)
    lines = [Line("mean", tuple(epoch.mean_dice for epoch in curve), "strong")]
    count = max((len(epoch.pseudo_dice) for epoch in curve), default=0)
    if count > 1:
        names = labels if len(labels) == count else [f"label {number + 1}" for number in range(count)]
        for number, name in enumerate(names):
            values = (epoch.pseudo_dice[number] if number < len(epoch.pseudo_dice) else math.nan for epoch in curve)
            lines.append(Line(name, tuple(values), "thin"))
    return _plot(curve, lines, (0.0, 1.0), f"Pseudo Dice of {title}", epochs)


def loss_plot(curve: Sequence[Epoch], title: str, epochs: int) -> Markup:
    """Training and validation loss."""
    curve = thinned(curve)
    lines = [
        Line("training loss", tuple(epoch.train_loss for epoch in curve), "strong"),
        Line("validation loss", tuple(epoch.validation_loss for epoch in curve), "second"),
    ]
    known = [value for line in lines for value in line.values if math.isfinite(value)] or [0.0]
    low, high = min(known), max(known)
    margin = 0.05 * (high - low) or 0.5
    return _plot(curve, lines, (low - margin, high + margin), f"Losses of {title}", epochs)


def thinned(curve: Sequence[Epoch]) -> list[Epoch]:
    """At most `MOST_POINTS` epochs, evenly spread, the last one among them."""
    step = max(1, math.ceil(len(curve) / MOST_POINTS))
    return list(reversed(list(curve)[::-1][::step]))


def _plot(curve: Sequence[Epoch], lines: Sequence[Line], ends: tuple[float, float], title: str, epochs: int) -> Markup:
    last = max(2.0, float(epochs), curve[-1].number + 1.0 if curve else 0.0)
    across, up = Scale(1.0, last, LEFT, WIDTH - RIGHT), Scale(*ends, HEIGHT - BOTTOM, TOP)
    numbers = [epoch.number + 1 for epoch in curve]
    drawn = [
        element("path", d=d, class_=f"line {line.look}")
        for line in lines
        if (d := _broken([(across(x), up(y)) for x, y in zip(numbers, line.values, strict=True)]))
    ]
    series = {
        "x": [round(across(epoch), 1) for epoch in numbers],
        "epoch": numbers,
        "lines": [[line.name, [_short(value) for value in line.values]] for line in lines],
    }
    return element(
        "svg",
        *_axes(across, up, title.split(" of ", maxsplit=1)[0]),
        *drawn,
        element("line", class_="cursor", x1=0, x2=0, y1=TOP, y2=HEIGHT - BOTTOM),
        viewBox=f"0 0 {WIDTH:g} {HEIGHT:g}",
        class_="plot",
        role="img",
        tabindex=0,
        aria_label=f"{title}: {_summary(lines)}. Left and right arrow keys walk through the epochs.",
        data_series=json.dumps(series, separators=(",", ":")),
    )


def _axes(across: Scale, up: Scale, what: str) -> list[Markup]:
    parts = []
    for value in up.ticks(4):
        parts.append(element("line", class_="grid", x1=LEFT, x2=WIDTH - RIGHT, y1=up(value), y2=up(value)))
        parts.append(element("text", f"{value:g}", x=LEFT - 6, y=up(value) + 4, class_="tick end"))
    whole = (value for value in across.ticks(5) if value == int(value))
    parts += [element("text", f"{value:g}", x=across(value), y=HEIGHT - 8, class_="tick middle") for value in whole]
    parts.append(element("text", "epoch", x=LEFT - 6, y=HEIGHT - 8, class_="tick end"))
    # where curves are not: Dice rises, losses fall
    x, side = (LEFT + 5, "") if what == "Pseudo Dice" else (WIDTH - RIGHT - 2, " end")
    parts.append(element("text", what, x=x, y=TOP + 11, class_=f"tick what{side}"))
    return [*parts, element("line", class_="axis", x1=LEFT, x2=WIDTH - RIGHT, y1=HEIGHT - BOTTOM, y2=HEIGHT - BOTTOM)]


def _broken(points: Sequence[tuple[float, float]]) -> str:
    """A path that is interrupted where a value is missing; a single value becomes a short stroke."""
    runs: list[list[tuple[float, float]]] = [[]]
    for x, y in points:
        if math.isfinite(y):
            runs[-1].append((x, y))
        elif runs[-1]:
            runs.append([])
    return "".join(polyline(run if len(run) > 1 else [run[0], (run[0][0] + 0.5, run[0][1])]) for run in runs if run)


def _summary(lines: Sequence[Line]) -> str:
    told = []
    for line in lines:
        known = [value for value in line.values if math.isfinite(value)]
        if known:
            told.append(f"{line.name} from {decimals(known[0], 2)} to {decimals(known[-1], 2)}")
    return ", ".join(told) or "no values"


def _short(value: float) -> float | None:
    return round(value, 4) if math.isfinite(value) else None
