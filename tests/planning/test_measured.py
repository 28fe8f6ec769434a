"""Tables of measured transfers: kept in files, checked, and turned into track records."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.planning.measured import (
    MeasuredTable,
    MeasuredTransfer,
    read_table,
    shipped_table,
    track_records,
    write_table,
)
from support.bad_inputs import rewrite
from support.calibration_cases import measured_rows
from support.world import load_script


def test_a_table_is_read_as_it_was_written(tmp_path: Path) -> None:
    """Every field, floats included."""
    table = MeasuredTable("ours", tuple(measured_rows(own=True)))
    write_table(tmp_path / "t.json", table)
    assert read_table(tmp_path / "t.json") == table


def test_the_shipped_table_is_what_the_script_makes() -> None:
    """The committed table equals the one made from the measurements in docs/study."""
    assert load_script("docs/study/fit_gain.py").measured_table().rows == shipped_table().rows


@pytest.mark.parametrize(
    ("change", "checked", "words"),
    [
        (lambda content: content.update(format=99), False, "format 99, this version reads up to 1"),
        (lambda content: content.update(kind="affinity"), False, "is no measured transfers file|not a measured"),
        (lambda content: content.update(name="x"), False, "edited or damaged"),
        (lambda content: content.pop("rows"), True, "does not match this version"),
        (lambda content: content["rows"][0].update(dice=1.5), True, "row 1 of the measured transfers"),
        (lambda content: content["rows"][1].update(sources=[]), True, "row 2 of the measured transfers"),
    ],
)
def test_tables_that_are_wrong(tmp_path: Path, change: Callable[[dict], None], checked: bool, words: str) -> None:
    """One line with the file and the command that makes a new one."""
    path = tmp_path / "t.json"
    write_table(path, MeasuredTable("ours", tuple(measured_rows())))
    rewrite(path, change, checked=checked)
    with pytest.raises(RecordError, match=words) as refused:
        read_table(path)
    assert str(path) in str(refused.value) and "\n" not in str(refused.value)


def test_track_records_are_mean_ranks() -> None:
    """Best of three is 1, worst 0; the target in question and pairs do not count, nor a target with one source."""

    def row(target: str, path: tuple[str, ...], dice: float) -> MeasuredTransfer:
        return MeasuredTransfer(target, path, (), 0.5, dice)

    rows = (
        *(row("T1", (name,), dice) for name, dice in (("A", 0.9), ("B", 0.5), ("C", 0.7))),
        *(row("T2", (name,), dice) for name, dice in (("A", 0.2), ("B", 0.6))),
        row("T2", ("A", "B"), 0.9),
        row("T3", ("C",), 0.9),
    )
    assert track_records(rows, "T9") == {"A": (0.5, 2), "B": (0.5, 2), "C": (0.5, 1)}
    assert track_records(rows, "T2") == {"A": (1.0, 1), "B": (0.0, 1), "C": (0.5, 1)}
