"""Apply the recipe to an epoch: learning rates, frozen parts of the network, the end at a plateau."""

import math
from collections.abc import Sequence
from typing import Any

from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.transfer.tensor_roles import ENCODER, HEADS, depths

SCALE = "lr_scale"
"""Key for the learning-rate factor in a parameter group; the default factor is 1."""


def learning_rate(step: int, initial_lr: float, max_steps: int, warmup_steps: int, exponent: float = 0.9) -> float:
    """Return the learning rate of epoch ``step`` (from 0).

    Warm-up: initial_lr * (step + 1) / (warmup_steps + 1). After it, with s = step - warmup_steps and
    n = max_steps - warmup_steps: initial_lr * (1 - s / n) ** exponent, as in nnU-Net's PolyLRScheduler. Without
    warm-up the two are equal.
    """
    if step < warmup_steps:
        return initial_lr * (step + 1) / (warmup_steps + 1)
    remaining = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return float(initial_lr * max(0.0, 1 - remaining) ** exponent)


class WarmupPolyLRScheduler(PolyLRScheduler):
    """Scheduler of `learning_rate` with the interface that nnU-Net's trainer uses.

    Each parameter group has a factor (see `SCALE`); nnU-Net's scheduler gives all groups one rate.
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float, max_steps: int, warmup_steps: int) -> None:
        self.warmup_steps = warmup_steps
        super().__init__(optimizer, initial_lr, max_steps)

    def step(self, current_step: int | None = None) -> None:
        """Set the learning rate of epoch ``current_step``; None or -1 is the next epoch."""
        if current_step is None or current_step == -1:
            current_step = self.ctr
            self.ctr += 1
        rate = learning_rate(current_step, self.initial_lr, self.max_steps, self.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get(SCALE, 1.0)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]


def parameter_groups(network: nn.Module, decay: float) -> list[dict[str, Any]]:
    """Group the parameters of a bare U-Net by depth, with the learning-rate factor decay ** depth.

    Layer-wise decay as in ELECTRA (arXiv 2003.10555) and BEiT (arXiv 2106.08254), where depth is counted from the
    output; see `depths` for a U-Net. The first group holds the heads, with factor 1.

    Raises StageError if the network is not one of nnU-Net's U-Nets.
    """
    parameters = dict(network.named_parameters())  # lists shared ones once
    of_name = depths(parameters)
    groups: dict[int, list[nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(of_name[name], []).append(parameter)
    return [{"params": groups[depth], SCALE: decay**depth} for depth in sorted(groups)]


def with_layer_decay(optimizer: Optimizer, network: nn.Module, decay: float) -> Optimizer:
    """Return an optimiser like the unused ``optimizer``, with the `parameter_groups` of ``network``."""
    return type(optimizer)(parameter_groups(network, decay), **optimizer.defaults)


class PlateauReached(Exception):  # noqa: N818 - not an error: it leaves nnU-Net's loop over the epochs
    """The training ends here."""


def has_plateaued(ema: Sequence[float], patience: int, settled_epoch: int = 0) -> bool:
    """Return whether the last ``patience`` epochs had no new best EMA pseudo Dice.

    A new best is nnU-Net's own: a value above all earlier ones. A Dice that was never above 0 is no plateau: that
    training has not begun to learn. Neither is NaN (no label in any validation patch), which nnU-Net's average keeps.

    ``ema``: one value per finished epoch. ``settled_epoch``: the first that counts, after warm-up and frozen parts.
    """
    if not ema or math.isnan(ema[-1]):
        return False
    best = max(ema)
    return best > 0 and len(ema) - max(list(ema).index(best) + 1, settled_epoch) >= patience


def stop_at_plateau(ema: Sequence[float], recipe: Recipe, settled_epoch: int = 0) -> None:
    """Raise PlateauReached if the recipe's patience is exhausted; it counts from ``settled_epoch`` at the earliest.

    Only the log decides, so a training resumed after a plateau ends without another epoch.
    """
    if recipe.patience is not None and has_plateaued(ema, recipe.patience, max(recipe.settled_epoch, settled_epoch)):
        raise PlateauReached(
            f"no new best EMA pseudo Dice for {recipe.patience} epochs (best {max(ema):.4f}); training ends after "
            f"{len(ema)} of {recipe.epochs} epochs"
        )


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
