"""Select cases by a table, for example by site or scanner: a CSV next to dataset.json or elsewhere."""

import csv
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.context import Notify
from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.folders import find_name, shortened
from nnunet_seqtransfer.storage import replacing

TABLE_NAME = "cases.csv"
"""Default table, next to dataset.json."""


@dataclass(frozen=True)
class CaseTable:
    """A table of cases; see `read_case_table`."""

    path: Path
    "CSV file."
    key: str
    "Identifier column."
    columns: tuple[str, ...]
    "Column names."
    rows: dict[str, dict[str, str]]
    "Identifier -> column -> value, stripped of spaces."


def read_case_table(path: Path, key: str | None = None) -> CaseTable:
    """Read a CSV file with a header and one row per case; comma, semicolon or tab separate columns.

    Identifiers come from the column ``key``, otherwise from the column named case, otherwise from the first column.
    Raises DatasetError, naming the file, if it is missing, no such table, or lists a case twice.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        raise DatasetError(f"there is no table of cases {path}; write it, or name another with -table") from None
    except UnicodeDecodeError as error:
        raise DatasetError(f"the table of cases is no text ({error}): {path}; save it as CSV in UTF-8") from None
    lines = [line for line in text.splitlines() if line.strip()]
    # the separator is the most frequent candidate in the header
    separator = max(",;\t", key=lines[0].count) if lines else ","
    header, *body = [[cell.strip() for cell in row] for row in csv.reader(lines, delimiter=separator)] or [[]]
    uneven = next((number for number, row in enumerate(body, start=1) if len(row) != len(header)), None)
    if not body or len(set(header)) < len(header) or uneven is not None:
        problem = f"row {uneven} has other columns than the header" if uneven else "no rows, or no distinct columns"
        raise DatasetError(f"the table of cases is no CSV with a header ({problem}): {path}; correct it")
    if key is None:
        column = next((name for name in header if name.casefold() == "case"), header[0])
    else:
        column = header[find_name(key, header, f"column of {path}")]
    rows: dict[str, dict[str, str]] = {}
    for row in (dict(zip(header, cells, strict=True)) for cells in body):
        if row[column] in rows:
            raise DatasetError(
                f"column {column} of {path} lists {row[column]!r} more than once; it must hold the identifiers of "
                "cases: correct it, or name another column with -table_key"
            )
        rows[row[column]] = row
    return CaseTable(path, column, tuple(header), rows)


def write_case_table(path: Path, table: CaseTable, cases: Sequence[str]) -> None:
    """Write rows for some cases; the identifier column comes first and is named case."""
    others = [name for name in table.columns if name != table.key]
    with replacing(path) as aside, aside.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(["case", *(f"{name}_" if name == "case" else name for name in others)])
        for case in cases:
            if case in table.rows:
                writer.writerow([case, *(table.rows[case][name] for name in others)])


def select_cases(
    table: CaseTable, conditions: Sequence[str], cases: Collection[str], notify: Notify
) -> tuple[str, ...]:
    """Return the ``cases`` that meet all conditions ("column=value" or "column=value,value"), sorted.

    Cases without a row are not selected, and rows for other cases are ignored; both are reported to ``notify``.
    Raises DatasetError if a condition names an unknown column or value, if the table lists no case, or if
    no case is selected.
    """
    known = sorted(set(table.rows) & set(cases))
    if not known:
        raise DatasetError(
            f"column {table.key} of {table.path} holds none of the dataset's cases: {_some(table.rows)} there, "
            f"{_some(cases)} in the dataset; name the column of identifiers with -table_key"
        )
    unlisted, others = set(cases) - set(table.rows), set(table.rows) - set(cases)
    if unlisted:
        notify(f"{table.path} does not list {len(unlisted)} of the dataset's cases, not selected: {_some(unlisted)}")
    if others:
        notify(f"{table.path} lists {len(others)} that are no cases of the dataset, ignored: {_some(others)}")
    selected = set(known)
    for condition in conditions:
        selected &= _meeting(condition, table, known)
    if not selected:
        raise DatasetError(
            f"no case meets all conditions of -where {' '.join(conditions)}; drop some of them: {table.path}"
        )
    return tuple(sorted(selected))


def _meeting(condition: str, table: CaseTable, cases: Sequence[str]) -> set[str]:
    name, equals, wanted = condition.partition("=")
    if not equals:
        raise DatasetError(f"-where {condition!r} is no condition; write column=value or column=value,value")
    column = table.columns[find_name(name.strip(), table.columns, f"column of {table.path}")]
    values = {case: table.rows[case][column] for case in cases}
    accepted = [value.strip() for value in wanted.split(",")]
    # an unknown value is probably a typing error
    for value in accepted:
        if value not in values.values():
            raise DatasetError(
                f"no case of the dataset has {column}={value} in {table.path}; {column} is one of: "
                f"{_some(values.values())}"
            )
    return {case for case in cases if values[case] in accepted}


def _some(names: Iterable[str]) -> str:
    return shortened(sorted(set(names)))
