"""Functions for the processes of a distributed test, which spawned Python can import by name."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_seqtransfer.trainers.schedule import rewrapped, set_trainable
from nnunet_seqtransfer.trainers.stopping import any_process
from nnunet_seqtransfer.training.recipe import Recipe
from support.u_nets import batch, loss_of, snapshot, u_net

BOTH = Recipe(heads_first_epochs=1, frozen_encoder_epochs=2)
VOTES = ((False, False), (False, True), (True, False), (True, True))


def vote(rank: int, file: str) -> None:
    """Exit with the results of all `VOTES`, one bit each."""
    distributed.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    results = [any_process(requests[rank], torch.device("cpu")) for requests in VOTES]
    distributed.destroy_process_group()
    os._exit(sum(2**index for index, result in enumerate(results) if result))


def sgd(network: nn.Module) -> torch.optim.SGD:
    """Return nnU-Net's optimiser."""
    return torch.optim.SGD(network.parameters(), 1e-2, weight_decay=3e-5, momentum=0.99, nesterov=True)


def step(network: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    """Do one of nnU-Net's iterations."""
    optimizer.zero_grad(set_to_none=True)
    loss_of(network(batch(seed))).backward()
    torch.nn.utils.clip_grad_norm_(network.parameters(), 12)
    optimizer.step()


def train_rank(rank: int, folder: str) -> None:
    """Train one of two processes, each with its own data, through all epochs of `BOTH`; save its weights."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    bare = u_net()
    network: nn.Module = DistributedDataParallel(bare)  # created before anything is frozen, as nnU-Net does
    optimizer = sgd(bare)
    states = []
    for epoch in range(4):
        if set_trainable(bare, epoch, BOTH):
            network = rewrapped(network)
        for iteration in range(2):
            step(network, optimizer, 10 * epoch + 2 * iteration + rank)
        states.append(snapshot(bare))
    torch.save(states, f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()


def train_mixed_rank(rank: int, folder: str, target: str, configuration: str) -> None:
    """Train one of two processes of a mixed stage on the CPU; save weights around epochs, orders and batches."""
    from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as host

    from support import mixed

    torch.set_num_threads(1)
    # nnU-Net's DDP wants a GPU for each process
    host.DDP = lambda network, device_ids: DistributedDataParallel(network)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    made = mixed.trainer(target, configuration)
    made.device, made.grad_scaler = torch.device("cpu"), None
    states: list[dict[str, torch.Tensor]] = []
    orders: list[list[int]] = []
    loaded: list[float] = []
    start, end, step = made.on_train_epoch_start, made.on_train_epoch_end, made.train_step

    def on_start() -> None:
        start()
        order = list(made.dataloader_train.order)
        made.dataloader_train.order = iter(order)
        orders.append(order)
        states.append(mixed.copies(made))

    def on_end(outputs: Any) -> None:
        end(outputs)
        states.append(mixed.copies(made))

    def on_step(data: Any) -> Any:
        loaded.append(float(data["data"].sum()))
        return step(data)

    made.on_train_epoch_start, made.on_train_epoch_end, made.train_step = on_start, on_end, on_step
    made.run_training()
    torch.save({"states": states, "orders": orders, "loaded": loaded}, f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()


def swap_heads_rank(rank: int, folder: str) -> None:
    """Train one of two processes with a compiled network and two sets of heads in turns; save what came out."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    bare: Any = u_net()
    own = bare.decoder.seg_layers
    torch.manual_seed(rank)  # DDP gives all processes the values of the first one
    other = nn.ModuleList(nn.Conv2d(layer.in_channels, 3, 1) for layer in own)
    everything = nn.ModuleList([bare, other])
    network = DistributedDataParallel(torch.compile(bare, backend="aot_eager"))
    network = rewrapped(network, nn.ModuleList([other]))
    optimizer, moved = sgd(everything), []
    for iteration in range(4):
        used, unused = ((own, other), (other, own))[iteration % 2]
        before = snapshot(unused)
        optimizer.zero_grad(set_to_none=True)
        bare.decoder.seg_layers = used
        loss_of([output[:, :2] for output in network(batch(2 * iteration + rank))]).backward()
        bare.decoder.seg_layers = own
        optimizer.step()
        moved += [name for name, value in snapshot(unused).items() if not torch.equal(value, before[name])]
    graphs = torch._dynamo.utils.counters["stats"]["unique_graphs"]
    names = [name for name in bare.state_dict() if "other" in name]
    result = {"weights": snapshot(everything), "moved": moved, "graphs": graphs, "names": names}
    torch.save(result, f"{folder}/rank{rank}.pt")
    distributed.destroy_process_group()
