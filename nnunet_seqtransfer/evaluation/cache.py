"""What is computed from files once, and read again as long as these files are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.storage import checksum, read_record, write_record

FORMAT = 1
KIND = "computed"


def cached(path: Path, files: Iterable[Path], settings: Any, make: Callable[[], Any]) -> Any:
    """What ``make`` returns, as JSON; read from ``path`` where it was made of the same files in the same way.

    Args:
        path: where it is kept.
        files: known by size and time; one that is missing counts as empty.
        settings: anything else that it depends on, as JSON.
        make: makes it, and may raise.
    """
    stamps = [[file.name, *((stat.st_size, stat.st_mtime_ns) if (stat := _stat(file)) else (0, 0))] for file in files]
    made_of = checksum([stamps, settings])
    try:
        content = read_record(path, KIND, FORMAT, "")
        if content["made_of"] == made_of:
            return content["value"]
    except (RecordError, KeyError):
        pass  # none yet, or damaged: it is made again
    value = make()
    write_record(path, KIND, FORMAT, {"made_of": made_of, "value": value}, compact=True)
    return value


def _stat(path: Path) -> Any:
    return path.stat() if path.is_file() else None
