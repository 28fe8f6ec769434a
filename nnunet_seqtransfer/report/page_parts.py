"""Sections and sortable tables of pages: what an affinity, a plan, a validation and a comparison say."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from matplotlib.figure import Figure

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.evaluation.comparison import Comparison
from nnunet_seqtransfer.nnunet.validation import ValidatedCase
from nnunet_seqtransfer.planning.decide import problem_of
from nnunet_seqtransfer.planning.record import CandidatePath, SequencePlan
from nnunet_seqtransfer.report import words
from nnunet_seqtransfer.report.distance_figures import MAX_ROWS, draw_heat_map, draw_ranking
from nnunet_seqtransfer.report.figures import embed
from nnunet_seqtransfer.report.graph_figure import draw_graph
from nnunet_seqtransfer.report.plan_text import RULED_OUT, counterpart_words, sentences
from nnunet_seqtransfer.report.result_figures import draw_gains
from nnunet_seqtransfer.tasks.path_syntax import datasets_on

NARROW = 3.7
"""Figure width on phones, in inches."""
Drawing = tuple[Callable[[float], Figure], float, str]
"""A function of the width in inches, the width on wide screens, and a text for screen readers."""


def choice_parts(affinity: Affinity | None, plan: SequencePlan | None, path: Sequence[str]) -> dict[str, Any]:
    """Return the sections with the plan's reasons and candidates, and with the distances.

    ``path``: full names on the path to mark, the target last.
    """
    # one for wide screens and one for phones: the page shows the one that fits
    figures = {
        name: embed(draw(width), label, "wide") + embed(draw(NARROW), label, "narrow")
        for name, (draw, width, label) in drawings(affinity, plan, path).items()
    }
    parts: dict[str, Any] = {
        "follows_plan": plan is not None and plan.path == tuple(path),
        "why": [words.arrows(line) for line in sentences(plan)] if plan else [],
        "gains": figures.get("gains"),
        "candidates": candidates_table(plan, path) if plan and plan.candidates else None,
        "heat_map": figures.get("heat_map"),
    }
    if affinity is None or "heat_map" not in figures:
        return parts
    shown = min(MAX_ROWS, len(affinity.sources))
    return parts | {
        "graph": figures["graph"],
        "ranking": figures["ranking"],
        "has_communities": plan is not None and bool(plan.communities),
        "sources": sources_table(affinity, datasets_on(path)),
        "metric": affinity.metric,
        "shown": shown,
        "hidden": len(affinity.sources) - shown,
    }


def drawings(affinity: Affinity | None, plan: SequencePlan | None, path: Sequence[str]) -> dict[str, Drawing]:
    """Return name -> drawing for everything that is known."""
    found: dict[str, Drawing] = {}
    if plan is not None and plan.candidates:
        count = words.counted(len(plan.candidates), "candidate path")
        label = f"Expected gains of {count}; the table below has the numbers"
        found["gains"] = (lambda width: draw_gains(plan, path, width=width), 7.6, label)
    if affinity is None or len(affinity.names) < 2:
        return found
    label = (
        f"Graph of {words.counted(len(affinity.sources), 'source')} around the target; path: {words.path_words(path)}"
    )
    found["graph"] = (lambda width: _graph(affinity, plan, path, width), 11.6, label)
    label = "Distances of the sources to the target; the table below has the numbers"
    found["ranking"] = (lambda width: draw_ranking(affinity, datasets_on(path), width=width), 5.5, label)
    label = f"Heat map of the distances of {min(MAX_ROWS, len(affinity.sources)) + 1} tasks"
    found["heat_map"] = (lambda width: draw_heat_map(affinity, width=width), 12.0, label)
    return found


def _graph(affinity: Affinity, plan: SequencePlan | None, path: Sequence[str], width: float) -> Figure:
    problem = problem_of(affinity)
    known = {name: task for task, name in enumerate(problem.names)}
    planned = plan.path if plan is not None and plan.path != tuple(path) else ()
    ways = [[known[name] for name in datasets_on(names) if name in known] for names in (path, planned)]
    communities = [[known[name] for name in members if name in known] for members in plan.communities] if plan else []
    return draw_graph(problem, ways[0], communities, proposed=ways[1], width=width)


MAX_SOURCES = 100
"""Rows in the table of sources, nearest first."""


@dataclass(frozen=True)
class Cell:
    """One table cell."""

    text: str
    "Text to show."
    key: float | str
    "Value to sort the column by. NaN and infinity sort last."
    note: str = ""
    "Smaller second line."
    look: str = ""
    "CSS class."

    @property
    def sort_key(self) -> str:
        """Return the key as the page's script reads it, "" if it is not a number that can be sorted."""
        if isinstance(self.key, str):
            return self.key
        # the script sorts an empty key last, whichever way round
        return f"{self.key:.9g}" if math.isfinite(self.key) else ""


@dataclass(frozen=True)
class Table:
    """A table that can be sorted by each column. The first cell is the heading of the row."""

    caption: str
    "Title for screen readers."
    header: tuple[str, ...]
    "Column titles."
    rows: tuple[tuple[Cell, ...], ...]
    "Cells, row by row."
    chosen: tuple[bool, ...] = ()
    "For each row whether it is marked; empty if none is."

    @property
    def numeric(self) -> tuple[bool, ...]:
        """Return for each column whether it holds numbers, which are set to the right."""
        return tuple(all(isinstance(row[k].key, float) for row in self.rows) for k in range(len(self.header)))


def text_cell(value: str, look: str = "") -> Cell:
    """Return a cell with text."""
    return Cell(value, value, look=look)


def number_cell(value: float | None) -> Cell:
    """Return a cell with a number, a dash if it is unknown."""
    return Cell(words.decimals(value), math.nan if value is None else float(value))


def candidates_table(plan: SequencePlan, path: Sequence[str]) -> Table:
    """Return the candidates with their expected gains; the row of ``path`` (full names, the target last) is marked."""
    rows = []
    for entry in plan.candidates:
        is_scratch = len(entry.path) == 1
        gain = Cell(
            words.MISSING if is_scratch else words.interval(entry.gain, entry.low, entry.high, "+"), float(entry.gain)
        )
        harm = Cell(words.MISSING if is_scratch else words.percent(entry.harm), float(entry.harm))
        rows.append(
            (_path_cell(entry, plan, path), gain, harm, Cell(words.hours(entry.gpu_hours), float(entry.gpu_hours)))
        )
    marked = tuple(entry.path == tuple(path) for entry in plan.candidates)
    header = ("path", "expected gain of Dice", "chance of harm", "hours")
    return Table("Candidate paths, best first", header, tuple(rows), marked)


def _path_cell(entry: CandidatePath, plan: SequencePlan, path: Sequence[str]) -> Cell:
    notes = [words.ARROW.join(words.short(name).removeprefix(name[7:10]).strip() for name in entry.path)]
    notes += ["planned"] if entry.path == plan.path != tuple(path) else []
    notes += [f"ruled out: {RULED_OUT[entry.ruled_out]}"] if entry.ruled_out else []
    told = words.path_words(plan.starred(entry.path))
    return Cell(told if len(entry.path) > 1 else f"{words.number(entry.path[0])} from scratch", told, "; ".join(notes))


def sources_table(affinity: Affinity, path: Sequence[str]) -> Table:
    """Return the sources, nearest first, with intervals and components; those of ``path`` are marked."""
    ranking = affinity.ranking()[:MAX_SOURCES]
    rows = []
    for i in ranking:
        task, low, high = affinity.tasks[i], affinity.low[i], affinity.high[i]
        name = words.short(task.dataset) + ("" if task.registered else " (signature)")
        matches = words.arrows(counterpart_words(affinity.counterparts[i])) if i < len(affinity.counterparts) else ""
        cells = [Cell(name, task.dataset, matches), number_cell(affinity.distances[i][-1])]
        cells.append(Cell(words.span(low, high, "unknown (one case)"), float(low)))
        cells += [number_cell(table[i][-1]) for table in affinity.components.values()]
        rows.append((*cells, Cell(str(task.labelled_cases), float(task.labelled_cases))))
    header = ("source", "distance", "95 % interval", *affinity.components, "cases")
    return Table("Sources, nearest first", header, tuple(rows), tuple(affinity.names[i] in path for i in ranking))


def cases_table(cases: Sequence[ValidatedCase]) -> Table:
    """Return every validated case with Dice, worst first."""
    labels = list(dict.fromkeys(label for case in cases for label in case.dice))
    # NaN compares with nothing and would leave the order to chance
    ordered = sorted(cases, key=lambda case: (math.isnan(case.mean), case.mean, case.case))
    rows = []
    for case in ordered:
        dice = [number_cell(case.dice.get(label, math.nan)) for label in labels]
        mean = [number_cell(case.mean)] if len(labels) > 1 else []
        rows.append((text_cell(case.case), text_cell(case.fold), *dice, *mean))
    header = ["case", "fold", *(f"Dice {label}" for label in labels), *(["Dice mean"] if len(labels) > 1 else [])]
    return Table("Validated cases, worst first", tuple(header), tuple(rows))


def comparison_tables(comparison: Comparison) -> tuple[tuple[str, Table], ...]:
    """Return title and table for the differences and for the rankings, if there are any."""
    differences = tuple(
        (
            text_cell(words.arrows(f"{entry.arm} against {entry.against}")),
            Cell(words.interval(entry.mean, entry.low, entry.high, "+"), float(entry.mean)),
            Cell(words.MISSING, math.nan) if entry.p_holm is None else Cell(f"{entry.p_holm:.2g}", float(entry.p_holm)),
            Cell(str(entry.cases), float(entry.cases)),
        )
        for entry in comparison.differences
    )
    rankings = tuple(
        (text_cell(entry.metric), *map(number_cell, (entry.spearman, entry.weighted_tau, entry.regret)))
        for entry in comparison.rankings
    )
    header = ("paths", "mean difference in Dice (95 % interval)", "p (Holm)", "cases")
    tables = [("Differences", Table("Differences between paths", header, differences))] if differences else []
    title = "How well each ranked the sources"
    if rankings:
        tables.append((title, Table(title, ("by", "Spearman", "weighted tau", "regret"), rankings)))
    return tuple(tables)


def files_table(files: Sequence[tuple[str, str]]) -> Table:
    """Return files and their SHA-256."""
    rows = tuple((text_cell(name, "file"), text_cell(digest, "hash")) for name, digest in files)
    return Table("Files that this report rests on", ("file", "SHA-256"), rows)
