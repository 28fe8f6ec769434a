"""The learning rate of epochs and parameters, and the end at a plateau, against nnU-Net and closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import nn

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.trainers.schedule import (
    PlateauReached,
    WarmupPolyLRScheduler,
    has_plateaued,
    learning_rate,
    parameter_groups,
    stop_at_plateau,
    with_layer_decay,
)
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.transfer.tensor_roles import depths, require_parts
from support.u_nets import u_net


def optimizer(groups: int = 1) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": [torch.nn.Parameter(torch.zeros(1))]} for _ in range(groups)], lr=1.0)


@pytest.mark.parametrize("epochs", [1, 2, 10, 1000])
@pytest.mark.parametrize("initial", [1e-2, 3e-4])
def test_without_warm_up_it_is_nnunets(epochs: int, initial: float) -> None:
    """Without warm-up every epoch has nnU-Net's learning rate, bit by bit."""
    ours, theirs = optimizer(), optimizer()
    own = WarmupPolyLRScheduler(ours, initial, epochs, 0)
    host = PolyLRScheduler(theirs, initial, epochs)
    for epoch in range(epochs):
        own.step(epoch)
        host.step(epoch)
        assert ours.param_groups[0]["lr"] == theirs.param_groups[0]["lr"] == learning_rate(epoch, initial, epochs, 0)
        assert own.get_last_lr() == host.get_last_lr()


def test_without_an_epoch_it_counts_itself() -> None:
    """Stepped without an epoch, as other code may do, it goes on by one epoch, like nnU-Net's."""
    ours, theirs = optimizer(2), optimizer(2)
    own, host = WarmupPolyLRScheduler(ours, 1e-2, 20, 0), PolyLRScheduler(theirs, 1e-2, 20)
    for _ in range(10):
        own.step()
        host.step()
        assert [group["lr"] for group in ours.param_groups] == [group["lr"] for group in theirs.param_groups]


def test_after_the_warm_up_it_is_nnunets_from_its_beginning() -> None:
    """After w epochs of warm-up follow nnU-Net's learning rates of a training of n - w epochs."""
    theirs = optimizer()
    host = PolyLRScheduler(theirs, 1e-2, 45)
    for epoch in range(45):
        host.step(epoch)
        assert learning_rate(epoch + 5, 1e-2, 50, 5) == pytest.approx(theirs.param_groups[0]["lr"], rel=1e-12)


@pytest.mark.parametrize("warmup", [1, 3, 10])
def test_the_warm_up_is_a_straight_line(warmup: int) -> None:
    """The warm-up rises by equal steps from initial / (w + 1), never 0, and reaches the initial rate right after."""
    rates = [learning_rate(epoch, 0.5, 100, warmup) for epoch in range(warmup + 1)]
    assert rates == pytest.approx([0.5 * (epoch + 1) / (warmup + 1) for epoch in range(warmup + 1)])
    assert rates[-1] == 0.5


@pytest.mark.parametrize(("epochs", "warmup"), [(1, 0), (10, 0), (10, 1), (10, 5), (10, 9), (10, 10), (3, 8)])
def test_every_epoch_has_a_usable_rate(epochs: int, warmup: int) -> None:
    """No epoch has a rate of 0, above the initial one, or no real number; it rises through the warm-up, then falls."""
    rates = [learning_rate(epoch, 1e-2, epochs, warmup) for epoch in range(epochs)]
    assert all(isinstance(rate, float) and 0 < rate <= 1e-2 for rate in rates)
    top = min(warmup, epochs - 1)
    assert rates[: top + 1] == sorted(rates[: top + 1])
    assert rates[top:] == sorted(rates[top:], reverse=True)


def test_closed_form() -> None:
    """Half way through, the rate is initial * 0.5 ** 0.9; one step too many gives 0."""
    assert learning_rate(50, 1.0, 100, 0) == pytest.approx(0.5**0.9)
    assert learning_rate(60, 1.0, 110, 10) == pytest.approx(0.5**0.9)
    assert learning_rate(11, 1.0, 10, 0) == 0  # the formula would give a complex number


@pytest.mark.parametrize(
    ("ema", "patience", "settled", "expected"),
    [
        ([], 1, 0, False),
        ([0.5], 1, 0, False),
        ([0.5, 0.4], 1, 0, True),
        ([0.5, 0.5], 1, 0, True),
        ([0.5, 0.4, 0.3], 3, 0, False),
        ([0.5, 0.4, 0.3, 0.2], 3, 0, True),
        ([0.5, 0.4, 0.3, 0.6], 3, 0, False),
        ([0.0] * 50, 3, 0, False),
        ([0.0, 0.1, 0.0, 0.0], 2, 0, True),
        ([0.5, math.nan, math.nan], 2, 0, False),
        ([math.nan] * 9, 2, 0, False),
        ([0.5, 0.4, 0.3, 0.2], 3, 2, False),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 3, 2, True),
    ],
)
def test_plateaus_by_hand(ema: list[float], patience: int, settled: int, expected: bool) -> None:
    """Equal is no new best, 0 is nothing learnt, NaN says nothing, and epochs before the settled one do not count."""
    assert has_plateaued(ema, patience, settled) is expected


@given(st.lists(st.floats(0, 1), max_size=60), st.integers(1, 20), st.integers(0, 20))
def test_against_nnunets_own_bookkeeping(ema: list[float], patience: int, settled: int) -> None:
    """Counting epochs as nnU-Net announces its bests gives the same answer after every epoch."""
    best, since = None, 0
    for epoch, value in enumerate(ema):
        if best is None or value > best:  # as in nnUNetTrainer.on_epoch_end
            best, since = value, 0
        elif epoch >= settled:
            since += 1
        counted = since if epoch >= settled else 0
        assert has_plateaued(ema[: epoch + 1], patience, settled) == (best > 0 and counted >= patience)


def test_patience_counts_from_where_all_trains_at_the_full_rate() -> None:
    """Warm-up and frozen epochs do not use it up; without patience nothing ever stops."""
    falling = [0.9 - 0.01 * epoch for epoch in range(30)]
    recipe = Recipe(epochs=100, warmup_epochs=5, heads_first_epochs=8, frozen_encoder_epochs=12, patience=10)
    assert recipe.settled_epoch == 12
    stop_at_plateau(falling[:21], recipe)
    with pytest.raises(PlateauReached, match=r"10 epochs \(best 0\.9000\); training ends after 22 of 100 epochs"):
        stop_at_plateau(falling[:22], recipe)
    stop_at_plateau(falling, Recipe())
    stop_at_plateau(falling[:29], recipe, settled_epoch=20)
    with pytest.raises(PlateauReached):
        stop_at_plateau(falling[:30], recipe, settled_epoch=20)


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("stages", [2, 3, 6])
def test_depths_follow_the_longest_way(stages: int, residual: bool) -> None:
    """Heads 0, decoder 1 to n from the output down, bottleneck n + 1, first encoder stage (and stem) 2 n + 1."""
    n = stages - 1
    found = depths(dict(u_net(stages, residual=residual).named_parameters()))
    for name, depth in found.items():
        kind, number = name.split(".")[1], next((int(part) for part in name.split(".") if part.isdecimal()), 0)
        if kind == "seg_layers":
            expected = 0
        elif name.startswith("decoder."):  # nnU-Net counts decoder stages from the bottleneck: the last is the output
            expected = n - number
        elif kind == "stem":
            expected = 2 * n + 1
        else:
            expected = 2 * n + 1 - number
        assert depth == expected, name
    assert set(found.values()) == set(range(2 * n + 2)), "no depth is left out: six stages have twelve"


def test_every_parameter_is_in_one_group() -> None:
    """Shared ones, which the network lists up to four times, are in one group once; the first group are the heads."""
    network = u_net()
    groups = parameter_groups(network, 0.5)
    members = [id(parameter) for group in groups for parameter in group["params"]]
    assert sorted(members) == sorted({id(parameter) for parameter in network.parameters()})
    assert [group["lr_scale"] for group in groups] == [0.5**depth for depth in range(6)]
    heads = {id(p) for name, p in network.named_parameters() if ".seg_layers." in name}
    assert {id(parameter) for parameter in groups[0]["params"]} == heads


@pytest.mark.parametrize("warmup", [0, 3])
def test_rates_are_those_of_the_formula(warmup: int) -> None:
    """In every epoch group d has decay ** d of nnU-Net's polynomial rate, and group 0, which is logged, all of it."""
    network = u_net()
    stock = torch.optim.SGD(network.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)
    optimizer = with_layer_decay(stock, network, 0.75)
    scheduler = WarmupPolyLRScheduler(optimizer, 1e-2, 20, warmup)
    for epoch in range(20):
        scheduler.step(epoch)
        full = learning_rate(epoch, 1e-2, 20, warmup)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == [full * 0.75**depth for depth in range(6)] == scheduler.get_last_lr()
        assert rates[0] == full


def test_layer_decay_keeps_the_rest_of_the_optimiser() -> None:
    """Weight decay, momentum and Nesterov are those of the optimiser before; a decay of 1 makes the very same steps."""
    networks = [u_net(), u_net()]
    stock = [torch.optim.SGD(n.parameters(), 0.1, weight_decay=3e-2, momentum=0.9, nesterov=True) for n in networks]
    optimizers = [stock[0], with_layer_decay(stock[1], networks[1], 1.0)]
    for group in optimizers[1].param_groups:
        assert (group["weight_decay"], group["momentum"], group["nesterov"]) == (3e-2, 0.9, True)
    for _ in range(3):
        for network, optimizer in zip(networks, optimizers, strict=True):
            for parameter in network.parameters():
                parameter.grad = parameter.detach().sin()
            optimizer.step()
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, other)


def test_networks_without_the_parts_are_refused() -> None:
    """One line, with the option: a network of another kind has no levels, no heads, no encoder to tell."""
    other = nn.Sequential(nn.Linear(2, 2))
    with pytest.raises(StageError, match=r"-layer_decay needs one of nnU-Net's own U-Nets.*0\.bias"):
        parameter_groups(other, 0.5)
    names = dict(other.named_parameters())
    none = {"levels": False, "heads": False, "encoder": False}
    for part, words in (
        ("levels", "-layer_decay needs"),
        ("heads", "-heads_first_epochs needs a network with known segmentation heads"),
        ("encoder", "-frozen_encoder_epochs needs a network with a known encoder"),
    ):
        with pytest.raises(StageError, match=words):
            require_parts(names, **{**none, part: True})
        require_parts(dict(u_net().named_parameters()), **{**none, part: True})
    require_parts(names, **none)
