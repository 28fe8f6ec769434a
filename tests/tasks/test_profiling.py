"""Tests of tasks/profiling.py: signatures are computed once, and again when anything that they depend on changes."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_seqtransfer.affinity.descriptors import DescriptorMetric
from nnunet_seqtransfer.affinity.published import PublishedMetric
from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.plans import read_plans
from nnunet_seqtransfer.tasks import profiling
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.profiling import CaseProfile, ProfileRequest, profile_tasks, request_profile
from nnunet_seqtransfer.tasks.signature import Signature, read_signature
from nnunet_seqtransfer.tasks.task import load_task
from support.made_tasks import assert_equal, assert_same_array
from support.world import NEAR, TARGET

CONFIGURATION = "3d_fullres"


def source_request(cases: int = 3, seed: int = 0) -> ProfileRequest:
    """The near source's request as `compute_affinity` makes it, read anew from disk."""
    plans = read_plans(TARGET, "nnUNetPlans", CONFIGURATION)
    source = load_task(NEAR)
    return request_profile(source, align_plans(plans, load_task(TARGET), source), CONFIGURATION, cases, seed)


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cases that were looked at, in their order."""
    profiled: list[str] = []
    original = profiling.profile_case

    def counting(request: ProfileRequest, case: str, metric: Any) -> CaseProfile:
        profiled.append(case)
        return original(request, case, metric)

    monkeypatch.setattr(profiling, "profile_case", counting)
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
    """Every image becomes another one."""
    for case in source_request().cases:
        path = source_request().task.raw[case].images[0]
        sitk.WriteImage(sitk.ReadImage(str(path)) * 2, str(path))


def touch_label() -> None:
    for case in source_request().cases:
        os.utime(source_request().task.raw[case].label, ns=(1, 1))


def change_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_spacing(world: Any) -> None:
    path = world.preprocessed / TARGET / "nnUNetPlans.json"
    plans = json.loads(path.read_text())
    plans["configurations"][CONFIGURATION]["spacing"] = [2.0, 1.0, 1.0]
    path.write_text(json.dumps(plans))


CHANGES: dict[str, Callable[[Any], None]] = {
    "images": lambda world: touch_image(),
    "the times of labels": lambda world: touch_label(),
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


def digest(request: ProfileRequest, metric: Any = None) -> str:
    (signature,) = profile_tasks([request], metric or DescriptorMetric(), 1)
    assert isinstance(signature, Signature)
    return signature.digest


def test_other_parameters_make_other_signatures(world) -> None:
    """Number of cases, seed, metric and the metric's version are part of the digest; unrelated files are not."""
    newer = DescriptorMetric()
    newer.version = newer.version + 1
    seed = next(seed for seed in range(100) if source_request(seed=seed).cases != source_request().cases)
    digests = {
        digest(source_request()),
        digest(source_request(cases=2)),
        digest(source_request(seed=seed)),
        digest(source_request(), newer),
        digest(source_request(), PublishedMetric()),
    }
    assert len(digests) == 5
    (world.raw / NEAR / "notes.txt").write_text("x")
    assert digest(source_request()) in digests


def test_the_raw_metric_does_not_depend_on_the_target(world) -> None:
    """The published metric reads images as stored: other target plans make no new signature."""
    before = digest(source_request(), PublishedMetric())
    change_spacing(world)
    assert digest(source_request(), PublishedMetric()) == before


def test_more_cases_are_profiled_beside_those_that_are_known(world, counted: list[str]) -> None:
    """A sample that grows from 3 to 5 cases costs 2; the signature is the one that is made from nothing."""
    small, large = source_request(3), source_request(5)
    assert set(small.cases) < set(large.cases)
    profile_tasks([small], DescriptorMetric(), 1)
    counted.clear()
    (grown,) = profile_tasks([large], DescriptorMetric(), 1)
    assert sorted(counted) == sorted(set(large.cases) - set(small.cases))
    shutil.rmtree(world.preprocessed / NEAR / "seqtransfer")
    (fresh,) = profile_tasks([large], DescriptorMetric(), 1)
    assert_equal(grown, fresh)
    counted.clear()
    (shrunk,) = profile_tasks([source_request(2)], DescriptorMetric(), 1)
    assert counted == [] and shrunk.cases == source_request(2).cases


@pytest.mark.parametrize("part", ["image", "label"])
def test_a_changed_case_alone_is_profiled_again(world, counted: list[str], part: str) -> None:
    """Where a file of one case has changed, that case is looked at, and the others are taken over."""
    (before,) = profile_tasks([source_request()], DescriptorMetric(), 1)
    counted.clear()
    raw = source_request().task.raw[source_request().cases[1]]
    path = raw.images[0] if part == "image" else raw.label
    values = np.roll(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), 3, axis=0)
    sitk.WriteImage(sitk.GetImageFromArray(values**2 if part == "image" else values), str(path))
    (after,) = profile_tasks([source_request()], DescriptorMetric(), 1)
    assert counted == [source_request().cases[1]]
    assert after.digest != before.digest and after.stamps[1] != before.stamps[1]
    assert (after.stamps[0], after.stamps[2]) == (before.stamps[0], before.stamps[2])
    assert (after.profiles[1]["intensity"] != before.profiles[1]["intensity"]).any() or part == "label"
    assert (after.profiles[1]["form"] != before.profiles[1]["form"]).any() or part == "image"
    assert_same_array(after.profiles[0]["form"], before.profiles[0]["form"])


def test_profiles_of_another_version_or_target_are_not_taken_over(world, counted: list[str]) -> None:
    """Cases known under a target of another spacing, or by an older version of the metric, are looked at again."""
    profile_tasks([source_request(3)], DescriptorMetric(), 1)
    newer = DescriptorMetric()
    newer.version = newer.version + 1
    profile_tasks([source_request(5)], newer, 1)
    assert len(counted) == 3 + 5
    change_spacing(world)
    profile_tasks([source_request(5)], newer, 1)
    assert len(counted) == 3 + 5 + 5


def test_a_case_that_cannot_be_read_is_the_error_of_its_task(world) -> None:
    """One broken case: its task's place holds the error, the others have their signatures, nothing else is kept."""
    path = source_request().task.raw[source_request().cases[1]].images[0]
    path.write_bytes(path.read_bytes()[:-200])
    plans, target = read_plans(TARGET, "nnUNetPlans", CONFIGURATION), load_task(TARGET)
    good = request_profile(target, plans, CONFIGURATION, 2, 0)
    for processes in (1, 2):
        bad, fine = profile_tasks([source_request(), good], DescriptorMetric(), processes)
        assert isinstance(bad, DatasetError) and str(path) in str(bad)
        assert isinstance(fine, Signature) and fine.dataset == TARGET
    assert not list((world.preprocessed / NEAR).glob("seqtransfer/*"))


@pytest.mark.parametrize("order", [(5, 1), (1, 5)])
def test_whether_a_task_has_labels_does_not_depend_on_what_is_cached(world, order: tuple[int, int]) -> None:
    """A sample without any label is refused, also where a larger sample with labels has been profiled before."""
    (first,) = source_request(1).cases
    path = source_request(1).task.raw[first].label
    values = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
    sitk.WriteImage(sitk.GetImageFromArray(np.zeros_like(values)), str(path))
    found = {cases: profile_tasks([source_request(cases)], DescriptorMetric(), 1)[0] for cases in order}
    assert isinstance(found[5], Signature)
    assert isinstance(found[1], DatasetError) and "none of the 1 cases" in str(found[1])


def test_geometry_is_that_of_the_cases_in_the_axes_of_the_target(world) -> None:
    """Spacing and extent follow the target's transposition; a case has those of its own row in the fingerprint."""
    request = source_request(3)
    fingerprint = json.loads((world.preprocessed / NEAR / "dataset_fingerprint.json").read_text())
    names = sorted(request.task.raw)
    for transposed in ([0, 1, 2], [2, 0, 1]):
        request.plans["transpose_forward"] = transposed
        found = request.geometry()
        assert found.shape == (3, 2, 3)
        for place, case in enumerate(request.cases):
            spacing = np.asarray(fingerprint["spacings"][names.index(case)])[transposed]
            shape = np.asarray(fingerprint["shapes_after_crop"][names.index(case)])[transposed]
            np.testing.assert_allclose(found[place], [spacing, spacing * shape])


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
