"""The source graph: tasks on a plane, near if alike, with the path that is trained and the one that is planned."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from nnunet_seqtransfer.planning.problem import SequenceProblem
from nnunet_seqtransfer.report.figures import COMMUNITIES, EDGE, INK, PAPER, PATH, STYLE, tip
from nnunet_seqtransfer.report.words import counted, decimals, number, short

MARKERS = ("o", "s", "^", "D", "v", "P", "h", "X", "p")
"""One per community, in addition to the colour. Further communities combine them differently."""
FULL_NAMES = 25
"""Names are written out up to this many tasks. With more tasks, only numbers that cover nothing are written."""
MAX_SOURCES = 60
"""Sources drawn at most, nearest to the target first."""
EDGES = 3
"""Edges drawn per task, shortest first."""
Points = NDArray[np.float64]
Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class _Layout:
    """Tasks on paper. All numbers are in points (1/72 inch)."""

    axes: Axes
    problem: SequenceProblem
    kept: list[int]
    "Tasks that are drawn."
    points: Points
    "(n, 2) centres."
    areas: Points
    "(n,) marker areas in points squared."
    path: list[int]
    "Places of the trained path in ``kept``."
    proposed: list[int]
    "Places of the planned path in ``kept``, empty if it is the trained one."


@mpl.rc_context(STYLE)
def draw_graph(
    problem: SequenceProblem,
    path: Sequence[int],
    communities: Sequence[Sequence[int]] = (),
    *,
    proposed: Sequence[int] = (),
    width: float = 9.0,
) -> Figure:
    """Draw the nearest sources around the target.

    Args:
        problem: tasks and distances.
        path: tasks on the trained path, the target last.
        communities: sources by community if the strategy has any. Each gets a colour and a marker.
        proposed: the planned path if it differs, drawn dashed.
        width: inches. Below 5, tasks are numbered instead of named.
    """
    kept = _nearest(problem, {*path, *proposed})
    points = place(problem.distances[np.ix_(kept, kept)])
    reach = np.maximum(np.ptp(points, axis=0), 1e-9)
    tallest = 0.42 if len(kept) <= FULL_NAMES and width >= 5 else 0.62 if width >= 5 else 1.0
    height = width * float(np.clip(0.8 * reach[1] / reach[0], 0.3, tallest)) + 0.7
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0.01, 0.55 / height, 0.98, 1 - 0.6 / height))
    areas = _areas(problem, kept, 1.0 if width >= 5 else 0.6)
    ways = [[kept.index(task) for task in way] for way in (path, proposed)]
    room = np.sqrt(areas)[:, None] / 2 + np.sqrt(areas) / 2 + 4
    for one, two in (*pairwise(ways[0]), *pairwise(ways[1])):
        room[one, two] = room[two, one] = room[one, two] + 16  # so that the arrow between them can be seen
    points = _spread(_fit(points, figure, axes, named=width >= 5), room)
    layout = _Layout(axes, problem, kept, points, areas, *ways)
    _draw_edges(layout)
    _draw_path(layout, layout.proposed, "dashed")
    _draw_path(layout, layout.path, "solid")
    _draw_tasks(layout, {task: group for group, members in enumerate(communities) for task in members})
    _write_names(layout, full=width >= 5)
    handles = _legend(path, proposed, communities)
    figure.legend(handles=handles, loc="lower left", ncols=len(handles) if width >= 5 else 2, handletextpad=0.5)
    return figure


def place(distances: Points) -> Points:
    """Place tasks on a plane so that their distances are kept as well as two dimensions allow.

    Both directions in ``distances``, (n, n), are averaged; inf counts as a bit farther than the farthest pair.

    Returns (n, 2) points by metric multidimensional scaling (SMACOF), the last task on the right half.
    """
    from sklearn.manifold import smacof  # noqa: PLC0415 - slow import

    wanted = (distances + distances.T) / 2
    np.fill_diagonal(wanted, 0.0)
    finite = np.isfinite(wanted)
    # tasks without a distance must lie somewhere
    wanted = np.where(finite, wanted, 1.2 * wanted[finite].max() or 1.0)
    points = np.zeros((len(wanted), 2))
    if wanted.any():
        points = np.asarray(smacof(wanted, n_components=2, n_init=4, random_state=0, normalized_stress=False)[0])
    points = points - points.mean(axis=0)
    # the solution may be turned and mirrored freely: the long side lies flat
    points = points @ np.linalg.svd(points, full_matrices=False)[2].T
    return np.asarray(points * np.where(points[-1] < 0, [-1, 1], 1))


def _spread(points: Points, room: Points) -> Points:
    """Push tasks apart that are nearer than their ``room``, an (n, n) table."""
    spread = points + 1e-6 * np.arange(len(points))[:, None]  # tasks that coincide need a direction
    for _ in range(200):
        step = spread[:, None] - spread[None]
        length = np.linalg.norm(step, axis=-1)
        is_near = (length < 0.999 * room) & (length > 0)
        if not is_near.any():
            break
        push = np.divide((room - length) / 4, length, out=np.zeros_like(length), where=is_near)
        spread = spread + (step * push[..., None]).sum(axis=1)
    return spread


def _nearest(problem: SequenceProblem, chosen: set[int]) -> list[int]:
    """Return the nearest sources and those on the paths, then the target."""
    to_target = problem.distances[:, problem.target]
    order = sorted(problem.sources, key=lambda task: (task not in chosen, to_target[task], problem.names[task]))
    return [*sorted(order[:MAX_SOURCES]), problem.target]


def _fit(points: Points, figure: Figure, axes: Axes, *, named: bool) -> Points:
    """Scale points to the axes in points (1/72 inch) with equal scales, and leave room for names."""
    width, height = figure.get_size_inches() * 72 * axes.get_position().size
    # names are written on both sides of the outermost markers
    margin_x, margin_y = (0.14 * width if named else 26.0), 22.0
    reach = np.maximum(np.ptp(points, axis=0), 1e-9)
    scale = min((width - 2 * margin_x) / reach[0], (height - 2 * margin_y) / reach[1])
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    return np.asarray((points - (points.max(axis=0) + points.min(axis=0)) / 2) * scale + [width / 2, height / 2])


def _areas(problem: SequenceProblem, kept: Sequence[int], scale: float) -> Points:
    """Return marker areas in points squared: 100 times the cases give 10 times the area."""
    counts = np.asarray(problem.case_counts or (1,) * len(problem.names), dtype=np.float64)[list(kept)]
    largest = 260 if len(kept) <= FULL_NAMES else 100
    return np.asarray(scale * (28 + largest * np.sqrt(counts / counts.max())))


def _draw_edges(layout: _Layout) -> None:
    """Join each task to the nearest ones. Width falls with distance."""
    table = layout.problem.distances[np.ix_(layout.kept, layout.kept)]
    table = (table + table.T) / 2
    np.fill_diagonal(table, np.inf)
    pairs = {
        (min(i, int(j)), max(i, int(j)))
        for i, row in enumerate(table)
        for j in np.argsort(row, kind="stable")[:EDGES]
        if np.isfinite(row[j])
    }
    # widths compare drawn edges only
    longest = max((table[pair] for pair in pairs), default=1.0) or 1.0
    for i, j in sorted(pairs):
        look: dict[str, Any] = {"linewidth": 0.5 + 2.0 * (1 - table[i, j] / longest), "solid_capstyle": "round"}
        layout.axes.plot(*layout.points[[i, j]].T, color=EDGE, alpha=0.6, zorder=1, **look)


def _draw_path(layout: _Layout, places: Sequence[int], look: str) -> None:
    for one, two in pairwise(places):
        arrow: dict[str, Any] = {"arrowstyle": "-|>", "color": PATH, "linewidth": 2.2, "mutation_scale": 14}
        gaps = (np.sqrt(layout.areas[k]) / 2 + 2 for k in (one, two))
        arrow |= {"linestyle": look, **dict(zip(("shrinkA", "shrinkB"), gaps, strict=True))}
        layout.axes.annotate("", tuple(layout.points[two]), tuple(layout.points[one]), arrowprops=arrow, zorder=2)


def _draw_tasks(layout: _Layout, group: dict[int, int]) -> None:
    for k, task in enumerate(layout.kept):
        colour, marker = _look(group.get(task, 0))
        look: dict[str, Any] = {"marker": marker, "markersize": np.sqrt(layout.areas[k]), "markerfacecolor": colour}
        look |= {"markeredgecolor": PAPER, "markeredgewidth": 1.0}
        if task == layout.problem.target:
            look |= {"marker": "*", "markersize": np.sqrt(layout.areas[k]) + 6, "markerfacecolor": INK}
        elif k in layout.path:
            look |= {"markeredgecolor": PATH, "markeredgewidth": 2.2}
        (drawn,) = layout.axes.plot(*layout.points[k], **look, zorder=3)
        tip(drawn, *_about(layout.problem, task))


def _about(problem: SequenceProblem, task: int) -> list[str]:
    """Return what is shown when the pointer rests on a task."""
    lines = [problem.names[task]]
    if problem.case_counts:
        lines.append(counted(problem.case_counts[task], "labelled case"))
    distance = problem.distances[task, problem.target]
    lines.append("the target" if task == problem.target else f"distance to the target {decimals(distance)}")
    described = ("channels", problem.channels), ("labels", problem.labels)
    return lines + [f"{what}: {', '.join(known[task])}" for what, known in described if known]


def _write_names(layout: _Layout, *, full: bool) -> None:
    """Write each name at the first side of the marker that covers nothing. Names on the path come first."""
    few, points, path = len(layout.kept) <= FULL_NAMES, layout.points, layout.path
    font = 9.0 if few else 7.5
    radii = np.sqrt(layout.areas) / 2 + 2
    taken = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(points, radii, strict=True)]
    along = [points[i] * (1 - t) + points[j] * t for i, j in pairwise(path) for t in np.linspace(0, 1, 40)]
    taken += [(x - 2, y - 2, x + 2, y + 2) for x, y in along]  # names should not cover the path
    for k in sorted(range(len(points)), key=lambda k: (k not in path, -radii[k])):
        name = layout.problem.names[layout.kept[k]]
        text = short(name) if full and (few or k in path) else number(name)
        # measured widths would need a drawn figure: letters are about 0.6 of their height wide
        size = 0.6 * font * len(text) * (1.08 if k in path else 1.0), 1.2 * font
        gaps = (1, 7, 14) if few else (1,)
        boxes = [_beside(points[k], radii[k] + gap, size, side) for gap in gaps for side in range(8)]
        covered = [_covered(box, taken, layout.axes) for box in boxes]
        best = int(np.argmin(covered))
        if covered[best] > 0 and not few and k not in path:
            continue  # the number is shown when the pointer rests on the task
        taken.append(boxes[best])
        left, bottom, right, top = boxes[best]
        written = layout.axes.text(
            (left + right) / 2, (bottom + top) / 2, text, ha="center", va="center", fontsize=font
        )
        written.set(fontweight="bold" if k in path else "normal", zorder=4)
        written.set_path_effects([withStroke(linewidth=2, foreground=PAPER)])


def _beside(point: Points, gap: float, size: tuple[float, float], side: int) -> Box:
    """Return the box for a name next to a marker: right, left, above, below, then the corners."""
    across, up = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1))[side]
    gap = gap if not (across and up) else 0.75 * gap
    x, y = point[0] + across * (gap + size[0] / 2), point[1] + up * (gap + size[1] / 2)
    return x - size[0] / 2, y - size[1] / 2, x + size[0] / 2, y + size[1] / 2


def _covered(box: Box, taken: Sequence[Box], axes: Axes) -> float:
    """Return how much a name covers other names and markers or leaves the drawing, in points squared."""
    frame = (axes.get_xlim()[0], axes.get_ylim()[0], axes.get_xlim()[1], axes.get_ylim()[1])
    outside = (box[2] - box[0]) * (box[3] - box[1]) - _overlap(box, frame)
    return round(outside + sum(_overlap(box, other) for other in taken), 3)


def _overlap(one: Box, two: Box) -> float:
    width, height = min(one[2], two[2]) - max(one[0], two[0]), min(one[3], two[3]) - max(one[1], two[1])
    return width * height if width > 0 and height > 0 else 0.0


def _legend(path: Sequence[int], proposed: Sequence[int], communities: Sequence[Sequence[int]]) -> list[Line2D]:
    def marker(shape: str, colour: str, label: str, **more: Any) -> Line2D:
        return Line2D([], [], marker=shape, color=colour, linestyle="none", markersize=9, label=label, **more)

    handles = [marker("*", INK, "target")]
    if len(path) > 1:
        handles.append(Line2D([], [], color=PATH, linewidth=2.2, label="path"))
    if len(proposed) > 1:
        handles.append(Line2D([], [], color=PATH, linewidth=2.2, linestyle="dashed", label="planned path"))
    handles += [
        marker(_look(place)[1], _look(place)[0], f"community {place + 1}: {counted(len(members), 'source')}")
        for place, members in enumerate(communities)
    ]
    return [*handles, Line2D([], [], color=EDGE, linewidth=2, label="nearest tasks")]


def _look(community: int) -> tuple[str, str]:
    """Return colour and marker for a community."""
    turn = community // len(COMMUNITIES)
    return COMMUNITIES[community % len(COMMUNITIES)], MARKERS[(community + turn) % len(MARKERS)]
