"""The heat map of an affinity."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.storage import replacing

mpl.use("agg")
import matplotlib.pyplot as plt


def draw_heatmap(affinity: Affinity, path: Path) -> None:
    """Draws all distances, tasks sorted by their distance to the target, as a PNG; numbers up to 20 tasks."""
    order = [len(affinity.names) - 1, *affinity.ranking()]
    distances = affinity.matrix()[np.ix_(order, order)]
    names = [affinity.names[i].removeprefix("Dataset") for i in order]
    side = min(24.0, 3.5 + 0.55 * len(names))
    figure, axes = plt.subplots(figsize=(side + 1, side), layout="constrained")
    try:
        finite = np.where(np.isfinite(distances), distances, np.nan)
        image = axes.imshow(finite, cmap="viridis_r", vmin=0)
        small = len(names) > 20
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", fontsize=6 if small else 9)
        axes.set_yticks(range(len(names)), names, fontsize=6 if small else 9)
        axes.set_xlabel("to")
        axes.set_ylabel("from")
        axes.set_title(f"Distances around {names[0]} ({affinity.metric}, {affinity.configuration}); dark is far")
        if not small:
            _write_numbers(axes, finite)
        figure.colorbar(image, label=f"distance ({affinity.metric})", shrink=0.8)
        with replacing(path) as aside:
            figure.savefig(aside, dpi=150)
    finally:
        plt.close(figure)


def _write_numbers(axes: plt.Axes, distances: np.ndarray) -> None:
    middle = np.nanmax(distances) / 2
    for (i, j), value in np.ndenumerate(distances):
        if np.isfinite(value):
            axes.text(
                j, i, f"{value:.2f}", ha="center", va="center", fontsize=8, color="white" if value > middle else "black"
            )
