"""Tables and sentences for the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_seqtransfer.affinity.affinity import Affinity
from nnunet_seqtransfer.sequence.plan import CandidatePath, SequencePlan


def affinity_table(affinity: Affinity) -> str:
    """The sources, nearest first, with the components of their distance to the target."""
    header = ["source", "distance", *affinity.components, "cases", "compared"]
    rows = [
        [
            affinity.names[i],
            _number(affinity.distances[i][-1]),
            *(_number(component[i][-1]) for component in affinity.components.values()),
            str(affinity.tasks[i].labelled_cases),
            "; ".join(affinity.matches[i]),
        ]
        for i in affinity.ranking()
    ]
    title = f"Distance to {affinity.target} ({affinity.metric}, {affinity.configuration}), nearest first"
    return f"{title}\n\n{text_table(header, rows)}"


def plan_text(plan: SequencePlan) -> str:
    """The decision in words, then the candidates."""
    header = ["", "path", "cost", "start", "hops"]
    chosen = (*plan.sources, plan.target)
    rows = [[">" if entry.path == chosen else "", *_candidate(entry)] for entry in plan.candidates]
    return "\n".join([*plan.explanation, "", text_table(header, rows)])


def _candidate(entry: CandidatePath) -> list[str]:
    hops = " + ".join(_number(cost) for cost in entry.hop_costs) or "-"
    if entry.search_cost:
        hops += f" + search {_number(entry.search_cost)}"
    path = " -> ".join(entry.path) if len(entry.path) > 1 else f"{entry.path[0]} (scratch)"
    return [path, _number(entry.cost), _number(entry.start_cost), hops]


def text_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of equal width, numbers to the right."""
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


def _number(value: float) -> str:
    return f"{value:.3f}" if abs(value) < 1000 else f"{value:.4g}"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
