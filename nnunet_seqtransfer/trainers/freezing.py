"""Frozen parts of the network: only the heads train first, then all but the encoder, then everything."""

from torch import nn
from torch.nn.parallel import DistributedDataParallel

from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.transfer.tensor_roles import ENCODER, HEADS

BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


def freezes(recipe: Recipe) -> bool:
    """Return whether any epoch trains only a part of the network."""
    return recipe.heads_first_epochs > 0 or recipe.frozen_encoder_epochs > 0


def trains(name: str, epoch: int, recipe: Recipe) -> bool:
    """Return whether the parameter ``name`` of the bare network trains in ``epoch`` (from 0).

    The heads always train, the decoder from epoch heads_first_epochs, the encoder from epoch
    max(heads_first_epochs, frozen_encoder_epochs).
    """
    if HEADS in name:
        return True
    return epoch >= recipe.heads_first_epochs and not (
        epoch < recipe.frozen_encoder_epochs and name.startswith(ENCODER)
    )


def set_trainable(network: nn.Module, epoch: int, recipe: Recipe) -> bool:
    """Freeze and unfreeze the parameters of the bare ``network`` for ``epoch``; return whether any changed.

    A frozen parameter has no gradient, so the optimiser skips it: neither weight decay nor momentum moves it. The
    optimiser keeps the same groups in every epoch, so that it can load the checkpoint of any epoch.
    """
    changed = False
    for name, parameter in network.named_parameters():
        wanted = trains(name, epoch, recipe)
        if parameter.requires_grad != wanted:
            parameter.requires_grad_(wanted)
            parameter.grad = None  # a left-over gradient would still move it
            changed = True
    return changed


def rewrapped(network: nn.Module, other_heads: nn.Module | None = None) -> nn.Module:
    """Return ``network`` in a new DDP wrapper if it has one; needed after `set_trainable` changed something.

    DDP registers the trainable parameters when it is created. It would wait for ever for one that is frozen later, and
    would not average one that is unfrozen later. All processes must call this in the same epoch.

    ``other_heads``: heads that take the place of the network's own in some iterations, see mixing.py.
    """
    if not isinstance(network, DistributedDataParallel):
        return network
    bare, devices = network.module, network.device_ids
    if other_heads is None:
        return DistributedDataParallel(bare, device_ids=devices)
    bare.other_heads = other_heads  # DDP registers what the network holds now
    wrapped = DistributedDataParallel(bare, device_ids=devices, find_unused_parameters=True)
    del bare.other_heads
    return wrapped


def hold_statistics(network: nn.Module) -> None:
    """Keep the running statistics of frozen batch normalisations; call it after ``network.train()``.

    Instance normalisation, which nnU-Net's own plans use, has no running statistics.
    """
    for module in network.modules():
        parameters = list(module.parameters(recurse=False))
        if isinstance(module, BATCH_NORMS) and parameters and not any(each.requires_grad for each in parameters):
            module.eval()


def summary(network: nn.Module) -> str:
    """Return one line that says how many parameters of the bare network train."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in network.parameters()]
    free, total = sum(size for size, trained in sizes if trained), sum(size for size, _ in sizes)
    return f"{free} of {total} parameters train from this epoch on"
