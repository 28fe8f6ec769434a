"""Derivations that cannot be made: refused in one line, with nothing left behind."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image

from support.bad_inputs import Command, assert_refused, edit, truncate
from support.world import World, make_dataset, make_flat_dataset

ORIGIN, FLAT, DERIVED = "Dataset051_Origin", "Dataset112_Flat", "Dataset501_X"
DERIVE = ("derive", "-d", "51", "-number", "501", "-name", "X", "-np", "1")
EDEMA = (*DERIVE, "-labels", "edema")
CASE1 = {"images": ["imagesTr/case1_0000.nii.gz", "imagesTr/case1_0001.nii.gz"], "label": "labelsTr/case1.nii.gz"}
HOSTILE = ("a b", "../x", "a/b", "", "a'; echo foo", "a\nb", "$HOME", "\u00e4", "x" * 101, "a.b")


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Volumes with two channels, three labels and a table of sites, and colour images; nothing is preprocessed."""
    own = World(tmp_path / "world")
    for name, folder in own.environment.items():
        Path(folder).mkdir(parents=True)
        monkeypatch.setenv(name, folder)
    make_dataset(own.raw, ORIGIN, ("FLAIR", "T1-Gd"), ("necrosis", "edema", "enhancing"), 60, cases=3)
    make_flat_dataset(own.raw, FLAT, ("R", "G", "B"), 60, cases=3)
    (own.raw / ORIGIN / "cases.csv").write_text("case,site\ncase0,01\ncase1,02\n")
    return own


def refuse(world: World, command: Command, arguments: tuple[str, ...], *words: str, alone: bool = True) -> None:
    """Refused, with no file touched and no hidden folder left; a dry run refuses alike where nothing is read."""
    assert_refused(world, command, arguments, *words, alone=alone)
    assert not list(world.raw.glob(".*"))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("-channels", "T2"), ("'T2' is no channel of Dataset051_Origin; choose from: FLAIR, T1-Gd",)),
        (("-channels", "+"), ("'+' is no channel",)),
        (("-channels", "FLAIR", "flair"), ("-channels FLAIR flair names a channel twice",)),
        (("-labels", "tumour"), ("'tumour' is no label of Dataset051_Origin", "necrosis, edema, enhancing")),
        (("-labels", "whole=1+7"), ("7 is no label value of Dataset051_Origin; choose from: 1, 2, 3",)),
        (("-labels", "whole=1+oedema"), ("'oedema' is no label",)),
        (("-labels", "whole=1++2"), ("'' is no label",)),
        (("-labels", "whole="), ("'' is no label",)),
        (("-labels", "=1"), ("'' is no name for a label",)),
        (("-labels", "ignore=1"), ("'ignore' is no name for a label",)),
        (("-labels", "Background=1"), ("'Background' is no name for a label",)),
        (("-labels", "background"), ("'background' is no label",)),
        (("-labels", "all=0+1"), ("holds the background (label value 0)",)),
        (("-labels", "edema", "Edema"), ("the label edema is asked for twice",)),
        (("-labels", "edema", "swelling=2"), ("edema and swelling would hold the same voxels",)),
        (("-case_ids", "case0", "case9"), ("Dataset051_Origin has no case 'case9'",)),
        (("-most", "0"), ("argument -most: '0' is not a whole number above 0",)),
        (("-seed", "-1"), ("argument -seed",)),
        (("-np", "0"), ("argument -np",)),
        (("-case_id", "case0"), ("unknown option -case_id", "did you mean -case_ids?")),
        (("-wheer", "site=01"), ("unknown option -wheer", "did you mean -where?")),
        (("--overwrite",), ("unknown option --overwrite",)),
        (("-table", "x.csv"), ("-table and -table_key select cases only together with -where",)),
        (("-table_key", "site"), ("-table and -table_key select cases only together with -where",)),
    ],
)
def test_what_the_original_does_not_have(
    world: World, command: Command, given: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """Unknown, repeated and senseless channels, labels, cases and options are named, with the choice there is."""
    refuse(world, command, (*DERIVE, *given), *words)
    refuse(world, command, (*DERIVE, *given, "--dry_run"), *words)


def test_names_that_fit_more_than_one(world: World, command: Command) -> None:
    """A spelling that fits two channels but neither exactly is ambiguous; an exact one is taken."""
    path = world.raw / ORIGIN / "dataset.json"
    path.write_text(path.read_text().replace("FLAIR", "T1 gd"))
    words = ("'t1gd' fits more than one channel of Dataset051_Origin: T1 gd, T1-Gd", "write it exactly")
    refuse(world, command, (*DERIVE, "-channels", "t1gd"), *words)
    assert command(*DERIVE, "-channels", "T1 gd").status == 0


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("site",), ("-where 'site' is no condition", "column=value")),
        (("scanner=1",), ("'scanner' is no column of", "cases.csv; choose from: case, site")),
        (("site=1",), ("no case of the dataset has site=1 in", "site is one of: 01, 02")),
        (("site=01,3",), ("no case of the dataset has site=3",)),
        (("site=",), ("no case of the dataset has site= in",)),
        (("site=01", "case=case1"), ("no case meets all conditions of -where site=01 case=case1",)),
        (("site=01", "-case_ids", "case1"), ("no case of -case_ids meets all conditions of -where",)),
        (("site=01", "-table", "/no/such.csv"), ("there is no table of cases /no/such.csv",)),
        (("site=01", "-table_key", "name"), ("'name' is no column of",)),
        (("site=01", "-table_key", "site"), ("holds none of the dataset's cases: 01, 02 there", "-table_key")),
    ],
)
def test_conditions(world: World, command: Command, given: tuple[str, ...], words: tuple[str, ...]) -> None:
    """Conditions that name no column, no value or no case are refused with what the table offers."""
    refuse(world, command, (*DERIVE, "-where", *given), *words, alone=False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "there is no table of cases"),
        (b"", "is no CSV with a header (no rows, or no distinct columns)"),
        (b"case,site\n", "is no CSV with a header (no rows, or no distinct columns)"),
        (b"case,case\ncase0,1\n", "is no CSV with a header (no rows, or no distinct columns)"),
        (b"case,site\ncase0,01\ncase1,02,03\n", "is no CSV with a header (row 2 has other columns than the header)"),
        (b"case,site\ncase0,01\ncase0,02\n", "column case of"),
        (b"\xff\xfe\x00", "the table of cases is no text"),
        (b'case,site\n"case0,01\n', "is no CSV with a header"),
    ],
)
def test_tables(world: World, command: Command, content: bytes | None, words: str) -> None:
    """A table that is missing, empty, uneven, ambiguous or no text is named, where it is asked for."""
    path = world.raw / ORIGIN / "cases.csv"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    refuse(world, command, (*DERIVE, "-where", "site=01"), words, str(path))


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names(world: World, command: Command, name: str) -> None:
    """Names that are no part of a folder's name, or mean something to a shell, are refused."""
    words = ("no dataset can be named", "with number 501; use letters, digits, - and _")
    refuse(world, command, ("derive", "-d", "51", "-number", "501", "-name", name, "-np", "1"), *words)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        ("0", ("with number 0; use", "a number from 1 to 999")),
        ("1000", ("with number 1000; use",)),
        ("-3", ("argument -number", "'-3' is not a whole number")),
        ("X", ("argument -number",)),
    ],
)
def test_numbers(world: World, command: Command, number: str, words: tuple[str, ...]) -> None:
    """Numbers that nnU-Net would not find again are refused: it reads three digits."""
    refuse(world, command, ("derive", "-d", "51", "-number", number, "-name", "X", "-np", "1"), *words)


@pytest.mark.parametrize("place", ["raw", "preprocessed", "results"])
def test_a_number_that_is_taken(world: World, command: Command, place: str) -> None:
    """A number that any of nnU-Net's folders knows, under whatever name, is never used again."""
    for other in ("Dataset501_Other", DERIVED) if place != "raw" else ("Dataset501_Other",):
        (world.root / place / other).mkdir()
        words = (f"the number of {DERIVED} is taken by {other}", "choose another -number")
        refuse(world, command, EDEMA, *words)
        refuse(world, command, (*EDEMA, "--dry_run"), *words)
        (world.root / place / other).rmdir()


def test_a_folder_that_is_not_ours(world: World, command: Command) -> None:
    """A dataset of that name which this command has not made is left alone, the original itself included."""
    shutil.copytree(world.raw / ORIGIN, world.raw / DERIVED)
    refuse(world, command, EDEMA, f"{world.raw / DERIVED} exists and was not made by nnUNetv2_seq_derive")
    onto_itself = ("derive", "-d", "51", "-number", "51", "-name", "Origin", "-np", "1")
    refuse(world, command, onto_itself, f"{world.raw / ORIGIN} exists and was not made by")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("-channels", "FLAIR"), "was derived with other channels;"),
        (("-labels", "necrosis"), "was derived with other labels, label values;"),
        (("-case_ids", "case0"), "was derived with other cases;"),
        (("-d", "112", "-labels", "object"), "was derived with other origin, channels, labels"),
    ],
)
def test_another_derivation_of_that_name(world: World, command: Command, given: tuple[str, ...], words: str) -> None:
    """The number and name of an earlier derivation with other channels, labels, cases or origin say what differs."""
    assert command(*EDEMA).status == 0
    refuse(world, command, (*EDEMA, *given), f"{world.raw / DERIVED} {words}", "choose another -number")


def test_a_record_that_was_edited(world: World, command: Command) -> None:
    """An edited record is no proof of anything: it is refused with what to do."""
    assert command(*EDEMA).status == 0
    path = world.raw / DERIVED / "derived.json"
    path.write_text(path.read_text().replace("edema", "necrosis"))
    refuse(world, command, EDEMA, "the derivation file was edited or damaged", str(path), "derive it again")


def test_channels_in_one_colour_file(world: World, command: Command) -> None:
    """Some channels of a colour file cannot be referenced: one line says so, and what to do; all in order can."""
    flat = ("derive", "-d", "112", "-number", "501", "-name", "X", "-np", "1", "-channels")
    for channels in (("R",), ("B", "G", "R")):
        words = ("Dataset112_Flat keeps its channels R, G, B in one file", "case0_0000.png", "leave -channels out")
        refuse(world, command, (*flat, *channels), *words)
    assert command(*flat, "R", "G", "B").status == 0


def test_originals_that_are_incomplete(world: World, command: Command) -> None:
    """An original that is unknown, broken, incomplete or only preprocessed is refused by name."""
    refuse(world, command, ("derive", "-d", "7", "-number", "501", "-name", "X"), "unknown dataset '7'")
    image = world.raw / ORIGIN / "imagesTr/case1_0001.nii.gz"
    image.rename(image.with_name("away"))
    refuse(world, command, EDEMA, f"{ORIGIN} is incomplete: 1 of its files are missing, the first is {image}")
    image.with_name("away").rename(image)
    (world.preprocessed / "Dataset060_Only").mkdir()
    shutil.copyfile(world.raw / ORIGIN / "dataset.json", world.preprocessed / "Dataset060_Only/dataset.json")
    only = ("derive", "-d", "60", "-number", "501", "-name", "X", "-np", "1")
    refuse(world, command, only, "Dataset060_Only has no raw images to reference; copy it to nnUNet_raw")
    truncate(world.raw / ORIGIN / "dataset.json")
    refuse(world, command, EDEMA, f"dataset.json of {ORIGIN} is broken")


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_truncated_label_file(world: World, command: Command, processes: str) -> None:
    """A label file that ends early is named; what was written before it is taken away again."""
    path = world.raw / ORIGIN / "labelsTr/case2.nii.gz"
    truncate(path)
    words = ("case case2 cannot be read", str(path), "restore these files")
    refuse(world, command, (*EDEMA, "-np", processes), *words, alone=False)


@pytest.mark.parametrize("strange", [7.0, 0.5, np.nan])
def test_label_values_that_nobody_declared(world: World, command: Command, strange: float) -> None:
    """A value that dataset.json does not name could become anything: it is refused with the file and the value."""
    path = world.raw / ORIGIN / "labelsTr/case1.nii.gz"
    image = nibabel.load(path)
    labels = np.asarray(image.dataobj).astype(np.float32)
    labels[0, 0, 0] = strange
    nibabel.save(nibabel.Nifti1Image(labels, image.affine), path)
    words = (f"case case1 of {ORIGIN} has the value {strange:g} in {path}, not declared in dataset.json", "0 to 3")
    if np.isnan(strange):  # ITK reads NaN in NIfTI files as 0
        words = (str(path), "it holds the value nan, which is none of dataset.json's labels")
    refuse(world, command, EDEMA, *words, alone=False)


def test_no_nifti_inside(world: World, command: Command) -> None:
    """A file that is no NIfTI whatever its name is one line too."""
    path = world.raw / ORIGIN / "labelsTr/case0.nii.gz"
    path.write_bytes(gzip.compress(b"nothing of the kind"))
    refuse(world, command, EDEMA, "case case0 cannot be read", str(path), alone=False)


def test_a_label_in_colours(world: World, command: Command) -> None:
    """A label file with three channels is refused as such."""
    edit(world.raw / FLAT / "dataset.json", lambda c: c["labels"].update(other=2))
    path = world.raw / FLAT / "labelsTr/case0.png"
    Image.fromarray(np.zeros((48, 40, 3), dtype=np.uint8)).save(path)
    arguments = ("derive", "-d", "112", "-labels", "object", "-number", "501", "-name", "X", "-np", "1")
    refuse(world, command, arguments, f"3 channels in {path}, a label file has one", alone=False)


def test_paths_that_nnunet_would_change(world: World, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """A dollar sign that nnU-Net would take for a variable, and identifiers that are no file names, are refused."""
    edit(world.raw / ORIGIN / "dataset.json", lambda c: c.update(dataset={"a/b": CASE1}, numTraining=1))
    refuse(world, command, EDEMA, f"the preprocessed case a/b of {ORIGIN}", "must not end in _seg or hold a slash")
    monkeypatch.setenv("SUBJECT", "case9")
    edit(world.raw / ORIGIN / "dataset.json", lambda c: (c.pop("dataset"), c.update(numTraining=3)))
    for folder in ("imagesTr", "labelsTr"):
        for path in (world.raw / ORIGIN / folder).iterdir():
            path.rename(path.with_name(path.name.replace("case0", "$SUBJECT-0")))
    words = ("nnU-Net would replace the environment variable", "$SUBJECT-0_0000.nii.gz", "rename this file")
    refuse(world, command, EDEMA, *words)
    edit(world.raw / ORIGIN / "dataset.json", lambda c: c.update(dataset={"$SUBJECT": CASE1}, numTraining=1))
    refuse(world, command, EDEMA, "nnU-Net would replace the environment variable", "labelsTr/$SUBJECT.nii.gz")


def test_required_options(world: World, command: Command) -> None:
    """Origin, number and name are required."""
    refuse(world, command, ("derive",), "arguments are required: -d, -number, -name")


def test_all_problems_are_reported_together(world: World, command: Command) -> None:
    """Wrong number, label, channel and case: one line each."""
    before = world.snapshot()
    wrong = ("-number", "0", "-labels", "tumour", "-channels", "T2", "-case_ids", "case9")
    outcome = command("derive", "-d", "51", "-name", "X", "-np", "1", *wrong)
    lines = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert outcome.status == 2 and len(lines) == 4 and world.snapshot() == before
    for line, word in zip(lines, ("number 0", "tumour", "T2", "case9"), strict=True):
        assert word in line
