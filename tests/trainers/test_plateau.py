"""When a training has reached its plateau: a function of nnU-Net's EMA pseudo Dice alone."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnunet_seqtransfer.trainers.plateau import PlateauReached, has_plateaued, stop_at_plateau
from nnunet_seqtransfer.training.recipe import Recipe


@pytest.mark.parametrize(
    ("ema", "patience", "settled", "expected"),
    [
        ([], 1, 0, False),
        ([0.5], 1, 0, False),
        ([0.5, 0.4], 1, 0, True),
        ([0.5, 0.5], 1, 0, True),
        ([0.5, 0.4, 0.3], 3, 0, False),
        ([0.5, 0.4, 0.3, 0.2], 3, 0, True),
        ([0.5, 0.4, 0.3, 0.6], 3, 0, False),
        ([0.0] * 50, 3, 0, False),
        ([0.0, 0.1, 0.0, 0.0], 2, 0, True),
        ([0.5, math.nan, math.nan], 2, 0, False),
        ([math.nan] * 9, 2, 0, False),
        ([0.5, 0.4, 0.3, 0.2], 3, 2, False),
        ([0.5, 0.4, 0.3, 0.2, 0.1], 3, 2, True),
    ],
)
def test_by_hand(ema: list[float], patience: int, settled: int, expected: bool) -> None:
    """Equal is no new best, 0 is nothing learnt, NaN says nothing, and epochs before the settled one do not count."""
    assert has_plateaued(ema, patience, settled) is expected


@given(st.lists(st.floats(0, 1), max_size=60), st.integers(1, 20), st.integers(0, 20))
def test_against_nnunets_own_bookkeeping(ema: list[float], patience: int, settled: int) -> None:
    """Counting epochs as nnU-Net announces its bests gives the same answer after every epoch."""
    best, since = None, 0
    for epoch, value in enumerate(ema):
        if best is None or value > best:  # as in nnUNetTrainer.on_epoch_end
            best, since = value, 0
        elif epoch >= settled:
            since += 1
        counted = since if epoch >= settled else 0
        assert has_plateaued(ema[: epoch + 1], patience, settled) == (best > 0 and counted >= patience)


def test_patience_counts_from_where_all_trains_at_the_full_rate() -> None:
    """Warm-up and frozen epochs do not use it up; without patience nothing ever stops."""
    falling = [0.9 - 0.01 * epoch for epoch in range(30)]
    recipe = Recipe(epochs=100, warmup_epochs=5, heads_first_epochs=8, frozen_encoder_epochs=12, patience=10)
    assert recipe.settled_epoch == 12
    stop_at_plateau(falling[:21], recipe)
    with pytest.raises(PlateauReached, match=r"10 epochs \(best 0\.9000\); training ends after 22 of 100 epochs"):
        stop_at_plateau(falling[:22], recipe)
    stop_at_plateau(falling, Recipe())
