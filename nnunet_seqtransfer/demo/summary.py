"""The demo's table, and in plain words what happened, whoever won."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_seqtransfer.nnunet.folders import dataset_id
from nnunet_seqtransfer.report.tables import text_table

SMALL = 0.02
"""Differences of mean Dice below this are called small: on these few cases and seeds they may be chance."""


@dataclass(frozen=True)
class Row:
    """A path and what it reached."""

    sources: tuple[str, ...]
    "Full names in their order."
    dice: tuple[float, ...]
    "Mean Dice of the held-out cases, a seed each."
    as_long: bool = False
    "Whether the target was trained for as long as all stages of the sequence together."

    @property
    def mean(self) -> float:
        """Mean over the seeds."""
        return sum(self.dice) / len(self.dice)

    @property
    def spread(self) -> float:
        """Highest less lowest seed."""
        return max(self.dice) - min(self.dice)


@dataclass(frozen=True)
class Outcome:
    """Everything that was measured, and what had been planned."""

    scratch: Row
    "No source."
    long_scratch: Row
    "No source, trained for as many iterations as all stages of the longest path together."
    directs: tuple[Row, ...]
    "One source each, nearest to the target first."
    sequence: Row | None
    "The planned sequence, or the cheapest of the sequences where something else was planned; None where there is none."
    planned: tuple[str, ...]
    "The sources of the plan."

    @property
    def best_direct(self) -> Row:
        """The best source; known only after all of them were trained."""
        return max(self.directs, key=lambda row: row.mean)

    @property
    def worst_direct(self) -> Row:
        """The worst source."""
        return min(self.directs, key=lambda row: row.mean)

    @property
    def plan(self) -> Row:
        """What the plan's own path reached."""
        rows = [self.scratch, *self.directs, *([self.sequence] if self.sequence else [])]
        return next(row for row in rows if row.sources == self.planned)


def results_table(outcome: Outcome, target: str) -> str:
    """Path, Dice of each seed, mean and spread."""
    seeds = range(len(outcome.scratch.dice))
    header = ["path", "", *(f"seed {seed}" for seed in seeds), "mean", "spread"]
    sequence = [outcome.sequence] if outcome.sequence else []
    rows = [outcome.scratch, outcome.long_scratch, *outcome.directs, *sequence]
    return text_table(header, [[path_words(row, target), _role(row, outcome), *_numbers(row)] for row in rows])


def path_words(row: Row, target: str) -> str:
    """The path by numbers: "201 -> 202 -> 210"."""
    if not row.sources:
        return f"scratch ({dataset_id(target)}){', as long' if row.as_long else ''}"
    return " -> ".join(str(dataset_id(name)) for name in (*row.sources, target))


def _numbers(row: Row) -> list[str]:
    return [f"{dice:.3f}" for dice in (*row.dice, row.mean, row.spread)]


def _role(row: Row, outcome: Outcome) -> str:
    roles = []
    if row is outcome.sequence and row.sources != outcome.planned:
        roles.append("cheapest sequence, not planned")
    if row.sources == outcome.planned:
        roles.append("planned")
    if row is outcome.best_direct:
        roles.append("best direct")
    if row is outcome.worst_direct and len(outcome.directs) > 1:
        roles.append("worst direct")
    return ", ".join(roles)


def verdict(outcome: Outcome, target: str) -> tuple[str, ...]:
    """What happened, a sentence each."""
    plan, lines = outcome.plan, []
    kind = ("scratch", "direct transfer")[len(plan.sources)] if len(plan.sources) < 2 else "a sequence"
    lines.append(f"The plan was {kind}: {path_words(plan, target)}. It reached a mean Dice of {plan.mean:.3f}.")
    if outcome.sequence is None:
        lines.append("No sequence was among the plan's candidates, so none was trained.")
    elif outcome.sequence is not plan:
        lines.append(
            "No sequence was planned; the cheapest one was trained for comparison: "
            + _against(outcome.sequence, plan, "the plan")
        )
    if plan is not outcome.scratch:
        lines.append(_against(plan, outcome.scratch, "scratch"))
    if plan is not outcome.best_direct:
        lines.append(_against(plan, outcome.best_direct, "the best direct transfer (known only afterwards)"))
    lines.append(_worst(outcome))
    lines.append(_rankings(outcome))
    lines.append(_length(outcome))
    seeds = len(plan.dice)
    lines.append(f"A few phantoms and {seeds} seed{'s' * (seeds != 1)} show how the commands work; they are no result.")
    return tuple(lines)


def _against(row: Row, other: Row, name: str) -> str:
    difference = row.mean - other.mean
    better = sum(mine > theirs for mine, theirs in zip(row.dice, other.dice, strict=True))
    size = "a small difference" if abs(difference) < SMALL else ("a gain" if difference > 0 else "a loss")
    return (
        f"Against {name}: {row.mean:.3f} and {other.mean:.3f}, {size} ({difference:+.3f}), "
        f"better on {better} of {len(row.dice)} seeds."
    )


def _length(outcome: Outcome) -> str:
    """Every further stage is further training; what that alone is worth is measured, not guessed."""
    longest = outcome.sequence or outcome.best_direct
    difference = longest.mean - outcome.long_scratch.mean
    words = (
        "so the length of the training explains what the longer path gained"
        if difference < SMALL
        else f"so the path itself is worth {difference:+.3f}"
    )
    stages = len(longest.sources) + 1
    return (
        f"A longer path is also trained longer. Scratch with as many iterations as its {stages} stages together "
        f"reached {outcome.long_scratch.mean:.3f}, the path {longest.mean:.3f}, {words}."
    )


def _worst(outcome: Outcome) -> str:
    worst, scratch = outcome.worst_direct, outcome.scratch
    if abs(worst.mean - scratch.mean) < SMALL:
        words = "about what scratch reached"
    elif worst.mean < scratch.mean:
        words = "which is below scratch: a badly chosen source does harm"
    else:
        words = "which is above scratch: here even the worst source helped"
    return f"The worst direct transfer, from {_short(worst.sources[0])}, reached {worst.mean:.3f}, {words}."


def _rankings(outcome: Outcome) -> str:
    measured = sorted(outcome.directs, key=lambda row: -row.mean)
    pairs = [(a, b) for i, a in enumerate(outcome.directs) for b in outcome.directs[i + 1 :]]
    agree = sum(a.mean > b.mean for a, b in pairs)
    return (
        f"Sources by distance, nearest first: {_listed(outcome.directs)}; by measured Dice, best first: "
        f"{_listed(measured)}; {agree} of {len(pairs)} pairs are in the same order."
    )


def _listed(rows: Sequence[Row]) -> str:
    return ", ".join(_short(row.sources[0]) for row in rows)


def _short(dataset: str) -> str:
    return dataset.removeprefix("Dataset")
