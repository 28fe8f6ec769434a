"""The graph of the sources around the target as SVG, with the path of the run; every task says more when pointed at."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.planning.problem import SequenceProblem
from nnunet_seqtransfer.planning.published import default_communities, find_communities, source_graph
from nnunet_seqtransfer.report.layout import label_boxes, placed
from nnunet_seqtransfer.report.page.markers import marker, star
from nnunet_seqtransfer.report.page.markup import element, joined, number
from nnunet_seqtransfer.report.page.naming import counted, decimals, digits, short
from nnunet_seqtransfer.report.palette import COMMUNITIES

MOST = 60
"""Sources that are drawn, the nearest; more do not fit a page."""
FEW = 25
"""Up to so many tasks names are written out; above, numbers, where there is room."""
EDGES = 3
"""Of each source its so many strongest edges are drawn."""


@dataclass(frozen=True)
class Canvas:
    """The room for one drawing of the graph."""

    name: str
    "Told apart from another drawing on the page; a class of the page's style."
    width: float
    "In pixels."
    font: float
    "Size of the names in pixels."
    full_names: bool
    "Whether names are written out where there is room."


CANVASES = (Canvas("wide", 760, 13, full_names=True), Canvas("narrow", 360, 12, full_names=False))


@dataclass(frozen=True, eq=False)
class Layout:
    """Where tasks lie, before a size is known."""

    problem: SequenceProblem
    "The tasks that are drawn, the target last."
    points: NDArray[np.float64]
    "(n, 2), arbitrary unit."
    stress: float
    "How far the picture is from the distances; 0 is exact."
    community: dict[int, int]
    "Task -> number of its community."
    edges: tuple[tuple[int, int, float], ...]
    "Strongest edges: two tasks and a weight of 0 (weak) to 1."


def lay_out(affinity: Affinity, chosen: Sequence[str]) -> Layout:
    """The tasks of an affinity on a plane; of many sources the nearest, and those of the chosen path."""
    ranking = affinity.ranking()
    first = [i for i in ranking if affinity.names[i] in chosen]
    kept = [*(first + [i for i in ranking if i not in first])[:MOST], len(affinity.names) - 1]
    tasks = [affinity.tasks[i] for i in kept]
    problem = SequenceProblem.checked(
        [task.dataset for task in tasks],
        affinity.matrix()[np.ix_(kept, kept)],
        len(kept) - 1,
        [max(1, task.labelled_cases) for task in tasks],
        channels=[task.channels for task in tasks],
        labels=[task.labels for task in tasks],
    )
    graph = source_graph(problem)
    parts = find_communities(problem, graph, default_communities(len(problem.sources))) if problem.sources else ()
    points, stress = placed(problem.distances)
    community = {task: place for place, members in enumerate(parts) for task in members}
    found: dict[tuple[int, int], float] = {}
    for task in graph:
        for one, two, distance in sorted(graph.edges(task, data="distance"), key=lambda edge: edge[2])[:EDGES]:
            found[min(one, two), max(one, two)] = distance
    longest = max(found.values(), default=1.0) or 1.0
    edges = tuple((*pair, 1 - distance / longest) for pair, distance in sorted(found.items()))
    return Layout(problem, points, stress, community, edges)


def draw_graph(layout: Layout, affinity: Affinity, path: Sequence[str], proposed: Sequence[str]) -> Markup:
    """The graph for wide and for narrow screens; one of them is shown.

    Args:
        layout: of the tasks.
        affinity: what is told about them.
        path: full names of the run's path, the target last; tasks that the affinity lacks are passed over.
        proposed: the planned path where it is another one; dashed.
    """
    return joined(_draw(layout, affinity, path, proposed, canvas) for canvas in CANVASES)


def _draw(layout: Layout, affinity: Affinity, path: Sequence[str], proposed: Sequence[str], canvas: Canvas) -> Markup:
    names = layout.problem.names
    points, height = _on_canvas(layout.points, canvas)
    radii = _radii(layout.problem, canvas)
    on_path, planned = ([names.index(name) for name in some if name in names] for some in (path, proposed))
    tip = f"tip-{canvas.name}"
    arrows = [_arrow(points, radii, pair, "planned", tip) for pair in pairwise(planned)]
    arrows += [_arrow(points, radii, pair, "path", tip) for pair in pairwise(on_path)]
    shape = element("path", d="M0 0L10 5L0 10z", class_="path-tip")
    head = element(
        "marker", shape, id=tip, viewBox="0 0 10 10", refX=8, refY=5, markerWidth=5, markerHeight=5, orient="auto"
    )
    route = " then ".join(short(name) for name in path)
    return element(
        "svg",
        element("defs", head),
        *(_edge(points, edge) for edge in layout.edges),
        *arrows,
        *(_task(layout, affinity, task, points[task], radii[task], task in on_path) for task in range(len(names))),
        *_names(layout.problem, points, radii, on_path, canvas, height),
        viewBox=f"0 0 {number(canvas.width)} {number(height)}",
        class_=f"graph {canvas.name}",
        role="group",
        aria_label=f"Graph of {counted(len(names) - 1, 'source')} around the target; path: {route}",
    )


def _on_canvas(points: NDArray[np.float64], canvas: Canvas) -> tuple[NDArray[np.float64], float]:
    """Points in pixels, y downwards, and the height of the canvas."""
    margin_x, margin_y = (0.13 * canvas.width if canvas.full_names else 44.0), 40.0
    extent = np.maximum(np.ptp(points, axis=0), 1e-9)
    room = canvas.width - 2 * margin_x
    most = 0.62 * canvas.width if canvas.full_names else 1.05 * canvas.width
    scale = min(room / extent[0], (most - 2 * margin_y) / extent[1])
    height = max(extent[1] * scale + 2 * margin_y, 0.28 * canvas.width)
    centred = (points - (points.max(axis=0) + points.min(axis=0)) / 2) * [scale, -scale]
    return centred + np.asarray([canvas.width / 2, height / 2]), float(height)


def _radii(problem: SequenceProblem, canvas: Canvas) -> NDArray[np.float64]:
    """Markers whose area grows with the root of the cases."""
    counts = np.asarray(problem.case_counts or (1,) * len(problem.names), dtype=np.float64)
    least, more = (5.0, 8.0) if canvas.full_names and len(counts) <= FEW else (4.0, 5.0)
    return np.asarray(least + more * (counts / counts.max()) ** 0.25 * np.sqrt(counts / counts.max()) ** 0.5)


def _edge(points: NDArray[np.float64], edge: tuple[int, int, float]) -> Markup:
    (x1, y1), (x2, y2) = points[edge[0]], points[edge[1]]
    ends = {"x1": float(x1), "y1": float(y1), "x2": float(x2), "y2": float(y2)}
    return element("line", class_="edge", stroke_width=0.6 + 2.6 * edge[2], **ends)


def _arrow(
    points: NDArray[np.float64], radii: NDArray[np.float64], pair: tuple[int, int], look: str, tip: str
) -> Markup:
    start, end = points[pair[0]], points[pair[1]]
    way = end - start
    length = max(float(np.hypot(*way)), 1e-9)
    start, end = start + way / length * (radii[pair[0]] + 2), end - way / length * (radii[pair[1]] + 4)
    ends = {"x1": float(start[0]), "y1": float(start[1]), "x2": float(end[0]), "y2": float(end[1])}
    return element("line", class_=f"arrow {look}", marker_end=f"url(#{tip})", **ends)


def _task(
    layout: Layout, affinity: Affinity, task: int, point: NDArray[np.float64], radius: float, on_path: bool
) -> Markup:
    x, y = float(point[0]), float(point[1])
    is_target = task == layout.problem.target
    tip = _tip(affinity, affinity.names.index(layout.problem.names[task]))
    group = layout.community.get(task, 0)
    shape = star(x, y, radius + 5) if is_target else marker(group, x, y, radius)
    fill = None if is_target else COMMUNITIES[group % len(COMMUNITIES)]
    look = "task target" if is_target else "task on-path" if on_path else "task"
    ring = element("circle", cx=x, cy=y, r=radius + 4, class_="ring") if on_path and not is_target else None
    body = element("path", d=shape, class_=look, fill=fill)
    return element(
        "g",
        element("title", tip),
        ring,
        body,
        tabindex=0,
        role="img",
        aria_label=tip.replace("\n", "; "),
        data_tip=tip,
    )


def _tip(affinity: Affinity, task: int) -> str:
    entry = affinity.tasks[task]
    lines = [entry.dataset, f"{counted(entry.labelled_cases, 'labelled case')}"]
    if task == len(affinity.tasks) - 1:
        lines.append("the target")
    else:
        ends = affinity.low[task], affinity.high[task]
        known = all(map(math.isfinite, ends))
        interval = f" (95 % interval {decimals(ends[0])} to {decimals(ends[1])})" if known else ""
        lines.append(f"distance to the target {decimals(affinity.distances[task][-1])}{interval}")
    lines += [f"channels: {', '.join(entry.channels)}", f"labels: {', '.join(entry.labels)}"]
    return "\n".join(lines)


def _names(
    problem: SequenceProblem,
    points: NDArray[np.float64],
    radii: NDArray[np.float64],
    on_path: Sequence[int],
    canvas: Canvas,
    height: float,
) -> list[Markup]:
    """Names where they cover least; numbers where there is no room for names."""
    full = canvas.full_names and len(problem.names) <= FEW
    texts = [short(name) if full else digits(name) for name in problem.names]
    sizes = np.asarray([(0.58 * canvas.font * len(text) + 4, 1.25 * canvas.font) for text in texts])
    order = sorted(range(len(texts)), key=lambda task: (task not in on_path, -radii[task]))
    along = [points[i] * (1 - t) + points[j] * t for i, j in pairwise(on_path) for t in np.linspace(0, 1, 30)]
    frame = (2.0, 2.0, canvas.width - 2, height - 2)
    boxes = [(x - 3, y - 3, x + 3, y + 3) for x, y in along]
    room = radii + np.asarray([6.0 if task in on_path else 1.0 for task in range(len(radii))])
    corners, is_far, covered = label_boxes(points, room, sizes, order, frame, boxes)
    crowded = {task for task in range(len(texts) - 1) if len(texts) > FEW and (covered[task] > 1 or is_far[task])}
    written = []
    for task, text in enumerate(texts):
        if task in crowded and task not in on_path:
            continue  # its number is told when it is pointed at
        x, y = float(corners[task, 0]) + 2, float(corners[task, 1]) + 0.95 * canvas.font
        if is_far[task]:
            middle = corners[task] + sizes[task] / 2
            ends = {"x1": float(points[task, 0]), "y1": float(points[task, 1])}
            written.append(element("line", class_="leader", x2=float(middle[0]), y2=float(middle[1]), **ends))
        look = "name on-path" if task in on_path else "name"
        written.append(element("text", text, x=x, y=y, class_=look, font_size=canvas.font, aria_hidden="true"))
    return written
