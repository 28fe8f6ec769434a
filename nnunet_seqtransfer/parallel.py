"""Run one function on many jobs, in this process or in worker processes that a command starts once, with progress."""

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import TypeVar

from tqdm import tqdm

from nnunet_seqtransfer.errors import DatasetError

Job = TypeVar("Job")
Result = TypeVar("Result")

SECONDS_PER_MB = 0.1
"""Time on one core for a MB of compressed images; measured were 0.03 to 0.09 s to check, analyse or sketch it."""


@dataclass
class _Workers:
    """Worker processes of this process."""

    pool: ProcessPoolExecutor | None = None
    kept: bool = False
    "True inside `one_pool`."
    expected: float = 0.0
    "Seconds of work on one core that the whole block has."


_workers = _Workers()


@contextlib.contextmanager
def one_pool() -> Iterator[None]:
    """Let all calls inside use the same worker processes. The first call that needs them starts them."""
    if _workers.kept:  # the outer block ends them
        yield
        return
    _workers.kept = True
    try:
        yield
    finally:
        _workers.kept, _workers.expected = False, 0.0
        if _workers.pool is not None:
            _workers.pool.shutdown(cancel_futures=True)
            _workers.pool = None


def expect_work(seconds: float) -> None:
    """Tell how long all calls in this `one_pool` take on one core: small ones together may be worth workers."""
    _workers.expected = seconds


def expected_seconds(work: float, processes: int) -> float:
    """Return how long ``work`` seconds on one core take, in this process or in workers, whichever is faster."""
    # each worker imports torch and nnU-Net: 3 s for 2 workers on 2 cores, 9 s for 8 on 16
    return min(work, 1.0 + processes + work / processes)


def cores() -> int:
    """Return the number of cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_in_processes(
    function: Callable[[Job], Result], jobs: Sequence[Job], processes: int, description: str, size: int = 0
) -> list[Result]:
    """Return ``function(job)`` for each job, in order; see `results_of`."""
    results = dict(results_of(function, jobs, processes, description, size))
    return [results[index] for index in range(len(jobs))]


def results_of(
    function: Callable[[Job], Result], jobs: Sequence[Job], processes: int, description: str, size: int = 0
) -> Iterator[tuple[int, Result]]:
    """Yield index and ``function(job)`` of each job as it ends; earlier jobs begin first.

    Workers take a while to start. They are used if the jobs are many enough, judged by ``size``, the bytes of all
    files to read, and by the time of the first jobs.

    Raises the first error and drops the jobs that have not started. Raises DatasetError if a worker process dies.
    """
    rest, work, begun = list(enumerate(jobs)), size / 1e6 * SECONDS_PER_MB, 0.0
    with one_pool(), tqdm(total=len(jobs), desc=description, unit="case", delay=1) as bar:
        while rest and not _pays(work, min(processes, len(rest))):
            index, job = rest.pop(0)
            yield index, function(job)
            bar.update()
            if done := len(jobs) - len(rest) - 1:
                work = (time.monotonic() - begun) / done * len(rest)
            else:  # the first job imports nnU-Net
                begun = time.monotonic()
        if not rest:
            return
        if _workers.pool is None:
            # spawn, like nnU-Net: forking a process that has started threads (torch, blosc2) can hang.
            _workers.pool = ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn"))
        futures: dict[Future[Result], int] = {}
        try:
            for index, job in rest:
                futures[_workers.pool.submit(function, job)] = index
            for future in as_completed([*futures]):
                yield futures.pop(future), future.result()
                bar.update()
        except BrokenProcessPool:
            _workers.pool = None
            raise DatasetError(
                f"{description}: a worker process died, most likely out of memory; run again with a smaller -np"
            ) from None
        finally:
            for future in futures:
                future.cancel()


def _pays(work: float, processes: int) -> bool:
    """Return True if worker processes finish ``work`` seconds of one core sooner than this process."""
    work = max(work, _workers.expected)
    return processes > 1 and (_workers.pool is not None or expected_seconds(work, processes) < work)
