"""Plans for several targets at once: which of them can share stages, and the paths that they take together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from nnunet_seqtransfer.planning.decide import Outcome
from nnunet_seqtransfer.planning.options import AUTO, prices, to_train
from nnunet_seqtransfer.planning.problem import Candidate
from nnunet_seqtransfer.planning.robustness import KINDS
from nnunet_seqtransfer.planning.setting import Setting, named
from nnunet_seqtransfer.planning.several import MOST_COMBINATIONS, Offer, Together, choose_together
from nnunet_seqtransfer.planning.verdict import short_path
from nnunet_seqtransfer.tasks.alignment import differences


def group_targets(
    targets: Sequence[str], plans: Sequence[Mapping[str, Any]], configuration: str
) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """For each target the first one with which it can share source stages, and a line for each that can with none.

    ``plans`` are the targets' own, in their order.
    """
    groups: list[int] = []
    lines: list[str] = []
    for k, own in enumerate(plans):
        found = next((g for g in dict.fromkeys(groups) if not differences(plans[g], own, configuration)), k)
        groups.append(found)
        if found == k and k:
            differing = ", ".join(differences(plans[0], own, configuration))
            lines.append(f"{targets[k]} cannot share stages with {targets[0]}: their plans differ in {differing}.")
    return tuple(groups), tuple(lines)


def plan_together(
    settings: Sequence[Setting], outcomes: Sequence[Outcome], groups: Sequence[int], tolerance: float
) -> tuple[Together, tuple[Outcome, ...]]:
    """The paths that the targets take together; an outcome is changed where its target leaves its own path."""
    choices = [_choices(setting, outcome) for setting, outcome in zip(settings, outcomes, strict=True)]
    offers = [
        [_offer(candidate, setting) for candidate in some] for some, setting in zip(choices, settings, strict=True)
    ]
    together = choose_together(offers, groups, tolerance)
    changed = tuple(
        _moved(setting, outcome, some[place]) if place else outcome
        for setting, outcome, some, place in zip(settings, outcomes, choices, together.places, strict=True)
    )
    return together, changed


def together_text(together: Together, targets: Sequence[str]) -> tuple[str, ...]:
    """What planning together came to, a sentence each."""
    lines = [
        f"{' -> '.join(stage)} is trained once for {' and '.join(targets[k] for k in users)}."
        for stage, users in together.shared
    ] or ["No stage is shared."]
    lines.append(
        f"All {len(targets)} targets take about {together.hours:.1f} GPU hours, {together.saved:.1f} fewer than "
        f"one by one ({together.separate:.1f})."
    )
    if not together.is_exact:
        lines.append(f"There are more than {MOST_COMBINATIONS} combinations, not all were looked at.")
    return tuple(lines)


def sharing(together: Together) -> frozenset[int]:
    """Indices of the targets that share a stage with another."""
    return frozenset(k for _, users in together.shared for k in users)


def _choices(setting: Setting, outcome: Outcome) -> list[Candidate]:
    """What a target could take, its own choice first; with strategy auto nothing less simple than that."""
    chosen = outcome.decision.chosen
    most = KINDS.index(chosen.kind) if setting.options.strategy == AUTO else len(KINDS)
    others = [
        candidate
        for candidate in outcome.decision.candidates
        if candidate != chosen
        and candidate.kind != "scratch"
        and KINDS.index(candidate.kind) <= most
        and candidate.path not in outcome.decision.ruled_out
    ]
    return [chosen, *others]


def _offer(candidate: Candidate, setting: Setting) -> Offer:
    hours = prices(setting.options.training, setting.problem, setting.epoch, "GPU hours")
    left = to_train(candidate.path, setting.constraints)
    return Offer(
        path=named(candidate.path, setting.problem),
        cost=candidate.cost,
        stages={named(part, setting.problem): hours[part[-1]] for part in left[:-1]},
        target_hours=hours[candidate.path[-1]],
    )


def _moved(setting: Setting, outcome: Outcome, chosen: Candidate) -> Outcome:
    before = outcome.decision.chosen
    was = short_path(named(before.path, setting.problem))
    dearer = chosen.cost / before.cost - 1 if before.cost else 0.0
    note = (
        f"To share stages with another target, {short_path(named(chosen.path, setting.problem))} is taken instead of "
    )
    note += f"{was}, at {dearer:.0%} more cost."
    return replace(outcome, decision=replace(outcome.decision, chosen=chosen, strategy="shared"), notes=(note,))
