"""Tables for the page: what each cell shows and sorts by. The template draws them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.evaluation.comparison import Comparison
from nnunet_seqtransfer.nnunet.validation import ValidatedCase
from nnunet_seqtransfer.planning.record import CandidatePath, SequencePlan
from nnunet_seqtransfer.report.plan_text import RULED_OUT, counterpart_words
from nnunet_seqtransfer.report.words import (
    ARROW,
    MISSING,
    arrows,
    decimals,
    hours,
    interval,
    number,
    path_words,
    percent,
    short,
    span,
)

MAX_SOURCES = 100
"""Rows in the table of sources, nearest first."""


@dataclass(frozen=True)
class Cell:
    """One table cell."""

    text: str
    "What is shown."
    key: float | str
    "What the column is sorted by. NaN and infinity sort last."
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


def number_cell(value: float | None, places: int = 3) -> Cell:
    """Return a cell with a number, a dash if it is unknown."""
    return Cell(decimals(value, places), math.nan if value is None else float(value))


def candidates_table(plan: SequencePlan, path: Sequence[str]) -> Table:
    """Return the candidates with their expected gains; the row of ``path`` (full names, the target last) is marked."""
    rows = []
    for entry in plan.candidates:
        is_scratch = len(entry.path) == 1
        gain = Cell(MISSING if is_scratch else interval(entry.gain, entry.low, entry.high, "+"), float(entry.gain))
        harm = Cell(MISSING if is_scratch else percent(entry.harm), float(entry.harm))
        rows.append((_path_cell(entry, plan, path), gain, harm, Cell(hours(entry.gpu_hours), float(entry.gpu_hours))))
    marked = tuple(entry.path == tuple(path) for entry in plan.candidates)
    header = ("path", "expected gain of Dice", "chance of harm", "hours")
    return Table("Candidate paths, best first", header, tuple(rows), marked)


def _path_cell(entry: CandidatePath, plan: SequencePlan, path: Sequence[str]) -> Cell:
    notes = [ARROW.join(short(name).removeprefix(name[7:10]).strip() for name in entry.path)]
    notes += ["planned"] if entry.path == plan.path != tuple(path) else []
    notes += [f"ruled out: {RULED_OUT[entry.ruled_out]}"] if entry.ruled_out else []
    words = path_words(plan.starred(entry.path))
    return Cell(words if len(entry.path) > 1 else f"{number(entry.path[0])} from scratch", words, "; ".join(notes))


def sources_table(affinity: Affinity, path: Sequence[str]) -> Table:
    """Return the sources, nearest first, with intervals and components; those of ``path`` are marked."""
    ranking = affinity.ranking()[:MAX_SOURCES]
    rows = []
    for i in ranking:
        task, low, high = affinity.tasks[i], affinity.low[i], affinity.high[i]
        name = short(task.dataset) + ("" if task.registered else " (signature)")
        matches = arrows(counterpart_words(affinity.counterparts[i])) if i < len(affinity.counterparts) else ""
        cells = [Cell(name, task.dataset, matches), number_cell(affinity.distances[i][-1])]
        cells.append(Cell(span(low, high, "unknown (one case)"), float(low)))
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
            text_cell(arrows(f"{entry.arm} against {entry.against}")),
            Cell(interval(entry.mean, entry.low, entry.high, "+"), float(entry.mean)),
            Cell(MISSING, math.nan) if entry.p_holm is None else Cell(f"{entry.p_holm:.2g}", float(entry.p_holm)),
            Cell(str(entry.cases), float(entry.cases)),
        )
        for entry in comparison.differences
    )
    rankings = tuple(
        (
            text_cell(entry.metric),
            number_cell(entry.spearman),
            number_cell(entry.weighted_tau),
            number_cell(entry.regret),
        )
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
