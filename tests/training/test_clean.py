"""What no run needs is found and removed; what is held, what is needed and what is not ours stays."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from nnunet_seqtransfer.entry_points import clean
from nnunet_seqtransfer.training import clean as cleaning
from nnunet_seqtransfer.training.clean import CATEGORIES, find_unneeded
from nnunet_seqtransfer.training.run_record import RECORD
from support.runs import (
    DIGEST,
    FAR,
    NEAR,
    TARGET,
    MadeRun,
    age,
    cases,
    checkpoint,
    dead_process,
    epoch_lines,
    finish,
    lock,
    plans,
    record,
)
from support.runs import training_log as write_log

HOUR = 3600.0
pytestmark = pytest.mark.usefixtures("folders")


def listed(name: str) -> set[Path]:
    return {item.path for item, _ in find_unneeded().items if item.category == name}


def finished_chain(**changes: object) -> MadeRun:
    chain = record(**changes)  # type: ignore[arg-type]
    for stage in chain.stages:
        finish(chain, stage)
    return chain


def data_of(folders: Path, dataset: str) -> Path:
    return folders / "preprocessed" / dataset / f"nnUNetPlans_for4_3d_fullres_{DIGEST}"


def everything(folders: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folders)): path.read_bytes() for path in sorted(folders.rglob("*")) if path.is_file()}


def test_of_a_finished_run_the_preprocessed_sources_can_go(folders):
    """They are listed; the stages' checkpoints, weights and records are not."""
    finished_chain()
    assert listed("leftovers") == set()
    assert listed("preprocessed") == {data_of(folders, NEAR), data_of(folders, FAR)}


def test_an_unfinished_run_keeps_what_it_will_read(folders):
    """A source that waits keeps its data, whatever their digest; one that is trained does not."""
    chain = record()
    finish(chain, chain.stages[0])
    newer = cases(chain.stages[1], "nnUNetPlans_for4_3d_fullres_fedcba98")
    of_other_target = cases(chain.stages[1], "nnUNetPlans_for5_3d_fullres_fedcba98")
    of_other_configuration = cases(chain.stages[1], "nnUNetPlans_for4_2d_fedcba98")
    assert newer.exists()
    assert listed("preprocessed") == {data_of(folders, NEAR), of_other_target, of_other_configuration}


def test_a_stage_begun_by_hand_keeps_its_data(folders):
    """No run mentions it, but it has a checkpoint to go on from."""
    chain = finished_chain(sources=(NEAR,))
    shutil.rmtree(chain.folder)
    assert data_of(folders, NEAR) in listed("preprocessed")
    final = chain.stages[0].output / "checkpoint_final.pth"
    final.rename(final.with_name("checkpoint_latest.pth"))
    assert data_of(folders, NEAR) not in listed("preprocessed")


def test_an_unreadable_run_keeps_all_but_leftovers(command):
    """Nobody knows what it needs; it is named."""
    chain, broken = finished_chain(), record(tag="broken")
    (broken.folder / RECORD).write_text("{")
    superseded = checkpoint(chain.stages[0].output / "checkpoint_latest.pth")
    assert listed("leftovers") == {superseded}
    assert not listed("preprocessed")
    outcome = command("clean")
    assert "preprocessed data stay" in outcome.err and broken.folder.name in outcome.err


def test_leftovers_are_old_and_nobodys(folders):
    """Files aside, staged cases, damaged and superseded checkpoints, locks of the dead: each of them, once it rests."""
    chain = finished_chain()
    first, second, target = chain.stages
    dataset = folders / "preprocessed" / NEAR
    aside = [
        first.output / ".checkpoint_latest.0123abcd.tmp.pth",
        first.base / ".seq_transfer_init.0123abcd.tmp.pth",
        dataset / ".nnUNetPlans_for4.0123abcd.tmp.json",
        dataset / "seqtransfer" / ".signature_x.0123abcd.tmp.npz",
        chain.folder / ".run.0123abcd.tmp.json",
    ]
    staged = dataset / f".nnUNetPlans_for4_3d_fullres_{DIGEST}.tmp"
    half = first.base / ".fold_all.0123abcd.tmp"
    for path in aside:
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    for path in (staged, half):
        path.mkdir()
    damaged = checkpoint(target.output / "checkpoint_latest.pth.damaged")
    superseded = {checkpoint(second.output / f"checkpoint_{name}.pth") for name in ("latest", "previous")}
    checkpoint(second.output / "checkpoint_best.pth")
    stale = lock(second.files.lock, dead_process(), socket.gethostname())
    assert listed("leftovers") == {damaged, stale, *superseded}, "what was just written may be somebody's"
    for path in (*aside, staged, half):
        age(path, HOUR + 1)
    assert listed("leftovers") == {damaged, stale, *superseded, *aside, staged, half}


def test_checkpoints_of_an_unfinished_stage_are_no_leftovers():
    """Neither of one that trains on from them, nor of a target whose validation is missing."""
    chain = record(sources=())
    (stage,) = chain.stages
    plans(stage)
    checkpoint(stage.output / "checkpoint_latest.pth")
    assert listed("leftovers") == set()
    checkpoint(stage.output / "checkpoint_final.pth")
    assert listed("leftovers") == set()


@pytest.mark.parametrize("host", ["here", "elsewhere"])
def test_what_a_living_process_is_at_is_not_even_listed(folders, host):
    """Held by a process that lives, here or on another machine with a recent sign, nothing of a stage is offered."""
    chain = finished_chain()
    _, second, target = chain.stages
    checkpoint(second.output / "checkpoint_latest.pth")
    name, ago = (socket.gethostname(), 0.0) if host == "here" else ("elsewhere", 600.0)
    for path in (
        second.files.lock,
        target.files.lock,
        data_of(folders, NEAR).with_name(f".{data_of(folders, NEAR).name}.lock"),
    ):
        lock(path, os.getppid(), name, ago)
    assert listed("leftovers") == set()
    assert data_of(folders, NEAR) not in listed("preprocessed")


def test_a_silent_holder_elsewhere_is_gone_after_an_hour():
    """Its lock is listed; `locked` still waits for a sign before it takes it over."""
    chain = finished_chain(sources=())
    stale = lock(chain.stages[0].files.lock, 1, "elsewhere", HOUR + 1)
    assert listed("leftovers") == {stale}


def not_ours(folders: Path) -> list[Path]:
    """Things that look a little like ours."""
    raw, data, results = (folders / name for name in ("raw", "preprocessed", "results"))
    return [
        raw / NEAR / ".case.0123abcd.tmp.gz",
        data / NEAR / "nnUNetPlans_3d_fullres" / "case.b2nd",
        data / NEAR / "nnUNetPlans_for4_3d_fullres" / "case.b2nd",
        data / NEAR / "nnUNetPlans_for4_3d_fullres_0000aaaa" / "notes.txt",
        data / NEAR / "nnUNetPlans_for4_3d_fullres_0000bbbb" / "folder" / "case.b2nd",
        data / "notes" / f"nnUNetPlans_for4_3d_fullres_{DIGEST}" / "case.b2nd",
        results / NEAR / "nnUNetTrainer__nnUNetPlans_for4__3d_fullres" / "fold_0" / "checkpoint_latest.pth.damaged",
        results / NEAR / "nnUNetTrainer__nnUNetPlans_for4__3d_fullres" / "fold_0" / "checkpoint_final.pth",
        results / NEAR / "nnUNetTrainerSeqTransfer__nnUNetPlans__3d_fullres" / "fold_0" / "checkpoint_final.pth",
        results / NEAR / "nnUNetTrainerSeqTransfer__nnUNetPlans__3d_fullres" / "fold_0" / "checkpoint_latest.pth",
        results / NEAR / "nnUNetTrainerSeqTransfer__nnUNetPlans__3d_fullres" / "plans.json",
    ]


def test_what_is_not_ours_is_never_listed(folders):
    """Stock data, stock results, results of our trainer without our block, folders with anything else in them."""
    for path in not_ours(folders):
        path.parent.mkdir(parents=True, exist_ok=True)
        checkpoint(path) if path.suffix == ".pth" else path.write_text("{}")
        age(path, 2 * HOUR)
    assert all(not listed(name) for name in CATEGORIES)


def test_links_are_not_followed(folders):
    """A preprocessed folder, a stage, a dataset that are links to elsewhere are left alone with what they point to."""
    chain = finished_chain()
    first, second, _ = chain.stages
    elsewhere = folders / "elsewhere"
    elsewhere.mkdir()
    for number, path in enumerate((data_of(folders, NEAR), first.base, second.base.parent)):
        path.rename(elsewhere / str(number))
        path.symlink_to(elsewhere / str(number))
    assert listed("preprocessed") == {data_of(folders, FAR)}
    assert listed("leftovers") == set()


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., list[str]]]:
    """Answers the questions of the command as a person at a terminal would; returns what was asked."""

    def answer(*answers: str) -> list[str]:
        asked: list[str] = []
        left = list(answers)

        def ask(question: str) -> str:
            asked.append(question)
            return left.pop(0)

        monkeypatch.setattr("builtins.input", ask)
        return asked

    monkeypatch.setattr(clean, "is_terminal", lambda: True)
    yield answer


def test_nothing_goes_without_a_yes(folders, command, terminal):
    """Without a terminal, with --dry_run, and at a terminal without a yes, everything stays; sizes come first."""
    chain = finished_chain()
    checkpoint(chain.stages[0].output / "checkpoint_latest.pth")
    before = everything(folders)
    asked = terminal("", "no")
    outcome = command("clean", "--dry_run")
    assert outcome.status == 0 and "nothing was removed" in outcome.out and not asked
    outcome = command("clean")
    assert len(asked) == 2
    assert asked[1].startswith("remove 6 kB of preprocessed (2 items)? [y/N]")
    assert everything(folders) == before
    assert outcome.out.splitlines()[0].split() == ["size", "items", "category", "content"]


def test_without_a_terminal_it_lists(folders, command):
    """Nothing is asked and nothing removed; --yes without -what is refused."""
    finished_chain()
    before = everything(folders)
    assert "give --yes and -what" in command("clean").out
    assert everything(folders) == before
    assert command("clean", "--yes").status == 2
    assert command("clean", "-what", "everything").status == 2


def test_a_yes_removes_a_category(folders, command, terminal):
    """What was agreed to goes, the rest stays to the byte."""
    finished_chain()
    before = everything(folders)
    terminal("y")
    assert command("clean").status == 0
    gone = set(before) - set(everything(folders))
    assert gone == {name for name in before if f"_{DIGEST}/" in name}
    assert not data_of(folders, NEAR).exists()


def test_scripts_remove_by_name(folders, command):
    """--yes -what removes everything of these categories, and all stages keep their results and their weights."""
    chain = finished_chain()
    checkpoint(chain.stages[1].output / "checkpoint_latest.pth")
    assert command("clean", "--yes", "-what", *CATEGORIES).status == 0
    assert not data_of(folders, NEAR).exists() and not data_of(folders, FAR).exists()
    assert all((stage.output / "checkpoint_final.pth").is_file() for stage in chain.stages)
    assert all(stage.weights.is_file() for stage in chain.stages[1:])
    assert not list(folders.rglob("checkpoint_latest.pth"))
    assert not list(folders.rglob(".*.tmp")) and not list(folders.rglob("*.lock"))
    assert "nothing to remove" in command("clean", "--yes", "-what", *CATEGORIES).out


def test_a_kill_while_removing_leaves_nothing_that_looks_whole(folders, command, monkeypatch):
    """Ended after the first file of a folder: the folder has no longer its name, and goes with the leftovers later."""
    finished_chain(sources=(NEAR,))

    def killed(path: Path) -> None:
        next(path.iterdir()).unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(cleaning.shutil, "rmtree", killed)
        assert command("clean", "--yes", "-what", "preprocessed").status == 130
    assert not data_of(folders, NEAR).exists()
    (aside,) = (folders / "preprocessed" / NEAR).glob(".*.tmp")
    age(aside, 2 * HOUR)
    assert aside in listed("leftovers")
    assert command("clean", "--yes", "-what", "leftovers").status == 0
    assert not aside.exists()


@pytest.mark.parametrize("what", ["held", "now in use"])
def test_what_is_held_or_begun_meanwhile_stays(folders, command, monkeypatch, what):
    """A lock taken, or a run recorded that reads the data, after the list was made: it is named, the rest goes."""
    finished_chain(sources=(NEAR,))
    folder = data_of(folders, NEAR)
    other = folders / "preprocessed" / FAR / "nnUNetPlans_for9_3d_fullres_0000cccc"
    other.mkdir(parents=True)
    (other / "case.b2nd").write_bytes(b"0")
    real = cleaning.clean

    def late(*arguments: object) -> object:
        if what == "held":
            lock(folder.with_name(f".{folder.name}.lock"), os.getppid(), socket.gethostname())
        else:
            record(sources=(NEAR,), tag="late")
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(clean, "clean", late)
    outcome = command("clean", "--yes", "-what", "preprocessed")
    assert outcome.status == 2 and (f"kept {folder}" if what == "held" else what) in outcome.err
    assert folder.is_dir() and not other.exists()


def test_a_stage_that_trains_keeps_its_log_and_checkpoint(folders, command):
    """A run at work beside a finished one: everything of it is there after all categories were removed."""
    finished_chain(sources=())
    chain = record(sources=(NEAR,), tag="busy")
    stage = chain.stages[0]
    plans(stage)
    write_log(stage, epoch_lines(range(3)))
    checkpoint(stage.output / "checkpoint_latest.pth")
    cases(stage)
    lock(stage.files.lock, os.getppid(), socket.gethostname())
    before = everything(folders)
    assert command("clean", "--yes", "-what", *CATEGORIES).status == 0
    assert everything(folders) == before
    assert stage.target == TARGET
