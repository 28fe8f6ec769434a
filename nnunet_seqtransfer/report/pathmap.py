"""The picture of a plan: the candidate paths as bars of their cost, the chosen one marked."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from nnunet_seqtransfer.affinity.affinity import Affinity
from nnunet_seqtransfer.sequence.plan import CandidatePath, SequencePlan
from nnunet_seqtransfer.storage import replacing

mpl.use("agg")
import matplotlib.pyplot as plt

MOST = 12
COLOURS = ("#4c78a8", "#f2b447", "#54a24b", "#b279a2", "#9d755d")


def draw_path(plan: SequencePlan, affinity: Affinity, path: Path) -> None:
    """Draws what each candidate costs, part by part (start, then hop after hop), cheapest on top, as a PNG."""
    candidates = plan.candidates[:MOST]
    figure, axes = plt.subplots(figsize=(11, 1.6 + 0.5 * len(candidates)), layout="constrained")
    try:
        for row, candidate in enumerate(candidates):
            _draw_bar(axes, row, candidate)
        chosen = (*plan.sources, plan.target)
        labels = [_short(candidate) + (" (chosen)" if candidate.path == chosen else "") for candidate in candidates]
        axes.set_yticks(range(len(candidates)), labels)
        for tick, candidate in zip(axes.get_yticklabels(), candidates, strict=True):
            tick.set_fontweight("bold" if candidate.path == chosen else "normal")
        axes.invert_yaxis()
        axes.set_xlabel(f"cost ({affinity.metric}, {plan.strategy}): lower is better")
        axes.set_title(f"Paths to {plan.target}")
        handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for colour in COLOURS[:3]]
        axes.legend(handles, ["start", "first hop", "second hop"], loc="lower right", frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
        with replacing(path) as aside:
            figure.savefig(aside, dpi=150)
    finally:
        plt.close(figure)


def _draw_bar(axes: plt.Axes, row: int, candidate: CandidatePath) -> None:
    left = 0.0
    for part, colour in zip((candidate.start_cost, *candidate.hop_costs, candidate.search_cost), COLOURS, strict=False):
        axes.barh(row, part, left=left, color=colour, height=0.6)
        left += part
    axes.text(left, row, f" {candidate.cost:.2f}", va="center", fontsize=9)


def _short(candidate: CandidatePath) -> str:
    numbers = [name.split("_")[0].removeprefix("Dataset").lstrip("0") for name in candidate.path]
    return " \N{RIGHTWARDS ARROW} ".join(numbers) if len(numbers) > 1 else f"scratch ({numbers[0]})"
