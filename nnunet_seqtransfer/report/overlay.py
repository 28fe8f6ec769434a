"""Overlays: held-out images with the contours of the reference and of several models' predictions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.report.palette import PREDICTION as PREDICTION_COLOUR
from nnunet_seqtransfer.report.palette import REFERENCE as REFERENCE_COLOUR
from nnunet_seqtransfer.storage import replacing

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.lines import Line2D

LINE_STYLES = ("solid", "dashed", "dotted", "dashdot")
"""One for each label; further labels begin anew."""
MARGIN = 6
"""Pixels shown around the reference and the predictions."""


@dataclass(frozen=True)
class OverlayRow:
    """One case."""

    title: str
    "What stands beside it."
    image: NDArray[Any]
    "Shape (height, width)."
    reference: NDArray[Any]
    "Label values, the same shape."
    predictions: tuple[NDArray[Any], ...]
    "Label values, one array for each model."
    captions: tuple[str, ...]
    "What stands above each prediction."


def draw_overlay(rows: Sequence[OverlayRow], labels: Sequence[tuple[str, int]], title: str, path: Path) -> None:
    """Draws each case as a row (the plain image, then one panel for each model) into a PNG.

    ``labels``: names and values; each has its own line style. All panels of a row show the same part of the image.
    """
    columns = 1 + max(len(row.predictions) for row in rows)
    figure, grid = plt.subplots(
        len(rows), columns, figsize=(3.3 * columns, 3.55 * len(rows) + 0.9), layout="constrained", squeeze=False
    )
    try:
        for axes, row in zip(grid, rows, strict=True):
            _draw_row(axes, row, labels)
        figure.suptitle(title, fontsize=12)
        figure.legend(handles=_legend(labels), loc="outside lower center", ncols=2 + len(labels), frameon=False)
        with replacing(path) as aside:
            figure.savefig(aside, dpi=150)
    finally:
        plt.close(figure)


def _draw_row(axes: Sequence[plt.Axes], row: OverlayRow, labels: Sequence[tuple[str, int]]) -> None:
    window = _window((row.reference, *row.predictions))
    image = row.image[window]
    low, high = np.percentile(image, (0.5, 99.5))
    for panel in axes:
        panel.imshow(image, cmap="gray", vmin=low, vmax=high, interpolation="nearest")
        panel.set_xticks([])
        panel.set_yticks([])
    axes[0].set_ylabel(row.title, fontsize=11)
    axes[0].set_title("image", fontsize=10)
    for panel, prediction, caption in zip(axes[1:], row.predictions, row.captions, strict=False):
        panel.set_title(caption, fontsize=10)
        _contours(panel, row.reference[window], labels, REFERENCE_COLOUR, 2.4)
        _contours(panel, prediction[window], labels, PREDICTION_COLOUR, 1.3)


def _contours(
    panel: plt.Axes, segmentation: NDArray[Any], labels: Sequence[tuple[str, int]], colour: str, width: float
) -> None:
    for index, (_, value) in enumerate(labels):
        mask = segmentation == value
        if mask.any() and not mask.all():
            style = LINE_STYLES[index % len(LINE_STYLES)]
            panel.contour(mask.astype(float), [0.5], colors=[colour], linewidths=width, linestyles=style)


def _window(segmentations: Sequence[NDArray[Any]]) -> tuple[slice, slice]:
    """A square part of the image that holds every foreground pixel, with a margin; all of it where there is none."""
    shown = np.any([segmentation > 0 for segmentation in segmentations], axis=0)
    if not shown.any():
        return slice(None), slice(None)
    ends = [(int(found.min()), int(found.max()) + 1) for found in np.nonzero(shown)]
    side = max(stop - start for start, stop in ends) + 2 * MARGIN
    rows, columns = (_stretch(*end, side, length) for end, length in zip(ends, shown.shape, strict=True))
    return rows, columns


def _stretch(start: int, stop: int, side: int, length: int) -> slice:
    """``side`` pixels around those from ``start`` to ``stop``, moved or cut where the image ends."""
    first = max(0, min((start + stop - side) // 2, length - side))
    return slice(first, min(length, first + side))


def _legend(labels: Sequence[tuple[str, int]]) -> list[Line2D]:
    handles = [
        Line2D([], [], color=REFERENCE_COLOUR, linewidth=2.4, label="reference"),
        Line2D([], [], color=PREDICTION_COLOUR, linewidth=1.3, label="prediction"),
    ]
    styles = [LINE_STYLES[index % len(LINE_STYLES)] for index in range(len(labels))]
    return handles + [
        Line2D([], [], color="0.35", linestyle=style, label=name)
        for style, (name, _) in zip(styles, labels, strict=True)
    ]
