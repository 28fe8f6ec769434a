"""Threads on the CPU: what a training was given, not what the machine has."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from nnunet_seqtransfer.trainers.threads import keep_to_given_threads


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("given", "cores", "threads"),
    [
        ("1", 8, 1),
        ("3", 8, 3),
        ("2,1", 8, 2),
        ("99", 8, 6),
        ("", 8, 6),
        ("many", 8, 6),
        ("0", 8, 6),
        ("5", 2, 2),
        (None, 4, 4),
    ],
)
def test_a_training_has_no_more_threads_than_it_was_given(
    monkeypatch: pytest.MonkeyPatch, given: str | None, cores: int, threads: int
) -> None:
    """Of six threads that nnU-Net allows: as many as OMP_NUM_THREADS says and as the process may use cores."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    torch.set_num_threads(6)
    keep_to_given_threads()
    assert torch.get_num_threads() == threads
