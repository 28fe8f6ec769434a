"""Derived tasks: what nnU-Net reads in them, label arithmetic against brute force, formats, and interruptions."""

from __future__ import annotations

import csv
import errno
import itertools
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import nibabel
import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
from nnunetv2.utilities.label_handling.label_handling import LabelManager
from nnunetv2.utilities.utils import get_filenames_of_train_images_and_targets

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet import label_files
from nnunet_seqtransfer.nnunet.datasets import raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.label_files import LabelJob, rewrite_label_file
from nnunet_seqtransfer.nnunet.plans import reader_writer
from nnunet_seqtransfer.tasks import derive
from nnunet_seqtransfer.tasks.derive import DeriveRequest, derive_dataset
from nnunet_seqtransfer.tasks.label_choice import LabelChoice, choose_labels
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


# What nnU-Net makes of a derived dataset.


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


# Labels.


def described(values: dict[str, Any], ignore: int | None = None) -> dict[str, Any]:
    labels = {"background": 0, **values} | ({} if ignore is None else {"ignore": ignore})
    return {"labels": labels, "regions_class_order": [1]}


def holders(value: int, labels: dict[str, Any]) -> set[str]:
    """The classes that a voxel with this value lies in."""
    return {name for name, members in labels.items() if value in (members if isinstance(members, list) else [members])}


def random_families(count: int) -> list[dict[str, set[int]]]:
    """Families of distinct classes over the label values 1 to 5: disjoint, nested, crossing."""
    rng = np.random.default_rng(0)
    families = []
    while len(families) < count:
        sizes = rng.integers(1, 5, size=rng.integers(1, 5))
        family = [frozenset(rng.choice(range(1, 6), size, replace=False).tolist()) for size in sizes]
        if len(set(family)) == len(family):
            families.append({f"c{place}": set(members) for place, members in enumerate(family)})
    return families


def choose(family: dict[str, set[int]], ignore: int | None = None) -> LabelChoice:
    wanted = [f"{name}={'+'.join(map(str, sorted(members)))}" for name, members in family.items()]
    return choose_labels(described({f"old{value}": value for value in range(1, 6)}, ignore), wanted, "D")


def painted(choice: LabelChoice, value: int) -> int:
    """What nnU-Net exports for a voxel that is predicted to lie exactly in the classes of this value."""
    manager = LabelManager(choice.labels, regions_class_order=choice.regions_class_order)
    names = [name for name in choice.labels if name not in ("background", "ignore")]
    inside = holders(value, choice.labels)
    if manager.has_regions:
        scores = [float(name in inside) for name in names]
    else:
        scores = [float(value == label) for label in manager.all_labels]
    return int(manager.convert_probabilities_to_segmentation(np.array(scores)[:, None, None, None]).item())


@pytest.mark.parametrize("ignore", [None, 6])
def test_every_voxel_stays_in_its_classes(ignore: int | None) -> None:
    """Whatever classes are asked for: a voxel lies in the same ones before and after, values are consecutive from 0,
    nnU-Net accepts them, and an ignore label stays the highest.
    """
    for family in random_families(200):
        choice = choose(family, ignore)
        for old in range(1, 6):
            assert holders(choice.values[old], choice.labels) - {"background"} == holders(
                old, {name: list(members) for name, members in family.items()}
            )
        manager = LabelManager(choice.labels, regions_class_order=choice.regions_class_order)
        expected = [*map(int, manager.all_labels), *([] if ignore is None else [manager.ignore_label])]
        assert expected == list(range(len(expected))) and set(choice.values.values()) <= set(expected)
        assert manager.has_regions == (sum(map(len, family.values())) > len(set().union(*family.values())))
        assert choice.values[0] == 0 and (ignore is None or choice.values[ignore] == manager.ignore_label)


def test_predictions_keep_their_value_or_it_is_said() -> None:
    """nnU-Net's painting of regions gives every voxel its value back, exactly unless regions are named indistinct."""
    said = []
    for family in random_families(300):
        choice = choose(family)
        exact = all(painted(choice, value) == value for value in set(choice.values.values()) - {0})
        assert exact == (not choice.indistinct), family
        said.append(exact)
    assert 0.1 < np.mean(said) < 0.9, "both kinds occur"


def test_nested_regions_are_always_exact() -> None:
    """Regions that lie inside one another keep every value, in whatever order they are asked for."""
    nested = {"whole": {1, 2, 3, 4}, "core": {1, 3, 4}, "enhancing": {4}, "other": {5}}
    for order in itertools.permutations(nested):
        choice = choose({name: nested[name] for name in order})
        assert not choice.indistinct
        assert [name for name in choice.labels if name in ("whole", "core", "enhancing")] == [
            "whole", "core", "enhancing"
        ]  # fmt: skip


def test_crossing_regions_with_their_overlap_are_exact() -> None:
    """Two regions that cross lose their overlap in one label map, unless it is a label of its own."""
    assert choose({"a": {1, 2}, "b": {2, 3}}).indistinct == ("b",)
    assert choose({"a": {1, 2}, "b": {2, 3}, "both": {2}}).indistinct == ()


@pytest.mark.parametrize(
    ("wanted", "labels", "values"),
    [
        ([], {"background": 0, "GM": 1, "WM": 2, "a+b": 3, "ignore": 4}, {0: 0, 1: 1, 2: 2, 3: 3, 4: 4}),
        (["wm", "GM"], {"background": 0, "WM": 1, "GM": 2, "ignore": 3}, {0: 0, 1: 2, 2: 1, 3: 0, 4: 3}),
        (["brain=GM+2", "a+b"], {"background": 0, "brain": 1, "a+b": 2, "ignore": 3}, {0: 0, 1: 1, 2: 1, 3: 2, 4: 3}),
        (["x=1", "y=2", "z=3"], {"background": 0, "x": 1, "y": 2, "z": 3, "ignore": 4}, {v: v for v in range(5)}),
    ],
)
def test_plain_labels(wanted: list[str], labels: dict[str, int], values: dict[int, int]) -> None:
    """Names, merges by name and by value, and names with a plus in them, as written out here."""
    choice = choose_labels(described({"GM": 1, "WM": 2, "a+b": 3}, ignore=4), wanted, "D")
    assert (choice.labels, choice.values) == (labels, values)
    assert choice.changes_files == (values != {v: v for v in range(5)})


def test_regions_of_the_origin() -> None:
    """A single region of the origin becomes a plain label; all of them named are the origin's, files and all."""
    regions = {"whole": [1, 2, 3], "core": [2, 3], "enhancing": 3}
    alone = choose_labels(described(regions), ["core"], "D")
    assert alone == LabelChoice({"background": 0, "core": 1}, None, {0: 0, 1: 0, 2: 1, 3: 1})
    everything = choose_labels(described(regions), list(regions), "D")
    assert everything.labels == {"background": 0, **regions} and everything.regions_class_order == (1, 2, 3)
    assert not everything.changes_files


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


# Formats.


def oblique(path: Path, dtype: type, version: type = nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """A label file with a header that no writer would make by itself."""
    labels = np.random.default_rng(1).integers(0, 4, (5, 6, 7)).astype(dtype)
    angle = 0.3
    affine = np.array(
        [
            [0.9 * np.cos(angle), -1.1 * np.sin(angle), 0, -7.1],
            [0.9 * np.sin(angle), 1.1 * np.cos(angle), 0.01, 3.3],
            [0, 0, -2.3, 11.7],
            [0, 0, 0, 1],
        ]
    )
    image = version(labels, affine)
    image.header.set_sform(affine, code=4)
    image.header.set_qform(np.diag([1.5, 1.5, 3, 1]), code=1, strip_shears=True)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"made by a scanner"
    image.header["intent_name"] = b"labels"
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"kept"))
    nibabel.save(image, path)
    return nibabel.load(path)


MAPPING = {0: 0, 1: 2, 2: 0, 3: 1}


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.float32])
def test_nifti_headers_stay_as_they_are(tmp_path: Path, ending: str, dtype: type) -> None:
    """Every entry of a NIfTI header but data type and scaling is the same bit for bit, extensions included."""
    old = oblique(tmp_path / f"old{ending}", dtype)
    rewrite_label_file(LabelJob(tmp_path / f"old{ending}", tmp_path / f"labels/new{ending}", MAPPING, "SimpleITKIO"))
    new = nibabel.load(tmp_path / f"labels/new{ending}")
    for entry in old.header:
        if entry not in ("datatype", "bitpix", "scl_slope", "scl_inter"):
            assert old.header[entry].tobytes() == new.header[entry].tobytes(), entry
    assert np.array_equal(old.affine, new.affine)
    assert [extension.get_content() for extension in new.header.extensions] == [b"kept"]
    assert new.get_data_dtype() == np.uint8
    assert np.array_equal(np.asarray(new.dataobj), np.vectorize(MAPPING.get)(np.asarray(old.dataobj)))


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".gipl"])
def test_other_volumes_keep_their_geometry(tmp_path: Path, ending: str) -> None:
    """Formats that go through nnU-Net's writer keep spacing, origin and direction to the last digit or two."""
    image = sitk.GetImageFromArray(np.random.default_rng(1).integers(0, 4, (5, 6, 7)).astype(np.int16))
    image.SetSpacing((0.1 + 0.2, 1 / 3, 2.3))
    image.SetOrigin((-7.123456789, 1e-3, 11.7))
    if ending != ".gipl":  # which stores no direction
        image.SetDirection((np.cos(0.3), -np.sin(0.3), 0, np.sin(0.3), np.cos(0.3), 0, 0, 0, 1))
    sitk.WriteImage(image, str(tmp_path / f"old{ending}"))
    old = sitk.ReadImage(str(tmp_path / f"old{ending}"))
    rewrite_label_file(LabelJob(tmp_path / f"old{ending}", tmp_path / f"new{ending}", MAPPING, "SimpleITKIO"))
    new = sitk.ReadImage(str(tmp_path / f"new{ending}"))
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        # NRRD stores the product of spacing and direction.
        assert getattr(old, what)() == pytest.approx(getattr(new, what)(), rel=1e-15, abs=1e-15), what
    assert np.array_equal(read(tmp_path / f"new{ending}"), np.vectorize(MAPPING.get)(read(tmp_path / f"old{ending}")))


@pytest.mark.parametrize("ending", [".tif", ".tiff"])
def test_tiff_volumes_keep_their_spacing(tmp_path: Path, ending: str) -> None:
    """The file beside a TIFF volume that holds its spacing is written too, and nothing else is left there."""
    labels = np.random.default_rng(1).integers(0, 4, (5, 6, 7)).astype(np.uint8)
    tifffile.imwrite(tmp_path / f"old{ending}", labels)
    (tmp_path / "old.json").write_text(json.dumps({"spacing": [3.0, 0.5, 0.5]}))
    (tmp_path / "labels").mkdir()
    rewrite_label_file(LabelJob(tmp_path / f"old{ending}", tmp_path / f"labels/new{ending}", MAPPING, "Tiff3DIO"))
    assert sorted(path.name for path in (tmp_path / "labels").iterdir()) == ["new.json", f"new{ending}"]
    assert json.loads((tmp_path / "labels/new.json").read_text()) == {"spacing": [3.0, 0.5, 0.5]}
    assert np.array_equal(tifffile.imread(tmp_path / f"labels/new{ending}"), np.vectorize(MAPPING.get)(labels))


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


def test_the_reader_is_nnunets(origin: World) -> None:
    """The reader of a dataset is the one that nnU-Net picks; a file that none reads is named."""
    image = origin.raw / ORIGIN / "imagesTr/case0_0000.nii.gz"
    assert reader_writer({"file_ending": ".nii.gz"}, image) == "SimpleITKIO"
    assert reader_writer({"file_ending": ".nii.gz", "overwrite_image_reader_writer": "NibabelIO"}, image) == "NibabelIO"
    with pytest.raises(DatasetError, match=r"nnU-Net cannot read .*case0_0000.nii.gz"):
        reader_writer({"file_ending": ".jpg"}, image)


# Cases.


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


# Again, interrupted, side by side.


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


def test_from_python(origin: World) -> None:
    """The function returns what was made, and says where it lies; the module's errors are its own."""
    said: list[str] = []
    request = DeriveRequest(origin=ORIGIN, number=7, name="Y", labels=("edema",), most=2)
    derivation = derive_dataset(request, Context(said.append))
    assert derivation.folder == origin.raw / "Dataset007_Y" and derivation.folder.is_dir() and not said
    derive_dataset(request, Context(said.append))
    assert said == ["Dataset007_Y exists already, derived in the same way"]
    with pytest.raises(DatasetError, match="derived with other labels, label values"):
        derive_dataset(
            DeriveRequest(origin=ORIGIN, number=7, name="Y", labels=("necrosis",), most=2), Context(said.append)
        )


def test_values_are_replaced_as_by_a_dictionary() -> None:
    """The replacement equals a look-up voxel by voxel; NaN, fractions and unknown values are refused."""
    rng = np.random.default_rng(2)
    for dtype in (np.uint8, np.int32, np.float64):
        labels = rng.choice([0, 3, 7, 40], (4, 5, 6)).astype(dtype)
        values = {0: 0, 3: 300, 7: 0, 40: 1}
        replaced = label_files._with_values(labels, values)
        assert replaced.dtype == np.uint16
        assert replaced.tolist() == [[[values[int(v)] for v in row] for row in plane] for plane in labels]
    for strange in (np.nan, 0.5, -1, 41):
        with pytest.raises(ValueError, match=f"the value {strange:g}"):
            label_files._with_values(np.array([0, 3, strange]), values)


# The published study.


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
