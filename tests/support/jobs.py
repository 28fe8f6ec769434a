"""Jobs for worker processes, in a module that these can import however pytest was started."""

from __future__ import annotations

import os
import time


def process(job: float) -> int:
    """Sleep for ``job`` seconds; return the id of the process."""
    time.sleep(job)
    return os.getpid()


def end(_: int) -> None:
    """End the process at once, like one killed by a lack of memory."""
    os._exit(1)


def refuse(job: int) -> int:
    """Return the job, but raise ValueError for 3."""
    if job == 3:
        raise ValueError(job)
    return job
