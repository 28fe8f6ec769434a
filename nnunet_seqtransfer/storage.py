"""Write files that are never half-written, and records that are checked when they are read."""

import errno
import hashlib
import json
import os
import secrets
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

import msgspec

from nnunet_seqtransfer.errors import RecordError, SeqTransferError

Record = TypeVar("Record")

_REASONS = {
    errno.ENOSPC: "the disk is full; free some space",
    errno.EDQUOT: "the disk quota is used up; free some space",
    errno.EROFS: "the file system is read-only; point nnU-Net's folders at one that can be written to",
    errno.EACCES: "permission denied; give yourself access",
    errno.EPERM: "permission denied; give yourself access",
}
"""Advice for users by the system's error number."""


@contextmanager
def replacing(path: Path, keep: Path | None = None) -> Iterator[Path]:
    """Yield a path next to ``path`` to write to. Rename it to ``path`` when the block ends without an error.

    After an error nothing is left behind.

    Args:
        path: file to write or replace.
        keep: path under which the previous file stays, replacing any file there.

    Raises SeqTransferError if the disk is full or the folder is not writable.
    """
    with disk_errors_as_user_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        # Random digits: two writers, also on different machines, never share the file. The suffix stays last, since
        # some writers (numpy, matplotlib) choose a format by it.
        aside = path.with_name(f".{path.stem}.{secrets.token_hex(4)}.tmp{path.suffix}")
        try:
            yield aside
            descriptor = os.open(aside, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            if keep is not None and path.is_file():
                _keep(path, keep)
            aside.replace(path)
        finally:
            aside.unlink(missing_ok=True)


def _keep(path: Path, keep: Path) -> None:
    """Give a file a second name. Rename it if the file system has no links."""
    second = keep.with_name(f".{keep.stem}.{secrets.token_hex(4)}.tmp{keep.suffix}")
    try:
        os.link(path, second)
    except OSError:
        path.replace(keep)
        return
    try:
        second.replace(keep)
    finally:
        second.unlink(missing_ok=True)  # still there if both were the same file already


@contextmanager
def disk_errors_as_user_errors(path: Path | str) -> Iterator[None]:
    """Turn "no space", "read-only" and "permission denied" into a SeqTransferError that names ``path``."""
    try:
        yield
    except OSError as error:
        reason = _REASONS.get(error.errno or 0)
        if reason is None:
            raise
        # Users do not know temporary files: name the final file.
        named = path if error.filename is None or ".tmp" in str(error.filename) else error.filename
        raise SeqTransferError(f"cannot read or write {named}: {reason} then run the same command again") from error


def write_json(path: Path, content: Any, *, compact: bool = False) -> None:
    """Write ``content`` as JSON in the given key order, on which nnU-Net's plans and dataset.json rely.

    ``compact``: write a single line, ten times as fast. For large tables.
    """
    with replacing(path) as aside:
        text = json.dumps(content, indent=None if compact else 4, sort_keys=False, allow_nan=False)
        aside.write_text(text + "\n")


def read_json(path: Path, what: str, remedy: str) -> dict[str, Any]:
    """Return the JSON object in ``path``.

    Raises RecordError with ``what`` and ``remedy`` if the file is missing, truncated or no JSON object. A missing
    permission stays a PermissionError, since the file may be fine.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise RecordError(f"{what} is missing: {path}; {remedy}") from None
    except (IsADirectoryError, NotADirectoryError) as error:
        raise RecordError(f"{what} is no file ({error.strerror}): {path}; {remedy}") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise RecordError(f"{what} is broken ({error}): {path}; {remedy}") from None
    if not isinstance(content, dict):
        raise RecordError(f"{what} is broken (not a JSON object): {path}; {remedy}")
    return content


def mend_json(path: Path, content: Any) -> None:
    """Write nnU-Net's JSON file again if it is missing, broken or has other content."""
    text = json.dumps(content, indent=4)
    found = found_json(path)
    if found is None or json.dumps(found, indent=4) != text:
        with replacing(path) as aside:
            aside.write_text(text)


def found_json(path: Path) -> Any:
    """Return the content of a JSON file, None if it is missing or broken."""
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError):
        return None


def write_record(path: Path, kind: str, version: int, content: dict[str, Any], *, compact: bool = False) -> None:
    """Write a record with kind, format number and a checksum that reveals edits."""
    write_json(path, {"kind": kind, "format": version, "checksum": checksum(content), **content}, compact=compact)


def read_record(path: Path, kind: str, version: int, remedy: str) -> dict[str, Any]:
    """Return the content that was given to `write_record`.

    Raises RecordError if the file is missing, truncated, edited, of another kind, or of a newer format.
    """
    content = read_json(path, f"the {kind} file", remedy)
    if content.pop("kind", None) != kind:
        raise RecordError(f"this is no {kind} file: {path}; {remedy}")
    found = content.pop("format", None)
    if isinstance(found, int) and found > version:
        raise RecordError(
            f"the {kind} file has format {found}, this version reads up to {version}: {path}; update nnunet-seqtransfer"
        )
    if content.pop("checksum", None) != checksum(content) or not isinstance(found, int):
        raise RecordError(f"the {kind} file was edited or damaged (wrong checksum): {path}; {remedy}")
    return content


def found_record(path: Path, kind: str, version: int) -> dict[str, Any]:
    """Return the content like `read_record`, but an empty one if the file must be made again anyway."""
    try:
        return read_record(path, kind, version, "delete it")
    except RecordError:
        return {}


def write_dataclass(path: Path, kind: str, version: int, record: Any, *, compact: bool = False) -> None:
    """Write a dataclass as a record, see `write_record` and `to_json`.

    Raises ValueError if a field has the name of an entry that every record has.
    """
    content = to_json(record)
    if clash := content.keys() & {"kind", "format", "checksum"}:
        raise ValueError(f"{type(record).__name__} has fields that records use themselves: {', '.join(sorted(clash))}")
    write_record(path, kind, version, content, compact=compact)


def read_dataclass(path: Path, record_type: type[Record], kind: str, version: int, remedy: str) -> Record:
    """Return the dataclass that `write_dataclass` wrote to ``path``.

    Raises RecordError if the file cannot be read (see `read_record`) or does not match the fields of ``record_type``.
    """
    content = read_record(path, kind, version, remedy)
    try:
        return from_json(content, record_type)
    except msgspec.ValidationError as error:
        raise RecordError(f"the {kind} file does not match this version ({error}): {path}; {remedy}") from None


def to_json(record: Any) -> Any:
    """Return nested dataclasses as dictionaries, tuples, numbers and strings, ready for JSON.

    Enums become their values, paths strings, NumPy scalars Python numbers.
    """
    return msgspec.to_builtins(record, enc_hook=_encode)


def json_text(record: Any) -> str:
    """Return dataclasses as indented JSON; NaN and infinity become null."""
    return msgspec.json.format(msgspec.json.encode(record, enc_hook=_encode), indent=4).decode()


def from_json(content: Any, record_type: type[Record]) -> Record:
    """Return ``content``, as `to_json` made it, as a ``record_type``: lists become tuples where the fields say so.

    Unknown keys are ignored, so that older versions read newer records. Raises msgspec.ValidationError, which names
    the field and both types, if a field is missing or has another type.
    """
    return msgspec.convert(content, record_type, dec_hook=_decode)


def _encode(value: Any) -> Any:
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if hasattr(value, "item"):  # a NumPy scalar
        return value.item()
    raise TypeError(f"cannot store {type(value).__name__} in a record")


def _decode(wanted: type, value: Any) -> Any:
    if issubclass(wanted, Path) and isinstance(value, str):
        return Path(value)
    raise TypeError(f"cannot read {wanted.__name__} from a record")


def checksum(content: Any) -> str:
    """Return the SHA-256 of ``content`` as canonical JSON. The key order does not matter."""
    # Read back first, since keys become text in JSON and must be sorted as text.
    return hashlib.sha256(json.dumps(json.loads(json.dumps(content)), sort_keys=True).encode()).hexdigest()


def file_stats(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return name, size in bytes and modification time in ns of each file; a changed file has others."""
    stats = [(path.name, path.stat()) for path in files]
    return [(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats]


def is_whole_archive(path: Path | BinaryIO) -> bool:
    """Return True for a ZIP file that is not cut off, as torch and NumPy write. Takes 1 ms, reads no content."""
    try:
        return zipfile.is_zipfile(path)
    except zipfile.BadZipFile:  # the end is there, but damaged
        return False


def is_sound_archive(path: Path | BinaryIO) -> bool:
    """Return True if everything in a ZIP file can be read and matches its CRC-32. Takes about a second per gigabyte.

    torch does not compare these checksums. Raises PermissionError if the file may not be read.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # torch skips entries marked as folders and leaves their tensors uninitialised
            marked = any(entry.external_attr & 0x10 for entry in archive.infolist())
            return not marked and archive.testzip() is None
    except PermissionError:
        raise
    except Exception:  # damaged sizes, flags and names raise all kinds of errors
        return False


def sha256(source: Path | BinaryIO) -> str:
    """Return the SHA-256 of a file, or of a stream from the current position."""
    if isinstance(source, Path):
        with source.open("rb") as stream:
            return sha256(stream)
    digest = hashlib.sha256()
    while block := source.read(1 << 20):
        digest.update(block)
    return digest.hexdigest()


def size_text(size: int) -> str:
    """Return a size in bytes as text for people: "812 kB", "3.4 GB"."""
    if size < 1e6:
        return f"{max(size / 1e3, 0):.0f} kB" if size >= 1e3 else f"{size} B"
    return f"{size / 1e6:.0f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"
