"""Early stop: when nnU-Net's EMA pseudo Dice has had no new best for too long."""

from __future__ import annotations

import math
from collections.abc import Sequence

from nnunet_seqtransfer.training.recipe import Recipe


class PlateauReached(Exception):  # noqa: N818 - no error, it leads out of nnU-Net's loop over the epochs
    """The training ends here."""


def has_plateaued(ema: Sequence[float], patience: int, settled_epoch: int = 0) -> bool:
    """Whether the last ``patience`` epochs had no new best.

    A new best is nnU-Net's own: an EMA pseudo Dice above all before. Epochs before ``settled_epoch`` (warm-up, frozen
    parts) do not count. It is no plateau while the Dice has never been above 0, which is a training that has not
    begun to learn, nor where it is NaN (no label in any validation patch, which nnU-Net's average keeps for ever).

    Args:
        ema: one value for each finished epoch.
        patience: epochs, at least 1.
        settled_epoch: the first epoch that counts.
    """
    if not ema or math.isnan(ema[-1]):
        return False
    best = max(ema)
    return best > 0 and len(ema) - max(list(ema).index(best) + 1, settled_epoch) >= patience


def stop_at_plateau(ema: Sequence[float], recipe: Recipe) -> None:
    """Raises PlateauReached before an epoch that the recipe does not want any more; a function of the log alone.

    So a training that goes on from a checkpoint behind its plateau ends without another epoch.
    """
    if recipe.patience is not None and has_plateaued(ema, recipe.patience, recipe.settled_epoch):
        raise PlateauReached(
            f"no new best EMA pseudo Dice for {recipe.patience} epochs (best {max(ema):.4f}); training ends after "
            f"{len(ema)} of {recipe.epochs} epochs"
        )
