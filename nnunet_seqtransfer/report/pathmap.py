"""The picture of a plan: the candidate paths as bars of their cost, the chosen one marked."""

from __future__ import annotations

from itertools import cycle
from pathlib import Path

import matplotlib as mpl

from nnunet_seqtransfer.nnunet.folders import dataset_id
from nnunet_seqtransfer.planning.record import CandidatePath, SequencePlan
from nnunet_seqtransfer.planning.verdict import percent
from nnunet_seqtransfer.report.palette import HOPS, SEARCH, START
from nnunet_seqtransfer.storage import replacing

mpl.use("agg")
import matplotlib.pyplot as plt  # after the backend is chosen

MOST = 12


def draw_path(plan: SequencePlan, path: Path) -> None:
    """Draws what each candidate costs, part by part (start, then hop after hop), cheapest on top, as a PNG."""
    candidates = plan.candidates[:MOST]
    figure, axes = plt.subplots(figsize=(10, 1.8 + 0.5 * len(candidates)), layout="constrained")
    try:
        for row, candidate in enumerate(candidates):
            _draw_bar(axes, row, candidate, _note(plan, candidate))
        _label_rows(axes, plan, candidates)
        axes.set_xlabel(f"cost ({plan.metric} distances, {plan.strategy} strategy): lower is better")
        axes.set_title(f"Paths to {plan.target}", loc="left")
        axes.margins(x=0.2)
        axes.set_xlim(left=0)
        axes.spines[["top", "right"]].set_visible(False)
        _add_legend(figure, candidates)
        with replacing(path) as aside:
            figure.savefig(aside, dpi=150)
    finally:
        plt.close(figure)


def _draw_bar(axes: plt.Axes, row: int, candidate: CandidatePath, note: str) -> None:
    parts = [(candidate.start_cost, START), *zip(candidate.hop_costs, cycle(HOPS), strict=False)]
    left = 0.0
    for part, colour in [*parts, (candidate.search_cost, SEARCH)]:
        axes.barh(row, part, left=left, color=colour, height=0.6, alpha=0.35 if candidate.ruled_out else 1)
        left += part
    axes.text(left, row, note, va="center", fontsize=9)


def _note(plan: SequencePlan, candidate: CandidatePath) -> str:
    """What stands behind a bar: its cost, how often the path wins, or that it could not be chosen."""
    # a strategy that gives scratch no price (the published one) does not compare it either
    price = f" {candidate.cost:.2f}" if candidate.cost > 0 or len(candidate.path) > 1 else " not compared"
    if candidate.ruled_out:
        return f"{price}, ruled out"
    share = next((win.share for win in plan.wins if win.path == candidate.path), 0.0)
    return f"{price}, wins {percent(share)}" if plan.resamples and candidate.cost > 0 else price


def _label_rows(axes: plt.Axes, plan: SequencePlan, candidates: tuple[CandidatePath, ...]) -> None:
    chosen = (*plan.sources, plan.target)
    labels = [_short(candidate) + ("  (chosen)" if candidate.path == chosen else "") for candidate in candidates]
    axes.set_yticks(range(len(candidates)), labels)
    for tick, candidate in zip(axes.get_yticklabels(), candidates, strict=True):
        tick.set_fontweight("bold" if candidate.path == chosen else "normal")
    axes.invert_yaxis()


def _add_legend(figure: plt.Figure, candidates: tuple[CandidatePath, ...]) -> None:
    """Outside of the axes, so that it never covers a bar; only parts that some candidate has."""
    most_hops = max(len(candidate.hop_costs) for candidate in candidates)
    entries = [("start", START)] if any(candidate.start_cost for candidate in candidates) else []
    entries += [(f"hop {number}", colour) for number, colour in zip(range(1, most_hops + 1), cycle(HOPS), strict=False)]
    if any(candidate.search_cost for candidate in candidates):
        entries.append(("landmark to target", SEARCH))
    handles = [plt.Rectangle((0, 0), 1, 1, color=colour) for _, colour in entries]
    figure.legend(handles, [name for name, _ in entries], loc="outside right center", frameon=False)


def _short(candidate: CandidatePath) -> str:
    numbers = [str(dataset_id(name)) for name in candidate.path]
    return " \N{RIGHTWARDS ARROW} ".join(numbers) if len(numbers) > 1 else f"scratch ({numbers[0]} alone)"
