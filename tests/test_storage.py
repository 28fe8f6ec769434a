"""Files are whole or not there, whatever fails in between; records are refused where they are not as written."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_seqtransfer.errors import RecordError, SeqTransferError
from nnunet_seqtransfer.storage import (
    checksum,
    disk_errors_as_user_errors,
    from_json,
    read_dataclass,
    read_json,
    read_record,
    replacing,
    sha256,
    to_json,
    write_dataclass,
    write_json,
    write_record,
)

OLD, NEW = b"the older file", b"the newer file"


def failing(number: int) -> Callable[..., None]:
    """A stand-in for a system call that fails with this error number."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file that is about to be replaced, alone in its folder."""
    path = tmp_path / "folder" / "file.bin"
    path.parent.mkdir()
    path.write_bytes(OLD)
    return path


def assert_untouched(file: Path) -> None:
    assert file.read_bytes() == OLD
    assert list(file.parent.iterdir()) == [file], "something was left behind"


def test_a_file_is_replaced_when_the_block_ends(file: Path) -> None:
    """The older file is there until the block ends, the newer one after it, and nothing else."""
    with replacing(file) as aside:
        assert aside.parent == file.parent, "a rename is atomic within one file system only"
        assert aside.suffix == file.suffix, "numpy and matplotlib choose their format by the suffix"
        aside.write_bytes(NEW)
        assert file.read_bytes() == OLD
    assert file.read_bytes() == NEW
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(1), SeqTransferError("no")])
def test_an_error_in_the_block_leaves_the_older_file(file: Path, error: BaseException) -> None:
    """Whatever ends the block early, Ctrl-C too, reaches the caller, and the folder is as before."""
    with pytest.raises(type(error)), replacing(file) as aside:
        aside.write_bytes(NEW[:3])
        raise error
    assert_untouched(file)


def test_a_block_that_writes_nothing_is_an_error(file: Path) -> None:
    """A block that forgot to write raises FileNotFoundError and leaves the older file."""
    with pytest.raises(FileNotFoundError), replacing(file):
        pass
    assert_untouched(file)


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "pathlib.Path.write_text"])
@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission"),
        (errno.EPERM, "permission"),
    ],
)
def test_a_full_or_read_only_disk_is_named(
    file: Path, monkeypatch: pytest.MonkeyPatch, call: str, number: int, words: str
) -> None:
    """Writing, flushing or renaming that fails for lack of space or rights says so, names the file, leaves it whole."""
    with monkeypatch.context() as patch:
        patch.setattr(call, failing(number))
        with pytest.raises(SeqTransferError, match=words) as raised:
            write_json(file, {"x": 1})
    assert str(file.parent) in str(raised.value)
    assert "\n" not in str(raised.value)
    assert_untouched(file)


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_an_unexpected_error_of_the_disk_keeps_its_kind(file: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """An input/output error is no user's mistake: it comes out as it is, and the folder is as before."""
    with monkeypatch.context() as patch:
        patch.setattr(call, failing(errno.EIO))
        with pytest.raises(OSError, match=os.strerror(errno.EIO)):
            write_json(file, {"x": 1})
    assert_untouched(file)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where even the folder cannot be created, the error is one line too."""
    monkeypatch.setattr("pathlib.Path.mkdir", failing(errno.EROFS))
    with pytest.raises(SeqTransferError, match="read-only"):
        write_json(tmp_path / "new" / "file.json", {})


def test_an_object_that_is_no_json_leaves_the_older_file(file: Path) -> None:
    """NaN and sets are refused before anything is replaced: JSON knows neither."""
    for content in ({"x": float("nan")}, {"x": {1, 2}}):
        with pytest.raises((ValueError, TypeError)):
            write_json(file, content)
        assert_untouched(file)


def test_two_writers_never_share_a_name(file: Path) -> None:
    """Two writers of one file, even in one process, write beside each other; the one that ends last wins."""
    with replacing(file) as first:
        first.write_bytes(b"first")
        with replacing(file) as second:
            assert first != second
            second.write_bytes(b"second")
        assert file.read_bytes() == b"second"
    assert file.read_bytes() == b"first"
    assert list(file.parent.iterdir()) == [file]


def test_the_error_names_the_path_of_the_failing_call() -> None:
    """Outside of `replacing`, the file that the system names is the one in the message."""
    with pytest.raises(SeqTransferError, match=r"/data/x\.json"), disk_errors_as_user_errors("/elsewhere"):
        raise OSError(errno.ENOSPC, "full", "/data/x.json")


def test_json_keeps_its_key_order(tmp_path: Path) -> None:
    """Plans are written in the order they were read, on which nnU-Net relies."""
    content = {"b": 1, "a": {"z": 1, "y": [1, 2]}, "\u00fc": "\u2192"}
    write_json(tmp_path / "x.json", content)
    assert json.dumps(read_json(tmp_path / "x.json", "x", "")) == json.dumps(content)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"null", b"\xff\xfe", b'{"a": 1} trailing'])
def test_what_is_no_json_object_is_refused(tmp_path: Path, content: bytes) -> None:
    """A broken file is an error that names the file, what it should be, and the remedy."""
    path = tmp_path / "x.json"
    path.write_bytes(content)
    with pytest.raises(RecordError, match="the plans is broken") as raised:
        read_json(path, "the plans", "make it again")
    assert str(path) in str(raised.value)
    assert "make it again" in str(raised.value)


CONTENT = {"names": ["a", "b"], "values": [0.1, 1e-17, -0.0, 3], "deep": {"z": None, "a": True}, "\u00fc": "x\ny"}


def read(path: Path) -> dict[str, Any]:
    return read_record(path, "plan", 2, "run it again")


@pytest.fixture
def record(tmp_path: Path) -> Path:
    path = tmp_path / "record.json"
    write_record(path, "plan", 2, CONTENT)
    return path


def test_a_record_comes_back_as_it_was(record: Path) -> None:
    """Reading gives what was written, keys in their order."""
    assert json.dumps(read(record)) == json.dumps(CONTENT)


def test_numbers_and_tuples_come_back_as_json_has_them(tmp_path: Path) -> None:
    """Whole numbers as keys become text and tuples become lists, and the record is still its own."""
    write_record(tmp_path / "r.json", "plan", 2, {"by_number": {9: "a", 10: "b"}, "pair": (1, 2)})
    assert read(tmp_path / "r.json") == {"by_number": {"9": "a", "10": "b"}, "pair": [1, 2]}


def test_formats_and_kinds(tmp_path: Path) -> None:
    """An older format is read; a newer one asks for an update; another kind is refused."""
    path = tmp_path / "r.json"
    write_record(path, "plan", 1, CONTENT)
    assert read(path) == CONTENT
    write_record(path, "plan", 3, CONTENT)
    with pytest.raises(RecordError, match=r"format 3, this version reads up to 2.*update"):
        read(path)
    write_record(path, "affinity", 2, CONTENT)
    with pytest.raises(RecordError, match="this is no plan file"):
        read(path)


@pytest.mark.parametrize("key", ["names", "values", "deep", "kind", "format", "checksum"])
def test_an_edited_record_is_refused(record: Path, key: str) -> None:
    """Any entry changed or taken away by hand is noticed."""
    content = json.loads(record.read_text())
    record.write_text(json.dumps({**content, key: ["b", "a"]}))
    with pytest.raises(RecordError, match=str(record)):
        read(record)
    for edited in ({k: v for k, v in content.items() if k != key}, {**content, "more": 1}):
        record.write_text(json.dumps(edited))
        with pytest.raises(RecordError, match=str(record)):
            read(record)


def test_a_record_cut_off_anywhere_is_refused(record: Path) -> None:
    """However much of the end is missing, nothing but the whole record is read."""
    whole = record.read_bytes()
    for length in range(len(whole) - 1):  # the last byte is a line feed
        record.write_bytes(whole[:length])
        with pytest.raises(RecordError, match="broken"):
            read(record)


def test_a_missing_record_names_the_remedy(tmp_path: Path) -> None:
    """A record that is not there says how to make it."""
    with pytest.raises(RecordError, match=r"missing.*run it again"):
        read(tmp_path / "r.json")


class Kind(Enum):
    """A field that is stored by its value."""

    NEAR = "near"
    FAR = "far"


@dataclass(frozen=True)
class Part:
    """A record within a record."""

    name: str
    "Name."
    values: tuple[float, ...] = ()
    "Numbers."


@dataclass(frozen=True)
class Whole:
    """A record with fields of every kind that ours have."""

    path: Path
    "Path."
    parts: tuple[Part, ...] = ()
    "Nested records."
    by_name: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    "Numbers by name."
    place: Kind = Kind.NEAR
    "Enum."
    share: float | None = None
    "Optional number."
    count: int = 0
    "Whole number."


MISSING = object()
WHOLE = Whole(Path("a b/ü"), (Part("x", (0.1, 1e-17)), Part("y")), {"k": (1, 2)}, Kind.FAR, 0.5, 3)


def test_a_dataclass_comes_back_as_it_was(tmp_path: Path) -> None:
    """Nested records, tuples, paths, enums and optional values survive the file; so do the defaults."""
    path = tmp_path / "new" / "r.json"
    for record in (WHOLE, Whole(Path("x"))):
        write_dataclass(path, "plan", 2, record)
        assert read_dataclass(path, Whole, "plan", 2, "run it again") == record
    assert read(path)["path"] == "x"


def test_a_record_has_no_field_that_the_file_needs_itself(tmp_path: Path) -> None:
    """A field named like an entry of every record would replace that entry."""

    @dataclass
    class Clash:
        format: int = 1

    with pytest.raises(ValueError, match="format"):
        write_dataclass(tmp_path / "r.json", "plan", 2, Clash())
    assert not list(tmp_path.iterdir())


def test_numpy_scalars_become_numbers() -> None:
    """NumPy's numbers are stored as Python's, so that records need no conversion by hand; arrays are refused."""
    record = Whole(
        Path("x"), (Part("p", (np.float64(0.25), np.float32(0.5))),), {"k": (np.int64(7),)}, count=np.int32(2)
    )
    content = json.loads(json.dumps(to_json(record)))
    assert from_json(content, Whole) == Whole(Path("x"), (Part("p", (0.25, 0.5)),), {"k": (7,)}, count=2)
    with pytest.raises((TypeError, ValueError)):
        to_json(Part("p", np.zeros(2)))  # type: ignore[arg-type]


def test_unknown_keys_are_ignored() -> None:
    """An older version reads what a newer one wrote: keys that it does not know are left out, at any depth."""
    content = to_json(WHOLE)
    content["parts"][0]["more"] = content["more"] = {"x": 1}
    assert from_json(content, Whole) == WHOLE


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"count": "3"}, r"count"),
        ({"parts": [{"name": 1}]}, r"parts\[0\]\.name|parts\[\.\.\.\]\.name"),
        ({"place": "elsewhere"}, r"elsewhere.*place"),
        ({"path": None}, r"path"),
        ({"path": MISSING}, "missing required field `path`"),
    ],
)
def test_a_wrong_type_names_the_field(tmp_path: Path, change: dict[str, Any], named: str) -> None:
    """A record whose content does not match the fields is refused with the field, its file and the remedy."""
    path = tmp_path / "r.json"
    content = {**to_json(WHOLE), **change}
    write_record(path, "plan", 2, {name: value for name, value in content.items() if value is not MISSING})
    with pytest.raises(RecordError, match=named) as raised:
        read_dataclass(path, Whole, "plan", 2, "run it again")
    assert str(path) in str(raised.value) and "run it again" in str(raised.value)


def test_checksums() -> None:
    """Equal content has an equal checksum whatever the order of its keys; any other content has another."""
    assert checksum({"a": 1, "b": [1.0, "x"]}) == checksum({"b": [1.0, "x"], "a": 1})
    others = [{"a": 1}, {"a": 2}, {"a": "1"}, {"a": [1]}, {"a": None}, {"b": 1}, {"a": 1.5}, {"a": True}, {}]
    assert len({checksum(content) for content in others}) == len(others)


def test_the_digest_of_a_file(tmp_path: Path) -> None:
    """SHA-256 as the standard defines it, also of files longer than one block."""
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    (tmp_path / "b").write_bytes(b"a" * 1_000_000 + b"a" * 2_000_000)
    (tmp_path / "c").write_bytes(b"a" * 3_000_000)
    assert sha256(tmp_path / "b") == sha256(tmp_path / "c")
