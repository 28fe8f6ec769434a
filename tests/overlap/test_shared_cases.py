"""What is known of shared cases without reading an image: derivation records and cached sketches."""

from __future__ import annotations

import shutil

import pytest

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.overlap import cache
from nnunet_seqtransfer.overlap.matching import find_overlap, sharing_sources
from nnunet_seqtransfer.tasks.derive import DeriveRequest, derive_dataset
from support.world import FAR, NEAR, TARGET, World


def derive(origin: str, number: int, *cases: str) -> str:
    return derive_dataset(DeriveRequest(origin, number, "X", cases=cases), Context()).dataset


def test_datasets_derived_from_one_share_the_cases_that_both_keep(world: World) -> None:
    """Records are followed over several steps; datasets without a common case or origin share nothing."""
    some = derive(TARGET, 951, "case0", "case1", "case2")
    other = derive(TARGET, 952, "case3", "case4")
    step = derive(some, 953, "case2")
    assert sharing_sources(TARGET, [some, other, step, NEAR]) == (some, other, step)
    assert sharing_sources(step, [TARGET, some, other, NEAR]) == (TARGET, some)
    (world.raw / some / "derived.json").write_text("{")
    assert not sharing_sources(TARGET, [some]), "an unreadable record says nothing"


def test_cached_sketches_tell_without_reading_images(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is known once both datasets are sketched, until the files change; nothing is read or written for it."""
    copy = "Dataset905_Copy"
    shutil.copytree(world.raw / TARGET, world.raw / copy)
    before = world.snapshot()
    assert sharing_sources(TARGET, [copy, NEAR]) == () and world.snapshot() == before
    find_overlap(TARGET, [copy, NEAR, FAR], Context())
    before = world.snapshot()
    for name in ("_sketch_one", "reader_writer"):
        monkeypatch.setattr(cache, name, None)
    assert sharing_sources(TARGET, [copy, NEAR, FAR]) == (copy,)
    assert world.snapshot() == before
    for image in (world.raw / copy / "imagesTr").iterdir():
        image.write_bytes(image.read_bytes() + b"\0")
    assert not sharing_sources(TARGET, [copy]), "sketches of other files say nothing"
    shutil.rmtree(world.raw / copy / "labelsTr")
    assert not sharing_sources(TARGET, [copy]), "a broken dataset is no error here"
