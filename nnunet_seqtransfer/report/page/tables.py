"""Tables that are sorted when a header is pressed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from nnunet_seqtransfer.report.page.markup import Child, element
from nnunet_seqtransfer.report.page.naming import decimals


@dataclass(frozen=True)
class Cell:
    """One cell."""

    content: Child
    "What stands in it."
    key: float | str
    "What it is sorted by."


def table(caption: str, header: Sequence[str], rows: Sequence[Sequence[Cell]], marked: Sequence[bool] = ()) -> Markup:
    """A table that can be sorted; the first column heads the rows, columns of numbers are set to the right.

    ``marked``: for each row whether it is the one that was chosen.
    """
    numeric = [all(_is_number(row[k]) for row in rows) for k in range(len(header))]
    looks = ["num" if right else None for right in numeric]
    head = element(
        "tr",
        *(
            element("th", element("button", text, type="button"), scope="col", class_=look, aria_sort="none")
            for text, look in zip(header, looks, strict=True)
        ),
    )
    body = [
        element("tr", *_cells(row, looks), class_="chosen" if place < len(marked) and marked[place] else None)
        for place, row in enumerate(rows)
    ]
    made = element(
        "table",
        element("caption", caption, class_="unseen"),
        element("thead", head),
        element("tbody", *body),
        class_="sortable",
    )
    return element("div", made, class_="scroll", role="region", tabindex=0, aria_label=caption)


def _cells(row: Sequence[Cell], looks: Sequence[str | None]) -> list[Markup]:
    cells = []
    for place, (cell, look) in enumerate(zip(row, looks, strict=True)):
        key = f"{cell.key:.9g}" if isinstance(cell.key, float) and math.isfinite(cell.key) else ""
        key = cell.key if isinstance(cell.key, str) else key
        if place:
            cells.append(element("td", cell.content, class_=look, data_key=key))
        else:
            cells.append(element("th", cell.content, scope="row", class_=look, data_key=key))
    return cells


def _is_number(cell: Cell) -> bool:
    """Whether a cell is written as a number; a drawing is sorted by one, and stands on the left all the same."""
    return isinstance(cell.key, float) and not isinstance(cell.content, Markup)


def text(value: str) -> Cell:
    """A cell of text."""
    return Cell(value, value)


def figure(value: float, places: int = 3) -> Cell:
    """A cell with a number."""
    return Cell(decimals(value, places), float(value))
