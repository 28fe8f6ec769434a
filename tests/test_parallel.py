"""Work in this process or in workers: the same results, and workers only if they pay."""

from __future__ import annotations

import os
import signal
import time

import pytest

from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.parallel import expect_work, expected_seconds, one_pool, results_of, run_in_processes
from support.jobs import end, process, refuse


def test_small_work_starts_no_worker() -> None:
    """Hundreds of quick jobs run in this process."""
    assert {*run_in_processes(process, [0.0] * 300, 8, "test")} == {os.getpid()}
    assert run_in_processes(process, [], 8, "test", size=10**12) == []


def test_large_work_uses_one_pool_for_all_calls() -> None:
    """Size, or the time of the first jobs, starts workers, which then do the small work too."""
    with one_pool():
        first = {*run_in_processes(process, [0.0, 0.0], 2, "test", size=10**9)}
        again = {*run_in_processes(process, [0.1] * 4, 2, "test")}
    assert os.getpid() not in first | again and len(first | again) <= 2
    with one_pool():
        slow = run_in_processes(process, [0.05] * 200, 2, "test")
    assert slow[0] == os.getpid() and slow[-1] != os.getpid(), "10 s of work turn out after two jobs"


def test_work_that_is_expected_counts_together() -> None:
    """Calls that are small alone start workers if all of them together are worth it; after the block they do not."""
    with one_pool():
        expect_work(60)
        assert os.getpid() not in run_in_processes(process, [0.0, 0.0], 2, "test")
    assert {*run_in_processes(process, [0.0, 0.0], 2, "test")} == {os.getpid()}


def test_workers_pay_from_some_size_on() -> None:
    """One process needs the whole work; more need the time to start and their share."""
    assert expected_seconds(5, 8) == 5 and expected_seconds(900, 1) == 900
    assert 112.5 < expected_seconds(900, 8) < 130


@pytest.mark.parametrize("size", [0, 10**9])
def test_results_keep_their_order_and_errors_their_kind(size: int) -> None:
    """In this process and in workers alike."""
    assert run_in_processes(refuse, [5, 4, 2], 2, "test", size) == [5, 4, 2]
    assert dict(results_of(refuse, [5, 4], 2, "test", size)) == {0: 5, 1: 4}
    with pytest.raises(ValueError, match="3"):
        run_in_processes(refuse, [1, 2, 3, 4], 2, "test", size)


def test_a_dead_worker_is_an_error_and_the_next_call_works() -> None:
    """The pool is started again."""
    with one_pool():
        with pytest.raises(DatasetError, match="smaller -np"):
            run_in_processes(end, [1, 2, 3], 2, "test", size=10**9)
        assert os.getpid() not in run_in_processes(process, [0.0, 0.0], 2, "test", size=10**9)


def test_a_worker_that_died_between_two_calls_is_an_error_too() -> None:
    """Killed while nothing was asked of it, as by a lack of memory."""
    with one_pool():
        worker = run_in_processes(process, [0.1, 0.1], 2, "test", size=10**9)[0]
        os.kill(worker, signal.SIGKILL)
        time.sleep(1)
        with pytest.raises(DatasetError, match="smaller -np"):
            run_in_processes(process, [0.0, 0.0], 2, "test", size=10**9)
        assert os.getpid() not in run_in_processes(process, [0.0, 0.0], 2, "test", size=10**9)
