"""Show what an affinity and a plan say: figures, and sections of pages."""

from collections.abc import Callable, Sequence
from typing import Any

from matplotlib.figure import Figure

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.planning.decide import problem_of
from nnunet_seqtransfer.planning.record import SequencePlan
from nnunet_seqtransfer.report import page_tables
from nnunet_seqtransfer.report.distance_figures import MAX_ROWS, draw_heat_map, draw_ranking
from nnunet_seqtransfer.report.figures import embed
from nnunet_seqtransfer.report.graph_figure import draw_graph
from nnunet_seqtransfer.report.plan_text import sentences
from nnunet_seqtransfer.report.result_figures import draw_gains
from nnunet_seqtransfer.report.words import arrows, counted, path_words
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
        "why": [arrows(line) for line in sentences(plan)] if plan else [],
        "gains": figures.get("gains"),
        "candidates": page_tables.candidates_table(plan, path) if plan and plan.candidates else None,
        "heat_map": figures.get("heat_map"),
    }
    if affinity is None or "heat_map" not in figures:
        return parts
    shown = min(MAX_ROWS, len(affinity.sources))
    return parts | {
        "graph": figures["graph"],
        "ranking": figures["ranking"],
        "has_communities": plan is not None and bool(plan.communities),
        "sources": page_tables.sources_table(affinity, datasets_on(path)),
        "metric": affinity.metric,
        "shown": shown,
        "hidden": len(affinity.sources) - shown,
    }


def drawings(affinity: Affinity | None, plan: SequencePlan | None, path: Sequence[str]) -> dict[str, Drawing]:
    """Return name -> drawing for everything that is known."""
    found: dict[str, Drawing] = {}
    if plan is not None and plan.candidates:
        label = f"Expected gains of {counted(len(plan.candidates), 'candidate path')}; the table below has the numbers"
        found["gains"] = (lambda width: draw_gains(plan, path, width=width), 7.6, label)
    if affinity is None or len(affinity.names) < 2:
        return found
    label = f"Graph of {counted(len(affinity.sources), 'source')} around the target; path: {path_words(path)}"
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
