"""The ranking of the sources as a picture: distances to the target with their intervals."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.storage import replacing

mpl.use("agg")
import matplotlib.pyplot as plt

_MOST = 60
"""Sources that are drawn, the nearest; more do not fit a page."""


def draw_ranking(affinity: Affinity, path: Path) -> None:
    """Draws the distances to the target with their 95 % intervals, nearest on top, as a PNG.

    A bracket on the right joins neighbours that the cases cannot tell apart.
    """
    order = affinity.ranking()[:_MOST]
    distances = np.asarray([affinity.distances[i][-1] for i in order])
    ends = np.asarray([(affinity.low[i], affinity.high[i]) for i in order])
    known = np.isfinite(ends).all(axis=1) & np.isfinite(distances)
    places = np.arange(len(order))
    figure, axes = plt.subplots(figsize=(9, 1.6 + 0.36 * len(order)), layout="constrained")
    try:
        axes.hlines(places[known], ends[known, 0], ends[known, 1], color="tab:blue", linewidth=6, alpha=0.3)
        axes.plot(distances, places, "o", color="tab:blue")
        axes.set_yticks(places, [_name(affinity, i) for i in order])
        axes.set_ylim(len(order) - 0.4, -0.6)
        axes.set_xlim(left=0)
        axes.set_xlabel(f"distance ({affinity.metric}), with 95 % interval over cases")
        axes.set_title(f"Sources of {affinity.target.removeprefix('Dataset')}, nearest first", loc="left")
        axes.grid(axis="x", alpha=0.3)
        for place in places[:-1]:
            if affinity.indistinct[place]:
                axes.plot(
                    [1.01, 1.025, 1.025, 1.01],
                    [place + 0.1, place + 0.1, place + 0.9, place + 0.9],
                    transform=axes.get_yaxis_transform(),
                    color="tab:red",
                    clip_on=False,
                )
        if any(affinity.indistinct[: len(order) - 1]):
            axes.set_xlabel(f"{axes.get_xlabel()}; red bracket: order not certain")
        with replacing(path) as aside:
            figure.savefig(aside, dpi=150)
    finally:
        plt.close(figure)


def _name(affinity: Affinity, index: int) -> str:
    task = affinity.tasks[index]
    where = "" if task.registered else ", signature"
    return f"{task.dataset.removeprefix('Dataset')} ({task.labelled_cases} cases{where})"
