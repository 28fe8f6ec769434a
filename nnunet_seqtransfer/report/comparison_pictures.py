"""The pictures of a comparison: paired differences to scratch, case by case."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl
import numpy as np

from nnunet_seqtransfer.evaluation.comparison import Comparison, Difference
from nnunet_seqtransfer.evaluation.differences import case_values, paired
from nnunet_seqtransfer.report.comparison_text import evaluated_on
from nnunet_seqtransfer.report.saving import save_both

mpl.use("agg")
import matplotlib.pyplot as plt

BLUE, ORANGE, GREY = "#0072B2", "#D55E00", "0.6"
"""Of Okabe and Ito's palette, which most colour-blind people can tell apart."""


def draw_comparison(comparison: Comparison, folder: Path) -> tuple[Path, ...]:
    """Draws what there is to draw, each as PNG and SVG; returns the PNGs."""
    found = []
    if comparison.differences:
        found.append(_draw_differences(comparison, folder / "differences.png"))
    return tuple(found)


def drawn_differences(comparison: Comparison) -> list[Difference]:
    """The differences in Dice that are drawn, the smallest first: those to scratch, or all where there are none."""
    scratch = {arm.name for arm in comparison.arms if "scratch" in arm.roles}
    every = list(comparison.differences)
    return sorted([one for one in every if one.against in scratch] or every, key=lambda one: one.mean)


def _draw_differences(comparison: Comparison, path: Path) -> Path:
    """A row for each arm against scratch, without scratch for each pair: a dot for each case, mean and interval."""
    entries = drawn_differences(comparison)
    others = list(dict.fromkeys(one.against for one in entries))
    values = case_values(comparison.scores)
    figure, axes = plt.subplots(figsize=(7.5, 1.4 + 0.34 * len(entries)), layout="constrained")
    rng = np.random.default_rng(0)
    for row, one in enumerate(entries):
        cases = list(paired(values[one.arm], values[one.against]).values())
        axes.plot(cases, row + rng.uniform(-0.18, 0.18, len(cases)), ".", color=GREY, markersize=4, zorder=1)
        if one.low is not None and one.high is not None:
            axes.plot([one.low, one.high], [row, row], color=_colour(one.arm, comparison), linewidth=2.5, zorder=2)
        axes.plot([one.mean], [row], "o", color=_colour(one.arm, comparison), markersize=6, zorder=3)
    axes.axvline(0, color="0.3", linewidth=0.8)
    several = len(others) > 1
    names = [f"{one.arm}\nagainst {one.against}" if several else one.arm for one in entries]
    axes.set_yticks(range(len(entries)), names, fontsize=8 if several else None)
    subtracted = "the second path" if several else others[0]
    axes.set_xlabel(f"Dice minus that of {subtracted}; dots: cases, bars: 95 % intervals of the mean")
    axes.set_title(f"{comparison.target}, {evaluated_on(comparison)}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    save_both(figure, path)
    plt.close(figure)
    return path


def _colour(name: str, comparison: Comparison) -> str:
    roles = next(arm.roles for arm in comparison.arms if arm.name == name)
    return BLUE if "scratch" in roles else ORANGE if "planned" in roles else "0.25"
