"""Signatures are kept and used again as long as nothing they depend on has changed, and made anew otherwise."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_seqtransfer.affinity.descriptors import DescriptorMetric
from nnunet_seqtransfer.affinity.published import PublishedMetric
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.host.plans import read_plans
from nnunet_seqtransfer.tasks import profile
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.profile import ProfileRequest, profile_tasks, request_profile
from nnunet_seqtransfer.tasks.signature import Signature, read_signature, write_signature
from nnunet_seqtransfer.tasks.task import load_task, sample_cases

TARGET, NEAR = "Dataset901_Target", "Dataset902_Near"
CONFIGURATION = "3d_fullres"


def example(**changes: Any) -> Signature:
    """A signature as metrics make them: several types, no numbers, an empty array, a name with a dot."""
    rng = np.random.default_rng(0)
    profiles = tuple(
        {
            "image": rng.normal(size=(2, 5)).astype(np.float32),
            "shell": np.asarray([np.nan, np.inf, -0.0], dtype=np.float32),
            "mask": np.packbits(rng.random(40) < 0.5),
            "shape": np.asarray([3, 4, 5]),
            "deep/er.name": np.zeros((0, 3)),
        }
        for _ in range(3)
    )
    signature = Signature(
        "Dataset001_\u00c4", "descriptors", "0" * 64, ("T1", "a, b"), ("organ",), 12, ("c0", "c1", "c2"),
        (1.0, 0.1, 1e-9), (20.0, 24.0, 20.0), profiles,
    )  # fmt: skip
    return replace(signature, **changes)


def assert_equal(a: Signature, b: Signature) -> None:
    """All fields, and all arrays bit by bit."""
    assert replace(a, profiles=()) == replace(b, profiles=())
    assert len(a.profiles) == len(b.profiles)
    for mine, theirs in zip(a.profiles, b.profiles, strict=True):
        assert list(mine) == list(theirs)
        for name, array in mine.items():
            assert (array.dtype, array.shape) == (theirs[name].dtype, theirs[name].shape)
            assert array.tobytes() == theirs[name].tobytes()


def test_a_signature_comes_back_bit_by_bit(tmp_path: Path) -> None:
    """Every field and array is read as it was written, with pickle never needed."""
    write_signature(tmp_path / "s.npz", example())
    assert_equal(read_signature(tmp_path / "s.npz"), example())
    with np.load(tmp_path / "s.npz", allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)


def test_a_damaged_signature_is_refused(tmp_path: Path) -> None:
    """Cut off at any length, or with any byte changed, the file is refused as damaged or still the same signature."""
    path, signature = tmp_path / "s.npz", example()
    write_signature(path, signature)
    whole = path.read_bytes()
    for length in range(0, len(whole), 29):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordError, match=str(path)):
            read_signature(path)
    rng = np.random.default_rng(0)
    for place in range(0, len(whole), 5):
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            assert_equal(read_signature(path), signature)
        except RecordError as error:
            assert "truncated or damaged" in str(error)


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(str(arrays.pop("header")))
    np.savez_compressed(path, header=np.asarray(json.dumps(change(header))), **arrays)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda header: {**header, "format": 99}, "format 99, this version reads up to 1"),
        (lambda header: {**header, "kind": "other"}, "damaged"),
        (lambda header: {key: value for key, value in header.items() if key != "spacing"}, "damaged"),
        (lambda header: {**header, "unknown": 1}, "damaged"),
        (lambda header: [header], "damaged"),
        (lambda header: "text", "damaged"),
        (lambda header: {**header, "cases": ["only one"]}, "damaged"),
    ],
)
def test_another_header_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str) -> None:
    """A newer format, another kind, or missing and unknown fields are refused by name."""
    path = tmp_path / "s.npz"
    write_signature(path, example())
    rewrite_header(path, change)
    with pytest.raises(RecordError, match=words):
        read_signature(path)


def test_a_file_that_wants_pickle_is_refused(tmp_path: Path) -> None:
    """An archive with Python objects in it is refused, and so is one that is no NPZ file."""
    path = tmp_path / "s.npz"
    np.savez(path, header=np.asarray([{"kind": "signature"}], dtype=object))
    with pytest.raises(RecordError):
        read_signature(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.npy", b"text")
    with pytest.raises(RecordError):
        read_signature(path)


def source_request(cases: int = 3, seed: int = 0) -> ProfileRequest:
    """The near source's request as `compute_affinity` makes it, read anew from disk."""
    plans = read_plans(TARGET, "nnUNetPlans", CONFIGURATION)
    source = load_task(NEAR)
    return request_profile(source, align_plans(plans, load_task(TARGET), source), CONFIGURATION, cases, seed)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that were profiled, in their order."""
    profiled: list[str] = []
    original = profile.profile_case

    def counting(request: ProfileRequest, case: str, metric: Any) -> Any:
        profiled.append(case)
        return original(request, case, metric)

    monkeypatch.setattr(profile, "profile_case", counting)
    return profiled


@pytest.mark.parametrize("metric", [DescriptorMetric(), PublishedMetric()], ids=lambda metric: metric.name)
def test_the_second_time_nothing_is_computed(world, counted: list[str], metric: Any) -> None:
    """A second call reads what the first one kept: equal bit by bit, and no case looked at, nothing written."""
    (first,) = profile_tasks([source_request()], metric, 1)
    assert len(counted) == 3
    before = world.snapshot()
    (second,) = profile_tasks([source_request()], metric, 1)
    assert len(counted) == 3
    assert world.snapshot() == before
    assert_equal(first, second)
    assert sum(path.stat().st_size for path in world.preprocessed.rglob("signature_*.npz")) < 5e6


def touch_image() -> None:
    path = source_request().task.raw[source_request().cases[0]].images[0]
    sitk.WriteImage(sitk.ReadImage(str(path)) * 2, str(path))


def touch_label() -> None:
    os.utime(source_request().task.raw[source_request().cases[0]].label, ns=(1, 1))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_spacing(world: Any) -> None:
    path = world.preprocessed / TARGET / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"][CONFIGURATION]["spacing"] = [2.0, 1.0, 1.0]
    path.write_text(json.dumps(plans))


CHANGES: dict[str, Callable[[Any], None]] = {
    "an image": lambda world: touch_image(),
    "the time of a label": lambda world: touch_label(),
    "label names": lambda world: change_json(world.raw / NEAR / "dataset.json", labels={"background": 0, "liver": 1}),
    "channel names": lambda world: change_json(world.raw / NEAR / "dataset.json", channel_names={"0": "CT"}),
    "the target's spacing": change_spacing,
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_makes_a_new_signature(world, counted: list[str], what: str) -> None:
    """Changed files, dataset.json or target plans are noticed: every case is looked at again, under another digest."""
    (first,) = profile_tasks([source_request()], DescriptorMetric(), 1)
    CHANGES[what](world)
    (second,) = profile_tasks([source_request()], DescriptorMetric(), 1)
    assert len(counted) == 6
    assert first.digest != second.digest


def test_other_parameters_make_other_signatures(world) -> None:
    """Number of cases, seed, metric and the metric's version are part of the digest; unrelated files are not."""
    metric = DescriptorMetric()
    newer = DescriptorMetric()
    newer.version = metric.version + 1
    seed = next(seed for seed in range(100) if source_request(seed=seed).cases != source_request().cases)
    digests = {
        source_request().digest(metric),
        source_request(cases=2).digest(metric),
        source_request(seed=seed).digest(metric),
        source_request().digest(newer),
        source_request().digest(PublishedMetric()),
    }
    assert len(digests) == 5
    (world.raw / NEAR / "notes.txt").write_text("x")
    assert source_request().digest(metric) in digests


def test_the_raw_metric_does_not_depend_on_the_target(world) -> None:
    """The published metric reads images as stored: other target plans make no new signature."""
    before = source_request().digest(PublishedMetric())
    change_spacing(world)
    assert source_request().digest(PublishedMetric()) == before


@pytest.mark.parametrize("damage", [b"", b"PK", None])
def test_a_damaged_cache_is_made_again(world, counted: list[str], damage: bytes | None) -> None:
    """A signature cut short on disk is computed again and replaced, to the same bits."""
    (first,) = profile_tasks([source_request()], DescriptorMetric(), 1)
    (path,) = (world.preprocessed / NEAR / "seqtransfer").glob("signature_*.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    (second,) = profile_tasks([source_request()], DescriptorMetric(), 1)
    assert len(counted) == 6
    assert_equal(first, second)
    assert_equal(read_signature(path), first)


def test_samples_are_subsets_drawn_by_their_seed() -> None:
    """A sample holds the number asked for (or all), no case twice, sorted; the seed decides, not the order given."""
    cases = tuple(f"case_{number:03}" for number in range(60))
    rng = np.random.default_rng(0)
    for count in (0, 1, 10, 60, 100):
        sample = sample_cases(cases, count, 3)
        assert len(sample) == min(count, 60)
        assert set(sample) <= set(cases)
        assert list(sample) == sorted(sample)
        assert sample_cases(tuple(rng.permutation(cases).tolist()), count, 3) == sample
    assert len({sample_cases(cases, 10, seed) for seed in range(20)}) == 20
    drawn = [case for seed in range(600) for case in sample_cases(cases, 10, seed)]
    counts = [drawn.count(case) for case in cases]
    assert min(counts) > 60 and max(counts) < 145, "each of 60 cases is drawn about 100 times in 600 draws of 10"


def test_a_case_more_exchanges_at_most_one() -> None:
    """A case added to a dataset exchanges at most one of the drawn, and a larger sample holds the smaller one."""
    cases = tuple(f"case_{number:03}" for number in range(40))
    for seed in range(50):
        sample = set(sample_cases(cases[:-1], 10, seed))
        assert len(sample - set(sample_cases(cases, 10, seed))) <= 1
        assert sample <= set(sample_cases(cases[:-1], 11, seed))


def test_tasks_with_the_same_patients_draw_the_same() -> None:
    """What a dataset with further patients draws of the shared ones, the dataset without them draws too."""
    cases = tuple(f"patient{number}" for number in range(30))
    more = (*cases, *(f"other{number}" for number in range(5)))
    for seed in range(20):
        sample, wider = sample_cases(cases, 8, seed), sample_cases(more, 8, seed)
        assert set(wider) & set(cases) <= set(sample)
