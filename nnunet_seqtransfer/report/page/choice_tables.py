"""Tables of the choice: candidate paths with what they cost, and sources with how far they lie."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.planning.record import CandidatePath, SequencePlan
from nnunet_seqtransfer.planning.verdict import percent
from nnunet_seqtransfer.report.page.markup import Child, element
from nnunet_seqtransfer.report.page.naming import MISSING, decimals, digits, interval, path_words, short
from nnunet_seqtransfer.report.page.tables import Cell, figure, table
from nnunet_seqtransfer.report.palette import HOPS, SEARCH, START

BAR = 120.0
"""Width of the longest bar, and of the axis of intervals."""
BOX = f"0 0 {BAR:g} 16"
MOST_SOURCES = 100
"""Rows of the table of sources, the nearest."""


def candidates_table(plan: SequencePlan, trained: Sequence[str]) -> Markup:
    """The candidate paths with their costs, how often each wins, and how each stands against the cheapest.

    ``trained`` is the path of the run, the target last; it is marked.
    """
    against = {entry.path: entry for entry in plan.compared}
    gains = {entry.path: entry for entry in plan.gains}
    wins = {entry.path: entry.share for entry in plan.wins}
    most = max((entry.cost for entry in plan.candidates if math.isfinite(entry.cost)), default=1.0) or 1.0
    header = ["path", "cost", "parts", *(["wins"] if plan.resamples else [])]
    header += [*(["dearer than the cheapest by"] if against else []), *(["predicted gain of Dice"] if gains else [])]
    rows = []
    for entry in plan.candidates:
        cells = [Cell(_path(entry), path_words(entry.path)), figure(entry.cost), Cell(_bar(entry, most), entry.cost)]
        if plan.resamples:
            share = wins.get(entry.path, 0.0)
            cells.append(Cell(percent(share), float(share)))
        if against:
            other = against.get(entry.path)
            words = interval(other.saved, other.low, other.high) if other else MISSING
            cells.append(Cell(words, float(other.saved) if other else -math.inf))
        if gains:
            gain = gains.get(entry.path)
            words = interval(gain.mean, gain.low, gain.high, sign="+") if gain else MISSING
            cells.append(Cell(words, float(gain.mean) if gain else -math.inf))
        rows.append([*cells, Cell(f"{entry.gpu_hours:.1f}", float(entry.gpu_hours))])
    marked = [entry.path == tuple(trained) for entry in plan.candidates]
    return table("Candidate paths, cheapest first", [*header, "GPU hours"], rows, marked)


def _path(entry: CandidatePath) -> Markup:
    """Names in full; on narrow screens their numbers alone."""
    parts: list[Child] = []
    for place, name in enumerate(entry.path):
        rest = element("span", short(name).removeprefix(digits(name)), class_="rest")
        parts += [" \N{RIGHTWARDS ARROW} " if place else None, digits(name), rest]
    scratch = " from scratch" if len(entry.path) == 1 else None
    note = element("span", f"ruled out: it {entry.ruled_out}", class_="note") if entry.ruled_out else None
    return element("span", *parts, scratch, note)


def _bar(entry: CandidatePath, most: float) -> Markup:
    """The parts of a cost as a bar: start, hops, and the published strategy's search."""
    hops = [(cost, HOPS[place % len(HOPS)], f"hop {place + 1}") for place, cost in enumerate(entry.hop_costs)]
    parts = [(entry.start_cost, START, "start"), *hops, (entry.search_cost, SEARCH, "search")]
    drawn, left = [], 0.0
    for cost, colour, _ in parts:
        width = cost / most * BAR if math.isfinite(cost) else 0.0
        if width > 0:
            drawn.append(element("rect", x=left, y=2, width=width, height=12, fill=colour, class_="part"))
            left += width
    words = " + ".join(f"{name} {decimals(cost, 2)}" for cost, _, name in parts if cost > 0) or "no cost"
    return element(
        "svg",
        element("title", words),
        *drawn,
        class_="bar",
        viewBox=BOX,
        width=BAR,
        height=16,
        role="img",
        aria_label=words,
        data_tip=words,
    )


def sources_table(affinity: Affinity, trained: Sequence[str]) -> Markup:
    """The sources, nearest first, with interval and components of their distance to the target."""
    ranking = affinity.ranking()[:MOST_SOURCES]
    ends = [value for i in ranking for value in (affinity.high[i], affinity.distances[i][-1]) if math.isfinite(value)]
    most = max(ends, default=1.0) or 1.0
    parts = list(affinity.components)
    header = ["source", "distance", "95 % interval", "on a scale", *parts, "cases"]
    rows = [
        [
            Cell(_source(affinity, i), affinity.names[i]),
            figure(affinity.distances[i][-1]),
            Cell(_ends(affinity.low[i], affinity.high[i]), float(affinity.low[i])),
            Cell(_whisker(affinity, i, most), affinity.distances[i][-1]),
            *(figure(affinity.components[part][i][-1]) for part in parts),
            Cell(str(affinity.tasks[i].labelled_cases), float(affinity.tasks[i].labelled_cases)),
        ]
        for i in ranking
    ]
    return table("Sources, nearest first", header, rows, [affinity.names[i] in trained for i in ranking])


def _source(affinity: Affinity, i: int) -> Markup:
    """Its name, and what of it was compared with what of the target."""
    name = short(affinity.names[i]) + ("" if affinity.tasks[i].registered else " (signature)")
    matches = "; ".join(affinity.matches[i]) if i < len(affinity.matches) else ""
    return element("span", name, element("span", matches, class_="note") if matches else None)


def _whisker(affinity: Affinity, i: int, most: float) -> Markup | str:
    """A distance as a point on its interval, all rows on one scale."""
    value, low, high = affinity.distances[i][-1], affinity.low[i], affinity.high[i]
    if not math.isfinite(value):
        return MISSING

    def across(distance: float) -> float:
        return 4 + distance / most * (BAR - 8)

    bar = None
    if math.isfinite(low) and math.isfinite(high):
        bar = element("line", x1=across(low), x2=across(high), y1=8, y2=8, class_="whisker")
    axis = element("line", x1=4, x2=BAR - 4, y1=8, y2=8, class_="grid")
    point = element("circle", cx=across(value), cy=8, r=3.5, class_="point")
    words = f"{decimals(value)}, {_ends(low, high)}"
    return element(
        "svg", axis, bar, point, class_="bar", viewBox=BOX, width=BAR, height=16, role="img", aria_label=words
    )


def _ends(low: float, high: float) -> str:
    known = math.isfinite(low) and math.isfinite(high)
    return f"{decimals(low)} to {decimals(high)}" if known else "unknown (one case)"
