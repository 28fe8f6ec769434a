"""Tables of measurements and calibration files that are wrong: one line each, and what is good is still used."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.record import affinity_path, write_affinity
from nnunet_seqtransfer.calibration.calibrate import calibrate
from nnunet_seqtransfer.calibration.fit import Exponents
from nnunet_seqtransfer.calibration.record import read_calibration, write_calibration
from nnunet_seqtransfer.calibration.transfers import MeasuredTarget
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.storage import checksum
from support.bad_inputs import Command, assert_refused, error_line, truncate
from support.calibration_cases import (
    DEFAULT,
    METRIC,
    NAMES,
    affinity_of,
    measured_world,
    random_targets,
    rows_of,
    write_table,
)
from support.world import Outcome, World

Row = tuple[object, ...]


@pytest.fixture
def measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[World, MeasuredTarget]:
    """A world with the affinity of one target, and a table of 30 measured paths."""
    return measured_world(tmp_path, monkeypatch)


def arguments(world: World, *more: str) -> tuple[str, ...]:
    return ("calibrate", "-i", str(world.root / "measurements.csv"), "-o", str(world.root / "out.json"), *more)


def calibrated_beside(world: World, command: Command, rows: list[Row], header: str = "path,target,dice") -> Outcome:
    """Runs the command on a table; what is good in it must still be calibrated on."""
    write_table(world.root / "measurements.csv", rows, header)
    outcome = command(*arguments(world))
    assert outcome.status == 0, outcome.err
    return outcome


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("777", "900", 0.5), ("dataset '777' is unknown", "affinity of Dataset900_Target")),
        (("Dataset100_Other", "900", 0.5), ("dataset 'Dataset100_Other' is unknown",)),
        (("100", "901", 0.5), ("no affinity of target '901'", "nnUNetv2_seq_affinity -t 901")),
        (("100 -> 900 -> 101", "900", 0.5), ("goes through its own target Dataset900_Target",)),
        (("100 -> 101 -> 100", "900", 0.5), ("goes through one dataset twice",)),
        (("100", "900", "nan"), ("it has no Dice",)),
        (("100", "900", ""), ("it has no Dice",)),
    ],
)
def test_single_bad_rows_are_left_out(
    measured: tuple[World, MeasuredTarget], command: Command, row: Row, words: tuple[str, ...]
) -> None:
    """A row that cannot be used is named by its number in one line; the result is that of the other rows."""
    world, target = measured
    calibrated_beside(world, command, rows_of(target))
    clean = (world.root / "out.json").read_bytes()
    rows = rows_of(target)
    outcome = calibrated_beside(world, command, [*rows[:3], row, *rows[3:]])
    (line,) = outcome.err.strip().splitlines()
    assert line.startswith("left out: row 5 of measurements.csv: ")
    for word in words:
        assert word in line, line
    assert (world.root / "out.json").read_bytes() == clean


def test_a_row_that_is_there_twice_counts_once(measured: tuple[World, MeasuredTarget], command: Command) -> None:
    """One seed of one path twice is a slip of copying: the second is left out."""
    world, target = measured
    rows = [(*row, 1) for row in rows_of(target)]
    outcome = calibrated_beside(world, command, [*rows, rows[0]], "path,target,dice,seed")
    assert "left out: row 32" in outcome.err and "seed 1 of this path is in row 2" in outcome.err


def test_a_target_with_one_path_is_left_out(measured: tuple[World, MeasuredTarget], command: Command) -> None:
    """One path alone says nothing about which is better; the other targets are used."""
    world, target = measured
    (other,) = random_targets(5, 1)
    lonely = MeasuredTarget("Dataset950_Lonely", (*other.names[:-1], "Dataset950_Lonely"), other.transfers, (), ())
    (world.raw / lonely.name).mkdir()
    write_affinity(affinity_path(lonely.name, "nnUNetPlans", "3d_fullres", "descriptors"), affinity_of(lonely))
    outcome = calibrated_beside(world, command, [*rows_of(target), ("100", "950", 0.5)])
    assert outcome.err.startswith("left out: Dataset950_Lonely: one measured path alone says nothing")
    assert len(outcome.err.splitlines()) == 1


def test_tasks_without_a_distance(measured: tuple[World, MeasuredTarget], command: Command) -> None:
    """Paths over a hop that has no distance are left out, each with the two datasets."""
    world, target = measured
    for table in target.transfers.components.values():
        table[0, 1] = float("inf")
    path = affinity_path(target.name, "nnUNetPlans", "3d_fullres", "descriptors")
    write_affinity(path, affinity_of(target))
    outcome = command(*arguments(world))
    assert outcome.status == 0
    lines = outcome.err.strip().splitlines()
    assert len(lines) == sum(path[:2] == (0, 1) for path in target.transfers.paths) > 0
    assert all("no distance from Dataset100_Source to Dataset101_Source" in line for line in lines)


GOOD_ROW = "100,900,0.5"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("lacks the column path and target and dice", "an empty first row")),
        ("path,dice\n100,0.5\n", ("lacks the column target", "it has path, dice")),
        ("path;target;dice\n100;900;0.5\n", ("lacks the column", "separated by commas")),
        ("path,target,dice,dice\n100,900,0.5,0.6\n", ("has the column dice twice",)),
        (f"path,target,dice\n{GOOD_ROW}\n100 101,900,85.2\n", ("row 3", "85.2", "percent; divide all by 100")),
        ("path,target,dice\n100,900,-0.1\n", ("row 2", "-0.1", "0 to 1")),
        ("path,target,dice\n100,900,1e9\n", ("row 2", "1e+09", "0 to 1")),
        ("path,target,dice\n100,900,good\n", ("row 2", "'good'", "0 to 1")),
        ("path,target,dice\n100,900,inf\n", ("row 2", "inf")),
        ("path,target,dice\n23,21,900,0.5\n", ("row 2", "4 cells, the header 3", "needs quotes")),
        ("path,target,dice\n100,900\n", ("row 2", "2 cells, the header 3")),
        ('path,target,dice\n"100,900,0.5\n', ("no CSV text",)),
        ("path,target,dice\n", ("no measured path is left",)),
        (
            f"path,target,dice\n{GOOD_ROW}\nscratch,900,0.4\n",
            ("2 measured paths to 1 target are too few", "measure 5 more"),
        ),
    ],
)
def test_tables_that_are_wrong(
    measured: tuple[World, MeasuredTarget], command: Command, text: str, words: tuple[str, ...]
) -> None:
    """A table that cannot be read as one is refused in one line, and nothing is written."""
    world, _ = measured
    (world.root / "measurements.csv").write_text(text)
    assert_refused(world, command, arguments(world), *words)


def test_files_that_are_no_tables(measured: tuple[World, MeasuredTarget], command: Command) -> None:
    """A missing table, a folder, and bytes that are no text are refused with the file's name."""
    world, _ = measured
    table = world.root / "measurements.csv"
    table.write_bytes(b"PK\x03\x04\xff\xfe\x00")
    assert_refused(world, command, arguments(world), str(table), "no CSV text")
    table.unlink()
    assert_refused(world, command, arguments(world), str(table), "there is no table")
    table.mkdir()
    assert_refused(world, command, arguments(world), str(table), "is a folder")


@pytest.mark.parametrize(
    ("constants", "words"),
    [
        ((0, 0, 0, 0, 0, 0), "all measured Dice of each target are equal"),
        ((-1, 0, 0, 0, 0, 0), "the measured Dice falls with no component of the metric descriptors"),
        ((5, 0.1, 0.1, 0.1, 0.1, 0.1), "no weights of the metric descriptors go along with the measured Dice"),
    ],
)
def test_dice_that_teach_nothing(
    measured: tuple[World, MeasuredTarget], command: Command, constants: tuple[float, ...], words: str
) -> None:
    """Dice that is constant, falls with the start alone, or rises with the cost is refused; no file is written."""
    world, target = measured
    rising = target.transfers.features(NAMES, Exponents()) @ np.array(constants)
    rows = [(*row[:2], dice) for row, dice in zip(rows_of(target), 0.5 + 0.05 * rising, strict=True)]
    write_table(world.root / "measurements.csv", rows)
    assert_refused(world, command, arguments(world), words)


def test_options_that_do_not_go_together(measured: tuple[World, MeasuredTarget], command: Command) -> None:
    """No measurements at all, -a with -m, and an output that is no .json are refused."""
    world, target = measured
    file = str(affinity_path(target.name, "nnUNetPlans", "3d_fullres", "descriptors"))
    output = str(world.root / "out.json")
    assert_refused(world, command, ("calibrate", "-o", output), "nothing to calibrate on", "--results")
    assert_refused(world, command, arguments(world, "-a", file, "-m", "published"), "-m and -a exclude each other")
    assert_refused(world, command, (*arguments(world), "-o", str(world.root / "out.csv")), "ends with .json")
    assert_refused(world, command, (*arguments(world), "-seed", "x"), "argument -seed")
    assert_refused(world, command, ("calibrate", "--results", "-o", output), "no measured path is left")


def test_affinities_that_do_not_go_together(measured: tuple[World, MeasuredTarget], command: Command) -> None:
    """Two affinities of one target, or of two metrics, are refused; so is one without the metric's components."""
    world, target = measured
    (other,) = random_targets(5, 1)
    renamed = MeasuredTarget("Dataset950_X", (*other.names[:-1], "Dataset950_X"), other.transfers, (), ())
    file, copy, published = (world.root / name for name in ("a.json", "b.json", "c.json"))
    write_affinity(file, affinity_of(target))
    write_affinity(copy, affinity_of(target))
    write_affinity(published, affinity_of(renamed, "published"))
    assert_refused(world, command, arguments(world, "-a", str(file), str(copy)), "two affinity files", str(copy))
    assert_refused(world, command, arguments(world, "-a", str(file), str(published)), "c.json", "published")
    write_affinity(file, affinity_of(target, "published"))
    assert_refused(world, command, arguments(world, "-a", str(file)), "no component wasserstein", "published")
    truncate(file)
    assert_refused(world, command, arguments(world, "-a", str(file)), "affinity file is broken")


def test_an_unwritable_folder_is_named(measured: tuple[World, MeasuredTarget], command: Command) -> None:
    """An output below a file is refused, and nothing else is left behind."""
    world, _ = measured
    (world.root / "file").write_text("")
    wrong = (*arguments(world), "-o", str(world.root / "file" / "folder" / "out.json"))
    assert_refused(world, command, wrong, str(world.root / "file"), "is no folder")


@pytest.mark.parametrize("writes", [0, 1])
def test_a_full_disk_leaves_nothing_half_written(
    measured: tuple[World, MeasuredTarget], command: Command, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """A disk that is full at the picture or at the record: one line, no part of a file, and an older record stays."""
    world, _ = measured
    assert command(*arguments(world)).status == 0
    before = (world.root / "out.json").read_bytes()
    left = [writes]

    def full_disk(descriptor: int) -> None:
        if not left[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        left[0] -= 1

    monkeypatch.setattr("nnunet_seqtransfer.storage.os.fsync", full_disk)
    outcome = command(*arguments(world, "-seed", "5"))
    assert "the disk is full" in error_line(outcome) and "out." in error_line(outcome)
    assert (world.root / "out.json").read_bytes() == before
    assert not list(world.root.rglob("*.tmp*"))


def test_help(command: Command) -> None:
    """-h marks each option as [REQUIRED] or [OPTIONAL] and shows an example; a misspelt option is refused."""
    outcome = command("calibrate", "-h")
    options = [line for line in outcome.out.splitlines() if line.startswith("  -")]
    assert outcome.out.count("[REQUIRED]") + outcome.out.count("[OPTIONAL]") == len(options)
    assert "Example:\n  nnUNetv2_seq_calibrate" in outcome.out
    assert "did you mean --results?" in error_line(command("calibrate", "-results", "-o", "x.json"))


@pytest.mark.parametrize(
    ("harm", "words"),
    [
        (truncate, "the calibration file is broken"),
        (lambda path: truncate(path, 0), "the calibration file is broken"),
        (lambda path: path.unlink(), "the calibration file is missing"),
        (lambda path: rewrite(path, {"kind": "affinity"}), "this is no calibration file"),
        (lambda path: rewrite(path, {"format": 99}), "format 99, this version reads up to 1"),
        (lambda path: rewrite(path, {"start_scale": 0.0}), "was edited or damaged"),
        (lambda path: rewrite(path, {"combination": {}}, checked=True), "lacks entries"),
        (lambda path: rewrite(path, {"combination": BAD_WEIGHT}, checked=True), "lacks entries"),
        (lambda path: rewrite(path, {"measurements": {}}, checked=True), "lacks entries"),
        (lambda path: rewrite(path, {"colour": "red"}, checked=True), "lacks entries"),
    ],
)
def test_broken_calibration_files(tmp_path: Path, harm: Callable[[Path], None], words: str) -> None:
    """A calibration that is cut off, edited, of another kind or of a newer format is refused with its path."""
    path = tmp_path / "c.json"
    write_calibration(path, calibrate(random_targets(0, 1, paths=20, noise=0.01), METRIC, "c", 0))
    assert read_calibration(path).combination.weights.keys() == DEFAULT.weights.keys()
    harm(path)
    with pytest.raises(RecordError, match=words) as refused:
        read_calibration(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


BAD_WEIGHT = {"weights": {"image": -1.0}, "exponent": 2.0, "unit": 1.0}


def rewrite(path: Path, changes: dict[str, object], checked: bool = False) -> None:
    """Edits a record; ``checked``: its checksum too, as another version of this package would write it."""
    content = {**json.loads(path.read_text()), **changes}
    if checked:
        body = {key: value for key, value in content.items() if key not in ("kind", "format", "checksum")}
        content["checksum"] = checksum(body)
    path.write_text(json.dumps(content))
