"""nnU-Net's polynomial learning rate, with a linear warm-up before it, and a share of it for each parameter group."""

from __future__ import annotations

from nnunetv2.training.lr_scheduler.polylr import PolyLRScheduler
from torch.optim import Optimizer

SCALE = "lr_scale"
"""Key of a parameter group's share of the learning rate; groups without it have all of it."""


def learning_rate(step: int, initial_lr: float, max_steps: int, warmup_steps: int, exponent: float = 0.9) -> float:
    """Learning rate of epoch ``step`` (from 0).

    Warm-up: initial_lr * (step + 1) / (warmup_steps + 1). After it, with s = step - warmup_steps and
    n = max_steps - warmup_steps: initial_lr * (1 - s / n) ** exponent, nnU-Net's PolyLRScheduler. Without warm-up
    the two are the same.
    """
    if step < warmup_steps:
        return initial_lr * (step + 1) / (warmup_steps + 1)
    remaining = (step - warmup_steps) / max(1, max_steps - warmup_steps)
    return float(initial_lr * max(0.0, 1 - remaining) ** exponent)


class WarmupPolyLRScheduler(PolyLRScheduler):
    """`learning_rate` as a scheduler with the interface that nnU-Net's trainer uses.

    Each parameter group gets its share of the rate (see `SCALE`); nnU-Net's own scheduler gives all groups one rate.
    """

    def __init__(self, optimizer: Optimizer, initial_lr: float, max_steps: int, warmup_steps: int) -> None:
        self.warmup_steps = warmup_steps
        super().__init__(optimizer, initial_lr, max_steps)

    def step(self, current_step: int | None = None) -> None:
        """Sets the learning rate of epoch ``current_step``, or of the next one."""
        if current_step is None or current_step == -1:
            current_step = self.ctr
            self.ctr += 1
        rate = learning_rate(current_step, self.initial_lr, self.max_steps, self.warmup_steps)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group.get(SCALE, 1.0)
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]
