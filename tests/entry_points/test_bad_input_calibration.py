"""Tables of measurements that are wrong: one line each, and what is good is still used."""

from __future__ import annotations

import errno
import math
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_seqtransfer.affinity.record import affinity_path, write_affinity
from support.archives import CONFIGURATION, METRIC, PLANS
from support.bad_inputs import Command, assert_refused, error_line, truncate
from support.calibration_cases import ROWS, SOURCES, TARGET, measured_world, target_affinity, write_rows
from support.world import Outcome, World

Row = tuple[object, ...]


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world with the affinity of one target, and a table of measured paths."""
    return measured_world(tmp_path, monkeypatch)


def arguments(world: World, *more: str) -> tuple[str, ...]:
    return ("calibrate", "-i", str(world.root / "measurements.csv"), "-o", str(world.root / "out.json"), *more)


def calibrated_beside(world: World, command: Command, rows: list[Row], header: str = "path,target,dice") -> Outcome:
    """Runs the command on a table; what is good in it must still be calibrated on."""
    write_rows(world.root / "measurements.csv", rows, header)
    outcome = command(*arguments(world))
    assert outcome.status == 0, outcome.err
    return outcome


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (("777", "900", 0.5), ("unknown dataset '777'", "affinity of Dataset900_Target")),
        (("Dataset100_Other", "900", 0.5), ("unknown dataset 'Dataset100_Other'",)),
        (("100", "901", 0.5), ("no affinity of target '901'", "nnUNetv2_seq_affinity -t 901")),
        (("100 -> 900 -> 101", "900", 0.5), ("goes through its own target Dataset900_Target",)),
        (("100 -> 101 -> 100", "900", 0.5), ("goes through one dataset twice",)),
        (("100", "900", "nan"), ("it has no Dice",)),
        (("100", "900", ""), ("it has no Dice",)),
    ],
)
def test_single_bad_rows_are_left_out(world: World, command: Command, row: Row, words: tuple[str, ...]) -> None:
    """A row that cannot be used is named by its number in one line; the result is that of the other rows."""
    calibrated_beside(world, command, list(ROWS))
    clean = (world.root / "out.json").read_bytes()
    rows = list(ROWS)
    outcome = calibrated_beside(world, command, [*rows[:3], row, *rows[3:]])
    (line,) = outcome.err.strip().splitlines()
    assert line.startswith("left out: row 5 of measurements.csv: ")
    for word in words:
        assert word in line, line
    assert (world.root / "out.json").read_bytes() == clean


def test_a_row_that_is_there_twice_counts_once(world: World, command: Command) -> None:
    """One seed of one path twice is a slip of copying: the second is left out."""
    rows = [(*row, 1) for row in list(ROWS)]
    outcome = calibrated_beside(world, command, [*rows, rows[0]], "path,target,dice,seed")
    assert "left out: row 7" in outcome.err and "seed 1 of this path is in row 2" in outcome.err


def test_tasks_without_a_distance(world: World, command: Command) -> None:
    """Paths over a hop that has no distance are left out, each with the two datasets."""
    affinity = target_affinity()
    rows = [list(row) for row in affinity.distances]
    rows[0][-1] = math.inf
    path = affinity_path(TARGET, PLANS, CONFIGURATION, METRIC)
    write_affinity(path, replace(affinity, distances=tuple(map(tuple, rows))))
    outcome = command(*arguments(world))
    assert outcome.status == 0
    lines = outcome.err.strip().splitlines()
    assert len(lines) == 2
    assert all(f"no distance from {SOURCES[0]} to {TARGET}" in line for line in lines)


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
        ('path,target,dice\n"100,900,0.5\n', ("not CSV text",)),
        ("path,target,dice\n", ("no measured transfer is left",)),
    ],
)
def test_tables_that_are_wrong(world: World, command: Command, text: str, words: tuple[str, ...]) -> None:
    """A table that cannot be read as one is refused in one line, and nothing is written."""
    (world.root / "measurements.csv").write_text(text)
    assert_refused(world, command, arguments(world), *words)


def test_files_that_are_no_tables(world: World, command: Command) -> None:
    """A missing table, a folder, and bytes that are no text are refused with the file's name."""
    table = world.root / "measurements.csv"
    table.write_bytes(b"PK\x03\x04\xff\xfe\x00")
    assert_refused(world, command, arguments(world), str(table), "not CSV text")
    table.unlink()
    assert_refused(world, command, arguments(world), str(table), "there is no table")
    table.mkdir()
    assert_refused(world, command, arguments(world), str(table), "Is a directory")


def test_options_that_do_not_go_together(world: World, command: Command) -> None:
    """No measurements at all, -a with -m, and an output that is no .json are refused."""
    file = str(affinity_path(TARGET, PLANS, CONFIGURATION, METRIC))
    output = str(world.root / "out.json")
    assert_refused(world, command, ("calibrate", "-o", output), "nothing to calibrate on", "--results")
    assert_refused(world, command, arguments(world, "-a", file, "-m", "published"), "-m and -a exclude each other")
    assert_refused(world, command, (*arguments(world), "-o", str(world.root / "out.csv")), "ends with .json")
    assert_refused(world, command, (*arguments(world), "-seed", "x"), "argument -seed")
    assert_refused(world, command, ("calibrate", "--results", "-o", output), "no measured transfer is left")


def test_affinities_that_do_not_go_together(world: World, command: Command) -> None:
    """Two affinities of one target, or of two metrics, are refused."""
    file, copy, published = (world.root / name for name in ("a.json", "b.json", "c.json"))
    write_affinity(file, target_affinity())
    write_affinity(copy, target_affinity())
    write_affinity(published, replace(target_affinity("Dataset950_X"), metric="published"))
    assert_refused(world, command, arguments(world, "-a", str(file), str(copy)), "two affinity files", str(copy))
    assert_refused(world, command, arguments(world, "-a", str(file), str(published)), "c.json", "published")
    truncate(file)
    assert_refused(world, command, arguments(world, "-a", str(file)), "affinity file is broken")


def test_an_unwritable_folder_is_named(world: World, command: Command) -> None:
    """An output below a file is refused, and nothing else is left behind."""
    (world.root / "file").write_text("")
    wrong = (*arguments(world), "-o", str(world.root / "file" / "folder" / "out.json"))
    assert_refused(world, command, wrong, str(world.root / "file"), "is not a folder")


@pytest.mark.parametrize("writes", [0, 1])
def test_a_full_disk_leaves_nothing_half_written(
    world: World, command: Command, monkeypatch: pytest.MonkeyPatch, writes: int
) -> None:
    """A disk that is full at the picture or at the record: one line, no part of a file, and an older record stays."""
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
    """-h shows an example; a misspelt option is refused."""
    outcome = command("calibrate", "-h")
    assert "Example:\n  nnUNetv2_seq_calibrate" in outcome.out
    assert "did you mean --results?" in error_line(command("calibrate", "-results", "-o", "x.json"))
