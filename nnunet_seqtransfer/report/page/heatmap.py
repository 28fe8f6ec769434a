"""The heat map of all distances as a table, so that it can be read, pointed at, and walked through with arrow keys."""

from __future__ import annotations

import math

from markupsafe import Markup

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.report.page.markup import element
from nnunet_seqtransfer.report.page.naming import decimals, digits, short
from nnunet_seqtransfer.report.palette import contrast, viridis

MOST = 40
"""Sources that are shown, the nearest."""
NUMBERS = 14
"""Up to so many tasks the distances are written into the cells."""
SHADES = 16


def heat_map(affinity: Affinity) -> Markup:
    """Rows are sources, columns are what they lead to; the target first, then the nearest source, and so on."""
    order, most = _shown(affinity), farthest(affinity)
    head = element(
        "tr",
        element("th", "from \N{DOWNWARDS ARROW} to \N{RIGHTWARDS ARROW}", scope="col", class_="corner"),
        *(
            element("th", element("abbr", digits(affinity.names[i]), title=affinity.names[i]), scope="col")
            for i in order
        ),
    )
    rows = [
        element("tr", _row_head(affinity.names[i]), *(_cell(affinity, i, j, most, order) for j in order)) for i in order
    ]
    return element(
        "table",
        element("caption", "Distance from the task of the row to the task of the column", class_="unseen"),
        element("thead", head),
        element("tbody", *rows),
        class_="heat" if len(order) <= NUMBERS else "heat dense",
        data_parts="\n".join(affinity.components),
        data_names="\n".join(affinity.names[i] for i in order),
    )


def farthest(affinity: Affinity) -> float:
    """The longest distance that is shown, which has the darkest shade; 1 where all are 0 or there is none."""
    order = _shown(affinity)
    known = [affinity.distances[i][j] for i in order for j in order if i != j]
    return max((value for value in known if math.isfinite(value)), default=1.0) or 1.0


def legend(affinity: Affinity) -> Markup:
    """The scale of the shades."""
    steps = [element("i", class_=f"h{shade}") for shade in range(SHADES)]
    scale = element("span", *steps, class_="scale", role="img", aria_label="light yellow is near, dark violet is far")
    return element("p", "0 ", scale, f" {decimals(farthest(affinity), 2)}", class_="legend")


def shades_css() -> str:
    """The rules for the shades: the text is black or white, whichever is easier to read."""
    colours = [viridis(shade / (SHADES - 1)) for shade in range(SHADES)]
    inks = [max(("#000000", "#ffffff"), key=lambda ink: contrast(ink, colour)) for colour in colours]
    return "\n".join(
        f".h{shade}{{background:{colour};color:{ink}}}"
        for shade, (colour, ink) in enumerate(zip(colours, inks, strict=True))
    )


def _shown(affinity: Affinity) -> list[int]:
    return [len(affinity.names) - 1, *affinity.ranking()[:MOST]]


def _row_head(name: str) -> Markup:
    rest = short(name).removeprefix(digits(name))
    return element("th", digits(name), element("span", rest, class_="rest") if rest else None, scope="row")


def _cell(affinity: Affinity, i: int, j: int, most: float, order: list[int]) -> Markup:
    value = affinity.distances[i][j]
    if i == j:
        return element("td", "\N{MIDDLE DOT}", class_="self")
    parts = " ".join(decimals(component[i][j]) for component in affinity.components.values())
    if not math.isfinite(value):
        return element("td", "\N{EN DASH}", data_d="none")
    shade = round(value / most * (SHADES - 1))
    text = decimals(value, 2) if len(order) <= NUMBERS else ""
    return element("td", text, class_=f"h{shade}", data_d=decimals(value), data_c=parts)
