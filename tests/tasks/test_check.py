"""Tests of tasks/check.py: a dataset is accepted or refused as nnU-Net does, with file, value and remedy."""

from __future__ import annotations

import gzip
import json
import os
import shutil
from collections.abc import Callable
from copy import deepcopy
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.experiment_planning import verify_dataset_integrity as nnunet_verify
from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json
from nnunetv2.utilities import utils as nnunet_utils
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from PIL import Image

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import Problems, SeqTransferError
from nnunet_seqtransfer.tasks import check as module
from nnunet_seqtransfer.tasks.check import check_dataset, size_problems
from nnunet_seqtransfer.tasks.task import load_task
from support.world import NEAR, TARGET, World

NAME = "Dataset005_X"
Change = Callable[[Path], Any]


def volume(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1, 1, 1), **header: Any) -> None:
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    for entry, value in header.items():
        getattr(image, f"Set{entry}")(value)
    sitk.WriteImage(image, str(path))


def make(folder: Path, ending: str = ".nii.gz", channels: int = 1) -> Path:
    """Register two cases of 8 x 9 x 10 voxels with labels 0, 1 and 2."""
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for case in ("a", "b"):
        labels = np.zeros((8, 9, 10), np.uint8)
        labels[2:4, 2:6, 2:6], labels[5:7, 2:6, 2:6] = 1, 2
        for channel in range(channels):
            image = rng.normal(100, 9, labels.shape).astype(np.float32)
            store(folder / f"imagesTr/{case}_{channel:04d}{ending}", image)
        store(folder / f"labelsTr/{case}{ending}", labels)
    names = {str(number): f"channel {number}" for number in range(channels)}
    labels_entry = {"background": 0, "x": 1, "y": 2}
    content = {"channel_names": names, "labels": labels_entry, "numTraining": 2, "file_ending": ending}
    (folder / "dataset.json").write_text(json.dumps(content))
    return folder


def store(path: Path, array: np.ndarray) -> None:
    if path.suffix in (".png", ".bmp"):
        Image.fromarray(array[2].clip(0, 255).astype(np.uint8)).save(path)
    elif path.suffix in (".tif", ".tiff"):
        tifffile.imwrite(path, array)
    elif path.name.endswith(".nii"):
        nibabel.save(nibabel.Nifti1Image(array.T, np.eye(4)), path)
    else:
        volume(path, array)


def entry(**entries: Any) -> Change:
    def change(folder: Path) -> None:
        path = folder / "dataset.json"
        content = json.loads(path.read_text()) | entries
        path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))

    return change


def rewrite(part: str, change: Callable[[np.ndarray], np.ndarray], *, ending: str = "", **header: Any) -> Change:
    """Change the voxels and the header of one file; NRRD keeps NaN, which ITK reads from NIfTI as 0."""

    def apply(folder: Path) -> None:
        if ending:
            shutil.rmtree(folder)
            make(folder, ending)
        path = next(path for path in sorted((folder / part).iterdir()) if path.name.startswith("a"))
        volume(path, change(sitk.GetArrayFromImage(sitk.ReadImage(str(path)))), **header)

    return apply


def files(*steps: Callable[[Path], Any]) -> Change:
    return lambda folder: [step(folder) for step in steps]


def other(ending: str, channels: int = 1, *steps: Change) -> Change:
    def apply(folder: Path) -> None:
        shutil.rmtree(folder)
        make(folder, ending, channels)
        for step in steps:
            step(folder)

    return apply


def png(part: str, mode: str, values: Callable[[np.ndarray], np.ndarray] = lambda x: x) -> Change:
    """Store one PNG in another mode."""

    def apply(folder: Path) -> None:
        path = next(iter(sorted((folder / part).iterdir())))
        array = values(np.asarray(Image.open(path)))
        image = Image.fromarray(array)
        if mode == "P":
            image.putpalette([0, 0, 0, 200, 0, 0, 0, 200, 0])
        (image if mode == "P" else image.convert(mode)).save(path)

    return apply


def renamed(old: str, new: str) -> Change:
    return lambda folder: [
        path.rename(path.with_name(path.name.replace(old, new, 1)))
        for path in folder.glob("*Tr/*")
        if path.name.startswith(old)
    ]


def write(path: str, content: bytes = b"") -> Change:
    return lambda folder: (folder / path).write_bytes(content)


def copied(old: str, new: str) -> Change:
    return lambda folder: shutil.copy(folder / old, folder / new)


def removed(path: str) -> Change:
    return lambda folder: (folder / path).unlink()


def same(folder: Path) -> None:
    """Change nothing."""


REGIONS = {"background": 0, "whole": [1, 2], "core": [2]}
LISTED = {name: {"images": [f"imagesTr/{name}_0000.nii.gz"], "label": f"labelsTr/{name}.nii.gz"} for name in "ab"}
REORIENTED = {"Direction": (0, 1, 0, 1, 0, 0, 0, 0, 1)}
TWO = {"0": "one", "1": "two"}
KINDS: dict[str, tuple[Change, tuple[str, ...] | None]] = {
    # accepted by both
    "plain": (same, None),
    ".nii": (other(".nii"), None),
    ".nrrd": (other(".nrrd"), None),
    ".mha": (other(".mha"), None),
    ".png": (other(".png"), None),
    ".bmp": (other(".bmp"), None),
    ".tif volumes": (other(".tif"), None),
    "two channels": (other(".nii.gz", 2), None),
    "colour image": (other(".png", 1, png("imagesTr", "RGB"), copied("imagesTr/a_0000.png", "imagesTr/b_0000.png"),
                           entry(channel_names={**TWO, "2": "three"})), None),
    "labels as text": (entry(labels={"background": "0", "x": "1", "y": "2"}), None),
    "labels as 1.0": (entry(labels={"background": 0.0, "x": 1.0, "y": 2.0}), None),
    "labels in lists of one": (entry(labels={"background": 0, "x": [1], "y": [2]}), None),
    "two names of a label": (entry(labels={"background": 0, "x": 1, "y": 2, "z": 2}), None),
    "regions": (entry(labels=REGIONS, regions_class_order=[1, 2]), None),
    "ignore label": (entry(labels={"background": 0, "x": 1, "ignore": 2}), None),
    "an unused label": (entry(labels={"background": 0, "x": 1, "y": 2, "z": 3}), None),
    "an empty label": (rewrite("labelsTr", np.zeros_like), None),
    "whole floats": (rewrite("labelsTr", lambda x: x.astype(np.float64)), None),
    "16-bit label": (rewrite("labelsTr", lambda x: x.astype(np.int16)), None),
    "a label without image": (copied("labelsTr/a.nii.gz", "labelsTr/held_out.nii.gz"), None),
    "another note": (write("imagesTr/notes.txt"), None),
    "channels 0 and 2": (other(".nii.gz", 2, lambda f: [p.rename(str(p).replace("_0001", "_0002"))
                                                        for p in f.glob("imagesTr/*_0001*")]), None),
    "dots and spaces": (renamed("a", "a b.c'\u00e4"), None),
    "four digits in the name": (renamed("a", "a_0000"), None),
    "origin differs": (rewrite("labelsTr", lambda x: x, Origin=(5, 0, 0)), None),
    "direction differs": (rewrite("labelsTr", lambda x: x, **REORIENTED), None),
    "listed cases": (entry(dataset=LISTED), None),
    "a stray file of a case": (copied("imagesTr/a_0000.nii.gz", "imagesTr/a_mask.nii.gz"), None),
    # refused by both
    "0.99999": (rewrite("labelsTr", lambda x: (x * 0.99999).astype(np.float32)),
                ("a.nii.gz", "0.99999, 1.99998", "round the values")),
    "half values": (rewrite("labelsTr", lambda x: x / np.float32(2)), ("value 0.5", "nearest neighbours")),
    "undeclared value": (rewrite("labelsTr", lambda x: x * 3), ("values 3, 6", "0 to 2", "declare it")),
    "255 for 1": (other(".png", 1, png("labelsTr", "L", lambda x: x * 255)), ("value 255", "a.png")),
    "negative label": (rewrite("labelsTr", lambda x: x.astype(np.int16) * -1), ("values -2, -1",)),
    "NaN in label": (rewrite("labelsTr", lambda x: np.where(x == 1, np.nan, x), ending=".nrrd"), ("nan", "NaN")),
    "NaN in image": (rewrite("imagesTr", lambda x: np.where(x > 100, np.nan, x), ending=".nrrd"), ("NaN", "a_0000")),
    "a gap in the labels": (entry(labels={"background": 0, "x": 1, "y": 3}), ("0, 1, 3 without 2", "dataset.json")),
    "no background": (entry(labels={"x": 1, "y": 2}), ("without background 0",)),
    "ignore label below": (entry(labels={"background": 0, "x": 1, "y": 3, "ignore": 2}), ("ignore label 2",)),
    "ignore label as text": (entry(labels={"background": 0, "x": 1, "ignore": "2"}), ("ignore label '2' instead",)),
    "regions without order": (entry(labels=REGIONS), ("no regions_class_order",)),
    "a short order": (entry(labels=REGIONS, regions_class_order=[1]), ("length 1 for 2 regions (whole, core)",)),
    "no file_ending": (entry(file_ending=None), ("no file_ending",)),
    "no numTraining": (entry(numTraining=None), ("no numTraining",)),
    "another numTraining": (entry(numTraining=3), ("2 cases", "numTraining", "is 3")),
    "a missing label": (removed("labelsTr/b.nii.gz"), ("incomplete", "labelsTr/b.nii.gz")),
    "a missing image": (removed("imagesTr/b_0000.nii.gz"), ("incomplete", "imagesTr/b_0000.nii.gz")),
    "a missing channel": (other(".nii.gz", 2, removed("imagesTr/b_0001.nii.gz")), ("imagesTr/b_0001.nii.gz",)),
    "a channel too many": (copied("imagesTr/a_0000.nii.gz", "imagesTr/a_0001.nii.gz"), ("2 channels", "names 1")),
    "other shapes": (rewrite("labelsTr", lambda x: x[1:]), ("(8, 9, 10)", "(7, 9, 10)", "grid of its images")),
    "other spacings": (rewrite("labelsTr", lambda x: x, spacing=(1, 1, 2)), ("Spacing mismatch", "a.nii.gz", "header")),
    "channels of other shapes": (other(".nii.gz", 2, rewrite("imagesTr", lambda x: x[1:])), ("same shape", "same")),
    "alpha channel": (other(".png", 1, png("imagesTr", "RGBA"), copied("imagesTr/a_0000.png", "imagesTr/b_0000.png"),
                            entry(channel_names={**TWO, "2": "three"})), ("4 channels", "names 3", "remove the alpha")),
    "palette label": (other(".png", 1, png("labelsTr", "P")), ("3 channels in", "palette", "grey levels")),
    "truncated": (lambda f: (f / "labelsTr/a.nii.gz").write_bytes((f / "labelsTr/a.nii.gz").read_bytes()[:60]),
                  ("a cannot be read", "restore these files")),
    "no NIfTI": (write("labelsTr/a.nii.gz", gzip.compress(b"no image")), ("a cannot be read", "labelsTr/a.nii.gz")),
    "a stray image": (files(copied("imagesTr/a_0000.nii.gz", "imagesTr/mask.nii.gz")), ("mask.nii.gz", "_0000")),
    "five digits": (renamed("a_0000", "a_00000"), ("a_00000.nii.gz", "rename")),
    "a hidden twin": (copied("imagesTr/a_0000.nii.gz", "imagesTr/._a_0000.nii.gz"), ("labelsTr/._a.nii.gz",)),
    "another ending": (entry(file_ending=".nii"), ("no labelled cases", "a_0000.nii.gz", "file_ending .nii")),
}  # fmt: skip
DIFFERENT: dict[str, tuple[Change, tuple[str, ...] | None, str]] = {
    "modality": (entry(channel_names=None, modality={"0": "CT"}), None,
                 "its check wants channel_names; its planning and training read the older entry"),
    "_seg": (renamed("a", "a_seg"), ("a_seg", "must not end in _seg"), "it loses the case: a_seg.b2nd is a label of a"),
    "labels of 1.5": (entry(labels={"background": 0, "x": 1.5, "y": 2}), ("x: 1.5",), "it cuts the fraction off"),
    "label -1": (entry(labels={"background": 0, "x": 1, "y": 2, "z": -1}), ("z: -1",),
                 "-1 marks voxels outside the image in its preprocessed data"),
    "background alone": (files(entry(labels={"background": 0}), *[
        rewrite("labelsTr", np.zeros_like), lambda f: shutil.copy(f / "labelsTr/a.nii.gz", f / "labelsTr/b.nii.gz")]),
        ("no label but background",), "nothing can be learned"),
    "names of channels": (entry(channel_names={"x": "T1"}), ("keys are no numbers",), "their order is unknown"),
    "infinite intensities": (rewrite("imagesTr", lambda x: np.where(x > 110, np.inf, x), ending=".nrrd"),
                             ("infinite", "a_0000"), "normalisation turns the whole image into NaN"),
    "colour label": (other(".png", 1, png("labelsTr", "RGB")), ("3 channels", "a label file has one"),
                     "its check compares values only; its preprocessing keeps three labels per voxel"),
    "text in regions": (entry(labels={"background": 0, "whole": ["1", "2"], "core": 2}, regions_class_order=[1, 2]),
                        ("values as text",), "training compares text with numbers"),
}  # fmt: skip


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch, world_template: World) -> Callable[[Path], str]:
    """Return nnU-Net's reason to refuse a dataset, or "": its integrity check, then its preprocessing of all cases."""
    monkeypatch.setattr(nnunet_utils, "Pool", ThreadPool)  # its processes take seconds to start
    monkeypatch.setattr(nnunet_verify.multiprocessing, "get_context", lambda _: SimpleNamespace(Pool=ThreadPool))
    plans = json.loads((world_template.preprocessed / TARGET / "nnUNetPlans.json").read_text())

    def verdict(folder: Path) -> str:
        try:
            nnunet_verify.verify_dataset_integrity(str(folder), 1)
            preprocess(folder, deepcopy(plans))
        except Exception as error:  # whatever it raises is a refusal
            return f"{type(error).__name__}: {error}"
        return ""

    return verdict


def preprocess(folder: Path, plans: dict[str, Any]) -> None:
    content = json.loads((folder / "dataset.json").read_text())
    cases = nnunet_utils.get_filenames_of_train_images_and_targets(str(folder), deepcopy(content))
    example = next(iter(cases.values()))["images"][0]
    reader = determine_reader_writer_from_dataset_json(content, example, verbose=False)
    plans["image_reader_writer"] = reader.__name__
    planar = folder.joinpath("dataset.json").read_text().count(".png") or content["file_ending"] == ".bmp"
    configuration = "2d" if planar else "3d_fullres"
    count = len(content.get("channel_names", content.get("modality")))
    settings = plans["configurations"][configuration]
    intensities = plans["foreground_intensity_properties_per_channel"]
    plans["foreground_intensity_properties_per_channel"] = {str(channel): intensities["0"] for channel in range(count)}
    settings |= {"normalization_schemes": ["ZScoreNormalization"] * count, "use_mask_for_norm": [False] * count}
    manager = PlansManager(plans)
    chosen = manager.get_configuration(configuration)
    for case in cases.values():
        chosen.preprocessor_class(verbose=False).run_case(case["images"], case["label"], manager, chosen, content)


def ours() -> str:
    try:
        check_dataset(NAME, Context())
    except SeqTransferError as error:
        return "; ".join(error.problems)
    return ""


@pytest.mark.parametrize("kind", KINDS)
def test_inputs_are_judged_as_by_nnunet(folders: Path, host: Callable[[Path], str], kind: str) -> None:
    """Both accept, or both refuse; ours names dataset, file, value and remedy."""
    change, words = KINDS[kind]
    folder = make(folders / "raw" / NAME)
    change(folder)
    theirs, reason = host(folder), ours()
    assert bool(theirs) == bool(reason) == (words is not None), (theirs, reason)
    for word in words or ():
        assert word in reason, reason


@pytest.mark.parametrize("kind", DIFFERENT)
def test_differences_to_nnunet(folders: Path, host: Callable[[Path], str], kind: str) -> None:
    """Where we differ, the reason is known, and nnU-Net still behaves so."""
    change, words, _ = DIFFERENT[kind]
    folder = make(folders / "raw" / NAME)
    change(folder)
    theirs, reason = host(folder), ours()
    assert bool(theirs) != bool(reason) == (words is not None), (theirs, reason)
    for word in words or ():
        assert word in reason, reason


def test_all_problems_are_reported_together(folders: Path) -> None:
    """Each wrong case is a line; beyond ten lines the record holds the rest."""
    folder = make(folders / "raw" / NAME)
    for number in range(12):
        for old, new in (("imagesTr/a_0000", f"imagesTr/c{number}_0000"), ("labelsTr/a", f"labelsTr/c{number}")):
            shutil.copy(folder / f"{old}.nii.gz", folder / f"{new}.nii.gz")
        volume(folder / f"labelsTr/c{number}.nii.gz", np.full((8, 9, 10), 7, np.uint8))
    entry(numTraining=14)(folder)
    with pytest.raises(Problems) as caught:
        check_dataset(NAME, Context())
    lines = caught.value.problems
    assert len(lines) == module.MOST_LINES + 1 and "has 2 more problems" in lines[-1]
    record = json.loads((folders / "preprocessed" / NAME / "seqtransfer/check.json").read_text())
    assert sum(len(case["errors"]) for case in record["cases"].values()) == 12


def test_only_changed_cases_are_read_again(folders: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Results are kept by size and time of the files, and for these labels and channels."""
    folder = make(folders / "raw" / NAME)
    rewrite("labelsTr", lambda x: x * 3)(folder)
    looked: list[str] = []
    check = module._check_case
    monkeypatch.setattr(module, "_check_case", lambda job: (looked.append(job[0]), check(job))[1])
    reason = ours()
    assert "values 3, 6" in reason and looked == ["a", "b"]
    assert ours() == reason and looked == ["a", "b"]
    volume(folder / "labelsTr/a.nii.gz", np.ones((8, 9, 10), np.uint8))
    assert ours() == "" and looked == ["a", "b", "a"]
    os.utime(folder / "imagesTr/b_0000.nii.gz", ns=(5, 5))
    assert ours() == "" and looked == ["a", "b", "a", "b"]
    entry(labels={"background": 0, "x": 1})(folder)
    assert "value 2" in ours() and looked[4:] == ["a", "b"]


def test_what_nnunet_only_warns_of_is_mentioned(folders: Path) -> None:
    """Another origin and a label without image are lines of progress, not errors."""
    folder = make(folders / "raw" / NAME)
    files(KINDS["origin differs"][0], KINDS["a label without image"][0])(folder)
    lines: list[str] = []
    check_dataset(NAME, Context(lines.append))
    assert len(lines) == 2 and "held_out" in lines[0] and "Origin mismatch" in lines[1]


@pytest.mark.parametrize(
    ("spacing", "memory", "words"),
    [
        (1.0, 1e12, None),
        (1.0, 1e6, ("of memory would be needed, 1 MB are there", "case0 and 5 more cases")),
        (0.001, 1e12, ("no voxel would be left", "0.001 x 0.001 x 0.001", "1 x 1 x 1", "in mm?")),
        (1000.0, 1e12, ("of memory would be needed", "1000 x 1000 x 1000")),
    ],
)
def test_cases_that_do_not_fit(world: World, spacing: float, memory: float, words: tuple[str, ...] | None) -> None:
    """Sizes at the target's spacing are judged by the fingerprint alone."""
    path = world.preprocessed / NEAR / "dataset_fingerprint.json"
    content = json.loads(path.read_text())
    path.write_text(json.dumps({**content, "spacings": [[spacing] * 3] * 6}))
    plans = json.loads((world.preprocessed / TARGET / "nnUNetPlans.json").read_text())
    found = size_problems(load_task(NEAR), plans, "3d_fullres", ("case0", *(f"case{n}" for n in range(1, 6))), memory)
    assert bool(found) == (words is not None)
    for word in words or ():
        assert word in str(found[0]), str(found[0])
