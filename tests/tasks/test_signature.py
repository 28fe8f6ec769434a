"""Tests of tasks/signature.py: files are read back bit by bit, and damaged ones are refused."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.tasks.signature import Signature, anonymous, read_signature, write_signature
from support.made_tasks import assert_equal


def example(**changes: Any) -> Signature:
    """A signature as metrics make them: several types, no numbers, an empty array, a name with a dot."""
    rng = np.random.default_rng(0)
    profiles = tuple(
        {
            "image": rng.normal(size=(2, 5)).astype(np.float32),
            "shell": np.asarray([np.nan, np.inf, -0.0], dtype=np.float32),
            "mask": np.packbits(rng.random(40) < 0.5),
            "shape": np.asarray([3, 4, 5]),
            "deep/er.name": np.zeros((0, 3)),
        }
        for _ in range(3)
    )
    signature = Signature(
        dataset="Dataset001_\u00c4",
        metric="descriptors",
        version=2,
        digest="0" * 64,
        base="1" * 64,
        preprocessing="2" * 16,
        channels=("T1", "a, b"),
        labels=("organ",),
        labelled_cases=12,
        cases=("c0", "c1", "c2"),
        stamps=("s0", "s1", "s2"),
        labelled=(True, False, True),
        geometry=np.asarray([[(1.0, 0.1, 1e-9), (20.0, 24.0, 20.0)]] * 3),
        intensities=rng.normal(size=(2, 7)),
        profiles=profiles,
    )
    return replace(signature, **changes)


def test_a_signature_comes_back_bit_by_bit(tmp_path: Path) -> None:
    """Every field and array is read as it was written, with pickle never needed."""
    write_signature(tmp_path / "s.npz", example())
    assert_equal(read_signature(tmp_path / "s.npz"), example())
    with np.load(tmp_path / "s.npz", allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)


def test_a_damaged_signature_is_refused(tmp_path: Path) -> None:
    """Cut off at any length, or with any byte changed, the file is refused as damaged or still the same signature."""
    path, signature = tmp_path / "s.npz", example()
    write_signature(path, signature)
    whole = path.read_bytes()
    for length in range(0, len(whole), 29):
        path.write_bytes(whole[:length])
        with pytest.raises(RecordError, match=str(path)):
            read_signature(path)
    rng = np.random.default_rng(0)
    for place in range(0, len(whole), 5):
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        path.write_bytes(changed)
        try:
            assert_equal(read_signature(path), signature)
        except RecordError as error:
            assert "truncated or damaged" in str(error)


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    header = json.loads(str(arrays.pop("header")))
    np.savez_compressed(path, header=np.asarray(json.dumps(change(header))), **arrays)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda header: {**header, "format": 99}, "format 99, this version reads 2.*update nnunet-seqtransfer"),
        (lambda header: {**header, "format": 1}, "old format 1, this version reads 2.*make it again"),
        (lambda header: {**header, "kind": "other"}, "damaged"),
        (lambda header: {key: value for key, value in header.items() if key != "labels"}, "damaged"),
        (lambda header: {**header, "unknown": 1}, "damaged"),
        (lambda header: [header], "damaged"),
        (lambda header: "text", "damaged"),
        (lambda header: {**header, "cases": ["only one"]}, "damaged"),
        (lambda header: {**header, "stamps": ["only one"]}, "damaged"),
        (lambda header: {**header, "stacked": [], "cases": []}, "damaged"),
    ],
)
def test_another_header_is_refused(tmp_path: Path, change: Callable[[dict[str, Any]], Any], words: str) -> None:
    """A newer format, another kind, or missing and unknown fields are refused by name."""
    path = tmp_path / "s.npz"
    write_signature(path, example())
    rewrite_header(path, change)
    with pytest.raises(RecordError, match=words):
        read_signature(path)


def test_a_file_that_wants_pickle_is_refused(tmp_path: Path) -> None:
    """An archive with Python objects in it is refused, and so is one that is no NPZ file."""
    path = tmp_path / "s.npz"
    np.savez(path, header=np.asarray([{"kind": "signature"}], dtype=object))
    with pytest.raises(RecordError):
        read_signature(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("header.npy", b"text")
    with pytest.raises(RecordError):
        read_signature(path)


def test_what_travels_says_nothing_of_names_and_times() -> None:
    """Identifiers are hashed, equal ones equally, stamps are gone; done twice it is the same."""
    plain = example()
    away = anonymous(plain)
    assert not {*plain.cases, *plain.stamps} & {*away.cases, *away.stamps}
    assert len(set(away.cases)) == 3 and set(away.stamps) == {""}
    assert away.keys == plain.keys == anonymous(away).cases
    assert anonymous(example(cases=("c2", "x", "y"))).keys[0] == plain.keys[2]
    assert_equal(replace(away, cases=plain.cases, stamps=plain.stamps), plain)


def test_planar_is_what_has_one_slice_in_every_case() -> None:
    """2-D is what has one slice along the first axis in every case."""
    geometry = np.asarray([[(1, 2, 3), (10, 20, 30)], [(3, 2, 1), (12, 20, 36)], [(2, 2, 2), (11, 20, 60)]], float)
    signature = example(geometry=geometry)
    assert not signature.is_planar
    geometry[:, 1, 0] = geometry[:, 0, 0]
    assert signature.is_planar
