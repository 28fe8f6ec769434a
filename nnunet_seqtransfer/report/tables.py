"""Tables for the terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_seqtransfer.report.words import decimals

if TYPE_CHECKING:
    from nnunet_seqtransfer.affinity.base import Counterparts
    from nnunet_seqtransfer.affinity.record import Affinity


def affinity_table(affinity: Affinity) -> str:
    """Return the sources, nearest first, with interval and components of the distance to the target."""
    header = ["source", "distance", "95 % interval", "", *affinity.components, "cases", "compared"]
    rows = [
        [
            affinity.names[i] if affinity.tasks[i].registered else f"{affinity.names[i]} (signature)",
            decimals(affinity.distances[i][-1]),
            _interval(affinity.low[i], affinity.high[i]),
            "~" if place < len(affinity.indistinct) and affinity.indistinct[place] else "",
            *(decimals(component[i][-1]) for component in affinity.components.values()),
            str(affinity.tasks[i].labelled_cases),
            counterpart_words(affinity.counterparts[i]),
        ]
        for place, i in enumerate(affinity.ranking())
    ]
    title = f"Distance to {affinity.target} ({affinity.metric}, {affinity.configuration}), nearest first"
    weights = ", ".join(f"{name} {weight:.4g}" for name, weight in affinity.combination.weights.items())
    origin = f"calibration {affinity.calibration}" if affinity.calibration else "guesses, not calibrated"
    notes = [f"Weights: {weights} ({origin})."]
    if any(affinity.indistinct):
        notes.append("~ the cases cannot tell this source from the next one.")
    return "\n".join([title, "", text_table(header, rows), "", *notes])


def counterpart_words(found: Counterparts) -> str:
    """Return what was compared with what: "T1 -> MRI; tumour -> lesion"."""
    if found.same_cases:
        return "same patients"
    return "; ".join(f"{mine} -> {theirs}" for mine, theirs in (*found.channels, *found.labels))


def _interval(low: float, high: float) -> str:
    return f"{decimals(low)} - {decimals(high)}" if math.isfinite(low) and math.isfinite(high) else "unknown (one case)"


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows as aligned columns, numbers to the right."""
    columns = list(zip(header, *rows, strict=True))
    widths = [max(len(cell) for cell in column) for column in columns]
    numeric = [all(_is_number(cell) for cell in column[1:]) for column in columns]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(header), line(["-" * width for width in widths]), *(line(row) for row in rows)])


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
