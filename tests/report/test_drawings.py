"""Figures of distances, curves, differences and overlays: that they show the data, and only so much of it."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from nnunet_seqtransfer.affinity.record import Affinity, read_affinity
from nnunet_seqtransfer.evaluation.comparison import Comparison, comparison_path, read_comparison
from nnunet_seqtransfer.nnunet.training_log import read_lines
from nnunet_seqtransfer.planning.problem import SequenceProblem
from nnunet_seqtransfer.report.distance_figures import MAX_ROWS as MAX_SHOWN
from nnunet_seqtransfer.report.distance_figures import draw_heat_map, draw_ranking, draw_ranking_and_dice, scale_end
from nnunet_seqtransfer.report.graph_figure import MAX_SOURCES, draw_graph, place
from nnunet_seqtransfer.report.overlay_figure import Overlay, draw_overlays, telling_slices
from nnunet_seqtransfer.report.result_figures import (
    MAX_POINTS,
    MAX_ROWS,
    draw_comparison,
    draw_differences,
    draw_stage,
    drawn_differences,
    thinned,
)
from support import made_run
from support.made_run import NEAR, SMALL, TARGET

KEY = (TARGET, "nnUNetPlans", "3d_fullres")


@pytest.fixture
def affinity(folders: Path) -> Affinity:
    """Three sources."""
    return read_affinity(made_run.write_made_affinity())


@pytest.fixture
def comparison(folders: Path) -> Comparison:
    """Scratch and two paths on eight cases."""
    made_run.write_made_comparison()
    return read_comparison(comparison_path(*KEY))


def test_the_ranking_has_a_bar_for_each_source(affinity: Affinity) -> None:
    """Nearest on top, path in bold, a bracket between sources that cannot be told apart, no bar without a distance."""
    axes = draw_ranking(affinity, (NEAR,)).axes[0]
    assert [bar.get_width() for bar in axes.patches] == [affinity.distances[i][-1] for i in affinity.ranking()]
    bold = [tick.get_text() for tick in axes.get_yticklabels() if tick.get_fontweight() == "bold"]
    assert bold == ["902 Near (6 cases)"] and len(axes.lines) == 3
    unsure = replace(affinity, indistinct=(True, False))
    assert len(draw_ranking(unsure).axes[0].lines) == 4
    rows = tuple((*row[:-1], math.inf) if i == 2 else row for i, row in enumerate(affinity.distances))
    assert len(draw_ranking(replace(affinity, distances=rows)).axes[0].patches) == 2


def test_long_rankings_are_cut(folders: Path) -> None:
    """The nearest sources are drawn, and those of the path wherever they stand."""
    many = read_affinity(made_run.write_made_affinity(sources=[f"Dataset{100 + k}_Source" for k in range(60)]))
    far = many.names[many.ranking()[40]]
    assert len(draw_ranking(many, (far,)).axes[0].patches) == MAX_SHOWN + 1


def test_the_ranking_is_set_against_the_dice(affinity: Affinity, comparison: Comparison) -> None:
    """A row for each source that was trained alone, nearest on top: a bar, a dot for each seed, a line for scratch."""
    assert draw_ranking_and_dice(affinity, comparison) is None, "one source has no ranking"
    planned, other = comparison.arms[1], replace(comparison.arms[2], sources=(SMALL,))
    figure = draw_ranking_and_dice(affinity, replace(comparison, arms=(comparison.arms[0], other, planned)))
    assert figure is not None
    left, right = figure.axes
    assert [tick.get_text()[:3] for tick in left.get_yticklabels()] == ["902", "905"] and len(left.patches) == 2
    scores = {score.arm: np.mean([case.dice for case in score.cases]) for score in comparison.scores}
    assert [line.get_xdata()[0] for line in right.lines] == pytest.approx(
        [scores[planned.name], scores[other.name], scores["scratch"]]
    )


def test_the_heat_map_is_a_lower_triangle(affinity: Affinity) -> None:
    """Each pair once if the distances are symmetric, otherwise both ways; numbers if there are few."""
    axes = draw_heat_map(affinity).axes[0]
    assert len(axes.patches) == len(axes.texts) == 6
    assert {text.get_text() for text in axes.texts} >= {"0.40", f"{affinity.distances[1][3]:.2f}"}
    rows = (tuple(2 * value for value in affinity.distances[0]), *affinity.distances[1:])
    assert len(draw_heat_map(replace(affinity, distances=rows)).axes[0].patches) == 12
    many = read_affinity(made_run.write_made_affinity(sources=[f"Dataset{100 + k}_Source" for k in range(60)]))
    axes = draw_heat_map(many).axes[0]
    assert len(axes.patches) == (MAX_SHOWN + 1) * MAX_SHOWN // 2


def test_a_far_source_does_not_take_the_colour_scale() -> None:
    """The scale ends at a few medians; without outliers at the farthest pair; without distances at 1."""
    end, is_cut = scale_end(np.asarray([0.2, 0.3, 0.4, 0.3, 40.0]))
    assert end < 1 and is_cut
    assert scale_end(np.asarray([0.2, 0.4, 0.3])) == (0.4, False)
    assert scale_end(np.asarray([np.inf])) == scale_end(np.zeros(3)) == (1.0, False)


@pytest.mark.parametrize("epochs", [1, 2, 5, 1000])
def test_curves_have_whole_epochs_and_can_be_seen(epochs: int) -> None:
    """Ticks are whole numbers within the axis; one or two epochs are dots, not empty frames."""
    curve = read_lines(made_run.training_log(epochs, 2).splitlines()).epochs
    figure = draw_stage(curve, ("front", "back"), epochs)
    figure.draw_without_rendering()
    dice, loss = figure.axes
    low, high = loss.get_xlim()
    ticks = [tick for tick in loss.get_xticks() if low <= tick <= high]
    assert ticks and all(tick == int(tick) for tick in ticks)
    assert len(dice.lines) == 3 and len(loss.lines) == 2
    assert all((line.get_marker() == "o") == (epochs < 3) for line in dice.lines)


def test_long_curves_keep_their_last_epoch() -> None:
    """Of many epochs evenly spread ones are drawn, the last among them."""
    curve = read_lines(made_run.training_log(1000, 1).splitlines()).epochs
    drawn = thinned(curve)
    assert len(drawn) <= MAX_POINTS and drawn[-1].number == 999 and len(thinned(curve[:5])) == 5


def test_differences_are_drawn_case_by_case(comparison: Comparison, tmp_path: Path) -> None:
    """A dot for each case, mean and interval for each path, the planned path in bold; written once as a file."""
    figure = draw_differences(comparison)
    assert figure is not None
    axes = figure.axes[0]
    assert len(axes.lines) == 2 * (8 + 2) + 1
    assert [tick.get_fontweight() for tick in axes.get_yticklabels()] == ["bold", "normal"]
    assert [path.name for path in draw_comparison(comparison, tmp_path)] == ["differences.svg", "differences.pdf"]
    assert draw_comparison(replace(comparison, differences=()), tmp_path) == ()


def test_many_differences_are_cut(comparison: Comparison) -> None:
    """The planned path stays, then the largest gains."""
    planned, other = comparison.differences[:2]
    many = [replace(other, arm=f"arm {k}", mean=0.5 + k / 100) for k in range(39)]
    shown = drawn_differences(replace(comparison, differences=(planned, *many)))
    assert len(shown) == MAX_ROWS and shown[0].arm == planned.arm and shown[-1].arm == "arm 38"


def test_a_seed_that_one_path_lacks_is_left_out(comparison: Comparison) -> None:
    """Dots pair what both paths have, as the difference does."""
    more = [replace(score, seed=1) for score in comparison.scores if score.arm != "scratch"]
    more = [replace(one, cases=tuple(replace(case, dice=0.9) for case in one.cases)) for one in more]
    figures = [draw_differences(replace(comparison, scores=(*comparison.scores, *extra))) for extra in ((), more)]
    one, two = ([tuple(line.get_xdata()) for line in figure.axes[0].lines] for figure in figures if figure)
    assert one == two


def volume() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Image, reference and prediction; slice 5 has the largest structure, slice 3 most wrong pixels."""
    reference = np.zeros((12, 30, 40), dtype=np.int16)
    reference[2:9, 10:16, 10:16] = 1
    reference[5, 8:18, 8:18] = 1
    prediction = reference.copy()
    prediction[3] = 0
    prediction[3, 20:27, 30:37] = 1
    return np.random.default_rng(0).normal(size=(1, *reference.shape)).astype(np.float32), reference, prediction


def test_slices_are_cut_across_the_widest_spacing() -> None:
    """The largest cross-section and the most wrong slice, across the thick axis; pixels keep their proportions."""
    image, reference, prediction = volume()
    cuts = telling_slices(image, reference, prediction, (3.0, 1.0, 2.0))
    assert [cut.title for cut in cuts] == ["largest cross-section, slice 6 of 12", "most wrong pixels, slice 4 of 12"]
    assert all(cut.image.shape == cut.reference.shape == cut.prediction.shape for cut in cuts)
    assert cuts[0].aspect == 0.5 and cuts[0].reference.sum() == 100 and cuts[1].prediction.sum() == 49
    (same,) = telling_slices(image, reference, reference, (3.0, 1.0, 2.0))
    assert same.title.startswith("largest cross-section")
    with pytest.raises(ValueError, match="prediction"):
        telling_slices(image, reference, prediction[1:], (3.0, 1.0, 2.0))


def test_the_reference_chooses_the_slice() -> None:
    """A prediction that is larger elsewhere does not, unless the reference is empty."""
    image, reference, prediction = volume()
    prediction[11] = 1
    first, *_ = telling_slices(image, reference, prediction, (3.0, 1.0, 1.0))
    assert first.title == "largest cross-section, slice 6 of 12"
    first, *_ = telling_slices(image, np.zeros_like(reference), prediction, (3.0, 1.0, 1.0))
    assert first.title.endswith("slice 12 of 12")


def test_voxels_that_nobody_annotated_do_not_choose_the_slice() -> None:
    """Voxels with the ignore label are neither structure nor wrong, and the picture is cut around what is known."""
    image, reference, prediction = volume()
    reference[9], prediction[9] = 2, 1
    known = telling_slices(image, reference, prediction, (3.0, 1.0, 1.0), ignore=2)
    assert [cut.title[-13:] for cut in known] == ["slice 6 of 12", "slice 4 of 12"]
    unaware = telling_slices(image, reference, prediction, (3.0, 1.0, 1.0))
    assert [cut.title[-14:] for cut in unaware] == ["slice 10 of 12"]


def test_a_volume_cut_from_the_side_stands_upright() -> None:
    """If slices are not axial, the last row of the volume, the head, is on top."""
    reference = np.zeros((20, 20, 6), dtype=np.int16)
    reference[15:18, 5:15, 2:4] = 1
    image = np.zeros((1, *reference.shape), dtype=np.float32)
    image[0, 19] = 1
    (cut, *_) = telling_slices(image, reference, reference, (1.0, 1.0, 4.0))
    rows = np.flatnonzero(cut.reference.any(axis=1))
    assert cut.image[0].max() == 255 and rows.mean() < len(cut.reference) / 2


def test_overlays_draw_reference_and_predictions() -> None:
    """A row for each slice: image, reference, predictions on the reference; a legend names labels and colours."""
    square = np.zeros((32, 32), dtype=np.uint8)
    square[0:20, 10:20] = 1
    grey, empty = square * 100, np.zeros_like(square)
    rows = [Overlay("case", grey, square, square, "one"), Overlay("no", grey, empty, empty, "")]
    figure = draw_overlays(rows, [("object", (1,)), ("other", (2,))])
    assert [len(axes.collections) for axes in figure.axes] == [0, 1, 2, 0, 0, 0]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["reference", "prediction", "object", "other"]
    assert figure.axes[0].get_title() == "" and figure.axes[0].get_title(loc="left") == "case, image"


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
    points = place(table)
    assert np.linalg.norm(points[:, None] - points[None], axis=-1) == pytest.approx(table, abs=0.02)
    assert points[-1, 0] >= -1e-9


def test_tasks_that_coincide_are_moved_apart() -> None:
    """All distances 0, and pairs without a distance, still give markers that can be told apart."""
    for table in (np.zeros((6, 6)), np.where(np.eye(6), 0.0, np.inf)):
        problem = SequenceProblem.checked([f"Dataset{100 + k}_X" for k in range(6)], table, 5)
        drawn = [line for line in draw_graph(problem, (0, 5)).axes[0].lines if line.get_gid()]
        points = np.asarray([line.get_xydata()[0] for line in drawn])
        apart = np.linalg.norm(points[:, None] - points[None], axis=-1) + 1000 * np.eye(6)
        assert np.isfinite(points).all() and apart.min() > drawn[0].get_markersize()
