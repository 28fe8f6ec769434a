"""Measured transfers as users write them down: a CSV with the columns path, target, dice and, if they like, seed."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.errors import DatasetError, RecordError

NEEDED = ("path", "target", "dice")
SCRATCH = ("", "scratch", "none")
ARROW = re.compile(r"\s*(?:->|\N{RIGHTWARDS ARROW}|,)\s*")


@dataclass(frozen=True)
class MeasuredRun:
    """One training along one path."""

    sources: tuple[str, ...]
    "Names or numbers of the sources in training order, as given; none is scratch."
    target: str
    "Name or number of the target, as given."
    dice: float
    "Mean Dice of the target, 0 to 1; NaN where it was not measured."
    seed: str
    "What tells runs along one path apart; may be empty."
    place: str
    "Where it stands, for messages."


def read_measurements(path: Path) -> tuple[MeasuredRun, ...]:
    """Reads a table; the names in it are not looked up.

    Raises RecordError where the file is missing or no CSV with the needed columns, or a Dice is no number from 0 to 1.
    """
    try:
        # Spreadsheets begin their CSV files with a byte order mark.
        with path.open(newline="", encoding="utf-8-sig") as stream:
            rows = list(csv.reader(stream, strict=True))
    except FileNotFoundError:
        raise RecordError(f"there is no table of measurements {path}; give a CSV with {_columns()}") from None
    except IsADirectoryError:
        raise RecordError(f"the table of measurements {path} is a folder; give a CSV with {_columns()}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise RecordError(f"the table of measurements {path} is no CSV text ({error}); save it as CSV, UTF-8") from None
    header = [name.strip().lower() for name in rows[0]] if rows else []
    _check_header(header, path)
    return tuple(
        _run(dict(zip(header, row, strict=True)), f"row {number} of {path.name}")
        for number, row in enumerate(rows[1:], start=2)
        if any(cell.strip() for cell in row) and _fits(row, header, number, path)
    )


def _columns() -> str:
    return f"the columns {', '.join(NEEDED)} and optionally seed"


def _check_header(header: list[str], path: Path) -> None:
    repeated = sorted({name for name in header if name and header.count(name) > 1})
    if repeated:
        raise RecordError(f"the table of measurements has the column {repeated[0]} twice: {path}; remove one")
    missing = [name for name in NEEDED if name not in header]
    if missing:
        found = ", ".join(header) or "an empty first row"
        raise RecordError(
            f"the table of measurements lacks the column {' and '.join(missing)} (it has {found}): {path}; its first "
            f"row names {_columns()}, separated by commas"
        )


def _fits(row: list[str], header: list[str], number: int, path: Path) -> bool:
    if len(row) != len(header):
        raise RecordError(
            f"row {number} of the measurements has {len(row)} cells, the header {len(header)}: {path}; correct it "
            "(a path with commas needs quotes)"
        )
    return True


def _run(row: dict[str, str], place: str) -> MeasuredRun:
    sources = split_path(row["path"])
    return MeasuredRun(sources, row["target"].strip(), _dice(row["dice"], place), row.get("seed", "").strip(), place)


def split_path(text: str) -> tuple[str, ...]:
    """The tasks of "23 -> 21" or "Dataset023_X Dataset021_Y"; none for an empty text, "scratch" or "none"."""
    if text.strip().lower() in SCRATCH:
        return ()
    parts = ARROW.split(text.strip()) if ARROW.search(text) else text.split()
    return tuple(part for part in parts if part)


def _dice(text: str, place: str) -> float:
    """The number, NaN for an empty cell. Raises RecordError where it is no number from 0 to 1."""
    try:
        value = float(text) if text.strip() else math.nan
    except ValueError:
        raise RecordError(f"the Dice in {place} is {text!r}; give a number from 0 to 1") from None
    if 1 < value <= 100:
        raise RecordError(f"the Dice in {place} is {value:g}, which looks like percent; divide all by 100")
    if not math.isnan(value) and not 0 <= value <= 1:
        raise RecordError(f"the Dice in {place} is {value:g}; give a number from 0 to 1")
    return value


def find_name(name_or_number: str, known: tuple[str, ...]) -> str:
    """The full name, among ``known`` ones, of a dataset given by its name or number. Raises DatasetError."""
    if name_or_number in known:
        return name_or_number
    found = [
        name
        for name in known
        if name_or_number.isdecimal()
        and (match := re.match(r"Dataset(\d+)_", name))
        and int(match[1]) == int(name_or_number)
    ]
    if not found:
        raise DatasetError(f"dataset {name_or_number!r} is unknown")
    if len(found) > 1:
        raise DatasetError(f"dataset number {name_or_number} is ambiguous: {', '.join(found)}")
    return found[0]
