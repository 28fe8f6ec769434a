"""Phantoms as nnU-Net's preprocessing leaves cases, and the signatures that tasks of them have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from nnunet_seqtransfer.affinity.base import AffinityMetric
from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.tasks.signature import INTENSITY_PROPERTIES, Signature


def phantom(
    seed: int, channels: int = 1, labels: int = 1, radius: float = 4.0, contrast: float = 2.0, offset: float = 0.0,
    shape: tuple[int, int, int] = (20, 24, 22), centre: float = 0.5,
) -> CaseData:  # fmt: skip
    """Balls, or discs in one slice, on a ground of normalised noise; radius and position vary a little by the seed."""
    rng = np.random.default_rng(seed)
    size = np.asarray(shape)
    grid = np.stack(np.meshgrid(*[np.arange(length) for length in shape], indexing="ij"), axis=-1)
    segmentation = np.zeros(shape, dtype=np.int16)
    image = rng.normal(0, 0.3, shape)
    middle = (size - 1) * np.asarray([0.5, 0.5, centre]) + rng.uniform(-0.5, 0.5, 3) * (size > 1)
    for label in range(1, labels + 1):
        away = np.where(size > 1, middle + (label - 1) * np.asarray([0, 7, 0]), 0)
        mask = np.linalg.norm(grid - away, axis=-1) < radius * (1 - 0.25 * (label - 1))
        segmentation[mask] = label
        image[mask] += contrast / label
    images = np.stack([(image + offset) * (1 - 0.6 * channel) + 0.2 * channel for channel in range(channels)])
    images += rng.normal(0, 0.02, images.shape)
    return CaseData(images.astype(np.float32), segmentation)


def signature_of(
    metric: AffinityMetric,
    cases: Sequence[CaseData],
    labels: Sequence[tuple[int, ...]] | None = None,
    name: str = "Dataset001_A",
    spacing: tuple[float, float, float] = (1.0, 1.0, 1.0),
    **changes: Any,
) -> Signature:
    """The signature that `profile_tasks` would make of these cases, all of one spacing in mm."""
    values = sorted({int(value) for case in cases for value in np.unique(case.segmentation)} - {0, -1})
    regions = tuple(labels if labels is not None else [(value,) for value in values])
    channels = len(cases[0].images)
    signature = Signature(
        dataset=name,
        metric=metric.name,
        version=metric.version,
        digest=name,
        base=name,
        preprocessing="same",
        channels=tuple(f"channel {index}" for index in range(channels)),
        labels=tuple(f"label {index}" for index in range(len(regions))),
        labelled_cases=len(cases),
        cases=tuple(f"{name} case {index}" for index in range(len(cases))),
        stamps=tuple(f"stamp {index}" for index in range(len(cases))),
        labelled=tuple(bool((case.segmentation > 0).any()) for case in cases),
        geometry=np.asarray([[spacing, np.multiply(case.segmentation.shape, spacing)] for case in cases]),
        intensities=np.stack([foreground_intensities(cases, channel) for channel in range(channels)]),
        profiles=tuple(metric.profile(case, regions) for case in cases),
    )
    return replace(signature, **changes)


def foreground_intensities(cases: Sequence[CaseData], channel: int) -> np.ndarray:
    """What nnU-Net's fingerprint says of a channel, in the order of `INTENSITY_PROPERTIES`; 0 without any label."""
    values = np.concatenate([case.images[channel][case.segmentation > 0] for case in cases])
    if not len(values):
        return np.zeros(len(INTENSITY_PROPERTIES))
    percentiles = np.percentile(values, [0.5, 99.5])
    return np.asarray([values.mean(), np.median(values), values.std(), values.min(), values.max(), *percentiles])


def task_of(metric: AffinityMetric, seed: int, name: str, cases: int = 2, **settings: Any) -> Signature:
    """The signature of a task of phantoms that differ by nothing but chance."""
    return signature_of(metric, [phantom(seed + case, **settings) for case in range(cases)], name=name)


def reordered(signature: Signature, order: Sequence[int]) -> Signature:
    """The same task with its cases in another order, or some of them alone."""
    return replace(
        signature,
        cases=tuple(signature.cases[i] for i in order),
        stamps=tuple(signature.stamps[i] for i in order),
        labelled=tuple(signature.labelled[i] for i in order),
        geometry=signature.geometry[list(order)],
        profiles=tuple(signature.profiles[i] for i in order),
    )


def assert_same_array(mine: np.ndarray, theirs: np.ndarray) -> None:
    assert (mine.dtype, mine.shape) == (theirs.dtype, theirs.shape)
    assert mine.tobytes() == theirs.tobytes()


def assert_same_profiles(a: Sequence[dict[str, np.ndarray]], b: Sequence[dict[str, np.ndarray]]) -> None:
    """Assert that all arrays of all cases are equal bit by bit."""
    for mine, theirs in zip(a, b, strict=True):
        assert sorted(mine) == sorted(theirs)
        for name, array in mine.items():
            assert_same_array(array, theirs[name])


def assert_equal(a: Signature, b: Signature) -> None:
    """Assert that all fields are equal, and all arrays bit by bit."""
    for name in Signature.__dataclass_fields__:
        if name in ("geometry", "intensities"):
            assert_same_array(getattr(a, name), getattr(b, name))
        elif name != "profiles":
            assert getattr(a, name) == getattr(b, name), name
    assert_same_profiles(a.profiles, b.profiles)
