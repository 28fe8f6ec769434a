"""How far a run is, told from what nnU-Net and the chain leave on disk, whatever the state of the files."""

from __future__ import annotations

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.training.estimate import START_SECONDS
from nnunet_seqtransfer.training.history import read_clock
from nnunet_seqtransfer.training.run_record import RECORD
from nnunet_seqtransfer.training.stages import Stage
from nnunet_seqtransfer.training.status import Queue, RunStatus, StageStatus, State, run_status
from support.runs import (
    FAR,
    NEAR,
    TARGET,
    MadeRun,
    checkpoint,
    dead_process,
    epoch_lines,
    finish,
    lock,
    record,
    training_log,
)

pytestmark = pytest.mark.usefixtures("folders")

CRASH = [
    "Traceback (most recent call last):",
    '  File "run_training.py", line 1, in <module>',
    "    raise RuntimeError",
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB",
]


def only() -> RunStatus:
    (status,) = run_status()
    return status


def stage_status(stage: Stage) -> StageStatus:
    return next(found for found in only().stages if found.entry.key == stage.key)


def test_a_finished_run_has_nothing_left():
    """Sources with a final checkpoint and a validated target are finished; the Dice is that of the validation."""
    chain = record()
    for stage in chain.stages:
        finish(chain, stage)
    status = only()
    assert status.state is State.FINISHED and not status.is_left
    assert [found.state for found in status.stages] == [State.FINISHED] * 3
    assert [found.epochs_done for found in status.stages] == [250] * 3
    assert status.seconds_left == 0
    assert stage_status(chain.stages[2]).on_disk.dice == 0.853


def test_a_run_that_never_began_waits():
    """Nothing but a record: all stages wait, and the time left is not known."""
    record()
    status = only()
    assert status.state is State.NOT_STARTED and status.is_left
    assert {found.state for found in status.stages} == {State.WAITING}
    recipe = status.stages[0].entry.recipe
    clock = read_clock(TARGET, "nnUNetPlans", "3d_fullres", "cpu")
    stages = 2 * clock.stage(recipe, 250) + clock.stage(recipe, 250, clock.held_out("0"))
    assert status.seconds_left == pytest.approx(stages), "as a plan and a dry run guess it"


def test_an_interrupted_stage_goes_on_where_its_log_ends():
    """With a checkpoint its epochs count, and the time left is that of its other epochs and of the waiting stages."""
    chain = record()
    finish(chain, chain.stages[0])
    training_log(chain.stages[1], epoch_lines(range(37), seconds=10.0))
    checkpoint(chain.stages[1].output / "checkpoint_latest.pth")
    found = stage_status(chain.stages[1])
    assert (found.state, found.epochs_done, found.epochs_left) == (State.INTERRUPTED, 37, 213)
    assert found.seconds_left == pytest.approx(START_SECONDS + 213 * 10)
    assert found.on_disk.log.last.mean_dice == pytest.approx(0.7)
    assert only().state is State.INTERRUPTED
    waiting = stage_status(chain.stages[2])
    clock = read_clock(TARGET, "nnUNetPlans", "3d_fullres", "cpu").with_log(found.on_disk.log, found.entry.recipe)
    whole = clock.stage(waiting.entry.recipe, 250, clock.held_out("0"))
    assert clock.epoch(waiting.entry.recipe) == pytest.approx(10.0) and waiting.seconds_left == pytest.approx(whole)
    assert only().seconds_left == found.seconds_left + waiting.seconds_left


def test_a_final_validation_counts_its_cases():
    """While the target is validated, the time left is that of the other cases."""
    chain = record(sources=())
    (stage,) = chain.stages
    times = {"predicting case0": "10:00:00", "Validation complete": "10:00:09"}
    lines = [f"2026-05-02 {time}.000000: {text}" for text, time in times.items()]
    training_log(stage, [*epoch_lines(range(250)), *lines])
    checkpoint(stage.output / "checkpoint_final.pth")
    lock(stage.files.lock, os.getppid(), socket.gethostname())
    found = stage_status(stage)
    assert (found.state, found.on_disk.log.predicted, found.cases, found.seconds_left) == (State.RUNNING, 1, 1, 0.0)


def test_without_a_checkpoint_all_epochs_are_left():
    """Epochs that were trained before the first checkpoint are lost with their process."""
    chain = record(sources=())
    training_log(chain.stages[0], epoch_lines(range(5)))
    found = stage_status(chain.stages[0])
    assert (found.state, found.epochs_done, found.epochs_left) == (State.INTERRUPTED, 5, 250)


def test_a_training_that_goes_on_writes_a_new_log():
    """The epochs are those of the newest log that has one, not of the one that has just been begun."""
    chain = record(sources=())
    training_log(chain.stages[0], epoch_lines(range(20)), "training_log_2026_5_1_10_00_00.txt")
    training_log(chain.stages[0], epoch_lines(range(18, 30), dice=(0.9,)), "training_log_2026_5_1_12_00_00.txt")
    training_log(
        chain.stages[0], ["", "2026-05-01 13:00:00.1: unpacking done... "], "training_log_2026_5_1_13_00_00.txt"
    )
    found = stage_status(chain.stages[0])
    assert found.epochs_done == 30 and found.on_disk.log.last.mean_dice == pytest.approx(0.9)


def test_a_training_that_stopped_early_is_finished():
    """A final checkpoint at fewer epochs than asked for: finished, with the epochs that it had."""
    chain = record(sources=())
    finish(chain, chain.stages[0], epochs=120)
    found = stage_status(chain.stages[0])
    assert (found.state, found.epochs_done, found.epochs_left) == (State.FINISHED, 120, 0)


def test_a_target_without_its_validation_is_trained():
    """The final checkpoint alone leaves the target's validation to do."""
    chain = record(sources=())
    finish(chain, chain.stages[0])
    (chain.stages[0].output / "validation" / "summary.json").write_text("{")
    assert stage_status(chain.stages[0]).state is State.TRAINED
    assert only().is_left


def test_a_deleted_source_is_not_needed_once_its_target_has_begun():
    """As the chain decides: what builds on it is further."""
    chain = record()
    training_log(chain.stages[2], epoch_lines(range(5)))
    checkpoint(chain.stages[2].output / "checkpoint_best.pth")
    assert [found.state for found in only().stages] == [State.NOT_NEEDED, State.NOT_NEEDED, State.INTERRUPTED]


def test_a_source_is_needed_for_a_fold_that_has_yet_to_start():
    """One fold has begun and the handed weights are gone: the other one needs the source; with them it does not."""
    chain = record(folds=("0", "1"))
    finish(chain, chain.stages[2])
    assert [found.state for found in only().stages][:2] == [State.NOT_NEEDED] * 2
    chain.stages[2].weights.unlink()
    assert [found.state for found in only().stages][:2] == [State.WAITING] * 2


def test_who_trains_is_named_by_the_lock():
    """A process of this machine that lives is at the stage; one that is gone is not."""
    chain = record(sources=())
    training_log(chain.stages[0], epoch_lines(range(5)))
    lock(chain.stages[0].files.lock, os.getppid(), socket.gethostname())
    assert only().state is State.RUNNING
    assert str(stage_status(chain.stages[0]).on_disk.holder) == f"process {os.getppid()} on {socket.gethostname()}"
    assert stage_status(chain.stages[0]).epochs_left == 245, "of one that runs nothing is lost"
    lock(chain.stages[0].files.lock, dead_process(), socket.gethostname())
    assert only().state is State.INTERRUPTED


def test_another_machine_is_known_by_its_last_sign(command):
    """The lock file's time tells: a fresh one is at work, an old one is said to be silent."""
    chain = record(sources=())
    training_log(chain.stages[0], epoch_lines(range(5)))
    lock(chain.stages[0].files.lock, 1, "elsewhere", seconds_ago=10)
    assert only().state is State.RUNNING
    lock(chain.stages[0].files.lock, 1, "elsewhere", seconds_ago=720)
    assert only().state is State.SILENT
    assert "last sign 12 min ago" in command("status").out


def test_a_failure_is_quoted(command):
    """The error that a stage printed last is shown; where it trained on after it, it is not."""
    chain = record(sources=())
    training_log(chain.stages[0], epoch_lines(range(5)))
    chain.log(chain.stages[0]).parent.mkdir(parents=True)
    chain.log(chain.stages[0]).write_text("\n".join([*epoch_lines(range(5)), *CRASH]) + "\n")
    found = stage_status(chain.stages[0])
    assert found.state is State.FAILED and found.error == CRASH[-1]
    assert CRASH[-1] in command("status").out
    chain.log(chain.stages[0]).write_text("\n".join([*CRASH, *epoch_lines(range(5))]) + "\n")
    assert stage_status(chain.stages[0]).state is State.INTERRUPTED


def test_an_error_in_nnunets_own_log_counts():
    """A line of nnU-Net's log that is an error, with its time before it."""
    chain = record(sources=())
    training_log(chain.stages[0], [*epoch_lines(range(5)), "2026-05-01 10:10:00.1: RuntimeError: workers died "])
    assert stage_status(chain.stages[0]).error == "RuntimeError: workers died"


def test_what_a_scheduler_says_is_shown():
    """The seam for queues: a folder of a run -> what is said of its stages; what is finished is not in a queue."""
    chain = record()
    finish(chain, chain.stages[0])
    asked: list[Path] = []

    def queue(folder: Path) -> dict[str, str]:
        asked.append(folder)
        return {stage.key: "PENDING" for stage in chain.stages}

    (status,) = run_status(queue=Queue(queue))
    assert asked == [chain.folder]
    assert [found.queue for found in status.stages] == [None, "PENDING", "PENDING"]


GARBAGE = bytes(range(256)) * 50
GARBAGE += b"\nEpoch 99999999999999999999999 \nPseudo dice [1.2.3, np.float32(]\nEpoch time: . s\n"


def folder_instead(path: Path) -> None:
    path.unlink()
    path.mkdir()


def edited_record(chain: MadeRun) -> None:
    path = chain.folder / RECORD
    path.write_text(path.read_text().replace("3d_fullres", "2d"))


def garbage_in_logs(chain: MadeRun) -> None:
    stage = chain.stages[1]
    for path in (training_log(stage, []), stage.output / "validation_summary.json", chain.log(stage)):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(GARBAGE)


def log_is_a_folder(chain: MadeRun) -> None:
    (chain.stages[1].output / "training_log_2027.txt").mkdir(parents=True)
    folder_instead(chain.log(chain.stages[1]))


def stage_is_a_file(chain: MadeRun) -> None:
    shutil.rmtree(chain.stages[1].base)
    chain.stages[1].base.write_text("")


DAMAGES: dict[str, Callable[[MadeRun], Any]] = {
    "edited record": edited_record,
    "truncated record": lambda chain: (chain.folder / RECORD).write_text('{"kind": "run"'),
    "record of a newer format": lambda chain: (chain.folder / RECORD).write_text('{"kind": "run", "format": 99}'),
    "record is a folder": lambda chain: folder_instead(chain.folder / RECORD),
    "garbage in logs": garbage_in_logs,
    "log is a folder": log_is_a_folder,
    "stage deleted": lambda chain: shutil.rmtree(chain.stages[1].base),
    "stage is a file": stage_is_a_file,
    "lock of nobody": lambda chain: chain.stages[1].files.lock.write_bytes(b"\xff\x00pid=\n"),
    "lock of a huge process": lambda chain: lock(chain.stages[1].files.lock, 10**30, socket.gethostname()),
    "summary of another kind": lambda chain: (chain.stages[2].output / "validation" / "summary.json").write_text(
        '{"foreground_mean": [NaN]}'
    ),
    "read-only": lambda chain: results_folder().chmod(0o555),
}


@pytest.mark.parametrize("how", DAMAGES)
def test_damage_is_a_line_and_never_an_error(folders, command, how):
    """Whatever became of a run, its neighbour is shown, its own lines are shown, and nothing is written."""
    chain, other = record(), record(tag="other")
    for stage in chain.stages:
        finish(chain, stage)
    DAMAGES[how](chain)
    before = snapshot(folders)
    try:
        for arguments in ((), ("--json",), (f"{TARGET}/{other.folder.name}",), (str(chain.folder),)):
            outcome = command("status", *arguments)
            if arguments == (str(chain.folder),) and how == "record is a folder":
                assert outcome.status == 2 and outcome.err.count("\n") == 1
                continue
            assert outcome.status == 0, outcome.err
            assert "Traceback" not in outcome.out + outcome.err
        assert {run.name for run in run_status()} == {f"{TARGET}/{run.folder.name}" for run in (chain, other)}
        assert snapshot(folders) == before
    finally:
        results_folder().chmod(0o755)
    if "record" in how:
        assert sum(run.state is State.UNREADABLE for run in run_status()) == 1
        assert "unreadable: " in command("status").out


def snapshot(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_size, path.lstat().st_mtime_ns) for path in sorted(folder.rglob("*"))}


def test_the_text_says_what_a_person_asks(command):
    """Name, path, folds, a line for each stage, and the command that goes on."""
    chain = record(folds=("0", "1"))
    finish(chain, chain.stages[0])
    training_log(chain.stages[1], epoch_lines(range(125)))
    checkpoint(chain.stages[1].output / "checkpoint_latest.pth")
    out = command("status").out
    lines = out.splitlines()
    assert lines[0].startswith(f"{TARGET}/nnUNetPlans_via21_24_3d_fullres  interrupted, about ")
    assert "21 -> 24 -> 4, 3d_fullres, folds 0 1, started " in lines[1]
    assert f"  continue with: nnUNetv2_seq_continue {TARGET}/nnUNetPlans_via21_24_3d_fullres" in lines
    of_second = next(line for line in lines if line.strip().startswith(FAR))
    assert "125 of 250" in of_second and "#####....." in of_second and "0.700" in of_second and "45 s" in of_second
    finish(chain, chain.stages[1])
    for stage in chain.stages[2:]:
        finish(chain, stage)
    out = command("status").out
    assert "continue with" not in out and "0.853" in out
    assert str(chain.stages[2].output) in command("status", chain.folder.name).out, "in detail: where it is"


def test_no_run_at_all_is_said(command):
    """An empty folder is no error."""
    assert command("status").out.startswith("no run is recorded")
    outcome = command("status", "unknown")
    assert outcome.status == 2 and "no run 'unknown'" in outcome.err


def test_json_holds_everything_under_documented_names(command):
    """The schema of docs/reference/files.md, with null where something is not known."""
    chain = record()
    finish(chain, chain.stages[0])
    lock(chain.stages[1].files.lock, os.getppid(), socket.gethostname())
    content: dict[str, Any] = json.loads(command("status", "--json").out)
    assert (content["kind"], content["format"]) == ("status", 1)
    (run,) = content["runs"]
    assert run["state"] == "running" and run["sources"] == [NEAR, FAR] and run["folds"] == ["0"]
    assert run["continue"] == ["nnUNetv2_seq_continue", f"{TARGET}/{chain.folder.name}"]
    first, second, third = run["stages"]
    assert (first["state"], first["pseudo_dice_of_labels"], first["epoch_seconds"]) == ("finished", [0.8, 0.6], 45.0)
    assert second["holder"]["pid"] == os.getppid() and second["state"] == "running"
    assert third["state"] == "waiting" and third["pseudo_dice"] is None and third["validation_dice"] is None
    page = (Path(__file__).parents[2] / "docs" / "reference" / "files.md").read_text()
    assert all(f"`{name}`" in page for name in (*content, *run, *first)), "every name is documented"


def test_watching_ends_with_ctrl_c(command, monkeypatch):
    """It prints again after so many seconds, plainly where there is no terminal, and Ctrl-C is its ordinary end."""
    record()
    waited: list[float] = []

    def sleep(seconds: float) -> None:
        waited.append(seconds)
        if len(waited) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(time, "sleep", sleep)
    outcome = command("status", "--watch", "3")
    assert outcome.status == 0 and waited == [3.0, 3.0]
    assert outcome.out.count("not started") == 2 and "\x1b" not in outcome.out
    assert command("status", "--watch", "--json").status == 2


@pytest.fixture
def opened() -> Iterator[list[str]]:
    """The files that are opened for reading while the test listens (an audit hook cannot be taken away again)."""
    names: list[str] = []
    listening = [True]

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if listening[0] and event == "open" and isinstance(arguments[0], (str, os.PathLike)):
            names.append(os.fspath(arguments[0]))

    sys.addaudithook(hook)
    yield names
    listening[0] = False


def test_of_300_stages_each_file_is_read_at_most_once(folders, opened):
    """100 runs of three stages: everything is found, and no file below nnUNet_results is opened twice."""
    for number in range(100):
        chain = record(tag=f"t{number}")
        for stage in chain.stages[:2]:
            finish(chain, stage)
        training_log(chain.stages[2], epoch_lines(range(3)))
        checkpoint(chain.stages[2].output / "checkpoint_latest.pth")
    opened.clear()
    runs = run_status()
    seen = [name for name in opened if name.startswith(str(folders / "results"))]
    assert len(runs) == 100 and all(run.state is State.INTERRUPTED for run in runs)
    assert len(seen) >= 300
    assert len(seen) == len(set(seen))


def test_runs_are_shown_newest_first():
    """By the time in their records; those that cannot be read come last."""
    older, newer, broken = record(tag="b"), record(tag="a"), record(tag="c")
    from nnunet_seqtransfer.storage import read_json, write_record

    for chain, started in ((older, "2026-05-01T00:00:00+00:00"), (newer, "2026-06-01T00:00:00+00:00")):
        content = read_json(chain.folder / RECORD, "", "")
        content = {key: value for key, value in content.items() if key not in ("kind", "format", "checksum")}
        write_record(chain.folder / RECORD, "run", 2, {**content, "started": started})
    (broken.folder / RECORD).write_text("{")
    assert [run.folder for run in run_status()] == [newer.folder, older.folder, broken.folder]
