"""The pictures of a comparison: paired differences to scratch case by case, and learning curves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import matplotlib as mpl
import numpy as np

from nnunet_seqtransfer.evaluation.comparison import Arm, Comparison, Curve, Difference
from nnunet_seqtransfer.evaluation.curves import mean_curve, smoothed
from nnunet_seqtransfer.evaluation.differences import case_values, paired
from nnunet_seqtransfer.report.saving import save_both

mpl.use("agg")
import matplotlib.pyplot as plt

BLUE, ORANGE, GREY, GREEN = "#0072B2", "#D55E00", "0.6", "#009E73"
"""Of Okabe and Ito's palette, which most colour-blind people can tell apart."""


def draw_comparison(comparison: Comparison, folder: Path) -> tuple[Path, ...]:
    """Draws what there is to draw, each as PNG and SVG; returns the PNGs."""
    found = []
    if any(one.metric == "dice" for one in comparison.differences):
        found.append(_draw_differences(comparison, folder / "differences.png"))
    if comparison.curves:
        found.append(_draw_curves(comparison, folder / "curves.png"))
    return tuple(found)


def drawn_differences(comparison: Comparison) -> list[Difference]:
    """The differences in Dice that are drawn, the smallest first: those to scratch, or all where there are none."""
    scratch = {arm.name for arm in comparison.arms if "scratch" in arm.roles}
    every = [one for one in comparison.differences if one.metric == "dice"]
    return sorted([one for one in every if one.against in scratch] or every, key=lambda one: one.mean)


def _draw_differences(comparison: Comparison, path: Path) -> Path:
    """A row for each arm against scratch, without scratch for each pair: a dot for each case, mean and interval."""
    entries = drawn_differences(comparison)
    others = list(dict.fromkeys(one.against for one in entries))
    values = case_values(comparison.scores, "dice")
    figure, axes = plt.subplots(figsize=(7.5, 1.4 + 0.34 * len(entries)), layout="constrained")
    rng = np.random.default_rng(0)
    for row, one in enumerate(entries):
        cases = list(paired(values[one.arm], values[one.against]).values())
        axes.plot(cases, row + rng.uniform(-0.18, 0.18, len(cases)), ".", color=GREY, markersize=4, zorder=1)
        axes.plot([one.low, one.high], [row, row], color=_colour(one.arm, comparison), linewidth=2.5, zorder=2)
        axes.plot([one.mean], [row], "o", color=_colour(one.arm, comparison), markersize=6, zorder=3)
    axes.axvline(0, color="0.3", linewidth=0.8)
    several = len(others) > 1
    names = [f"{one.arm}\nagainst {one.against}" if several else one.arm for one in entries]
    axes.set_yticks(range(len(entries)), names, fontsize=8 if several else None)
    subtracted = "the second path" if several else others[0]
    axes.set_xlabel(f"Dice minus that of {subtracted}; dots: cases, bars: 95 % intervals of the mean")
    axes.set_title(f"{comparison.target}, {comparison.evaluated_on}", fontsize=9)
    axes.spines[["top", "right"]].set_visible(False)
    save_both(figure, path)
    plt.close(figure)
    return path


def _draw_curves(comparison: Comparison, path: Path) -> Path:
    """Moving averages of the pseudo Dice over the epochs of the target's stage; each arm averaged over its runs."""
    runs: dict[str, list[Curve]] = {}
    for curve in comparison.curves:
        runs.setdefault(curve.arm, []).append(curve)
    named = _highlighted(comparison)
    figure, axes = plt.subplots(figsize=(7.5, 4.4), layout="constrained")
    for arm in comparison.arms:
        if arm.name not in runs or arm.extra_epochs:
            continue
        mean = mean_curve(runs[arm.name])
        colour = named.get(arm.name)
        style = {"color": colour or "0.8", "linewidth": 2.0 if colour else 0.8, "zorder": 3 if colour else 1}
        axes.plot(range(1, len(mean) + 1), mean, label=arm.name if colour else None, **style)
        if colour:
            for curve in runs[arm.name]:
                thin = smoothed(curve.pseudo_dice)
                axes.plot(range(1, len(thin) + 1), thin, color=colour, linewidth=0.6, alpha=0.5, zorder=2)
    _mark_savings(axes, comparison, named)
    axes.set_xlabel("epoch of the target's stage")
    axes.set_ylabel("pseudo Dice, smoothed")
    axes.set_title(f"{comparison.target}: thick, mean over folds and seeds; thin, single trainings", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    save_both(figure, path)
    plt.close(figure)
    return path


def _mark_savings(axes: plt.Axes, comparison: Comparison, named: Mapping[str, str]) -> None:
    """A dashed line at what scratch reaches, and a dot where another arm has as much."""
    for saving in comparison.savings:
        axes.axhline(saving.reached, color=BLUE, linewidth=0.8, linestyle="--", zorder=1)
        if saving.epochs is not None and saving.arm in named:
            axes.plot([saving.epochs], [saving.reached], "o", color=named[saving.arm], zorder=4)


def _highlighted(comparison: Comparison) -> dict[str, str]:
    """Scratch, the planned path and the direct transfer that ended best, with their colours; all of a few arms."""
    named = {arm.name: _colour(arm.name, comparison) for arm in comparison.arms if _is_central(arm)}
    final: dict[str, list[float]] = {}
    direct = {arm.name for arm in comparison.arms if len(arm.sources) == 1} - named.keys()
    for curve in comparison.curves:
        if curve.arm in direct:
            final.setdefault(curve.arm, []).append(curve.dice)
    if final:
        named[max(final, key=lambda name: float(np.mean(final[name])))] = GREEN
    return named


def _is_central(arm: Arm) -> bool:
    return "scratch" in arm.roles or "planned" in arm.roles


def _colour(name: str, comparison: Comparison) -> str:
    roles = next(arm.roles for arm in comparison.arms if arm.name == name)
    return BLUE if "scratch" in roles else ORANGE if "planned" in roles else "0.25"
