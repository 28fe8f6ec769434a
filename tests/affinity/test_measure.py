"""From registered datasets and signature files to an affinity: what is broken is left out by name, the rest stays."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_seqtransfer.affinity.descriptors import DescriptorMetric
from nnunet_seqtransfer.affinity.measure import MeasuredAffinity, compute_affinity
from nnunet_seqtransfer.affinity.metrics import find_metric
from nnunet_seqtransfer.affinity.record import Affinity, affinity_path, read_affinity, read_resamples
from nnunet_seqtransfer.affinity.sources import AUTO_CASES, AffinityRequest
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import SeqTransferError, SequenceError
from nnunet_seqtransfer.nnunet.plans import read_plans
from nnunet_seqtransfer.overlap.matching import find_overlap
from nnunet_seqtransfer.report.plan_text import affinity_table
from nnunet_seqtransfer.tasks import profiling, task
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.profiling import profile_tasks, request_profile
from nnunet_seqtransfer.tasks.signature import Signature, anonymous, write_signature
from nnunet_seqtransfer.tasks.task import load_task
from support.bad_inputs import Command, error_line, truncate
from support.world import FAR, FLAT_SOURCE, FLAT_TARGET, NEAR, TARGET, TWO_CHANNELS, World

METRIC = DescriptorMetric()
COMMAND = ("affinity", "-t", "901", "-n_cases", "4", "-np", "1", "-s")


def compute(
    *sources: str, notify: Callable[[str], None] = print, metric: Any = METRIC, **changes: Any
) -> MeasuredAffinity:
    request = AffinityRequest(TARGET, sources, "nnUNetPlans", "3d_fullres", cases=4)
    return compute_affinity(replace(request, **changes), Context(notify), metric)


def written(world: World) -> Affinity:
    return read_affinity(affinity_path(TARGET, "nnUNetPlans", "3d_fullres", "descriptors"))


def edit_images(world: World, name: str, change: Callable[[np.ndarray], np.ndarray], ending: str = ".nii.gz") -> None:
    """Changes every image of a dataset; ITK reads NaN from NIfTI files as 0, hence other endings."""
    for path in sorted((world.raw / name / "imagesTr").iterdir()):
        image = sitk.ReadImage(str(path))
        changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
        changed.CopyInformation(image)
        path.unlink()
        sitk.WriteImage(changed, str(path).replace(".nii.gz", ending))
    if ending != ".nii.gz":
        for path in sorted((world.raw / name / "labelsTr").iterdir()):
            sitk.WriteImage(sitk.ReadImage(str(path)), str(path).replace(".nii.gz", ending))
            path.unlink()
        edit_json(world.raw / name / "dataset.json", file_ending=ending)


def edit_labels(world: World, name: str, change: Callable[[int, np.ndarray], np.ndarray]) -> None:
    for number, path in enumerate(sorted((world.raw / name / "labelsTr").iterdir())):
        label = sitk.ReadImage(str(path))
        changed = sitk.GetImageFromArray(change(number, sitk.GetArrayFromImage(label)))
        changed.CopyInformation(label)
        sitk.WriteImage(changed, str(path))


def edit_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def truncated(world: World, keep: float = 0.5) -> None:
    for path in (world.raw / FAR / "imagesTr").iterdir():
        truncate(path, keep)


def without_fingerprint(world: World) -> None:
    (world.preprocessed / FAR / "dataset_fingerprint.json").unlink()
    truncated(world, 0.001)  # of half a file ITK, and so nnU-Net's extractor, reads the rest as zeros


BROKEN: dict[str, tuple[Callable[[World], Any], str]] = {
    "broken NIfTI": (truncated, "cannot be read"),
    "NaN": (lambda w: edit_images(w, FAR, lambda x: np.where(x == x.max(), np.nan, x), ".nrrd"), "NaN or infinite"),
    "empty labels": (lambda world: edit_labels(world, FAR, lambda _, label: 0 * label), "has a voxel of its labels"),
    "missing channel": (
        lambda world: edit_json(world.raw / FAR / "dataset.json", channel_names={"0": "T1", "1": "T2"}),
        "6 of its files are missing",
    ),
    "broken dataset.json": (lambda world: truncate(world.raw / FAR / "dataset.json"), "is broken"),
    "broken fingerprint": (
        lambda world: truncate(world.preprocessed / FAR / "dataset_fingerprint.json"),
        f"fingerprint of {FAR} is broken",
    ),
    "fingerprint that cannot be made": (without_fingerprint, "nnU-Net cannot read"),
    "2-D": (lambda world: None, "2-D images"),
}
"""What is wrong with one of three sources, and how the line says it."""


@pytest.mark.parametrize("kind", BROKEN)
def test_one_broken_source_leaves_the_others_their_distance(world: World, command: Command, kind: str) -> None:
    """Two of three named sources are compared and recorded; the third is named in one line, with exit status 2."""
    harm, words = BROKEN[kind]
    harm(world)
    lost = FLAT_SOURCE if kind == "2-D" else FAR
    outcome = command(*COMMAND, "902", lost, "904")
    line = error_line(outcome)
    assert f"1 of the sources named had to be left out: {lost[7:10]} (" in line
    assert "left out" not in outcome.err.replace(line, ""), "it is said once"
    assert words in line, line
    affinity = written(world)
    assert affinity.names == (NEAR, TWO_CHANNELS, TARGET)
    assert np.isfinite(affinity.matrix()).all() and NEAR in outcome.out
    assert affinity == compute("902", "904").affinity
    assert not list((world.preprocessed / FAR).glob("seqtransfer/signature_*"))


def test_all_may_lose_some(world: World, command: Command) -> None:
    """With "all" what does not fit is said, and is no failure; a signature file beside it that is broken is one."""
    truncated(world)
    outcome = command(*COMMAND, "all")
    assert outcome.status == 0, outcome.err
    assert "left out: 911, 912 (2-D images)\n" in outcome.err and outcome.err.count("left out: 903 (") == 1
    assert written(world).names == (NEAR, TWO_CHANNELS, TARGET)
    (world.root / "other.npz").write_bytes(b"PK")
    line = error_line(command(*COMMAND, "all", str(world.root / "other.npz")))
    assert "1 of the sources named" in line and "other.npz" in line and FAR not in line


def test_a_broken_target_is_an_error(world: World) -> None:
    """Without the target there is nothing to compare with, whatever the sources."""
    for path in (world.preprocessed / TARGET / "nnUNetPlans_3d_fullres").glob("case?.b2nd"):
        truncate(path)
    with pytest.raises(SeqTransferError, match=r"preprocessed case .* is broken"):
        compute("902", "903")


def signature_file(world: World, name: str, cases: int = 4, metric: Any = METRIC, seed: int = 0) -> Path:
    """A signature as it travels: made against the target's plans, without identifiers."""
    plans, source = read_plans(TARGET, "nnUNetPlans", "3d_fullres"), load_task(name)
    request = request_profile(source, align_plans(plans, load_task(TARGET), source), "3d_fullres", cases, seed)
    (signature,) = profile_tasks([request], metric, 1)
    assert isinstance(signature, Signature)
    path = world.root / f"{name}.npz"
    write_signature(path, anonymous(signature))
    return path


def unregister(world: World, name: str) -> None:
    for folder in (world.raw, world.preprocessed):
        shutil.rmtree(folder / name, ignore_errors=True)


@pytest.mark.parametrize("metric", [METRIC, find_metric("published")], ids=lambda metric: metric.name)
def test_a_signature_file_is_as_good_as_the_dataset(world: World, metric: Any) -> None:
    """On a machine without the dataset the file gives the same distances, intervals and resamples, to 1e-12."""
    here = compute("902", "903", metric=metric)
    file = signature_file(world, FAR, metric=metric)
    unregister(world, FAR)
    away = compute("902", str(file), metric=metric)
    assert away.affinity.names == here.affinity.names
    assert [task.registered for task in away.affinity.tasks] == [True, False, True]
    np.testing.assert_allclose(away.affinity.matrix(), here.affinity.matrix(), rtol=0, atol=1e-12)
    np.testing.assert_allclose(away.affinity.low, here.affinity.low, rtol=0, atol=1e-12)
    np.testing.assert_allclose(away.affinity.high, here.affinity.high, rtol=0, atol=1e-12)
    for name, values in here.resamples.components.items():
        np.testing.assert_array_equal(away.resamples.components[name], values)
    assert away.affinity.counterparts == here.affinity.counterparts
    assert f"{FAR} (signature)" in affinity_table(away.affinity)
    near = replace(here.affinity, low=(0.0, 0.5))
    told = [line for line in affinity_table(near).splitlines() if line.startswith("No different from the target")]
    assert len(told) == 1 and near.names[0] in told[0] and near.names[1] not in told[0]


def test_cases_are_shared_with_signature_files_too(world: World) -> None:
    """A file whose cases bear the identifiers of the target's own is compared as a dataset of these patients."""
    here = compute("902").affinity  # the synthetic datasets all call their cases case0, case1, ...
    signature, target = profiles_of(NEAR), profiles_of(TARGET)
    assert set(signature.keys) & set(target.keys)
    strangers = replace(signature, cases=tuple(f"other {case}" for case in signature.cases))
    distances = [METRIC.combination.distances(METRIC.compare(one, target).distances) for one in (signature, strangers)]
    assert distances[0] == pytest.approx(here.matrix()[0, 1], abs=1e-12)
    assert abs(distances[0] - distances[1]) > 1e-6


def profiles_of(name: str) -> Signature:
    plans, task = read_plans(TARGET, "nnUNetPlans", "3d_fullres"), load_task(name)
    aligned = plans if name == TARGET else align_plans(plans, load_task(TARGET), task)
    (signature,) = profile_tasks([request_profile(task, aligned, "3d_fullres", 4, 0)], METRIC, 1)
    assert isinstance(signature, Signature)
    return signature


def of_other_preprocessing(world: World, path: Path) -> None:
    plans = world.preprocessed / TARGET / "nnUNetPlans.json"
    content = json.loads(plans.read_text())
    content["configurations"]["3d_fullres"]["spacing"] = [2.0, 1.0, 1.0]
    plans.write_text(json.dumps(content))


def rewritten(**changes: Any) -> Callable[[World, Path], None]:
    def change(_: World, path: Path) -> None:
        with np.load(path) as archive:
            arrays = dict(archive)
        header = json.loads(str(arrays.pop("header")))
        np.savez_compressed(path, header=np.asarray(json.dumps({**header, **changes})), **arrays)

    return change


BAD_FILES: dict[str, tuple[Callable[[World, Path], Any], str]] = {
    "truncated": (lambda _, path: truncate(path), "truncated or damaged"),
    "missing": (lambda _, path: path.unlink(), "the signature is missing"),
    "newer": (rewritten(format=99), "format 99, this version reads 2"),
    "older": (rewritten(format=1), "old format 1"),
    "another metric": (rewritten(metric="published"), "is of metric published version 2, wanted is descriptors"),
    "another version": (rewritten(version=1), "descriptors version 1, wanted is descriptors version 2"),
    "another preprocessing": (of_other_preprocessing, "another preprocessing than the target's"),
    "a dataset named twice": (rewritten(dataset=NEAR), f"is of {NEAR}, which is among the tasks already"),
    "the target": (rewritten(dataset=TARGET), f"is of {TARGET}, which is among the tasks already"),
    "no signature": (lambda _, path: path.write_text("text"), "truncated or damaged"),
}


@pytest.mark.parametrize("kind", BAD_FILES)
def test_bad_signature_files_are_named(world: World, command: Command, kind: str) -> None:
    """A signature that cannot be used is named in one line with its path; the dataset beside it is compared."""
    harm, words = BAD_FILES[kind]
    path = signature_file(world, FAR)
    harm(world, path)
    line = error_line(command(*COMMAND, "902", str(path)))
    assert words in line and str(path) in line, line
    assert written(world).names == (NEAR, TARGET)


def test_all_cases_are_looked_at_in_vain(world: World, command: Command) -> None:
    """-n_cases auto draws more until the nearest are told apart; where no more are left it says that they are not."""
    shutil.copytree(world.raw / NEAR, world.raw / "Dataset905_Twin")
    shutil.copytree(world.preprocessed / NEAR, world.preprocessed / "Dataset905_Twin")
    outcome = command("affinity", "-t", "901", "-s", "902", "905", "-n_cases", "auto", "-np", "1")
    assert outcome.status == 0, outcome.err
    assert (
        "The order of the nearest 2 is not certain with up to 6 cases a task; there are no more cases." in outcome.out
    )
    affinity = written(world)
    assert affinity.cases == AUTO_CASES and affinity.indistinct == (True,)


def growing(monkeypatch: pytest.MonkeyPatch, *sources: str) -> tuple[list[str], list[str], MeasuredAffinity]:
    """Runs -n_cases auto from two cases on; returns what was said, the cases looked at, and the result."""
    monkeypatch.setattr("nnunet_seqtransfer.affinity.measure.FIRST_CASES", 2)
    said: list[str] = []
    looked: list[str] = []
    original = profiling.profile_case

    def counting(request: Any, case: str, metric: Any) -> Any:
        looked.append(f"{request.task.dataset}/{case}")
        return original(request, case, metric)

    monkeypatch.setattr(profiling, "profile_case", counting)
    return said, looked, compute(*sources, notify=said.append, cases=AUTO_CASES)


def test_more_cases_are_looked_at_where_it_helps(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources that are not told apart, and the target, get more cases; each case is looked at once."""
    shutil.copytree(world.raw / NEAR, world.raw / "Dataset905_Twin")
    shutil.copytree(world.preprocessed / NEAR, world.preprocessed / "Dataset905_Twin")
    said, looked, result = growing(monkeypatch, "902", "905")
    assert [line.split()[-2] for line in said] == ["4", "6"] and not result.stable
    assert len(looked) == len(set(looked)) == 18
    assert [len(task.sampled_cases) for task in result.affinity.tasks] == [6, 6, 6]
    fixed = compute("902", "905", cases=6).affinity
    assert replace(result.affinity, cases=6) == fixed


def test_no_more_cases_are_looked_at_than_needed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sources that are told apart at once stay with the first cases."""
    edit_labels(world, FAR, lambda _, label: np.roll(label, 8, axis=1))
    monkeypatch.setattr("nnunet_seqtransfer.affinity.bootstrap.COVERAGE", 0.5)
    said, looked, result = growing(monkeypatch, "902", "903")
    assert said == [] and len(looked) == 6 and result.stable


def test_a_single_case_does_not_make_others_grow(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source of one case in all has no interval, however many cases of the others are looked at."""
    keep_one_case(world, NEAR)
    said, looked, result = growing(monkeypatch, "902", "903")
    assert said == [] and len(looked) == 1 + 2 + 2 and not result.stable


def keep_one_case(world: World, name: str) -> None:
    for path in (world.raw / name).glob("*Tr/case[1-5]*"):
        path.unlink()
    edit_json(world.raw / name / "dataset.json", numTraining=1)
    path = world.preprocessed / name / "dataset_fingerprint.json"
    content = json.loads(path.read_text())
    edit_json(path, **{key: content[key][:1] for key in ("spacings", "shapes_after_crop")})


def test_a_source_of_one_case(world: World, command: Command) -> None:
    """Its distance is a number, its interval unknown: the table says so, the record holds no number."""
    keep_one_case(world, NEAR)
    outcome = command(*COMMAND, "902", "903")
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("unknown (one case)") == 1
    affinity = written(world)
    assert np.isfinite(affinity.matrix()).all()
    assert (
        np.isinf([affinity.low[0], affinity.high[0]]).all() and np.isfinite([affinity.low[1], affinity.high[1]]).all()
    )
    assert affinity.indistinct == (True,)
    json.loads(
        affinity_path(TARGET, "nnUNetPlans", "3d_fullres", "descriptors").read_text(), parse_constant=pytest.fail
    )


ODD: dict[str, Callable[[World], Any]] = {
    "constant images": lambda world: edit_images(world, FAR, lambda image: 0 * image + 100),
    "a label in one case only": lambda world: edit_labels(world, FAR, lambda n, label: label * (n == 2)),
    "channel names in another spelling": lambda world: edit_json(
        world.raw / FAR / "dataset.json", channel_names={"0": " mri_T1w "}
    ),
    "regions": lambda world: edit_json(
        world.raw / FAR / "dataset.json",
        labels={"background": 0, "whole": [1, 2], "organ": [1]},
        regions_class_order=[2, 1],
    ),
    "an ignore label": lambda world: (
        edit_json(world.raw / FAR / "dataset.json", labels={"background": 0, "organ": 1, "ignore": 2}),
        edit_labels(
            world, FAR, lambda _, label: np.where(np.indices(label.shape)[0] > 14, 2, label).astype(label.dtype)
        ),
    ),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("metric", ["descriptors", "published"])
def test_odd_datasets_are_compared(world: World, command: Command, kind: str, metric: str) -> None:
    """A source that is unusual but whole gets a distance and an interval like any other."""
    ODD[kind](world)
    outcome = command("affinity", "-t", "901", "-n_cases", "6", "-np", "1", "-m", metric, "-s", "903", "902")
    assert outcome.status == 0, outcome.err
    affinity = read_affinity(affinity_path(TARGET, "nnUNetPlans", "3d_fullres", metric))
    assert np.isfinite(affinity.matrix()).all() and (np.diag(affinity.matrix()) == 0).all()
    assert np.isfinite([*affinity.low, *affinity.high]).all()
    assert affinity.low[0] <= affinity.high[0] and affinity.matrix()[0, 2] > 0


def test_what_is_written_belongs_together(world: World, command: Command) -> None:
    """Record, table, pictures and resamples are of the same run; the same command again writes the same bytes."""
    assert command(*COMMAND, "902", "903").status == 0
    path = affinity_path(TARGET, "nnUNetPlans", "3d_fullres", "descriptors")
    affinity, before = read_affinity(path), path.read_bytes()
    found = read_resamples(path, affinity)
    assert found is not None
    distances = affinity.combination.distances(found.components)
    assert distances.shape == (200, 3, 3) and np.isfinite(distances).all() and sorted(found.tasks) == [0, 1, 2]
    low, high = np.quantile(distances[:, np.argsort(found.tasks)[:2], 2], [0.025, 0.975], axis=0)
    np.testing.assert_allclose(low, affinity.low, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(high, affinity.high, rtol=1e-5, atol=1e-6)
    lines = path.with_suffix(".csv").read_text().splitlines()
    assert lines[0].startswith("source,distance_to_target,low,high") and len(lines) == 3
    assert (path.with_suffix("") / "index.html").stat().st_size > 10_000
    assert command(*COMMAND, "902", "903").status == 0
    assert path.read_bytes() == before


def test_only_sampled_cases_of_large_datasets_are_read(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large source without a fingerprint gets none; the sample gives the same distance, and is read once."""
    whole = compute("902", cases=6).affinity
    monkeypatch.setattr(task, "WHOLE_BYTES", 0)
    shutil.rmtree(world.preprocessed / NEAR)
    assert compute("902", cases=6).affinity.matrix() == pytest.approx(whole.matrix())
    assert not (world.preprocessed / NEAR / "dataset_fingerprint.json").exists()
    (kept,) = (world.preprocessed / NEAR / "seqtransfer").glob("fingerprint_sample.json")
    before = kept.stat().st_mtime_ns
    compute("902", cases=6)
    assert kept.stat().st_mtime_ns == before
    assert not [*(world.preprocessed / NEAR / "seqtransfer").glob("sketches_*")]


def test_a_small_dataset_is_read_once_for_all_commands(world: World) -> None:
    """Fingerprint and sketches are kept, and a later search for shared cases reads nothing."""
    shutil.rmtree(world.preprocessed / NEAR)
    compute("902")
    for path in (world.raw / NEAR / "imagesTr").iterdir():
        stat = path.stat()
        path.write_bytes(bytes(stat.st_size))
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert find_overlap(TARGET, [NEAR], Context())[0].shared == ()
    assert len(load_task(NEAR).fingerprint["spacings"]) == 6


def test_no_case_of_the_other_dimension_is_read(world: World, command: Command) -> None:
    """Unreadable 2-D images are no problem: no fingerprint is extracted, no cache made, and training refuses alike."""
    for name in (FLAT_TARGET, FLAT_SOURCE):
        shutil.rmtree(world.preprocessed / name)
        for path in (world.raw / name).glob("*Tr/*"):
            path.write_bytes(b"no image")
    outcome = command(*COMMAND, "all")
    assert outcome.status == 0 and "left out: 911, 912 (2-D images)" in outcome.err, outcome.err
    assert compute("all", cases=AUTO_CASES).left_out == {FLAT_TARGET: "2-D images", FLAT_SOURCE: "2-D images"}
    assert "has 2-D images" in error_line(command("train", "901", "3d_fullres", "0", "-s", "912", "-device", "cpu"))
    assert not (world.preprocessed / FLAT_SOURCE).exists()


def test_datasets_can_be_excluded_by_number_and_by_modality(world: World) -> None:
    """What is excluded is not read; unknown modalities stay."""
    edit_json(world.raw / FAR / "dataset.json", channel_names={"0": "CT"})
    edit_json(world.raw / NEAR / "dataset.json", channel_names={"0": "anything"})
    computed = compute("all", exclude=("904", FLAT_TARGET), same_modality=True)
    assert computed.affinity.sources == (NEAR,)
    assert computed.left_out == {FAR: "other modality, CT/MR", FLAT_SOURCE: "2-D images"}


def test_signature_files_can_be_excluded_too(world: World) -> None:
    """A signature file is left out by the number of its dataset, registered or not, and by its modality."""
    edit_json(world.raw / FAR / "dataset.json", channel_names={"0": "CT"})
    file = str(signature_file(world, FAR))
    assert compute("902", "903", file, exclude=("903",)).affinity.sources == (NEAR,)
    unregister(world, FAR)
    assert compute("902", file).affinity.sources == (NEAR, FAR)
    assert compute("902", file, exclude=("903",)).affinity.sources == (NEAR,)
    assert compute("902", file, same_modality=True).left_out == {file: "other modality, CT/MR"}


def test_an_exclusion_of_all_sources_is_named(world: World) -> None:
    """If no source remains after -exclude, the error names this option."""
    with pytest.raises(SequenceError, match=r"^-exclude leaves no source; exclude fewer datasets$"):
        compute("902", exclude=("902",))


def test_what_an_interrupted_run_has_done_is_kept(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small datasets come first, and the next run profiles only what is missing."""
    profiled: list[str] = []
    profile = profiling.profile_case

    def stopping(request: Any, case: str, metric: Any) -> Any:
        if request.task.dataset == TWO_CHANNELS and stop:
            raise KeyboardInterrupt
        profiled.append(request.task.dataset)
        return profile(request, case, metric)

    stop = True
    monkeypatch.setattr(profiling, "profile_case", stopping)
    with pytest.raises(KeyboardInterrupt):
        compute("904", "902", "903")
    assert {*profiled} == {NEAR, FAR}, "two channels are twice as large"
    profiled.clear()
    stop = False
    assert compute("904", "902", "903").affinity.sources == (TWO_CHANNELS, NEAR, FAR)
    assert {*profiled} == {TWO_CHANNELS, TARGET}
