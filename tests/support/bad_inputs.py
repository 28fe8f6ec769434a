"""What every refusal of a bad input has in common."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nnunet_seqtransfer.storage import checksum
from support.world import Outcome, World

AFFINITY = ("affinity", "-t", "901", "-s", "902", "-n_cases", "1", "-np", "1")
"""A good command of each kind, to which a test does one thing that is bad."""
PLAN = ("plan", "-t", "901", "-np", "1")
TRAIN = ("train", "901", "3d_fullres", "0", "-s", "902", "-np", "1", "-device", "cpu")
DRY = (*TRAIN, "--dry_run")
COMMANDS = {"affinity": AFFINITY, "train": TRAIN, "dry run": DRY}

Command = Callable[..., Outcome]


def attempt(command: Command, arguments: tuple[str, ...]) -> Outcome:
    """Runs a command in which nothing can be trained: what should have been refused must not keep the tests busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nnunet_seqtransfer.training.job.train_command", lambda: "/bin/false")
        return command(*arguments)


def error_line(outcome: Outcome) -> str:
    """The one line of a refused command that says what is wrong: the last, and the only one of its kind."""
    assert outcome.status == 2, f"ended with {outcome.status}\n{outcome.out}\n{outcome.err}"
    assert "Traceback" not in outcome.err + outcome.out
    lines = [line for line in outcome.err.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("error: ") or ": error: " in line]
    assert errors == lines[-1:], outcome.err
    return errors[0]


def assert_refused(
    world: World,
    command: Command,
    arguments: tuple[str, ...],
    *words: str,
    alone: bool = True,
    keeps: tuple[str, ...] = (),
) -> str:
    """The command is refused with all of these words and touches no file; ``alone``: it says nothing else at all.

    ``keeps``: datasets that are fine themselves, whose signatures and sketches may be kept for the next time.
    """
    before = world.snapshot()
    outcome = attempt(command, arguments)
    line = error_line(outcome)
    for word in words:
        assert word in line, line
    kept = tuple(f"preprocessed/{name}/seqtransfer/{kind}" for name in keeps for kind in ("signature_", "sketches_"))
    names, kinds = [path.name for path in world.raw.iterdir()], ("check.json", "sketches_")
    checks = tuple(f"preprocessed/{name}/seqtransfer/{kind}" for name in names for kind in kinds)
    kept += checks  # what was read of the raw cases is known, whether or not it is fine
    after = {name: state for name, state in world.snapshot().items() if name in before or not name.startswith(kept)}
    assert after == before
    if alone:
        assert outcome.err.strip() == line, outcome.err
        assert outcome.out == ""
    return line


def truncate(path: Path, keep: float = 0.5) -> None:
    """Cuts the end of a file off, as a full disk or a broken download does."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * keep)])


def edit(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Changes a JSON file."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def rewrite(path: Path, change: Callable[[dict[str, Any]], Any], *, checked: bool = False) -> None:
    """Edits a record; ``checked``: its checksum too, as another version of this package would write it."""
    edit(path, change)
    if checked:
        content = json.loads(path.read_text())
        body = {key: value for key, value in content.items() if key not in ("kind", "format", "checksum")}
        path.write_text(json.dumps({**content, "checksum": checksum(body)}))
