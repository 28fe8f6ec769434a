"""Datasets that are unknown, incomplete, broken or do not fit: refused by name, before anything is written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_seqtransfer.tasks.task import sample_cases
from support.bad_inputs import AFFINITY, COMMANDS, DRY, PLAN, TRAIN, Command, assert_refused, edit, error_line, truncate
from support.world import FAR, FLAT_SOURCE, FLAT_TARGET, NEAR, TARGET, TWO_CHANNELS, World

FINGERPRINT = "dataset_fingerprint.json"
FLAT = ("affinity", "-t", "911", "-c", "2d", "-n_cases", "1", "-np", "1")
FLAT_TRAIN = ("train", "911", "2d", "0", "-np", "1", "-device", "cpu", "-s")

CASES = tuple(f"case{number}" for number in range(6))
(SAMPLED,) = sample_cases(CASES, 1, 0)
"""The one case that commands with -n_cases 1 look at."""


@pytest.mark.parametrize(
    ("arguments", "variable"),
    [
        *((arguments, name) for arguments in (AFFINITY, PLAN, TRAIN) for name in ("nnUNet_raw", "nnUNet_preprocessed")),
        (TRAIN, "nnUNet_results"),
    ],
)
@pytest.mark.parametrize("value", [None, "", "/no/such/folder", __file__])
def test_environment(
    world: World,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    variable: str,
    value: str | None,
) -> None:
    """A variable that is not set, or names no folder, is named together with what it says and what to do."""
    if value is None:
        monkeypatch.delenv(variable)
    else:
        monkeypatch.setenv(variable, value)
    unset = f"is not set; set it to nnU-Net's folder: export {variable}="
    wanted = f"names no existing folder: {value}; create it" if value else unset
    assert_refused(world, command, arguments, variable, wanted)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("affinity", "-t", "7"), ("unknown dataset '7'", "one of: Dataset901_Target")),
        (("affinity", "-t", "Hippocampus"), ("unknown dataset 'Hippocampus'", "Dataset901_Target")),
        (("affinity", "-t", "../raw"), ("unknown dataset '../raw'",)),
        (("affinity", "-t", ""), ("unknown dataset ''",)),
        (("affinity", "-t", "901", "-s", "902", "7"), ("unknown dataset '7'",)),
        (("affinity", "-t", "901", "-s", "all", "902"), ("unknown dataset 'all'",)),
        (("affinity", "-t", "901", "-s", "901"), (f"target {TARGET} is among its sources", "leave it out of -s")),
        (("affinity", "-t", "901", "-s", "902", TARGET), ("target Dataset901_Target is among its sources",)),
        (("affinity", "-t", "901", "-s", "902", "903", NEAR), ("Dataset902_Near is named more than once",)),
        (("plan", "-t", "7"), ("unknown dataset '7'",)),
        ((*TRAIN[:1], "7", "3d_fullres", "0"), ("unknown dataset '7'",)),
        ((*TRAIN, "-s", "7"), ("unknown dataset '7'",)),
        ((*TRAIN, "-s", "all"), ("unknown dataset 'all'",)),
        ((*TRAIN, "-s", "none", "902"), ("unknown dataset 'none'",)),
        ((*TRAIN, "-s", "902", "901"), ("target Dataset901_Target is among its sources",)),
        ((*TRAIN, "-s", "902", "903", "0902"), ("Dataset902_Near is named more than once",)),
        ((*DRY, "-s", "902", "902"), ("Dataset902_Near is named more than once",)),
    ],
)
def test_names(world: World, command: Command, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    """A dataset that is unknown, the target itself, or given twice is named, with the datasets that there are."""
    assert_refused(world, command, arguments, *words)


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
def test_an_ambiguous_number(world: World, command: Command, arguments: tuple[str, ...]) -> None:
    """A number that two datasets have is refused with the names of both; a full name is taken."""
    shutil.copytree(world.raw / NEAR, world.raw / "Dataset902_Twin")
    assert_refused(world, command, arguments, "902 is ambiguous: Dataset902_Near, Dataset902_Twin", "full name")
    assert command(*DRY, "-s", NEAR).status == 0


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


BROKEN: list[tuple[Callable[[Path], Any], str]] = [
    (Path.unlink, "is missing"),
    (folder_instead, "is no file"),
    (truncate, "is broken"),
    (lambda path: truncate(path, 0), "is broken"),
    (lambda path: path.write_bytes(b"\xff\xfe\x00"), "is broken"),
    (lambda path: path.write_text("[1, 2]"), "is broken (not a JSON object)"),
]


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize("dataset", [TARGET, NEAR])
@pytest.mark.parametrize(("harm", "words"), BROKEN)
def test_a_broken_dataset_json(
    world: World, command: Command, arguments: tuple[str, ...], dataset: str, harm: Callable[[Path], Any], words: str
) -> None:
    """A dataset.json that is missing, truncated or no JSON object is named, of the target as of a source."""
    (world.preprocessed / dataset / "dataset.json").unlink(missing_ok=True)  # stands in where the raw one is missing
    path = world.raw / dataset / "dataset.json"
    harm(path)
    assert_refused(world, command, arguments, f"dataset.json of {dataset} {words}", str(path), "restore it")


@pytest.mark.parametrize("arguments", [AFFINITY, DRY], ids=["affinity", "dry run"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("channel_names"), "no channel_names"),
        (lambda c: c.update(channel_names={"x": "T1"}), "channel_names whose keys are no numbers"),
        (lambda c: c.pop("labels"), "labels without background 0"),
        (lambda c: c.update(labels={"0": "background", "1": "organ"}), "labels without background 0"),
        (lambda c: c.update(labels={"background": 0}), "no label but background"),
        (lambda c: c.update(labels={"background": 0, "ignore": 2}), "no label but background"),
        (lambda c: c["labels"].update(organ="one"), "labels that are no whole numbers (organ: 'one')"),
        (lambda c: c.update(labels={"background": 0, "organ": [1, 2]}), "regions, but no regions_class_order"),
        (lambda c: c.pop("file_ending"), "no file_ending"),
        (lambda c: (c.pop("file_ending"), c.pop("labels")), "labels without background 0 and no file_ending"),
    ],
)
def test_a_dataset_json_that_lacks_entries(
    world: World, command: Command, arguments: tuple[str, ...], change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    """Everything that is wrong in a dataset.json is said at once."""
    path = world.raw / NEAR / "dataset.json"
    edit(path, change)
    assert_refused(world, command, arguments, f"dataset.json of {NEAR} has {words}; correct {path}")


def test_a_listed_case_without_label(world: World, command: Command) -> None:
    """A dataset.json that lists its cases itself, one of them without a label, is refused with that case."""
    edit(world.raw / NEAR / "dataset.json", lambda c: c.update(dataset={"case0": {"images": ["a.nii.gz"]}}))
    assert_refused(world, command, AFFINITY, NEAR, "lists the case case0 without images or label", "correct")


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(("harm", "words"), BROKEN[1:])
@pytest.mark.parametrize("dataset", [TARGET, NEAR])
def test_a_broken_fingerprint(
    world: World, command: Command, arguments: tuple[str, ...], harm: Callable[[Path], Any], words: str, dataset: str
) -> None:
    """A fingerprint that is truncated or no JSON object is named, with the command that makes it again."""
    path = world.preprocessed / dataset / FINGERPRINT
    harm(path)
    command_again = f"nnUNetv2_extract_fingerprint -d {dataset[7:10]}"
    if harm is folder_instead:  # as good as missing
        path.rmdir()
        path.write_text("")
        words = "is broken"
    assert_refused(world, command, arguments, f"fingerprint of {dataset} {words}", str(path), command_again)


def test_a_target_without_fingerprint(world: World, command: Command) -> None:
    """A planned target whose fingerprint is gone is told how to plan again."""
    (world.preprocessed / TARGET / FINGERPRINT).unlink()
    for arguments in COMMANDS.values():
        assert_refused(
            world, command, arguments, f"{TARGET} has plans but no fingerprint", "nnUNetv2_plan_and_preprocess -d 901"
        )


@pytest.mark.parametrize("arguments", [AFFINITY, DRY], ids=["affinity", "dry run"])
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda c: c.pop("spacings"), "lacks spacings"),
        (lambda c: c.update(spacings=[]), "lacks spacings"),
        (lambda c: c.pop("shapes_after_crop"), "lacks shapes_after_crop"),
        (lambda c: c.pop("foreground_intensity_properties_per_channel"), "lacks foreground_intensity_properties"),
        (lambda c: c["shapes_after_crop"].pop(), "6 spacings and 5 shapes"),
        (lambda c: (c["shapes_after_crop"].pop(), c["spacings"].pop()), "was made of 5 cases, now there are 6"),
        (lambda c: c["foreground_intensity_properties_per_channel"].update({"1": {}}), "other channels"),
    ],
)
def test_a_fingerprint_that_lacks_entries(
    world: World, command: Command, arguments: tuple[str, ...], change: Callable[[dict[str, Any]], Any], words: str
) -> None:
    """A fingerprint without what is needed, or of another state of the dataset, is refused with the command to run."""
    edit(world.preprocessed / NEAR / FINGERPRINT, change)
    assert_refused(world, command, arguments, NEAR, words, "nnUNetv2_extract_fingerprint -d 902")


@pytest.mark.parametrize("arguments", COMMANDS.values(), ids=COMMANDS)
@pytest.mark.parametrize(
    ("source", "lost"),
    [
        (NEAR, "labelsTr/case3.nii.gz"),
        (NEAR, "imagesTr/case3_0000.nii.gz"),
        (TWO_CHANNELS, "imagesTr/case3_0001.nii.gz"),
        (NEAR, "labelsTr"),
    ],
)
def test_a_half_downloaded_source(
    world: World, command: Command, arguments: tuple[str, ...], source: str, lost: str
) -> None:
    """A source of which a label, an image, a channel or all labels are missing is named with the first such file."""
    path = world.raw / source / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    first = path / "case0.nii.gz" if lost == "labelsTr" else path
    count = 6 if lost == "labelsTr" else 1
    words = (f"{source} is incomplete: {count} of its files are missing, the first is {first}", "download")
    assert_refused(world, command, (*arguments, "-s", source), *words)


def test_a_source_without_images(world: World, command: Command) -> None:
    """A source of which only dataset.json has arrived is named."""
    for name in ("imagesTr", "labelsTr"):
        shutil.rmtree(world.raw / NEAR / name)
    for arguments in COMMANDS.values():
        assert_refused(world, command, arguments, f"{NEAR} has no labelled cases in", "imagesTr; copy its images there")


def test_a_source_without_raw_and_preprocessed_images(world: World, command: Command) -> None:
    """A source whose raw folder is gone, and that was never preprocessed, is named; so is one without a fingerprint."""
    shutil.copy(world.raw / NEAR / "dataset.json", world.preprocessed / NEAR / "dataset.json")
    shutil.rmtree(world.raw / NEAR)
    for arguments in COMMANDS.values():
        assert_refused(world, command, arguments, f"{NEAR} has neither raw images nor preprocessed", "nnUNet_raw")
    (world.preprocessed / NEAR / FINGERPRINT).unlink()
    for arguments in COMMANDS.values():
        assert_refused(world, command, arguments, f"{NEAR} has neither raw images nor a fingerprint", "nnUNet_raw")


@pytest.mark.parametrize("metric", ["descriptors", "published"])
@pytest.mark.parametrize("lost", ["imagesTr/{}_0000.nii.gz", "labelsTr/{}.nii.gz"])
@pytest.mark.parametrize("keep", [0, 0.001, 0.5, 0.999])
def test_a_truncated_raw_image(world: World, command: Command, metric: str, lost: str, keep: float) -> None:
    """An image or label of a source that lacks its end (ITK would read it all the same) is named, nothing is kept."""
    path = world.raw / NEAR / lost.format(SAMPLED)
    truncate(path, keep)
    words = (f"case {SAMPLED} cannot be read", str(path), "restore these files")
    assert_refused(world, command, (*AFFINITY, "-m", metric), *words, alone=False, keeps=(TARGET,))


def convert(folder: Path, ending: str) -> None:
    """Turns a dataset's images into another format."""
    for path in folder.glob("*Tr/*.nii.gz"):
        sitk.WriteImage(sitk.ReadImage(str(path)), str(path).replace(".nii.gz", ending))
        path.unlink()
    edit(folder / "dataset.json", lambda c: c.update(file_ending=ending))


@pytest.mark.parametrize("ending", [".nii", ".nrrd", ".mha"])
def test_truncated_images_of_other_formats(world: World, command: Command, ending: str) -> None:
    """The same for formats that are not compressed as a whole."""
    convert(world.raw / NEAR, ending)
    path = world.raw / NEAR / f"imagesTr/{SAMPLED}_0000{ending}"
    truncate(path)
    words = (f"case {SAMPLED} cannot be read", str(path))
    assert_refused(world, command, AFFINITY, *words, alone=False, keeps=(TARGET,))


def test_a_fingerprint_that_cannot_be_extracted(world: World, command: Command) -> None:
    """A CT source needs the fingerprint of all cases: a broken case names the dataset, and no fingerprint is left."""
    edit(world.raw / NEAR / "dataset.json", lambda c: c.update(channel_names={"0": "CT"}))
    unsampled = next(case for case in CASES[1:] if case != SAMPLED)  # nnU-Net chooses the reader by the first
    truncate(world.raw / NEAR / f"imagesTr/{unsampled}_0000.nii.gz", 0.001)
    (world.preprocessed / NEAR / FINGERPRINT).unlink()
    words = (f"the fingerprint of {NEAR} cannot be extracted", "-d 902 --verify_dataset_integrity")
    assert_refused(world, command, AFFINITY, *words, alone=False)
    assert not list(world.preprocessed.glob(".*"))


def erase_labels(folder: Path, cases: tuple[str, ...]) -> None:
    for case in cases:
        path = folder / f"labelsTr/{case}.nii.gz"
        label = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        sitk.WriteImage(sitk.GetImageFromArray(np.zeros_like(label)), str(path))


@pytest.mark.parametrize("metric", ["descriptors", "published"])
def test_labels_that_are_all_empty(world: World, command: Command, metric: str) -> None:
    """A source none of whose cases has a labelled voxel is named with its labels, and no signature is kept."""
    erase_labels(world.raw / NEAR, CASES)
    words = (f"{NEAR}: none of the 2 cases looked at has a voxel of its labels organ", "check labelsTr")
    assert_refused(world, command, (*AFFINITY, "-n_cases", "2", "-m", metric), *words, alone=False, keeps=(TARGET,))


def test_another_number_of_channels_than_said(world: World, command: Command) -> None:
    """RGB images of a dataset.json that names one channel are refused, by the raw metric with both numbers."""
    shutil.rmtree(world.raw / FLAT_SOURCE / "imagesTr")
    shutil.copytree(world.raw / "Dataset911_FlatTarget/imagesTr", world.raw / FLAT_SOURCE / "imagesTr")
    flat = (*FLAT, "-s", "912")
    path = world.raw / FLAT_SOURCE / f"imagesTr/{SAMPLED}_0000.png"
    words = (f"case {SAMPLED} of {FLAT_SOURCE} has 3 channels in {path}, dataset.json names 1", "correct dataset.json")
    for metric in ("descriptors", "published"):
        assert_refused(
            world, command, (*flat, "--allow_overlap", "-m", metric), *words, alone=False, keeps=(FLAT_TARGET,)
        )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*AFFINITY, "-s", "912"), ("left out: 912 (2-D images)",)),
        (
            (*TRAIN, "-s", "912"),
            (f"{FLAT_SOURCE} has 2-D images, the target {TARGET} has volumes", "leave it out of -s"),
        ),
        ((*DRY, "-s", "902", "912"), (f"{FLAT_SOURCE} has 2-D images",)),
        ((*FLAT, "-s", "902"), ("left out: 902 (volumes)",)),
        ((*FLAT_TRAIN, "902"), (f"{NEAR} has volumes",)),
    ],
)
def test_flat_images_and_volumes(
    world: World, command: Command, arguments: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """2-D images never meet volumes, whichever of them is the target."""
    assert_refused(world, command, arguments, *words)


def test_nothing_fits(world: World, command: Command) -> None:
    """Where -s all leaves nothing, or nothing else is registered, that is the error."""
    shutil.rmtree(world.raw / FLAT_SOURCE)
    shutil.rmtree(world.preprocessed / FLAT_SOURCE)
    assert_refused(world, command, FLAT, "no source is left; left out: 901, 902, 903, 904 (volumes)")
    for name in (TARGET, NEAR, FAR, TWO_CHANNELS):
        shutil.rmtree(world.raw / name)
        shutil.rmtree(world.preprocessed / name)
    assert_refused(world, command, FLAT, "no dataset but the target Dataset911_FlatTarget is registered", "nnUNet_raw")


def test_planning_leaves_out_what_is_broken(world: World, command: Command) -> None:
    """nnUNetv2_seq_plan, which compares with all datasets where need be, plans without a broken one and says so."""
    truncate(world.raw / NEAR / "dataset.json")
    outcome = command(*PLAN)
    assert outcome.status == 0 and f"left out: 902 (dataset.json of {NEAR} is broken" in outcome.err
    record = json.loads((world.preprocessed / TARGET / "seqtransfer/sequence_nnUNetPlans_3d_fullres.json").read_text())
    assert NEAR not in json.dumps(record) and FAR in json.dumps(record)


def test_a_worker_names_the_case_too(world: World, command: Command) -> None:
    """An error in a worker process reaches the user like one in this process."""
    truncate(world.raw / NEAR / f"imagesTr/{SAMPLED}_0000.nii.gz")
    assert f"case {SAMPLED} cannot be read" in error_line(command(*AFFINITY, "-np", "2"))


def test_labels_that_differ_from_nnunets_copy(world: World, command: Command) -> None:
    """nnU-Net trains with the copy of dataset.json beside the preprocessed data: other labels in it are refused."""
    copy = world.preprocessed / TARGET / "dataset.json"
    copy.write_text(copy.read_text().replace("front", "rostral"))
    assert_refused(world, command, AFFINITY, "labels of dataset.json differ", str(copy), "preprocess the dataset again")
