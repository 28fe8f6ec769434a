"""Learning rates per epoch and parameter, and the end of training at a plateau."""

import math
from collections.abc import Sequence
from typing import Any

from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch import nn
from torch.optim import Optimizer

from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.transfer.tensor_roles import depths

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

    Args:
        ema: one value per finished epoch.
        patience: epochs, at least 1.
        settled_epoch: the first epoch that counts, after warm-up and frozen parts.
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
