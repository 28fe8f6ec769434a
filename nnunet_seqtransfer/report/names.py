"""Names of tasks on the picture of the source graph."""

from __future__ import annotations

from itertools import pairwise

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.nnunet.folders import DATASET_NAME
from nnunet_seqtransfer.planning.problem import SequenceProblem
from nnunet_seqtransfer.report.layout import label_boxes

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.patheffects import withStroke

HALO = [withStroke(linewidth=2.2, foreground="white", alpha=0.85)]
"""Keeps names readable that lie on edges."""


def ring_area(size: float) -> float:
    """Area of the ring around the landmark, whose marker has the area ``size``; points squared."""
    return 2.2 * size + 60


def write_names(
    figure: plt.Figure,
    axes: plt.Axes,
    problem: SequenceProblem,
    points: NDArray[np.float64],
    sizes: NDArray[np.float64],
    chosen: tuple[int, ...],
    *,
    many: bool,
) -> None:
    """Writes the names of tasks where they cover least, on a figure whose axes are complete.

    Args:
        figure: its layout is fixed by this.
        axes: what it shows.
        problem: whose tasks are named.
        points: (n, 2) where they are.
        sizes: (n,) areas of their markers in points squared.
        chosen: tasks on the planned path, in bold.
        many: whether names for which there is no room become numbers, in a smaller font.
    """
    figure.canvas.draw()
    figure.set_layout_engine("none")  # what is measured now stays
    scale = figure.dpi / 72
    centres = axes.transData.transform(points)
    radii = np.sqrt(sizes) / 2 * scale + 1
    radii[problem.target] += 4 * scale
    if len(chosen) > 1:
        radii[chosen[0]] = np.sqrt(ring_area(sizes[chosen[0]])) / 2 * scale + 2
    whole = [name.removeprefix("Dataset").replace("_", " ", 1) for name in problem.names]
    numbers = [match[1] if (match := DATASET_NAME.fullmatch(name)) else name for name in problem.names]
    weights = ["bold" if task in chosen else "normal" for task in range(len(whole))]
    order = sorted(range(len(whole)), key=lambda task: (task not in chosen, -sizes[task]))
    texts = list(whole)
    boxes = np.asarray([_measure(figure, text, weight, many) for text, weight in zip(texts, weights, strict=True)])
    around = (tuple(axes.bbox.extents), _along(centres, chosen))
    corners, is_far, covered = label_boxes(centres, radii, boxes, order, *around)
    if many:
        for task in order:
            if (is_far[task] or covered[task] > 1e-6) and task not in chosen:
                texts[task] = numbers[task]
        boxes = np.asarray([_measure(figure, text, weight, many) for text, weight in zip(texts, weights, strict=True)])
        corners, is_far, covered = label_boxes(centres, radii, boxes, order, *around)
    inverse = axes.transData.inverted()
    for task, text in enumerate(texts):
        if is_far[task]:
            ends = np.asarray([centres[task], corners[task] + boxes[task] / 2])
            axes.plot(*inverse.transform(ends).T, color="0.5", linewidth=0.6, zorder=2)
        place = inverse.transform(corners[task])
        axes.text(
            *place,
            text,
            va="bottom",
            ha="left",
            fontsize=_font(many),
            fontweight=weights[task],
            zorder=6,
            path_effects=HALO,
        )


def _along(centres: NDArray[np.float64], chosen: tuple[int, ...]) -> list[tuple[float, float, float, float]]:
    """Small boxes along the planned path, in pixels."""
    steps = np.linspace(0, 1, 60)[:, None]
    dots = [centres[i] * (1 - steps) + centres[j] * steps for i, j in pairwise(chosen)]
    return [(x - 3, y - 3, x + 3, y + 3) for x, y in np.concatenate(dots or [np.zeros((0, 2))])]


def _measure(figure: plt.Figure, text: str, weight: str, many: bool) -> tuple[float, float]:
    drawn = figure.text(0, 0, text, fontsize=_font(many), fontweight=weight)
    box = drawn.get_window_extent()
    drawn.remove()
    return box.width, box.height


def _font(many: bool) -> float:
    return 7.0 if many else 9.5
