"""One path for each of several targets, chosen together: stages that two of them share are trained once."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

from nnunet_seqtransfer.planning.problem import rounded

Stage = tuple[str, ...]
"""The beginning of a path by full names, its last dataset being the one that the stage trains on."""

MOST_COMBINATIONS = 100_000
"""Combinations of paths that are looked at one by one."""
WIDTH = 1_000
"""Partial combinations kept where there are more."""


@dataclass(frozen=True)
class Offer:
    """One path that a target could take."""

    path: tuple[str, ...]
    """Full names, the target last."""

    cost: float
    """On the scale of its target's cost model."""

    stages: Mapping[Stage, float]
    """GPU hours of its source stages that are still to train."""

    target_hours: float
    """GPU hours of the target's own stage."""

    @property
    def hours(self) -> float:
        """GPU hours of the whole path, nothing shared."""
        return math.fsum((*self.stages.values(), self.target_hours))


@dataclass(frozen=True)
class Together:
    """What was chosen for all targets."""

    places: tuple[int, ...]
    """For each target, which of its offers."""

    hours: float
    """GPU hours with shared stages trained once."""

    separate: float
    """GPU hours of every target's cheapest path, trained one by one."""

    shared: tuple[tuple[Stage, tuple[int, ...]], ...]
    """Each stage that several targets use, with the indices of these."""

    is_exact: bool
    """Whether all combinations were looked at."""

    @property
    def saved(self) -> float:
        """GPU hours saved."""
        return self.separate - self.hours


def choose_together(offers: Sequence[Sequence[Offer]], groups: Sequence[int], tolerance: float) -> Together:
    """The combination of one offer for each target that takes the fewest GPU hours.

    A target leaves its own cheapest path only for one that shares a stage with another target's, and that costs at
    most ``1 + tolerance`` times as much. Combinations that take the same time rank by the sum of what their paths cost
    over the cheapest, each relative to it, then by names.

    Args:
        offers: for each target its paths, the cheapest first, at least one.
        groups: for each target a number; only targets of one number can share stages.
        tolerance: >= 0.

    All combinations are looked at, up to `MOST_COMBINATIONS`. Beyond these the search goes through the targets one by
    one and keeps the `WIDTH` best beginnings, and may miss the best.
    """
    within = [
        [place for place, offer in enumerate(some) if not place or offer.cost <= some[0].cost * (1 + tolerance)]
        for some in offers
    ]
    is_exact = math.prod(len(some) for some in within) <= MOST_COMBINATIONS
    found = product(*within) if is_exact else _beam(offers, groups, within)
    own = (0,) * len(offers)
    best = min(
        (places for places in (own, *found) if _is_fair(offers, groups, places)),
        key=lambda places: _rank(offers, groups, places),
    )
    users = _users(offers, groups, best)
    return Together(
        places=best,
        hours=_hours(offers, groups, best),
        separate=math.fsum(some[0].hours for some in offers),
        shared=tuple((stage, targets) for (_, stage), targets in users.items() if len(targets) > 1),
        is_exact=is_exact,
    )


def _beam(
    offers: Sequence[Sequence[Offer]], groups: Sequence[int], within: list[list[int]]
) -> Iterator[tuple[int, ...]]:
    """Combinations that begin well; a target that shares nothing in the end goes back to its cheapest path."""
    kept: list[tuple[int, ...]] = [()]
    for places in within:
        longer = [(*beginning, place) for beginning in kept for place in places]
        kept = sorted(longer, key=lambda beginning: _rank(offers, groups, beginning))[:WIDTH]
    for combination in kept:
        users = _users(offers, groups, combination)
        yield tuple(place if _shares(offers[k][place], groups[k], users) else 0 for k, place in enumerate(combination))


def _rank(
    offers: Sequence[Sequence[Offer]], groups: Sequence[int], places: tuple[int, ...]
) -> tuple[float, float, list[tuple[str, ...]]]:
    chosen = [offers[k][place] for k, place in enumerate(places)]
    dearer = math.fsum(
        (offer.cost - offers[k][0].cost) / offers[k][0].cost for k, offer in enumerate(chosen) if offers[k][0].cost
    )
    return float(rounded(_hours(offers, groups, places))), float(rounded(dearer)), [offer.path for offer in chosen]


def _hours(offers: Sequence[Sequence[Offer]], groups: Sequence[int], places: tuple[int, ...]) -> float:
    chosen = [offers[k][place] for k, place in enumerate(places)]
    stages = {(groups[k], stage): hours for k, offer in enumerate(chosen) for stage, hours in offer.stages.items()}
    return math.fsum((*stages.values(), *(offer.target_hours for offer in chosen)))


def _users(
    offers: Sequence[Sequence[Offer]], groups: Sequence[int], places: tuple[int, ...]
) -> dict[tuple[int, Stage], tuple[int, ...]]:
    """The targets that use each stage, in the order of the targets and their paths."""
    users: dict[tuple[int, Stage], tuple[int, ...]] = {}
    for k, place in enumerate(places):
        for stage in offers[k][place].stages:
            users[groups[k], stage] = (*users.get((groups[k], stage), ()), k)
    return users


def _shares(offer: Offer, group: int, users: Mapping[tuple[int, Stage], tuple[int, ...]]) -> bool:
    return any(len(users[group, stage]) > 1 for stage in offer.stages)


def _is_fair(offers: Sequence[Sequence[Offer]], groups: Sequence[int], places: tuple[int, ...]) -> bool:
    """Whether every target that leaves its cheapest path shares a stage with another."""
    users = _users(offers, groups, places)
    return all(not place or _shares(offers[k][place], groups[k], users) for k, place in enumerate(places))
