"""The source graph: what is drawn, that names can be read, and that distances are kept."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_seqtransfer.planning.problem import SequenceProblem
from nnunet_seqtransfer.report.graph_figure import MAX_SOURCES, draw_graph, place

SIX, MANY = 7, 85


def problem_of(tasks: int, counted: bool = True) -> SequenceProblem:
    """Tasks in clusters of about twelve; the last one is the target."""
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 1, (max(2, tasks // 12), 6))
    points = centres[np.arange(tasks) % len(centres)] + rng.normal(0, 0.25, (tasks, 6))
    table = np.linalg.norm(points[:, None] - points[None], axis=-1) / 3
    names = [f"Dataset{101 + i}_Centre{i % 7}Task{i}" for i in range(tasks - 1)] + ["Dataset004_Target"]
    counts = [int(count) for count in rng.integers(2, 500, tasks)] if counted else None
    return SequenceProblem.checked(names, table, tasks - 1, counts)


def names_on(figure: Figure) -> list[mpl.text.Text]:
    """The names of tasks; arrows are texts without words."""
    return [text for text in figure.axes[0].texts if text.get_text()]


@pytest.mark.parametrize("tasks", [SIX, MANY])
@pytest.mark.parametrize("width", [9.0, 3.7])
def test_names_cover_neither_each_other_nor_the_edge_of_the_page(tasks: int, width: float) -> None:
    """Names lie inside of the page; next to none cover each other; with few tasks each has its name."""
    figure = draw_graph(problem_of(tasks), (0, 1, tasks - 1), width=width)
    FigureCanvasAgg(figure).draw()
    texts = names_on(figure)
    assert len(texts) == tasks if tasks == SIX else 3 <= len(texts) <= MAX_SOURCES + 1
    boxes, page = [text.get_window_extent() for text in texts], figure.bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)
    covering = sum(
        min(a.x1, b.x1) - max(a.x0, b.x0) > 2 and min(a.y1, b.y1) - max(a.y0, b.y0) > 2
        for i, a in enumerate(boxes)
        for b in boxes[:i]
    )
    assert covering <= (0 if tasks == SIX else 3)


def test_the_path_is_bold_and_its_names_are_whole() -> None:
    """On wide figures names are written out, on narrow ones numbers; the path stands out."""
    for width, expected in ((9.0, "101 Centre0Task0"), (3.7, "101")):
        texts = names_on(draw_graph(problem_of(SIX), (0, 1, 6), width=width))
        bold = {text.get_text() for text in texts if text.get_fontweight() == "bold"}
        assert len(bold) == 3 and expected in bold


def test_hover_texts_say_what_is_known() -> None:
    """Name, cases and distance of each task."""
    problem = problem_of(SIX)
    tips = [line.get_gid() for line in draw_graph(problem, (6,)).axes[0].lines if line.get_gid()]
    assert len(tips) == SIX
    assert problem.case_counts is not None
    for name, count, distance in zip(problem.names[:6], problem.case_counts, problem.distances[:, 6], strict=False):
        (tip,) = [tip for tip in tips if name in tip]
        assert f"{count} labelled case" in tip and f"{distance:.3f}" in tip


def test_more_cases_are_larger_markers() -> None:
    """Without counts all markers are alike."""
    for counted in (True, False):
        problem = problem_of(SIX, counted)
        drawn = [line for line in draw_graph(problem, (6,)).axes[0].lines if line.get_gid()][:6]
        sizes = np.asarray([line.get_markersize() for line in drawn])
        order = np.argsort(problem.case_counts[:6]) if problem.case_counts else np.arange(6)
        assert (np.diff(sizes[order]) >= 0).all() and (np.ptp(sizes) > 0) == counted


def test_communities_and_another_plan_are_shown_if_there_are_any() -> None:
    """Legend, markers and a dashed arrow; without them one look for all sources."""
    problem = problem_of(SIX)
    plain = draw_graph(problem, (0, 6))
    assert [text.get_text() for text in plain.legends[0].get_texts()] == ["target", "path", "nearest tasks"]
    rich = draw_graph(problem, (0, 6), ((0, 1, 2), (3, 4, 5)), proposed=(1, 2, 6))
    labels = [text.get_text() for text in rich.legends[0].get_texts()]
    assert labels[2:5] == ["planned path", "community 1: 3 sources", "community 2: 3 sources"]
    markers = [{line.get_marker() for line in figure.axes[0].lines if line.get_gid()} for figure in (plain, rich)]
    assert [len(found) for found in markers] == [2, 3]


@pytest.mark.parametrize("seed", range(5))
def test_points_in_the_plane_are_found_again(seed: int) -> None:
    """Distances that fit into two dimensions are kept, unless tasks would cover each other."""
    corners = np.asarray([[0, 0], [4, 0], [4, 3], [0, 3], [2, 1.4]])
    corners = corners + np.random.default_rng(seed).normal(0, 0.2, (5, 2))
    table = np.linalg.norm(corners[:, None] - corners[None], axis=-1)
    points, stress = place(table)
    assert np.linalg.norm(points[:, None] - points[None], axis=-1) == pytest.approx(table, abs=0.02)
    assert stress < 0.01 and points[-1, 0] >= -1e-9


def test_random_distances_have_a_high_stress() -> None:
    """What two dimensions cannot hold is said."""
    table = np.random.default_rng(0).random((30, 30))
    table = (table + table.T) / 2
    np.fill_diagonal(table, 0)
    points, stress = place(table)
    assert 0.2 < stress < 0.45 and np.isfinite(points).all()


def test_tasks_that_coincide_are_moved_apart() -> None:
    """All distances 0, and pairs without a distance, still give markers that can be told apart."""
    for table in (np.zeros((6, 6)), np.where(np.eye(6), 0.0, np.inf)):
        problem = SequenceProblem.checked([f"Dataset{100 + k}_X" for k in range(6)], table, 5)
        drawn = [line for line in draw_graph(problem, (0, 5)).axes[0].lines if line.get_gid()]
        points = np.asarray([line.get_xydata()[0] for line in drawn])
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1000 * np.eye(6)
        assert np.isfinite(points).all() and apart.min() > drawn[0].get_markersize()
