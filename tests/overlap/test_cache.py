"""Tests of overlap/cache.py: only new and changed cases are read, and damaged caches are made again."""

from __future__ import annotations

import shutil
from typing import Any

import numpy as np
import pytest

from nnunet_seqtransfer.overlap import cache as sketch_cache
from nnunet_seqtransfer.overlap.cache import SketchedDataset, sketch_dataset
from nnunet_seqtransfer.overlap.sketch import Sketch
from support.world import NEAR, TARGET, World


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that are sketched, in their order."""
    done: list[str] = []
    original = sketch_cache._sketch_one

    def count(origin: Any) -> Sketch:
        done.append(origin.case)
        return original(origin)

    monkeypatch.setattr(sketch_cache, "_sketch_one", count)
    return done


def equal(one: SketchedDataset, other: SketchedDataset) -> bool:
    def plain(dataset: SketchedDataset) -> list[Any]:
        images = [
            (*names, channel.patterns.tolist(), channel.limit, channel.whole) for *names, channel in dataset.images
        ]
        return [images, {case: sketch.masks for case, sketch in dataset.sketches.items()}]

    return plain(one) == plain(other)


def test_only_new_and_changed_cases_are_read(world: World, counted: list[str]) -> None:
    """Nothing is sketched twice; a changed file, a new label definition or a damaged cache is noticed."""
    first = sketch_dataset(NEAR, 1)
    assert counted == [f"case{number}" for number in range(6)]
    counted.clear()
    assert equal(sketch_dataset(NEAR, 1), first) and counted == []
    shutil.copy(world.raw / NEAR / "imagesTr/case1_0000.nii.gz", world.raw / NEAR / "imagesTr/case4_0000.nii.gz")
    changed = sketch_dataset(NEAR, 1)
    assert counted == ["case4"] and not equal(changed, first)
    assert np.array_equal(changed.sketches["case4"].channels[0].patterns, first.sketches["case1"].channels[0].patterns)
    counted.clear()
    (cache,) = (world.preprocessed / NEAR / "seqtransfer").glob("sketches_*.npz")
    whole = cache.read_bytes()
    for damaged in (b"", whole[: len(whole) // 2], whole[:-1]):
        cache.write_bytes(damaged)
        assert equal(sketch_dataset(NEAR, 1), changed) and len(counted) == 6
        counted.clear()
    assert equal(sketch_dataset(NEAR, 1), changed) and counted == []


def test_the_cache_is_small_and_opens_without_pickle(world: World) -> None:
    """Hashes, counts and a JSON header; no array has the size of an image."""
    sketch_dataset(TARGET, 1)
    (cache,) = (world.preprocessed / TARGET / "seqtransfer").glob("sketches_*.npz")
    with np.load(cache, allow_pickle=False) as archive:
        arrays = {name: archive[name] for name in archive.files}
    assert set(arrays) == {"header", "counts", "limits", "wholes", "patterns"}
    assert arrays["patterns"].dtype == np.uint64 and arrays["patterns"].size < 6 * 1000
