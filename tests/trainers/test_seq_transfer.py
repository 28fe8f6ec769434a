"""A training on the CPU takes the threads that it was given, not those of the machine."""

from __future__ import annotations

import os

import pytest

from nnunet_seqtransfer.trainers.seq_transfer import allowed_threads


@pytest.mark.parametrize(
    ("given", "cores", "threads"),
    [("1", 8, 1), ("3", 8, 3), ("2,1", 8, 2), ("99", 8, 6), ("", 8, 6), ("many", 8, 6), ("0", 8, 6), ("5", 2, 2)],
)
def test_a_training_has_no_more_threads_than_it_was_given(
    monkeypatch: pytest.MonkeyPatch, given: str, cores: int, threads: int
) -> None:
    """OMP_NUM_THREADS and the cores of the process limit the six threads that nnU-Net sets."""
    monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    assert allowed_threads(6) == threads
