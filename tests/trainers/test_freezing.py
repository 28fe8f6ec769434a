"""Frozen parts stay as they are bit by bit, cost no gradient, and train with the others once they are freed."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch import multiprocessing, nn

from nnunet_seqtransfer.trainers.schedule import freezes, hold_statistics, set_trainable, trains
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.transfer.checkpoints import HEADS
from support.ranks import BOTH, sgd, step, train_rank
from support.u_nets import batch, loss_of, moved, snapshot, u_net


def parts(network: nn.Module) -> tuple[set[str], set[str], set[str]]:
    """Names of the heads, the encoder, and the rest."""
    names = {name for name, _ in network.named_parameters()}
    heads = {name for name in names if HEADS in name}
    encoder = {name for name in names if name.startswith("encoder.")}
    return heads, encoder, names - heads - encoder


@pytest.mark.parametrize(
    ("recipe", "expected"),
    [
        (Recipe(), ["all"] * 4),
        (Recipe(heads_first_epochs=2), ["heads", "heads", "all", "all"]),
        (Recipe(frozen_encoder_epochs=2), ["decoder", "decoder", "all", "all"]),
        (Recipe(heads_first_epochs=1, frozen_encoder_epochs=3), ["heads", "decoder", "decoder", "all"]),
        (Recipe(heads_first_epochs=3, frozen_encoder_epochs=1), ["heads", "heads", "heads", "all"]),
    ],
)
def test_the_rule(recipe: Recipe, expected: list[str]) -> None:
    """Heads train always, the decoder after the heads-first epochs, the encoder after both; nothing is frozen again."""
    for epoch, what in enumerate(expected):
        flags = [
            trains(name, epoch, recipe)
            for name in (
                "decoder.seg_layers.0.weight",
                "decoder.stages.0.convs.0.norm.bias",
                "decoder.transpconvs.1.weight",
                "encoder.stages.0.0.convs.0.conv.weight",
                "decoder.encoder.stem.convs.0.conv.weight",
            )
        ]
        decoder, encoder = what != "heads", what == "all"
        assert flags == [True, decoder, decoder, encoder, encoder]
    assert freezes(recipe) == (set(expected) != {"all"})


@pytest.mark.parametrize("residual", [False, True])
def test_frozen_parameters_are_bit_equal_and_move_when_freed(residual: bool) -> None:
    """Neither gradient, momentum nor weight decay moves them, norms included; the epoch after, they all move."""
    network = u_net(residual=residual)
    heads, encoder, decoder = parts(network)
    assert heads and encoder and decoder
    optimizer = sgd(network)
    for epoch, expected in enumerate((heads, heads | decoder, heads | decoder | encoder)):
        before = snapshot(network)
        assert set_trainable(network, epoch, BOTH), "each epoch changes something"
        assert not set_trainable(network, epoch, BOTH), "and once is enough"
        for seed in range(3):
            step(network, optimizer, seed)
        # A bias before a normalisation has no influence: its gradient is rounding, and may be 0.
        still = {name for name in expected - moved(before, network) if not name.endswith("conv.bias")}
        assert moved(before, network) <= expected and not still
        with_gradient = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
        assert with_gradient == expected
        assert len(optimizer.state) == len(expected), "what is frozen gathers no momentum"


def test_a_checkpoint_of_any_epoch_loads_into_a_fresh_optimiser() -> None:
    """Resumed from the optimiser's state while parts are frozen or after, training goes on bit by bit as without."""
    for stop in range(1, 4):
        through = u_net()
        optimizer = sgd(through)
        for epoch in range(4):
            if epoch == stop:
                weights, state = snapshot(through), deepcopy(optimizer.state_dict())
                resumed = u_net()
                resumed.load_state_dict(through.state_dict())
                other = sgd(resumed)
                other.load_state_dict(state)
                assert not moved(weights, resumed)
            for network, its in ((through, optimizer), *([(resumed, other)] if epoch >= stop else [])):
                set_trainable(network, epoch, BOTH)
                step(network, its, epoch)
        assert not moved(snapshot(through), resumed)


def test_a_compiled_network_learns_what_was_freed() -> None:
    """torch.compile notices the change: gradients are those of the network that was not compiled."""
    network = u_net()
    compiled = torch.compile(network, backend="aot_eager")
    for epoch in range(3):
        set_trainable(network, epoch, BOTH)
        gradients = []
        for each in (network, compiled):
            network.zero_grad(set_to_none=True)
            loss_of(each(batch(epoch))).backward()
            gradients.append({name: p.grad for name, p in network.named_parameters() if p.grad is not None})
        assert gradients[0].keys() == gradients[1].keys()
        assert set(gradients[1]) == {name for name, _ in network.named_parameters() if trains(name, epoch, BOTH)}
        for name, gradient in gradients[0].items():
            torch.testing.assert_close(gradient, gradients[1][name], rtol=1e-4, atol=1e-6)


def test_processes_of_ddp_stay_together(tmp_path: Path) -> None:
    """Two processes, parts frozen and freed: no waiting without end, and both have the weights of one with all data."""
    multiprocessing.start_processes(train_rank, args=(str(tmp_path),), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    bare = u_net()
    optimizer = sgd(bare)
    for epoch in range(4):
        set_trainable(bare, epoch, BOTH)
        for iteration in range(2):
            optimizer.zero_grad(set_to_none=True)
            seeds = (10 * epoch + 2 * iteration, 10 * epoch + 2 * iteration + 1)
            (sum(loss_of(bare(batch(seed))) for seed in seeds) / 2).backward()
            torch.nn.utils.clip_grad_norm_(bare.parameters(), 12)
            optimizer.step()
        for name, value in snapshot(bare).items():
            assert torch.equal(first[epoch][name], second[epoch][name]), (epoch, name)
            torch.testing.assert_close(first[epoch][name], value, rtol=1e-3, atol=1e-5)


def test_frozen_batch_norms_keep_their_statistics() -> None:
    """Plans may ask for batch normalisation: the running mean of a frozen one does not move, a free one's does."""
    network = u_net(norm=nn.BatchNorm2d)
    set_trainable(network, 0, Recipe(frozen_encoder_epochs=1))
    before = {name: value.clone() for name, value in network.named_buffers() if name.endswith("running_mean")}
    network.train()
    hold_statistics(network)
    network(batch(0))
    after = dict(network.named_buffers())
    still = {name for name, value in before.items() if torch.equal(value, after[name])}
    assert still == {name for name in before if name.startswith("encoder.")} and len(still) < len(before)
