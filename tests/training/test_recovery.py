"""Damaged and missing checkpoints: which one an interrupted training goes on from."""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.storage import is_sound_archive, is_whole_archive
from nnunet_seqtransfer.trainers.interruptible import write_checkpoint
from nnunet_seqtransfer.training.actions import Action
from nnunet_seqtransfer.training.on_disk import read_stage
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.run_stage import recover
from nnunet_seqtransfer.training.stages import ChainRequest, Stage, chain_stages

LATEST, BEST, PREVIOUS = "checkpoint_latest.pth", "checkpoint_best.pth", "checkpoint_previous.pth"


@pytest.fixture
def stage(folders: Path) -> Stage:
    """A stage with an empty results folder."""
    recipe = Recipe()
    request = ChainRequest("Dataset010_Target", (), "nnUNetPlans", "3d_fullres", ("0",), recipe, recipe, 5)
    (stage,) = chain_stages(request)
    stage.output.mkdir(parents=True)
    return stage


def checkpoint(epoch: int) -> dict[str, Any]:
    torch.manual_seed(epoch)
    return {"network_weights": {"a": torch.rand(1000)}, "current_epoch": epoch}


def write(stage: Stage, **epochs: int) -> None:
    """Write checkpoints of these names and epochs."""
    for name, epoch in epochs.items():
        with (stage.output / f"checkpoint_{name}.pth").open("wb") as stream:
            torch.save(checkpoint(epoch), stream)


def change_inside(path: Path) -> None:
    """Changes one bit in the middle of the tensor; the file keeps its length and its end."""
    whole = bytearray(path.read_bytes())
    whole[len(whole) // 2] ^= 0x10
    path.write_bytes(whole)
    assert is_whole_archive(path) and not is_sound_archive(path)


def recovered(stage: Stage, action: Action = Action.RESUME) -> tuple[list[str], dict[str, bytes]]:
    said: list[str] = []
    recover(stage, action, said.append)
    return said, {path.name: path.read_bytes() for path in stage.output.iterdir()}


def test_what_is_sound_stays_as_it_is(stage: Stage) -> None:
    """With a sound latest checkpoint nothing is said or moved, whatever lies beside it."""
    write(stage, latest=3, previous=3, best=2)
    before = {path.name: path.read_bytes() for path in stage.output.iterdir()}
    assert recovered(stage) == ([], before)


@pytest.mark.parametrize("damage", ["missing", "truncated", "changed"])
def test_the_previous_checkpoint_takes_the_place_of_the_latest(stage: Stage, damage: str) -> None:
    """Latest missing (killed between two renames), cut off or changed inside: the previous one goes on."""
    write(stage, latest=4, previous=3, best=2)
    latest, previous = stage.output / LATEST, (stage.output / PREVIOUS).read_bytes()
    if damage == "missing":
        latest.unlink()
    elif damage == "truncated":
        latest.write_bytes(latest.read_bytes()[:-50])
    else:
        change_inside(latest)
    assert read_stage(stage.files).unfinished
    said, left = recovered(stage)
    assert left[LATEST] == previous and PREVIOUS not in left and BEST in left
    assert (LATEST + ".damaged" in left) == (damage != "missing")
    assert any("resumes from checkpoint_previous.pth" in line for line in said)
    assert recovered(stage) == ([], left), "done twice it is done once"


def test_a_previous_checkpoint_alone_is_a_training_to_go_on_with(stage: Stage) -> None:
    """Nothing but the previous checkpoint is no beginning from the start."""
    write(stage, previous=0)
    assert read_stage(stage.files).unfinished
    assert set(recovered(stage)[1]) == {LATEST}


@pytest.mark.parametrize(("best", "previous", "wins"), [(2, 5, "previous"), (6, 5, "best"), (5, 5, "best")])
def test_the_further_one_wins_whatever_the_clock_says(stage: Stage, best: int, previous: int, wins: str) -> None:
    """Without a latest one, an older best one does not win; which is older is read from them, not from their times."""
    write(stage, best=best, previous=previous)
    for name, hours in ((BEST, 5 if wins == "previous" else 1), (PREVIOUS, 1 if wins == "previous" else 5)):
        os.utime(stage.output / name, (3600 * hours, 3600 * hours))
    assert (LATEST in recovered(stage)[1]) == (wins == "previous")


def test_no_sound_checkpoint_is_said_before_anything_trains(stage: Stage) -> None:
    """Where every checkpoint is damaged one line says so; then the stage has not begun, and the command starts it."""
    write(stage, latest=3, best=2)
    for name in (LATEST, BEST):
        change_inside(stage.output / name)
    assert read_stage(stage.files).unfinished, "the quick look does not read them"
    with pytest.raises(StageError, match="run the same command again to train this stage from its start"):
        recovered(stage)
    assert not read_stage(stage.files).has_begun


def test_an_unreadable_best_checkpoint_does_not_win(stage: Stage) -> None:
    """One that is sound but cannot be loaded safely is taken for the older."""
    write(stage, previous=1)
    with (stage.output / BEST).open("wb") as stream:
        torch.save({"network_weights": {}, "current_epoch": Path("9")}, stream)
    assert LATEST in recovered(stage)[1]


@pytest.mark.parametrize("action", [Action.START, Action.VALIDATE])
def test_where_nothing_goes_on_only_what_is_cut_off_is_moved(stage: Stage, action: Action) -> None:
    """A stage that starts or validates loads none of them: they are not read through."""
    write(stage, latest=3, best=2)
    change_inside(stage.output / BEST)
    (stage.output / LATEST).write_bytes(b"PK")
    assert set(recovered(stage, action)[1]) == {LATEST + ".damaged", BEST}


def test_any_changed_byte_is_found_or_harmless(tmp_path: Path) -> None:
    """Wherever a byte changes, the check ends with yes or no, and what it lets pass loads with equal content."""
    path = tmp_path / "a.pth"
    with path.open("wb") as stream:
        torch.save(checkpoint(1), stream)
    whole, expected, rng = path.read_bytes(), checkpoint(1)["network_weights"]["a"], random.Random(0)
    assert is_sound_archive(path)
    missed = 0
    for place in [*range(0, 200), *rng.sample(range(len(whole)), 400), *range(len(whole) - 600, len(whole))]:
        changed = bytearray(whole)
        changed[place] ^= rng.randrange(1, 256)
        path.write_bytes(changed)
        if is_sound_archive(path):
            missed += 1
            try:
                loaded = torch.load(path, weights_only=True)
            except (RuntimeError, pickle.UnpicklingError, UnicodeDecodeError):
                continue  # said when it is loaded, and no weight is wrong
            assert torch.equal(loaded["network_weights"]["a"], expected), place
    assert missed < 600, "most changes are found"


@pytest.mark.parametrize("links", [True, False], ids=["links", "no links"])
def test_killed_between_the_renames_a_sound_checkpoint_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    """Before every rename a sound one exists; where the folder takes links, the latest one is never missing."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(OSError("no links here")))
    real, seen = os.replace, []

    def replace(*arguments: Any, **options: Any) -> None:
        seen.append({name for name in (LATEST, PREVIOUS) if is_sound_archive(tmp_path / name)})
        real(*arguments, **options)

    monkeypatch.setattr(os, "replace", replace)
    for epoch in range(3):
        write_checkpoint(tmp_path / LATEST, checkpoint(epoch))
    moments = seen[1:]  # the first checkpoint of all has none before it
    assert len(moments) == 4 and all(moments)
    assert all(LATEST in moment for moment in moments) == links
    assert torch.load(tmp_path / PREVIOUS, weights_only=True)["current_epoch"] == 1
    assert {path.name for path in tmp_path.iterdir()} == {LATEST, PREVIOUS}


def test_a_write_that_fails_at_its_last_rename_leaves_the_latest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the last rename fails, the latest checkpoint is the one of before, bit by bit, also when retried."""
    write_checkpoint(tmp_path / LATEST, checkpoint(0))
    before, real = (tmp_path / LATEST).read_bytes(), os.replace

    def replace(source: Any, target: Any, **options: Any) -> None:
        if Path(target).name == LATEST:
            raise OSError(5, "Input/output error")
        real(source, target, **options)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", replace)
        for _ in range(2):
            with pytest.raises(Exception, match="Input/output error"):
                write_checkpoint(tmp_path / LATEST, checkpoint(1))
            assert {path.name for path in tmp_path.iterdir()} == {LATEST, PREVIOUS}
            assert (tmp_path / LATEST).read_bytes() == before == (tmp_path / PREVIOUS).read_bytes()
    write_checkpoint(tmp_path / LATEST, checkpoint(1))
    assert (tmp_path / PREVIOUS).read_bytes() == before
