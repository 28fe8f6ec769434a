"""Paths for several targets that share stages: equal to brute force, and never worse than one by one."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from nnunet_seqtransfer.planning import several
from nnunet_seqtransfer.planning.several import Offer, Together, choose_together
from nnunet_seqtransfer.tasks.alignment import differences

SEEDS = range(40)


def offer(target: str, cost: float, *sources: str, hours: float = 3.0) -> Offer:
    """A path through ``sources`` whose stages take ``hours`` each."""
    stages = {sources[: k + 1]: hours for k in range(len(sources))}
    return Offer((*sources, target), cost, stages, hours)


def random_offers(seed: int) -> tuple[list[list[Offer]], list[int]]:
    """Two to four targets with up to five paths each, and which of them can share."""
    rng = np.random.default_rng(seed)
    targets = int(rng.integers(2, 5))
    offers = []
    for target in range(targets):
        paths = {tuple(rng.permutation(list("abc"))[: rng.integers(0, 3)]) for _ in range(5)}
        costs = sorted(float(cost) for cost in 1 + rng.integers(0, 5, len(paths)) / 20)
        offers.append(
            [offer(f"T{target}", cost, *map(str, path)) for cost, path in zip(costs, sorted(paths), strict=True)]
        )
    return offers, [int(group) for group in rng.integers(0, 2, targets)]


def total(offers: list[list[Offer]], groups: list[int], places: tuple[int, ...]) -> float:
    """Hours with every stage of a group once."""
    chosen = [some[place] for some, place in zip(offers, places, strict=True)]
    stages = {(g, stage): h for g, entry in zip(groups, chosen, strict=True) for stage, h in entry.stages.items()}
    return sum(stages.values()) + sum(entry.target_hours for entry in chosen)


def allowed(offers: list[list[Offer]], groups: list[int], places: tuple[int, ...], tolerance: float) -> bool:
    """Whether every target that leaves its first path shares a stage and pays no more than the tolerance."""
    for k, place in enumerate(places):
        entry = offers[k][place]
        others = [offers[j][p] for j, p in enumerate(places) if j != k and groups[j] == groups[k]]
        shares = any(stage in other.stages for stage in entry.stages for other in others)
        if place and (not shares or entry.cost > offers[k][0].cost * (1 + tolerance)):
            return False
    return True


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("tolerance", [0.0, 0.1, 1.0])
def test_the_combination_equals_brute_force(seed: int, tolerance: float) -> None:
    """No allowed combination takes fewer hours, and of those that take as many none costs less."""
    offers, groups = random_offers(seed)
    found = choose_together(offers, groups, tolerance)

    def dearer(places: tuple[int, ...]) -> float:
        return sum(some[place].cost / some[0].cost - 1 for some, place in zip(offers, places, strict=True))

    every = [
        places
        for places in product(*(range(len(some)) for some in offers))
        if allowed(offers, groups, places, tolerance)
    ]
    best = min((round(total(offers, groups, places), 6), round(dearer(places), 6)) for places in every)
    assert found.places in every
    assert (round(found.hours, 6), round(dearer(found.places), 6)) == best
    assert found.is_exact


@pytest.mark.parametrize("seed", SEEDS)
def test_planning_together_never_takes_longer(seed: int) -> None:
    """The hours saved are never negative, with all combinations looked at or not."""
    offers, groups = random_offers(seed)
    found = choose_together(offers, groups, 0.1)
    assert found.saved >= -1e-9
    assert found.separate == pytest.approx(sum(some[0].hours for some in offers))
    assert found.hours == pytest.approx(total(offers, groups, found.places))


@pytest.mark.parametrize("seed", SEEDS)
def test_a_search_that_is_not_exact_keeps_the_rules(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """With too many combinations the result is allowed, said not to be exact, and no better than the exact one."""
    offers, groups = random_offers(seed)
    exact = choose_together(offers, groups, 0.1)
    monkeypatch.setattr(several, "MOST_COMBINATIONS", 0)
    monkeypatch.setattr(several, "WIDTH", 2)
    found = choose_together(offers, groups, 0.1)
    assert not found.is_exact
    assert allowed(offers, groups, found.places, 0.1)
    assert exact.hours - 1e-9 <= found.hours <= found.separate + 1e-9


def two_targets(dearer: float) -> list[list[Offer]]:
    """The first goes through A; the second prefers B, and could go through A at ``dearer`` times the cost."""
    return [[offer("T4", 1.0, "A")], [offer("T7", 1.0, "B"), offer("T7", dearer, "A")]]


def test_a_beginning_is_shared_where_that_costs_little() -> None:
    """Within the tolerance the second target takes the first one's source, whose stage is trained once."""
    found = choose_together(two_targets(1.05), [0, 0], 0.1)
    assert found.places == (0, 1)
    assert found.shared == ((("A",), (0, 1)),)
    assert (found.separate, found.hours, found.saved) == (12.0, 9.0, 3.0)


@pytest.mark.parametrize(
    ("dearer", "groups", "tolerance"), [(1.2, [0, 0], 0.1), (1.05, [0, 1], 0.1), (1.05, [0, 0], 0)]
)
def test_nothing_is_shared_at_too_high_a_price_or_between_other_plans(
    dearer: float, groups: list[int], tolerance: float
) -> None:
    """Beyond the tolerance, or where plans differ, each target keeps its own path."""
    found = choose_together(two_targets(dearer), groups, tolerance)
    assert (found.places, found.shared, found.saved) == ((0, 0), (), 0.0)


def test_no_target_leaves_its_path_only_to_train_less() -> None:
    """A shorter path that shares nothing is not taken, however many hours it saves."""
    offers = [[offer("T4", 1.0, "A", "B"), offer("T4", 1.01, "C")], [offer("T7", 1.0, "D")]]
    assert choose_together(offers, [0, 0], 0.1).places == (0, 0)


def test_finished_stages_are_no_reason_to_share() -> None:
    """A stage that is trained already is not among the stages, and saves nothing."""
    done = Offer(("A", "T7"), 1.05, {}, 3.0)
    found = choose_together([[offer("T4", 1.0, "A")], [offer("T7", 1.0, "B"), done]], [0, 0], 0.1)
    assert found.places == (0, 0)


def test_equal_hours_are_told_apart_by_cost_then_names() -> None:
    """Of two partners that save as much, the cheaper one; at equal cost the first by name."""
    first = [offer("T4", 1.0, "A"), offer("T4", 1.05, "B")]
    second = [offer("T7", 1.0, "B"), offer("T7", 1.02, "A")]
    assert choose_together([first, second], [0, 0], 0.1).places == (0, 1)
    assert choose_together([second, first], [0, 0], 0.1).places == (1, 0)


def settings(**changes: object) -> dict[str, object]:
    """Plans with one configuration."""
    own = {"patch_size": [8, 8], "spacing": [1, 1], "batch_size": 2, "architecture": {"n": 1}, "data_identifier": "a"}
    return {"transpose_forward": changes.pop("transpose", [0, 1]), "configurations": {"2d": {**own, **changes}}}


def test_what_makes_a_source_train_otherwise() -> None:
    """Network, patch, batch, spacing and transposition do; identifiers and the target's normalisation do not."""
    assert differences(settings(), settings(), "2d") == ()
    assert differences(settings(), settings(data_identifier="b", normalization_schemes=["CT"]), "2d") == ()
    assert differences(settings(), settings(patch_size=[8, 4], batch_size=3), "2d") == ("batch_size", "patch_size")
    assert differences(settings(), settings(architecture={"n": 2}), "2d") == ("architecture",)
    assert differences(settings(), settings(transpose=[1, 0]), "2d") == ("transpose_forward",)
    assert differences(settings(batch_dice=True), settings(), "2d") == ("batch_dice",)


def test_hours_of_a_path() -> None:
    """All stages and the target's."""
    assert offer("T", 1.0, "A", "B", hours=2.0).hours == 6.0
    assert Together((0,), 4.0, 6.0, (), True).saved == 2.0
