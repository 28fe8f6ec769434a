"""Tests of errors.py: problems collected over several checks, and how a command prints them."""

from __future__ import annotations

import pytest

from nnunet_seqtransfer.entry_points.common import run_command
from nnunet_seqtransfer.errors import DatasetError, Problems, SeqTransferError, StageError, collecting, raise_collected


def test_collected_errors_are_raised_together():
    """Every block adds its error, and the code after the block runs."""
    errors: list[SeqTransferError] = []
    reached = 0
    for error in (DatasetError("first"), Problems(["second", "third"]), StageError("first")):
        with collecting(errors):
            raise error
        reached += 1
    with collecting(errors):
        reached += 1
    with pytest.raises(Problems) as raised:
        raise_collected(errors)
    assert raised.value.problems == ("first", "second", "third")
    assert reached == 4


def test_a_single_error_keeps_its_kind():
    """One problem is raised as the error that it was; no problem raises nothing."""
    raise_collected([])
    with pytest.raises(StageError, match="only"):
        raise_collected([StageError("only")])


def test_other_errors_are_not_collected():
    """An error that no user can act on keeps its traceback."""
    with pytest.raises(ZeroDivisionError), collecting([]):
        raise ZeroDivisionError


def test_a_command_prints_one_line_per_problem(capsys):
    """Problems become lines on standard error, and the exit status is 2."""

    def fail() -> None:
        raise Problems([DatasetError("a\nb"), "c"])

    with pytest.raises(SystemExit) as stopped:
        run_command(fail)
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines() == ["error: a b", "error: c"]
