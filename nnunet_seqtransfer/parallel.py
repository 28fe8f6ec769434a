"""Run one function on many jobs in worker processes, with a progress bar."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from typing import TypeVar

from tqdm import tqdm

from nnunet_seqtransfer.errors import DatasetError

Job = TypeVar("Job")
Result = TypeVar("Result")


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], processes: int, description: str
) -> list[Result]:
    """Return ``function(job)`` for each job, in order; use this process if ``processes`` is 1.

    Raises the first error and drops the jobs that have not started. Raises DatasetError if a worker
    process dies.
    """
    with tqdm(total=len(jobs), desc=description, unit="case", disable=not jobs) as bar:
        if processes == 1 or len(jobs) < 2:
            results = []
            for job in jobs:
                results.append(function(job))
                bar.update()
            return results
        # spawn, like nnU-Net: forking a process that has started threads (torch, blosc2) can hang.
        context = multiprocessing.get_context("spawn")
        with ProcessPoolExecutor(min(processes, len(jobs)), mp_context=context) as pool:
            try:
                futures: list[Future[Result]] = [pool.submit(function, job) for job in jobs]
                for future in as_completed(futures):
                    future.result()
                    bar.update()
                return [future.result() for future in futures]
            except BrokenProcessPool:
                raise DatasetError(
                    f"{description}: a worker process died, most likely out of memory; run again with a smaller -np"
                ) from None
            finally:
                pool.shutdown(cancel_futures=True)
