"""A table of cases, such as the site or scanner of each: a CSV beside dataset.json or elsewhere."""

from __future__ import annotations

import csv
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.folders import find_name
from nnunet_seqtransfer.storage import replacing

TABLE_NAME = "cases.csv"
"""The table of a dataset, beside its dataset.json."""
_MOST_LISTED = 10


@dataclass(frozen=True)
class CaseTable:
    """See `read_case_table`."""

    path: Path
    "Where it lies."
    key: str
    "The column of identifiers."
    columns: tuple[str, ...]
    "Names of all columns."
    rows: dict[str, dict[str, str]]
    "Identifier -> column -> value, stripped of spaces."


def read_case_table(path: Path, key: str | None = None) -> CaseTable:
    """The table in a CSV file: a header, then a row a case; separated by comma, semicolon or tab.

    Identifiers stand in the column ``key``, or else in the one named case, or else in the first.

    Raises DatasetError, naming the file, where it is missing or no such table, or lists a case twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise DatasetError(f"there is no table of cases {path}; write it, or name another with -table") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"the table of cases is no text ({error}): {path}; save it as CSV in UTF-8") from None
    lines = [line for line in text.splitlines() if line.strip()]
    separator = max(",;\t", key=lines[0].count) if lines else ","
    header, *body = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)] or [[]]
    uneven = next((number for number, row in enumerate(body, start=1) if len(row) != len(header)), None)
    if not body or len(set(header)) < len(header) or uneven is not None:
        problem = f"row {uneven} has other columns than the header" if uneven else "no rows, or no distinct columns"
        raise DatasetError(f"the table of cases is no CSV with a header ({problem}): {path}; correct it")
    column = _key_column(path, header, key)
    rows = [dict(zip(header, row, strict=True)) for row in body]
    identifiers = [row[column] for row in rows]
    repeated = next((name for name in identifiers if identifiers.count(name) > 1), None)
    if repeated is not None:
        raise DatasetError(
            f"column {column} of {path} lists {repeated!r} more than once; it must hold the identifiers of cases: "
            "correct it, or name another column with -table_key"
        )
    return CaseTable(path, column, tuple(header), dict(zip(identifiers, rows, strict=True)))


def _key_column(path: Path, header: Sequence[str], key: str | None) -> str:
    if key is not None:
        return header[find_name(key, header, f"column of {path}")]
    return next((name for name in header if name.casefold() == "case"), header[0])


def write_case_table(path: Path, table: CaseTable, cases: Sequence[str]) -> None:
    """Writes the rows of some of the cases, the column of identifiers first and named case."""
    others = [name for name in table.columns if name != table.key]
    with replacing(path) as aside, aside.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["case", *(f"{name}_" if name == "case" else name for name in others)])
        for case in cases:
            if case in table.rows:
                writer.writerow([case, *(table.rows[case][name] for name in others)])


def select_cases(
    table: CaseTable, conditions: Sequence[str], cases: Collection[str], notify: Callable[[str], None]
) -> tuple[str, ...]:
    """Those of the ``cases`` that fulfil all conditions ("column=value" or "column=value,value"), sorted.

    Cases that the table does not list are not selected, and rows of other cases are passed over; both are announced.

    Raises DatasetError where a condition names no column or a value that no case has, where the table lists none of
    the cases, or where no case is selected.
    """
    known = sorted(set(table.rows) & set(cases))
    if not known:
        raise DatasetError(
            f"column {table.key} of {table.path} holds none of the dataset's cases: {_some(table.rows)} there, "
            f"{_some(cases)} in the dataset; name the column of identifiers with -table_key"
        )
    _announce(table, cases, notify)
    selected = set(known)
    for condition in conditions:
        selected &= _fulfilling(condition, table, known)
    if not selected:
        raise DatasetError(f"no case fulfils all of -cases-where {' '.join(conditions)}; ask for less: {table.path}")
    return tuple(sorted(selected))


def _fulfilling(condition: str, table: CaseTable, cases: Sequence[str]) -> set[str]:
    name, equals, wanted = condition.partition("=")
    if not equals:
        raise DatasetError(f"-cases-where {condition!r} is no condition; write column=value or column=value,value")
    column = table.columns[find_name(name.strip(), table.columns, f"column of {table.path}")]
    values = {case: table.rows[case][column] for case in cases}
    accepted = [value.strip() for value in wanted.split(",")]
    for value in accepted:
        if value not in values.values():
            raise DatasetError(
                f"no case of the dataset has {column}={value} in {table.path}; {column} is one of: "
                f"{_some(values.values())}"
            )
    return {case for case in cases if values[case] in accepted}


def _announce(table: CaseTable, cases: Collection[str], notify: Callable[[str], None]) -> None:
    unlisted, others = sorted(set(cases) - set(table.rows)), sorted(set(table.rows) - set(cases))
    if unlisted:
        notify(f"{table.path} does not list {len(unlisted)} of the dataset's cases, not selected: {_some(unlisted)}")
    if others:
        notify(f"{table.path} lists {len(others)} that are no cases of the dataset, passed over: {_some(others)}")


def _some(names: Collection[str]) -> str:
    distinct = sorted(set(names))
    more = len(distinct) - _MOST_LISTED
    return ", ".join(distinct[:_MOST_LISTED]) + (f" and {more} more" if more > 0 else "")
