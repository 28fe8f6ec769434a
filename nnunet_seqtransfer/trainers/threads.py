"""Threads of a training on the CPU: no more than its process was given."""

from __future__ import annotations

import os

import torch

VARIABLE = "OMP_NUM_THREADS"


def keep_to_given_threads() -> None:
    """Takes back what nnUNetv2_train gives a training on the CPU beyond its share.

    It lets torch use all of the machine's cores, whatever OMP_NUM_THREADS says and however few of them a job may use.
    Threads without a core of their own keep the others waiting at every layer: trainings side by side take several
    times as long.
    """
    torch.set_num_threads(min(torch.get_num_threads(), _cores(), _asked_for()))


def _cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _asked_for() -> int:
    text = os.environ.get(VARIABLE, "").split(",", 1)[0].strip()  # a list is for nested regions, the first one counts
    return int(text) if text.isdecimal() and int(text) > 0 else torch.get_num_threads()
