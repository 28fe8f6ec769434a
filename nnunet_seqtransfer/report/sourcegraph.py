"""The picture of the source graph: communities, landmark and chosen path; near on paper is near in distance."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.planning.problem import SequenceProblem
from nnunet_seqtransfer.planning.published import default_communities, find_communities, source_graph
from nnunet_seqtransfer.report.layout import placed
from nnunet_seqtransfer.report.names import ring_area, write_names
from nnunet_seqtransfer.report.palette import COMMUNITIES as COLOURS
from nnunet_seqtransfer.report.palette import PATH, TARGET
from nnunet_seqtransfer.report.saving import save_both

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

MARKERS = ("o", "s", "^", "D", "v", "P", "h", "X", "p")
"""One for each community, beside its colour; for further communities both begin anew, shifted against each other."""
FEW = 20
"""Up to so many tasks every name is written out; above, numbers, and names where there is room."""
MOST = 100
"""Sources that are drawn, the nearest to the target; more do not fit a page."""
EDGES = 3
"""Of each source its so many strongest edges are drawn."""


def draw_graph(problem: SequenceProblem, chosen: tuple[int, ...], communities: int | None, path: Path) -> None:
    """Draws the graph as a PNG, and as an SVG beside it.

    Args:
        problem: the tasks.
        chosen: the planned path, the target last.
        communities: how many to split the sources into; None for `published.default_communities`.
        path: of the PNG.
    """
    small, chosen = _nearest(problem, chosen)
    graph = source_graph(small)
    parts = find_communities(small, graph, communities or default_communities(len(small.sources)))
    points, stress = placed(small.distances)
    many = len(small.names) > FEW
    sizes = _sizes(small)
    figure, axes = plt.subplots(figsize=_page(points, many=many), layout="constrained")
    try:
        _draw_edges(axes, graph, points)
        _draw_tasks(axes, small, parts, points, sizes)
        _draw_chosen(axes, points, sizes, chosen)
        axes.set_aspect("equal", adjustable="datalim")
        axes.margins(0.14)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        axes.set_title(_title(problem, small, parts), loc="left")
        axes.set_xlabel(f"Near on paper is near in distance (stress {stress:.2f}; 0 would be exact)")
        _add_legend(figure, small, parts, chosen)
        write_names(figure, axes, small, points, sizes, chosen, many=many)
        save_both(figure, path)
    finally:
        plt.close(figure)


def _nearest(problem: SequenceProblem, chosen: tuple[int, ...]) -> tuple[SequenceProblem, tuple[int, ...]]:
    """The problem and path with the nearest sources, those of the path, and last the target."""
    to_target = problem.distances[:, problem.target]
    order = sorted(problem.sources, key=lambda task: (task not in chosen, to_target[task], problem.names[task]))
    kept = (*sorted(order[:MOST]), problem.target)

    def some(entries: tuple[Any, ...] | None) -> list[Any] | None:
        return None if entries is None else [entries[task] for task in kept]

    small = SequenceProblem.checked(
        [problem.names[task] for task in kept],
        problem.distances[np.ix_(kept, kept)],
        len(kept) - 1,
        some(problem.case_counts),
        channels=some(problem.channels),
        labels=some(problem.labels),
    )
    return small, tuple(kept.index(task) for task in chosen)


def _page(points: NDArray[np.float64], *, many: bool) -> tuple[float, float]:
    """Width and height in inches: as flat as the tasks lie, with room for the legend."""
    width = 14.0 if many else 11.0
    extent = np.ptp(points, axis=0)
    height = 0.75 * width * float(extent[1] / extent[0]) + 2 if extent[0] > 0 else width
    return width, float(np.clip(height, 5.5 if len(points) < FEW else 7.5, 0.8 * width))


def _sizes(problem: SequenceProblem) -> NDArray[np.float64]:
    """(n,) marker areas in points squared, by the root of the cases: a hundredfold is ten times the area."""
    counts = np.asarray(problem.case_counts or (1,) * len(problem.names), dtype=np.float64)
    most = 500 if len(problem.names) <= FEW else 260
    return np.asarray(30 + most * np.sqrt(counts / counts.max()))


def _draw_edges(axes: plt.Axes, graph: Any, points: NDArray[np.float64]) -> None:
    """Each source's strongest edges; the width falls with the distance."""
    drawn: dict[frozenset[int], float] = {}
    for task in graph:
        nearest = sorted(graph.edges(task, data="distance"), key=lambda edge: (edge[2], edge[1]))[:EDGES]
        drawn |= {frozenset((one, two)): distance for one, two, distance in nearest}
    longest = max(drawn.values(), default=1.0) or 1.0
    for pair, distance in drawn.items():
        one, two = sorted(pair)
        width = 0.4 + 3.2 * (1 - distance / longest)
        axes.plot(*points[[one, two]].T, color="0.75", linewidth=width, zorder=1, solid_capstyle="round")


def _draw_tasks(
    axes: plt.Axes,
    problem: SequenceProblem,
    communities: tuple[tuple[int, ...], ...],
    points: NDArray[np.float64],
    sizes: NDArray[np.float64],
) -> None:
    for number, members in enumerate(communities):
        colour, marker = _look(number)
        some = list(members)
        axes.scatter(*points[some].T, s=sizes[some], c=colour, marker=marker, edgecolors="white", zorder=3)
    target = problem.target
    axes.scatter(*points[target], s=sizes[target] + 160, c=TARGET, marker="*", edgecolors="white", zorder=4)


def _draw_chosen(
    axes: plt.Axes, points: NDArray[np.float64], sizes: NDArray[np.float64], chosen: tuple[int, ...]
) -> None:
    for task, following in pairwise(chosen):
        arrow = {"arrowstyle": "-|>", "color": PATH, "linewidth": 2.4, "mutation_scale": 18}
        gaps = {"shrinkA": float(np.sqrt(sizes[task]) / 2 + 3), "shrinkB": float(np.sqrt(sizes[following]) / 2 + 3)}
        axes.annotate("", points[following], points[task], arrowprops=arrow | gaps, zorder=5)
    if len(chosen) > 1:
        landmark = chosen[0]
        ring = {"facecolors": "none", "edgecolors": PATH, "linewidths": 2.4}
        axes.scatter(*points[landmark], s=ring_area(sizes[landmark]), marker="o", zorder=5, **ring)


def _add_legend(
    figure: plt.Figure, problem: SequenceProblem, communities: tuple[tuple[int, ...], ...], chosen: tuple[int, ...]
) -> None:
    def marker(shape: str, colour: str, label: str, area: float = 80.0, **more: Any) -> Line2D:
        look: dict[str, Any] = {
            "marker": shape,
            "color": colour,
            "markersize": float(np.sqrt(area)),
            "linestyle": "none",
        }
        return Line2D([], [], label=label, **(look | more))

    handles = [marker("*", TARGET, "target", 200)]
    if len(chosen) > 1:
        handles.append(Line2D([], [], color=PATH, linewidth=2.4, label="planned path"))
        handles.append(marker("o", "none", "its landmark", 200, markeredgecolor=PATH, markeredgewidth=2.4))
    for number, members in enumerate(communities):
        colour, shape = _look(number)
        count = f"{len(members)} source{'' if len(members) == 1 else 's'}"
        handles.append(marker(shape, colour, f"community {number + 1}: {count}"))
    if len(problem.sources) > 1:
        handles.append(Line2D([], [], color="0.75", linewidth=3, label="strongest affinities"))
    if problem.case_counts:
        counts, sizes = np.asarray(problem.case_counts), _sizes(problem)
        for task in dict.fromkeys((int(counts.argmax()), int(counts.argmin()))):
            handles.append(marker("o", "0.6", f"{counts[task]} cases", float(sizes[task])))
    figure.legend(handles=handles, loc="outside right upper", frameon=False, labelspacing=1.3)


def _look(number: int) -> tuple[str, str]:
    again = number // len(COLOURS)
    return COLOURS[number % len(COLOURS)], MARKERS[(number + again) % len(MARKERS)]


def _title(problem: SequenceProblem, small: SequenceProblem, communities: tuple[tuple[int, ...], ...]) -> str:
    name = problem.names[problem.target].removeprefix("Dataset").replace("_", " ", 1)
    shown, known = len(small.sources), len(problem.sources)
    which = f"{shown} source{'' if shown == 1 else 's'}"
    if shown < known:
        which = f"The nearest {shown} of {known} sources"
    count = f"{len(communities)} communit{'y' if len(communities) == 1 else 'ies'}"
    return f"{which} of {name} in {count}"
