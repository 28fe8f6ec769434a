"""The picture of the source graph: what it shows, and that its names can be read."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.collections import PathCollection

from nnunet_seqtransfer.planning.problem import SequenceProblem
from nnunet_seqtransfer.report.layout import label_boxes, placed
from nnunet_seqtransfer.report.sourcegraph import COLOURS, MARKERS, draw_graph

SIX = 7
MANY = 85


def problem_of(tasks: int, seed: int = 0, counted: bool = True) -> SequenceProblem:
    """Tasks in clusters of about twelve; the last one is the target."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(0, 1, (max(2, tasks // 12), 6))
    points = centres[np.arange(tasks) % len(centres)] + rng.normal(0, 0.25, (tasks, 6))
    table = np.linalg.norm(points[:, None] - points[None], axis=-1) / 3
    names = [f"Dataset{101 + i}_Centre{i % 7}Task{i}" for i in range(tasks - 1)] + ["Dataset004_Target"]
    counts = [int(count) for count in rng.integers(2, 500, tasks)] if counted else None
    channels = [(("T1", "T2")[i % 2],) for i in range(tasks)]
    return SequenceProblem.checked(names, table, tasks - 1, counts, channels=channels, labels=[("organ",)] * tasks)


def drawn(
    problem: SequenceProblem, chosen: tuple[int, ...], folder: Path, monkeypatch: pytest.MonkeyPatch
) -> plt.Figure:
    """The figure as it was saved."""
    figures: list[plt.Figure] = []
    monkeypatch.setattr(plt, "close", figures.append)
    # Communities of many tasks take seconds, and say nothing about names.
    draw_graph(problem, chosen, None if len(problem.names) == SIX else 1, folder / "graph.png")
    monkeypatch.undo()
    return figures[0]


@pytest.mark.parametrize("tasks", [SIX, MANY])
def test_names_cover_neither_each_other_nor_the_edge_of_the_page(
    tasks: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every task has its name or number once, inside of the page; next to no names cover each other."""
    problem = problem_of(tasks)
    figure = drawn(problem, (0, 1, tasks - 1), tmp_path, monkeypatch)
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    shown = {text.get_text().split(" ")[0] for text in texts}
    assert shown == {name[7:10] for name in problem.names} and len(texts) == tasks
    boxes = [text.get_window_extent() for text in texts]
    page = figure.bbox
    assert all(page.x0 <= box.x0 and box.x1 <= page.x1 and page.y0 <= box.y0 and box.y1 <= page.y1 for box in boxes)
    covering = sum(
        min(a.x1, b.x1) - max(a.x0, b.x0) > 1 and min(a.y1, b.y1) - max(a.y0, b.y0) > 1
        for i, a in enumerate(boxes)
        for b in boxes[:i]
    )
    assert covering <= (0 if tasks == SIX else 2)
    plt.close(figure)


def test_few_tasks_bear_their_whole_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With six sources nothing is shortened, and the path's names are bold."""
    problem = problem_of(SIX)
    figure = drawn(problem, (0, 1, 6), tmp_path, monkeypatch)
    texts = [text for text in figure.axes[0].texts if text.get_text()]
    assert {text.get_text() for text in texts} == {name[7:].replace("_", " ", 1) for name in problem.names}
    bold = {text.get_text()[:3] for text in texts if text.get_fontweight() == "bold"}
    assert bold == {problem.names[task][7:10] for task in (0, 1, 6)}
    plt.close(figure)


def test_more_cases_are_larger_markers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The area of a source's marker rises with its cases; without counts all are alike."""
    problem = problem_of(SIX)
    for given in (problem, problem_of(SIX, counted=False)):
        figure = drawn(given, (6,), tmp_path, monkeypatch)
        points = {}
        for collection in figure.axes[0].collections:
            if isinstance(collection, PathCollection):
                areas = np.broadcast_to(collection.get_sizes(), len(collection.get_offsets()))
                points |= {tuple(place): area for place, area in zip(collection.get_offsets(), areas, strict=True)}
        positions = placed(given.distances)[0]
        areas = [points[tuple(positions[task])] for task in range(6)]
        order = np.argsort(given.case_counts[:6]) if given.case_counts else np.arange(6)
        assert (np.diff(np.asarray(areas)[order]) >= 0).all()
        assert (np.ptp(areas) > 0) == (given.case_counts is not None)
        plt.close(figure)


def test_the_picture_is_a_png_and_an_svg_and_always_the_same(tmp_path: Path) -> None:
    """Nothing else is left behind; drawn again, both have the same bytes."""
    problem = problem_of(SIX)
    draw_graph(problem, (0, 6), 2, tmp_path / "graph.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["graph.png", "graph.svg"]
    first = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    draw_graph(problem, (0, 6), 2, tmp_path / "graph.png")
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == first


@pytest.mark.parametrize("chosen", [(1,), (0, 1)])
def test_a_single_source_is_drawn(tmp_path: Path, chosen: tuple[int, ...]) -> None:
    """Two tasks, at a distance, at none, and with no distance at all."""
    for distance in (1.0, 0.0, np.inf):
        table = np.asarray([[0.0, distance], [distance, 0.0]])
        problem = SequenceProblem.checked(["Dataset021_A", "Dataset004_T"], table, 1, [4, 5])
        draw_graph(problem, chosen, None, tmp_path / "graph.png")
        assert (tmp_path / "graph.png").stat().st_size > 1000


def test_colours_and_markers_tell_communities_apart() -> None:
    """Nine communities, as published, differ in colour and in shape."""
    assert len(set(COLOURS)) == len(set(MARKERS)) == 9


@pytest.mark.parametrize("seed", range(5))
def test_points_in_the_plane_are_found_again(seed: int) -> None:
    """Distances that fit into two dimensions are kept, unless tasks would cover each other."""
    corners = np.asarray([[0, 0], [4, 0], [4, 3], [0, 3], [2, 1.4]]) + np.random.default_rng(seed).normal(
        0, 0.2, (5, 2)
    )
    table = np.linalg.norm(corners[:, None] - corners[None], axis=-1)
    points, stress = placed(table)
    assert np.linalg.norm(points[:, None] - points[None], axis=-1) == pytest.approx(table, abs=1e-3)
    assert stress < 1e-3 and points[-1, 0] >= 0


def test_stress_is_no_higher_than_of_the_classical_solution() -> None:
    """Majorisation only ever lowers it; for random distances it stays high, and says so."""
    table = np.random.default_rng(0).random((30, 30))
    table = (table + table.T) / 2
    np.fill_diagonal(table, 0)
    points, stress = placed(table)
    assert 0.2 < stress < 0.45
    assert np.isfinite(points).all()


def test_tasks_that_coincide_are_moved_apart() -> None:
    """All distances 0, and pairs without a distance, still give points that can be told apart."""
    for table in (np.zeros((6, 6)), np.where(np.eye(6), 0.0, np.inf)):
        points, _ = placed(table)
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + np.eye(6)
        assert np.isfinite(points).all() and apart.min() > 0


def test_a_name_goes_where_there_is_room() -> None:
    """Right of its marker where nothing is; elsewhere where something is; always inside of the frame."""
    frame = (0.0, 0.0, 400.0, 400.0)
    sizes = np.asarray([[60.0, 10.0], [60.0, 10.0]])
    points = np.asarray([[100.0, 100.0], [300.0, 300.0]])
    corners, is_far, covered = label_boxes(points, np.asarray([5.0, 5.0]), sizes, (0, 1), frame)
    assert (corners[0] == pytest.approx([109.0, 95.0])) and not is_far.any() and not covered.any()
    blocked, *_ = label_boxes(points, np.asarray([5.0, 5.0]), sizes, (0, 1), frame, [(105.0, 80.0, 300.0, 120.0)])
    assert blocked[0, 0] + 60 <= 105 or abs(blocked[0, 1] - 100) > 10
    edge, _, covered = label_boxes(points + np.asarray([95, 0]), np.asarray([5.0, 5.0]), sizes, (0, 1), frame)
    assert edge[1, 0] + 60 <= 400 and covered[1] == 0
