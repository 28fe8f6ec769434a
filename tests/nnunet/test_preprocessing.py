"""Tests of nnunet/preprocessing.py: sizes after resampling are nnU-Net's."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape

from nnunet_seqtransfer.nnunet.preprocessing import resampled_voxels


def expected_voxels(fingerprint: dict[str, Any], spacing: list[float], forward: list[int]) -> list[int]:
    """Voxels of each case as nnU-Net's preprocessor computes them."""
    voxels = []
    for shape, original in zip(fingerprint["shapes_after_crop"], fingerprint["spacings"], strict=True):
        moved_shape, moved = [shape[i] for i in forward], [original[i] for i in forward]
        goal = spacing if len(spacing) == 3 else [moved[0], *spacing]
        voxels.append(int(np.prod(compute_new_shape(moved_shape, moved, goal))))
    return voxels


@pytest.mark.parametrize("forward", list(itertools.permutations(range(3))))
def test_resampled_sizes_are_nnunets(forward: tuple[int, ...]) -> None:
    """The number of voxels after resampling equals nnU-Net's compute_new_shape, halves included, in 2-D and 3-D."""
    rng = np.random.default_rng(0)
    spacings = rng.choice([0.1, 0.5, 0.7, 1.0, 1.2, 2.5, 3.0, 5.0], (300, 3)).tolist()
    shapes = rng.integers(5, 300, (300, 3)).tolist()
    fingerprint = {"shapes_after_crop": shapes, "spacings": spacings}
    for spacing in ([1.0, 0.8, 2.0], [1.0, 1.0], [0.2, 0.4, 0.6]):
        plans = {"configurations": {"c": {"spacing": spacing}}, "transpose_forward": list(forward)}
        assert resampled_voxels(fingerprint, plans, "c") == expected_voxels(fingerprint, spacing, list(forward))
