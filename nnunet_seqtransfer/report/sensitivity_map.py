"""The picture of where a plan flips: the chosen path for each exponent of a hop and each price of starting small."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np

from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.problem import SequenceProblem
from nnunet_seqtransfer.planning.sensitivity import Sensitivity
from nnunet_seqtransfer.planning.verdict import short_path
from nnunet_seqtransfer.report.saving import save_both

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.collections import PatchCollection
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch, Rectangle

MOST = 8
"""Paths with a colour of their own; those that are chosen at fewer places share one."""
COLOURS = ("#4c78a8", "#f2b447", "#54a24b", "#b279a2", "#9d755d", "#72b7b2", "#e45756", "#ff9da6")
HATCHES = ("", "//", "..", "xx", "\\\\", "oo", "--", "++")
OTHER = "#bab0ac"


def draw_sensitivity(found: Sensitivity, problem: SequenceProblem, model: CostModel, path: Path) -> None:
    """Draws the grid as a PNG, and as an SVG beside it; the constants in use are marked."""
    figure, axes = plt.subplots(figsize=(9, 5.2), layout="constrained")
    try:
        counts = np.bincount(found.grid.ravel(), minlength=len(found.paths))
        shown = sorted(np.flatnonzero(counts), key=lambda place: (-counts[place], place))[:MOST]
        places = np.full(len(found.paths), len(shown))
        places[shown] = np.arange(len(shown))
        grid = places[found.grid]
        _draw_cells(axes, found, grid, len(shown))
        axes.plot(model.start_scale, model.hop_exponent, marker="*", markersize=16, color="white", mec="black", ls="")
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:.3g}")
        axes.set_xlabel("price of starting on a single case (-start_scale)")
        axes.set_ylabel("exponent of a hop (-hop_exponent)")
        axes.set_title(
            f"Cheapest path to {problem.names[problem.target]}; the star marks the constants in use", loc="left"
        )
        names = [short_path([problem.names[task] for task in found.paths[place]]) for place in shown]
        _add_legend(figure, names, others=bool((grid == len(shown)).any()))
        save_both(figure, path)
    finally:
        plt.close(figure)


def _draw_cells(axes: plt.Axes, found: Sensitivity, grid: np.ndarray, count: int) -> None:
    edges = _edges(np.log2(found.start_scales)), _edges(np.asarray(found.exponents))
    columns, rows = 2.0 ** edges[0], edges[1]
    colours = ListedColormap([*COLOURS[:count], OTHER])
    axes.pcolormesh(columns, rows, grid, cmap=colours, vmin=-0.5, vmax=count + 0.5)
    for place in range(count):
        # Hatches beside colours, for readers who cannot tell the colours apart.
        cells = [
            Rectangle((columns[j], rows[i]), columns[j + 1] - columns[j], rows[i + 1] - rows[i])
            for i, j in np.argwhere(grid == place)
        ]
        look: dict[str, Any] = {"facecolor": "none", "edgecolor": "0.2", "linewidth": 0, "hatch": HATCHES[place]}
        axes.add_collection(PatchCollection(cells, **look), autolim=False)


def _edges(centres: np.ndarray) -> np.ndarray:
    """Borders of cells around ``centres``, (k,) rising -> (k + 1,); a single cell is one wide."""
    if len(centres) < 2:
        return np.asarray([centres[0] - 0.5, centres[0] + 0.5])
    middle = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middle[0]], middle, [2 * centres[-1] - middle[-1]]])


def _add_legend(figure: plt.Figure, names: list[str], *, others: bool) -> None:
    handles = [
        Patch(facecolor=COLOURS[place], hatch=HATCHES[place], edgecolor="0.2", linewidth=0, label=name)
        for place, name in enumerate(names)
    ]
    if others:
        handles.append(Patch(facecolor=OTHER, label="other paths"))
    figure.legend(handles=handles, loc="outside right center", frameon=False)
