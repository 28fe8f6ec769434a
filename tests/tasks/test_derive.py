"""Tests of tasks/derive.py and tasks/case_table.py: what nnU-Net reads in derived datasets, and interruptions."""

from __future__ import annotations

import csv
import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_seqtransfer.nnunet.datasets import raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.image_formats import LabelJob, rewrite_label_file
from nnunet_seqtransfer.tasks import derive
from nnunet_seqtransfer.tasks.task import sample_cases
from support.world import Outcome, World, load_script, make_dataset, make_flat_dataset

Command = Callable[..., Outcome]

ORIGIN, FLAT, DERIVED = "Dataset051_Origin", "Dataset112_Flat", "Dataset501_X"

CASES = tuple(f"case{number}" for number in range(6))

SITES = {"case0": "01", "case1": "01", "case2": "02", "case3": "02", "case4": "03"}
"""case5 is not in the table."""

DERIVE = ("derive", "-d", "51", "-number", "501", "-name", "X", "-np", "1")

EDEMA = (*DERIVE, "-labels", "edema")


@pytest.fixture
def origin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world of one dataset of volumes with a table of sites, and one of colour images; nothing is preprocessed."""
    own = World(tmp_path / "world")
    for name, folder in own.environment.items():
        Path(folder).mkdir(parents=True)
        monkeypatch.setenv(name, folder)
    make_dataset(own.raw, ORIGIN, ("FLAIR", "T1-Gd"), ("necrosis", "edema", "enhancing"), 60)
    make_flat_dataset(own.raw, FLAT, ("R", "G", "B"), 60)
    rows = [f"{case},{site},scanner{index % 2}" for index, (case, site) in enumerate(SITES.items())]
    (own.raw / ORIGIN / "cases.csv").write_text("\n".join(["case,site,scanner", *rows]))
    return own


def read(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


def succeed(command: Command, *arguments: str) -> Outcome:
    outcome = command(*arguments)
    assert outcome.status == 0, outcome.err
    return outcome


def derived_json(world: World, dataset: str = DERIVED) -> dict[str, Any]:
    return json.loads((world.raw / dataset / "dataset.json").read_text())


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.parametrize(
    "arguments",
    [
        ("-channels", "FLAIR", "-labels", "edema", "-where", "site=01,02"),
        ("-labels", "whole=1+2+3", "core=necrosis+enhancing", "enhancing"),
        ("-d", "112", "-case_ids", "case1", "case4"),
    ],
)
def test_nnunet_finds_nothing_wrong(origin: World, command: Command, arguments: tuple[str, ...]) -> None:
    """nnU-Net's own check of a dataset's integrity passes, for labels, regions and 2-D images."""
    succeed(command, *DERIVE, *arguments)
    verify_dataset_integrity(str(origin.raw / DERIVED), 1)


def test_nnunet_and_we_read_the_same_files(origin: World, command: Command) -> None:
    """Of a derived dataset, and of one derived from that, nnU-Net lists the files that we list; all exist."""
    succeed(command, *EDEMA, "-channels", "T1-Gd")
    succeed(command, "derive", "-d", "501", "-where", "site=02", "-number", "502", "-name", "Y", "-np", "1")
    for dataset in (DERIVED, "Dataset502_Y"):
        listed = get_filenames_of_train_images_and_targets(str(origin.raw / dataset))
        ours = raw_cases(dataset, read_dataset_json(dataset))
        assert {case: ([str(p) for p in files.images], str(files.label)) for case, files in ours.items()} == {
            case: (files["images"], files["label"]) for case, files in listed.items()
        }
    assert set(ours) == {"case2", "case3"}
    assert ours["case2"].images == (origin.raw / ORIGIN / "imagesTr/case2_0001.nii.gz",)
    assert ours["case2"].label == origin.raw / DERIVED / "labelsTr/case2.nii.gz"


def test_images_are_referenced_and_labels_have_consecutive_values(origin: World, command: Command) -> None:
    """The new folder holds no image; its label files hold 0 and 1 exactly where the origin's hold the kept label."""
    before = contents(origin.raw / ORIGIN)
    succeed(command, *EDEMA, "-channels", "flair")
    assert contents(origin.raw / ORIGIN) == before
    written = set(contents(origin.raw / DERIVED))
    labels = {f"labelsTr/{case}.nii.gz" for case in CASES}
    assert written == labels | {"dataset.json", "derived.json", "cases.csv"}
    content = derived_json(origin)
    assert content["channel_names"] == {"0": "FLAIR"} and content["labels"] == {"background": 0, "edema": 1}
    assert content["numTraining"] == 6 and "regions_class_order" not in content
    for case in CASES:
        old = read(origin.raw / ORIGIN / f"labelsTr/{case}.nii.gz")
        assert np.array_equal(read(origin.raw / DERIVED / f"labelsTr/{case}.nii.gz"), old == 2)
        assert (old == 2).any() and (old == 1).any()


def test_channels_come_in_the_order_asked_for(origin: World, command: Command) -> None:
    """Channels are renumbered in the order given, their files with them; labels that stay are referenced too."""
    succeed(command, *DERIVE, "-channels", "t1 GD", "FLAIR")
    content = derived_json(origin)
    assert content["channel_names"] == {"0": "T1-Gd", "1": "FLAIR"}
    assert content["dataset"]["case3"] == {
        "images": [f"../{ORIGIN}/imagesTr/case3_0001.nii.gz", f"../{ORIGIN}/imagesTr/case3_0000.nii.gz"],
        "label": f"../{ORIGIN}/labelsTr/case3.nii.gz",
    }
    assert not (origin.raw / DERIVED / "labelsTr").exists()


def test_the_raw_folder_can_be_moved(origin: World, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """References within nnUNet_raw hold wherever it lies; those outside of it are absolute and hold as well."""
    outside = origin.root / "elsewhere"
    shutil.move(origin.raw / ORIGIN / "imagesTr", outside)
    listing = {
        case: {
            "images": [str(outside / f"{case}_0000.nii.gz"), f"../../elsewhere/{case}_0001.nii.gz"],
            "label": f"labelsTr/{case}.nii.gz",
        }
        for case in CASES
    }
    path = origin.raw / ORIGIN / "dataset.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"dataset": listing}))
    succeed(command, *DERIVE)
    moved = origin.root / "deep" / "inside"
    moved.parent.mkdir()
    origin.raw.rename(moved)
    monkeypatch.setenv("nnUNet_raw", str(moved))
    files = raw_cases(DERIVED, read_dataset_json(DERIVED))["case1"]
    assert files.images == (outside / "case1_0000.nii.gz", outside / "case1_0001.nii.gz")
    assert files.label == moved / ORIGIN / "labelsTr/case1.nii.gz"


def test_folders_that_are_links(origin: World, command: Command) -> None:
    """Where the folders in nnUNet_raw are symbolic links, references hold for nnU-Net and for us all the same."""
    store = origin.root / "a" / "b"
    store.mkdir(parents=True)
    succeed(command, *EDEMA)
    for dataset in (ORIGIN, DERIVED):
        shutil.move(origin.raw / dataset, store.parent / dataset if dataset == ORIGIN else store / dataset)
        (origin.raw / dataset).symlink_to(store.parent / dataset if dataset == ORIGIN else store / dataset)
    ours = raw_cases(DERIVED, read_dataset_json(DERIVED))
    listed = get_filenames_of_train_images_and_targets(str(origin.raw / DERIVED))
    assert [str(path) for path in ours["case0"].images] == listed["case0"]["images"]
    assert all(Path(path).is_file() for path in listed["case0"]["images"])


def test_what_the_origin_says_of_itself_goes_along(origin: World, command: Command) -> None:
    """Licence, format and reader stay; lists of cases that the derived dataset does not have are left out."""
    path = origin.raw / ORIGIN / "dataset.json"
    extra = {"licence": "CC0", "overwrite_image_reader_writer": "SimpleITKIO", "name": "Origin", "training": ["case0"]}
    path.write_text(json.dumps(json.loads(path.read_text()) | extra))
    succeed(command, *DERIVE)
    content = derived_json(origin)
    assert (content["licence"], content["overwrite_image_reader_writer"]) == ("CC0", "SimpleITKIO")
    assert content["name"] == DERIVED and "training" not in content and content["file_ending"] == ".nii.gz"


def test_the_ignore_label_stays_in_the_files(origin: World, command: Command) -> None:
    """Voxels to be ignored are so in the derived dataset, with the highest value."""
    path = origin.raw / ORIGIN / "dataset.json"
    content = json.loads(path.read_text())
    content["labels"] = {"background": 0, "necrosis": 1, "edema": 2, "ignore": 3}
    path.write_text(json.dumps(content))
    succeed(command, *EDEMA)
    assert derived_json(origin)["labels"] == {"background": 0, "edema": 1, "ignore": 2}
    old, new = (read(origin.raw / name / "labelsTr/case0.nii.gz") for name in (ORIGIN, DERIVED))
    assert np.array_equal(new == 2, old == 3) and (old == 3).any()


def test_flat_labels(origin: World, command: Command) -> None:
    """Labels of PNG images are merged and renumbered in PNG; colour images with all channels are referenced."""
    from PIL import Image

    path = origin.raw / FLAT / "dataset.json"
    content = json.loads(path.read_text()) | {"labels": {"background": 0, "rim": 1, "core": 2}}
    path.write_text(json.dumps(content))
    label = origin.raw / FLAT / "labelsTr/case0.png"
    old = np.array(Image.open(label))
    old[::2][old[::2] > 0] = 2
    Image.fromarray(old).save(label)
    succeed(command, "derive", "-d", "112", "-labels", "core", "-number", "501", "-name", "X", "-np", "1")
    assert np.array_equal(np.array(Image.open(origin.raw / DERIVED / "labelsTr/case0.png")), old == 2)
    assert derived_json(origin)["dataset"]["case0"]["images"] == [f"../{FLAT}/imagesTr/case0_0000.png"]
    assert derived_json(origin)["channel_names"] == {"0": "R", "1": "G", "2": "B"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (("-where", "site=01"), {"case0", "case1"}),
        (("-where", "Site=01,03"), {"case0", "case1", "case4"}),
        (("-where", "site=01,02", "scanner=scanner1"), {"case1", "case3"}),
        (("-where", "site=01", "-case_ids", "case5", "case1"), {"case1"}),
        (("-case_ids", "case5", "case1"), {"case1", "case5"}),
        (("-most", "2", "-seed", "3"), set(sample_cases(CASES, 2, 3))),
        (("-where", "site=01,02", "-most", "3"), set(sample_cases(CASES[:4], 3, 0))),
        (("-most", "50"), set(CASES)),
    ],
)
def test_cases(origin: World, command: Command, given: tuple[str, ...], expected: set[str]) -> None:
    """Conditions, identifiers and draws choose the cases that they name, together those that fulfil all."""
    outcome = succeed(command, *DERIVE, *given)
    content = derived_json(origin)
    assert set(content["dataset"]) == expected and content["numTraining"] == len(expected)
    assert ("does not list 1 of the dataset's cases, not selected: case5" in outcome.err) == ("-where" in given)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_partitioning_tables(origin: World, command: Command, separator: str) -> None:
    """A table elsewhere whose identifiers are not in its first column, as Excel or FeTS write it, is taken."""
    rows = [("Partition_ID", "Subject_ID"), *((str(index % 3 + 1), case) for index, case in enumerate(CASES))]
    table = origin.root / "partitioning_1.csv"
    table.write_text("\ufeff" + "\r\n".join(separator.join(row) for row in [*rows, ("9", "stranger")]) + "\r\n\r\n")
    given = ("-table", str(table), "-table_key", "subject id", "-where", "Partition_ID=2")
    outcome = succeed(command, *DERIVE, *given)
    assert set(derived_json(origin)["dataset"]) == {"case1", "case4"}
    assert "lists 1 that are no cases of the dataset, ignored: stranger" in outcome.err
    with (origin.raw / DERIVED / "cases.csv").open(newline="") as stream:
        assert list(csv.reader(stream)) == [["case", "Partition_ID"], ["case1", "2"], ["case4", "2"]]


def test_a_table_that_is_not_needed(origin: World, command: Command) -> None:
    """A broken cases.csv stops nobody who does not ask for it: it is left behind, announced."""
    (origin.raw / ORIGIN / "cases.csv").write_text("case,site\ncase0,01\ncase0,02\n")
    outcome = succeed(command, *DERIVE)
    assert "the table of cases is not copied" in outcome.err and not (origin.raw / DERIVED / "cases.csv").exists()


def test_the_same_command_again(origin: World, command: Command) -> None:
    """Called again, the command finds its dataset, says so, ends well and touches nothing; so does a dry run."""
    succeed(command, *EDEMA)
    before = origin.snapshot()
    outcome = succeed(command, *EDEMA)
    assert f"{DERIVED} exists already, derived in the same way" in outcome.err
    assert "it exists already" in succeed(command, *EDEMA, "--dry_run").out
    assert origin.snapshot() == before


def test_a_dry_run_writes_nothing(origin: World, command: Command) -> None:
    """--dry_run names cases, channels, labels, changed values and the folder, and touches nothing."""
    before = origin.snapshot()
    outcome = succeed(command, *EDEMA, "-channels", "T1-Gd", "-where", "site=01", "--dry_run")
    for words in ("2 of 6: case0, case1", "0 T1-Gd", "1 edema", "2 -> 1", f"would write: {origin.raw / DERIVED}"):
        assert words in outcome.out
    assert origin.snapshot() == before and not list(origin.raw.glob(".*"))
    regions = succeed(command, *DERIVE, "-labels", "a=1+2", "b=2+3", "--dry_run").out
    assert (
        "regions_class_order 1, 3" in regions and "b: exported predictions cannot show where this overlaps" in regions
    )


def test_one_process_or_two(origin: World, command: Command) -> None:
    """Worker processes change nothing in what is written, byte for byte."""
    succeed(command, *EDEMA)
    first = contents(origin.raw / DERIVED)
    shutil.rmtree(origin.raw / DERIVED)
    succeed(command, *EDEMA, "-np", "2")
    assert contents(origin.raw / DERIVED) == first


@pytest.mark.parametrize("moment", [0, 1, 4, 8, 9])
def test_interruptions(origin: World, command: Command, monkeypatch: pytest.MonkeyPatch, moment: int) -> None:
    """Stopped before one of its writes, the command leaves no visible dataset; the same command then makes it whole."""
    succeed(command, *EDEMA)
    whole = contents(origin.raw / DERIVED)
    shutil.rmtree(origin.raw / DERIVED)
    with monkeypatch.context() as patch:
        writes = stop_before_write(patch, moment)
        if moment == 9:  # the record, six labels, the table and dataset.json are written
            patch.setattr(Path, "rename", interrupt)
        assert command(*EDEMA).status == 130
    assert not (origin.raw / DERIVED).exists() and len(writes) == moment
    if moment > 1:  # left by a killed process
        (origin.raw / f".derive_{DERIVED}/labelsTr/.case5.nii.0a1b2c3d.tmp.gz").write_bytes(b"half")
    succeed(command, *EDEMA)
    assert contents(origin.raw / DERIVED) == whole and not list(origin.raw.glob(".*"))


def interrupt(*_: Any) -> Path:
    raise KeyboardInterrupt


def stop_before_write(monkeypatch: pytest.MonkeyPatch, moment: int) -> list[str]:
    """Press Ctrl-C instead of putting file number ``moment`` in place; return the names of the files before it."""
    names: list[str] = []
    replace = Path.replace

    def counting(self: Path, target: Path) -> Path:
        if len(names) == moment:
            raise KeyboardInterrupt
        names.append(Path(target).name)
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", counting)
    return names


def test_a_full_disk(origin: World, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full disk is one line and leaves no dataset; with space again, the same command goes on."""
    with monkeypatch.context() as patch:
        written: list[Path] = []

        def full(job: LabelJob) -> None:
            if len(written) == 3:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(job.goal))
            written.append(job.goal)
            rewrite_label_file(job)

        patch.setattr(derive, "rewrite_label_file", full)
        outcome = command(*EDEMA)
        assert outcome.status == 2 and "the disk is full; free some space" in outcome.err
        assert "Traceback" not in outcome.err and not (origin.raw / DERIVED).exists()
    succeed(command, *EDEMA)
    assert len(derived_json(origin)["dataset"]) == 6


def test_labels_that_went_missing_are_noticed(origin: World, command: Command) -> None:
    """A finished dataset that has lost a file is not called finished."""
    succeed(command, *EDEMA)
    (origin.raw / DERIVED / "labelsTr/case2.nii.gz").unlink()
    outcome = command(*EDEMA)
    assert outcome.status == 2 and f"{DERIVED} is incomplete: 1 of its files are missing" in outcome.err


@pytest.fixture(scope="module")
def study() -> ModuleType:
    return load_script("docs/study/published_tasks.py")


def run_study(study: ModuleType, capfd: pytest.CaptureFixture[str], *arguments: str) -> str:
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        study.main(list(arguments))
    captured = capfd.readouterr()
    assert ended.value.code == 0, captured.err
    return captured.out


def partitioning(world: World, sites: list[str]) -> Path:
    table = world.root / "partitioning_1.csv"
    rows = [f"{site},case{number}" for number, site in enumerate(sites)]
    table.write_text("\n".join(["Partition_ID,Subject_ID", *rows]))
    return table


def test_the_published_tasks(origin: World, study: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    """Sites times channels times labels are registered as binary tasks of one channel, and found again."""
    table = partitioning(origin, ["1", "1", "1", "1", "18", "18"])
    arguments = ("-d", "51", "-table", str(table), "-number", "501", "-np", "1")
    assert "12 tasks registered" in run_study(study, capfd, *arguments)
    names = sorted(path.name for path in origin.raw.glob("Dataset5*"))
    assert names[0] == "Dataset501_Site1-FLAIR-WT" and names[-1] == "Dataset512_Site18-T1-Gd-ET" and len(names) == 12
    for name in names:
        content = derived_json(origin, name)
        label = name.rsplit("-", 1)[1]
        assert content["labels"] == {"background": 0, label: 1} and len(content["channel_names"]) == 1
        assert set(content["dataset"]) == ({"case4", "case5"} if "Site18" in name else set(CASES[:4]))
        members = {"WT": [1, 2, 3], "TC": [1, 3], "ET": [3]}[label]
        for case, files in content["dataset"].items():
            old = read(origin.raw / ORIGIN / f"labelsTr/{case}.nii.gz")
            assert np.array_equal(read(origin.raw / name / files["label"]), np.isin(old, members))
    before = origin.snapshot()
    assert run_study(study, capfd, *arguments).count("there already") == 12
    assert origin.snapshot() == before
    shutil.rmtree(origin.raw / names[5])
    assert run_study(study, capfd, *arguments).count("to be made") == 1
    assert (origin.raw / names[5] / "dataset.json").is_file()


def test_there_are_84_of_them(origin: World, study: ModuleType, capfd: pytest.CaptureFixture[str]) -> None:
    """Seven sites, four modalities and three labels make 84 tasks; an eighth, smaller site is left out."""
    make_dataset(
        origin.raw, "Dataset200_FeTS", ("T1", "T1CE", "T2", "FLAIR"), ("necrosis", "edema", "enhancing"), 60, 15
    )
    table = partitioning(origin, [str(number % 7 + 1) for number in range(14)] + ["8"])
    before = origin.snapshot()
    out = run_study(study, capfd, "-d", "200", "-table", str(table), "-number", "501", "--dry_run")
    assert "84 tasks, nothing written" in out and out.count("2 cases, to be made") == 84
    assert "Dataset501_Site1-T1-WT" in out and "Dataset584_Site7-FLAIR-ET" in out and "Site8" not in out
    assert origin.snapshot() == before
