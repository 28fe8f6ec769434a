"""The picture of where a plan flips."""

from __future__ import annotations

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest

from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.problem import SequenceProblem
from nnunet_seqtransfer.planning.sensitivity import Sensitivity, sensitivity
from nnunet_seqtransfer.report.sensitivity_map import MOST, draw_sensitivity


def legend(figure: plt.Figure) -> list[str]:
    """What the legend says."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def drawn(found: Sensitivity, problem: SequenceProblem, folder: Path, monkeypatch: pytest.MonkeyPatch) -> plt.Figure:
    """The figure as it was saved."""
    figures: list[plt.Figure] = []
    monkeypatch.setattr(plt, "close", figures.append)
    draw_sensitivity(found, problem, CostModel(), folder / "flips.png")
    monkeypatch.undo()
    return figures[0]


def test_every_chosen_path_has_its_field(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells hold the path chosen there, the legend names each path, and the star stands on the constants in use."""
    places = np.asarray([0.0, 0.5, 1.0])
    names = ["Dataset021_A", "Dataset024_B", "Dataset004_T"]
    problem = SequenceProblem.checked(names, np.abs(np.subtract.outer(places, places)), 2, [400, 30, 6])
    found = sensitivity(problem, CostModel(), 2)
    figure = drawn(found, problem, tmp_path, monkeypatch)
    labels = legend(figure)
    assert len(labels) == len(np.unique(found.grid)) > 1 and set(labels) <= {
        "21 -> 24",
        "21 alone",
        "24 alone",
        "scratch",
    }
    mesh = figure.axes[0].collections[0].get_array()
    assert np.asarray(mesh).shape == found.grid.shape
    for value in np.unique(found.grid):
        assert len(np.unique(np.asarray(mesh)[found.grid == value])) == 1
    star = figure.axes[0].lines[0].get_xydata()[0]
    assert tuple(star) == (2.5, 2.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["flips.png", "flips.svg"]
    plt.close(figure)


def test_rare_paths_share_a_colour(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More paths than colours: the most frequent have their own, the rest are told to be others."""
    count = MOST + 4
    names = [f"Dataset{i:03}_X" for i in range(1, count + 1)] + ["Dataset900_T"]
    problem = SequenceProblem.checked(names, np.ones((count + 1, count + 1)), count, [5] * (count + 1))
    grid = np.asarray([list(range(count)), [0] * count])
    paths = tuple((i, count) for i in range(count))
    scales = tuple(float(i) for i in range(1, count + 1))
    figure = drawn(Sensitivity((1.0, 2.0), scales, paths, grid, (), ()), problem, tmp_path, monkeypatch)
    assert len(legend(figure)) == MOST + 1 and legend(figure)[-1] == "other paths" and legend(figure)[0] == "1 alone"
    plt.close(figure)


def test_a_single_cell_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One exponent and one price."""
    problem = SequenceProblem.checked(["Dataset021_A", "Dataset004_T"], np.ones((2, 2)), 1, [5, 5])
    figure = drawn(
        Sensitivity((2.0,), (2.5,), ((0, 1),), np.zeros((1, 1), int), (), ()), problem, tmp_path, monkeypatch
    )
    assert legend(figure) == ["21 alone"]
    plt.close(figure)
