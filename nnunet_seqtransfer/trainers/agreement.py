"""Deciding alike in all processes of a distributed training."""

from __future__ import annotations

import torch
from torch import distributed


def agreed(wish: bool, device: torch.device) -> bool:
    """Whether any process of a distributed training wishes it; alone, whether this one does. All must call it."""
    if not (distributed.is_available() and distributed.is_initialized()):
        return wish
    flag = torch.tensor(int(wish), device=device)
    distributed.all_reduce(flag, op=distributed.ReduceOp.MAX)
    return bool(flag.item())
