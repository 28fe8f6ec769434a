"""Which part of the network trains in which epoch: only its heads at first, then all but the encoder, then all."""

from __future__ import annotations

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.transfer.tensor_roles import ENCODER, HEADS

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def freezes(recipe: Recipe) -> bool:
    """Whether any epoch trains only a part of the network."""
    return recipe.heads_first_epochs > 0 or recipe.frozen_encoder_epochs > 0


def trains(name: str, epoch: int, recipe: Recipe) -> bool:
    """Whether the parameter ``name`` of the bare network trains in ``epoch`` (from 0).

    The heads always do, the encoder from epoch max(heads_first_epochs, frozen_encoder_epochs) on, everything else
    (the decoder) from epoch heads_first_epochs on.
    """
    if HEADS in name:
        return True
    return epoch >= recipe.heads_first_epochs and not (
        epoch < recipe.frozen_encoder_epochs and name.startswith(ENCODER)
    )


def set_trainable(network: nn.Module, epoch: int, recipe: Recipe) -> bool:
    """Freezes and frees the parameters of the bare ``network`` for ``epoch``; returns whether that changed anything.

    A frozen parameter asks for no gradient, which saves the backward pass through it, and has none, so that the
    optimiser passes it by: neither weight decay nor momentum moves it. The optimiser itself stays as it is, with the
    same groups in every epoch, so that checkpoints of any epoch load into it.
    """
    changed = False
    for name, parameter in network.named_parameters():
        wanted = trains(name, epoch, recipe)
        if parameter.requires_grad != wanted:
            parameter.requires_grad_(wanted)
            parameter.grad = None
            changed = True
    return changed


def rewrapped(network: nn.Module) -> nn.Module:
    """``network``, its DDP wrapper (if it has one) made anew, which is due whenever `set_trainable` changed something.

    DDP registers the parameters that want a gradient when it is made. One that is frozen later would be waited for
    without end; one that is freed later would not be averaged over the processes. All processes change in the same
    epoch, so that all of them take part in this collective call.
    """
    if not isinstance(network, DistributedDataParallel):
        return network
    return DistributedDataParallel(network.module, device_ids=network.device_ids)


def hold_statistics(network: nn.Module) -> None:
    """Keeps the running statistics of frozen batch normalisations; to be called when ``network`` is in training mode.

    nnU-Net's own plans have instance normalisation, which has none.
    """
    for module in network.modules():
        parameters = list(module.parameters(recurse=False))
        if isinstance(module, BATCH_NORMS) and parameters and not any(each.requires_grad for each in parameters):
            module.eval()


def summary(network: nn.Module) -> str:
    """In words, how much of the bare network trains."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    free, total = sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
    return f"{free} of {total} parameters train from this epoch on"
