"""The file of resampled distances: round trip, other weights, and every way in which it can be wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.base import Counterparts
from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.record import (
    Affinity,
    Resamples,
    TaskEntry,
    read_affinity,
    read_resamples,
    resamples_path,
    write_affinity,
    write_resamples,
)
from nnunet_seqtransfer.errors import RecordError, SeqTransferError

TASKS = 4


def affinity(**changes: Any) -> Affinity:
    """Three sources and a target, of a metric with two components."""
    names = tuple(f"Dataset00{number}_X" for number in range(TASKS))
    components = {name: np.full((TASKS, TASKS), value) for name, value in (("image", 3.0), ("label", 4.0))}
    found = Affinity(
        target=names[-1],
        plans="nnUNetPlans",
        configuration="3d_fullres",
        metric="descriptors",
        combination=Combination({"image": 1.0, "label": 1.0}, 2.0),
        seed=0,
        cases=10,
        tasks=tuple(TaskEntry(name, ("T1",), ("organ",), 12, ("a", "b"), f"digest {name}") for name in names),
        distances=((5.0,) * TASKS,) * TASKS,
        components={name: tuple(tuple(row) for row in values.tolist()) for name, values in components.items()},
        counterparts=(Counterparts((("T1", "T1"),)),) * (TASKS - 1),
        low=(4.0, 4.5, float("inf")),
        high=(6.0, 5.5, float("inf")),
        indistinct=(True, False),
    )
    return replace(found, **changes)


def resamples() -> Resamples:
    """Of the source 0, the source 2 and the target."""
    rng = np.random.default_rng(0)
    return Resamples((2, 0, 3), {name: rng.random((7, 3, 3)).astype(np.float32) for name in ("image", "label")})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """An affinity's record with its resamples beside it."""
    path = tmp_path / "affinity_a.b_3d_fullres_descriptors.json"
    write_resamples(path, affinity(), resamples())
    write_affinity(path, affinity())
    return path


def test_resamples_come_back(path: Path) -> None:
    """Those to the target stand in the affinity's places; tasks that were not resampled are NaN."""
    kept = read_affinity(path)
    assert kept == affinity()
    found, given = read_resamples(path, kept), resamples()
    assert found is not None and found.tasks == given.tasks
    np.testing.assert_equal(dict(found.components), given.components)
    for name, values in found.to_target(TASKS).items():
        assert values.shape == (7, TASKS) and np.isnan(values[:, 1]).all()
        np.testing.assert_array_equal(values[:, list(given.tasks)], given.components[name][:, :, -1])


def test_none_are_none(path: Path) -> None:
    """An affinity whose file alone was copied has no resamples, and that is no error."""
    resamples_path(path).unlink()
    assert read_resamples(path, affinity()) is None


def test_no_pickle_is_needed(path: Path) -> None:
    """The file loads without pickle."""
    with np.load(resamples_path(path), allow_pickle=False) as archive:
        assert all(archive[name].dtype != object for name in archive.files)


@pytest.mark.parametrize(
    "other",
    [
        affinity(seed=1),
        affinity(metric="published"),
        affinity(tasks=affinity().tasks[::-1]),
        affinity(tasks=(replace(affinity().tasks[0], signature="new"), *affinity().tasks[1:])),
    ],
    ids=["seed", "metric", "order", "signature"],
)
def test_resamples_of_another_affinity_are_refused(path: Path, other: Affinity) -> None:
    """Another seed, metric, order of tasks or state of the data: the file beside is not theirs."""
    with pytest.raises(RecordError, match=r"belong to another affinity.*descriptors\.npz; run nnUNetv2_seq_affinity"):
        read_resamples(path, other)


def test_damaged_resamples_are_refused(path: Path) -> None:
    """Cut off anywhere, or with a byte changed, the file is refused, or says what it said before."""
    file = resamples_path(path)
    whole = file.read_bytes()
    for length in range(0, len(whole), 23):
        file.write_bytes(whole[:length])
        with pytest.raises(RecordError, match="truncated or damaged") as raised:
            read_resamples(path, affinity())
        assert str(file) in str(raised.value) and "\n" not in str(raised.value)
    rng = np.random.default_rng(0)
    for place in range(0, len(whole), 7):
        changed = bytearray(whole)
        changed[place] ^= int(rng.integers(1, 256))
        file.write_bytes(changed)
        try:
            found = read_resamples(path, affinity())
            assert found is not None
            np.testing.assert_equal((found.tasks, dict(found.components)), (resamples().tasks, resamples().components))
        except RecordError as error:
            assert "truncated or damaged" in str(error)


def rewrite(path: Path, **entries: Any) -> None:
    with np.load(resamples_path(path)) as archive:
        content = {**archive, **entries}
    np.savez_compressed(resamples_path(path), **{name: value for name, value in content.items() if value is not None})


@pytest.mark.parametrize(
    ("entries", "words"),
    [
        ({"format": np.asarray(99)}, "format 99, this version reads up to 1.*update nnunet-seqtransfer"),
        ({"format": np.asarray(99), "belongs_to": None, "tasks": None}, "format 99"),
        ({"tasks": None}, "truncated or damaged"),
        ({"tasks": np.asarray([0, 2, 9])}, "truncated or damaged"),
        ({"tasks": np.asarray([0, 2])}, "truncated or damaged"),
        ({"component/label": np.zeros((7, 2, 2), np.float32)}, "truncated or damaged"),
        ({"component/label": None}, "truncated or damaged"),
    ],
)
def test_files_that_do_not_fit_are_refused(path: Path, entries: dict[str, Any], words: str) -> None:
    """A newer format, whatever else it holds, asks for an update; missing and misshapen entries are damage."""
    rewrite(path, **entries)
    with pytest.raises(SeqTransferError, match=words):
        read_resamples(path, affinity())
