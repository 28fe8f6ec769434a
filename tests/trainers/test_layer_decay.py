"""Layer-wise decay gives the rates of its formula, in the groups of nnU-Net's own optimiser and schedule."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.trainers.layer_decay import parameter_groups, regrouped
from nnunet_seqtransfer.trainers.schedule import WarmupPolyLRScheduler, learning_rate
from nnunet_seqtransfer.transfer.tensor_roles import depths, require_parts
from support.u_nets import u_net


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
    optimizer = regrouped(stock, network, 0.75)
    scheduler = WarmupPolyLRScheduler(optimizer, 1e-2, 20, warmup)
    for epoch in range(20):
        scheduler.step(epoch)
        full = learning_rate(epoch, 1e-2, 20, warmup)
        rates = [group["lr"] for group in optimizer.param_groups]
        assert rates == [full * 0.75**depth for depth in range(6)] == scheduler.get_last_lr()
        assert rates[0] == full


def test_all_else_is_nnunets() -> None:
    """Weight decay, momentum and Nesterov are those of the optimiser before; a decay of 1 makes the very same steps."""
    networks = [u_net(), u_net()]
    stock = [torch.optim.SGD(n.parameters(), 0.1, weight_decay=3e-2, momentum=0.9, nesterov=True) for n in networks]
    optimizers = [stock[0], regrouped(stock[1], networks[1], 1.0)]
    for group in optimizers[1].param_groups:
        assert (group["weight_decay"], group["momentum"], group["nesterov"]) == (3e-2, 0.9, True)
    for _ in range(3):
        for network, optimizer in zip(networks, optimizers, strict=True):
            for parameter in network.parameters():
                parameter.grad = parameter.detach().sin()
            optimizer.step()
    for one, other in zip(*(network.parameters() for network in networks), strict=True):
        assert torch.equal(one, other)


def test_its_state_comes_back() -> None:
    """The state of one loads into one made anew, momentum and shares of the rate included."""
    network = u_net()
    optimizers = [regrouped(torch.optim.SGD(network.parameters(), 0.1, momentum=0.9), network, 0.5) for _ in range(2)]
    for parameter in network.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizers[0].step()
    optimizers[1].load_state_dict(optimizers[0].state_dict())
    for one, other in zip(*(optimizer.param_groups for optimizer in optimizers), strict=True):
        assert one["lr_scale"] == other["lr_scale"] and len(one["params"]) == len(other["params"])
    for parameter in network.parameters():
        buffers = [optimizer.state[parameter]["momentum_buffer"] for optimizer in optimizers]
        assert torch.equal(*buffers)


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
