"""The learning rate against nnU-Net's own scheduler and against closed forms."""

from __future__ import annotations

import pytest
import torch
from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler

from nnunet_seqtransfer.trainers.schedule import WarmupPolyLRScheduler, learning_rate


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
    """Half way through, the rate is initial * 0.5 ** 0.9."""
    assert learning_rate(50, 1.0, 100, 0) == pytest.approx(0.5**0.9)
    assert learning_rate(60, 1.0, 110, 10) == pytest.approx(0.5**0.9)


def test_behind_the_last_epoch_the_rate_is_zero() -> None:
    """A step too many gives 0, where nnU-Net's formula would give a complex number."""
    assert learning_rate(11, 1.0, 10, 0) == 0


def test_going_on_from_a_checkpoint_gives_the_same_rates() -> None:
    """A scheduler made anew and stepped to epoch e has the rate of one that ran through; nnU-Net resumes that way."""
    through, anew = optimizer(), optimizer()
    first = WarmupPolyLRScheduler(through, 1e-2, 30, 4)
    for epoch in range(13):
        first.step(epoch)
    WarmupPolyLRScheduler(anew, 1e-2, 30, 4).step(12)
    assert anew.param_groups[0]["lr"] == through.param_groups[0]["lr"]
