"""What is preprocessed ahead takes what memory there is, low priority, and no chain down with it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.memory import case_bytes
from nnunet_seqtransfer.training import prefetch as module
from nnunet_seqtransfer.training.prefetch import NICENESS, SHARE_OF_MEMORY, Prefetch, workers_in

GIB = 2**30


def test_workers_ahead_fit_into_the_memory() -> None:
    """The larger the cases, the fewer; a case that does not fit is not preprocessed ahead."""
    assert workers_in(8e9, case_bytes(0, 1)) == int(SHARE_OF_MEMORY * 8e9 / 600e6)
    assert workers_in(8e9, case_bytes(512**3, 4)) == 0
    few, many = (workers_in(64e9, case_bytes(128**3, channels)) for channels in (4, 1))
    assert 1 <= few < many


@pytest.fixture
def ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Prefetch:
    """One that has something to do; the command that it starts does nothing."""
    script = tmp_path / "continue"
    script.write_text(f"#!{sys.executable}\nimport time\ntime.sleep(60)\n")
    script.chmod(0o755)
    monkeypatch.setattr(module, "own_command", lambda _: str(script))
    monkeypatch.setattr(module, "run_name", lambda _: "run")
    monkeypatch.setattr(Prefetch, "_workers", lambda *_: 1)
    return Prefetch(SimpleNamespace(folder=tmp_path), 2)  # type: ignore[arg-type]


@pytest.mark.parametrize("own", [0, 15])
def test_it_is_never_less_nice_than_the_command(ahead: Prefetch, monkeypatch: pytest.MonkeyPatch, own: int) -> None:
    """Which only root may ask for."""
    asked: list[int] = []
    monkeypatch.setattr(module.os, "getpriority", lambda *_: own)
    monkeypatch.setattr(module.os, "setpriority", lambda _, __, niceness: asked.append(niceness))
    with ahead:
        assert ahead.start(None) == 1  # type: ignore[arg-type]
    assert asked == [max(own, NICENESS)]


def test_a_start_that_fails_is_no_end_of_the_chain(ahead: Prefetch, monkeypatch: pytest.MonkeyPatch) -> None:
    """No priority to be had, no process, no command: the stage that needs the data makes it by itself."""

    def refuse(*_: object) -> None:
        raise PermissionError

    def missing(_: str) -> str:
        raise StageError("the command is not there")

    with ahead:
        monkeypatch.setattr(module.os, "setpriority", refuse)
        assert ahead.start(None) == 1  # type: ignore[arg-type]
    monkeypatch.setattr(module, "own_command", lambda _: "/nowhere/continue")
    with ahead:
        assert ahead.start(None) == 0  # type: ignore[arg-type]
    monkeypatch.setattr(module, "own_command", missing)
    with ahead:
        assert ahead.start(None) == 0  # type: ignore[arg-type]
