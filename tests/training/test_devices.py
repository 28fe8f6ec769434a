"""Stages side by side on several devices: who runs when, and what a failure or a signal stops."""

from __future__ import annotations

import json
import os
import signal
import threading
import time

import pytest

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.signals import Stopped, raising_on_signals
from nnunet_seqtransfer.training import run_record
from nnunet_seqtransfer.training.decide import Outlook
from nnunet_seqtransfer.training.executors import DevicesExecutor, next_stage, run_chain
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import ChainRequest
from nnunet_seqtransfer.training.train import look_ahead
from support.world import TARGET, python_environment, run

FAKE = """#!{python}
import json, os, pathlib, signal, sys, time
key = sys.argv[3]
told = pathlib.Path({folder!r}) / key.replace("/", "+")
start = time.time()
signal.signal(signal.SIGTERM, lambda *_: (told.with_suffix(".stopped").touch(), sys.exit(75)))
told.with_suffix(".begun").touch()
wait_for, deadline = {together}, time.time() + 20
while time.time() < deadline and len(list(told.parent.glob("*.begun"))) < wait_for:
    time.sleep(0.02)
time.sleep({seconds})
told.write_text(json.dumps([start, time.time(), os.environ.get("CUDA_VISIBLE_DEVICES"), sys.argv[1:]]))
if {failing!r} in key:
    print("error: no disk")
    sys.exit(2)
"""
"""A stage command that writes down when it ran, where, and what it was given."""


def two_folds(*sources: str) -> Outlook:
    recipe = Recipe(1, 2, 0.01, 0, 0)
    return look_ahead(ChainRequest(TARGET, sources, "nnUNetPlans", "3d_fullres", ("0", "1"), recipe, recipe, 0))


@pytest.fixture
def chain(world):
    """One source and two folds of the target, nothing trained."""
    return two_folds("Dataset902_Near")


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Has a fake stage command run; returns what its calls have written, by the fold."""
    folder = tmp_path / "told"
    folder.mkdir()

    def install(failing: str = "-", together: int = 0, seconds: float = 0.0):
        script = tmp_path / "continue"
        given = {"failing": failing, "together": together, "seconds": seconds}
        script.write_text(FAKE.format(python=os.sys.executable, folder=str(folder), **given))
        script.chmod(0o755)
        monkeypatch.setattr(run_record, "own_command", lambda _: str(script))
        monkeypatch.setattr(DevicesExecutor, "check", lambda *_: None)
        return folder

    return install


def told(folder):
    return {path.name.split("+")[-1]: json.loads(path.read_text()) for path in folder.iterdir() if not path.suffix}


def run_on(chain, *names, device="cuda"):
    executor = DevicesExecutor(names, prefetch=0)
    lines = []
    try:
        run_chain(chain, DeviceOptions(device=device), executor, Context(lines.append, 4))
    finally:
        (chain.folder / "lines").write_text("\n".join(lines))
    return lines


def test_the_next_stage_is_one_whose_stage_before_is_finished(chain):
    """First the source alone, then both folds."""
    source, fold0, fold1 = chain.stages
    assert next_stage(chain, (), ()) is source
    assert next_stage(chain, (source,), ()) is None
    assert next_stage(chain, (source,), (source,)) is fold0
    assert next_stage(chain, (source, fold0), (source,)) is fold1


def test_independent_stages_run_side_by_side_each_on_a_device_of_its_own(chain, fake):
    """Both folds at once, after their source; every fold waits until the other has begun too."""
    folder = fake(together=1)
    run_on(chain, "2", "5")
    calls = told(folder)
    assert set(calls) == {"fold_all", "fold_0", "fold_1"}
    assert {calls["fold_0"][2], calls["fold_1"][2]} == {"2", "5"}
    assert calls["fold_all"][1] <= min(calls["fold_0"][0], calls["fold_1"][0])
    assert calls["fold_0"][3][1:] == ["-stage", chain.stages[1].key, "-np", "2", "-device", "cuda"]


def test_two_folds_are_really_at_work_at_the_same_time(world, fake):
    """Without a source: each ends only when both have begun."""
    folder = fake(together=2)
    run_on(two_folds(), "0", "1", device="cpu")
    calls = told(folder)
    assert max(calls["fold_0"][0], calls["fold_1"][0]) < min(calls["fold_0"][1], calls["fold_1"][1])
    assert calls["fold_0"][2] == os.environ.get("CUDA_VISIBLE_DEVICES"), "a CPU needs no such variable"


@pytest.mark.parametrize(
    ("failing", "words", "begun"),
    [
        ("Dataset902_Near fold all", r"2 later stage\(s\) not begun", {"fold_all"}),
        ("Dataset901_Target fold 0", "rerun", {"fold_all", "fold_0", "fold_1"}),
    ],
)
def test_a_stage_that_fails_stops_what_is_behind_it_alone(chain, fake, failing, words, begun):
    """One line for it, one for the end: no fold begins behind a failed source, but the other fold is trained."""
    folder = fake(failing="fold_" + failing.split()[-1])
    with pytest.raises(StageError, match=rf"1 stage\(s\) failed, see above; {words}"):
        run_on(chain, "0")
    assert set(told(folder)) == begun
    assert f"of 3: {failing} failed: no disk" in (chain.folder / "lines").read_text()


def test_a_signal_is_passed_on_to_all_and_they_are_waited_for(world, fake):
    """Each stops at its checkpoint, and nothing runs afterwards."""
    folder = fake(seconds=30)

    def signal_when_both_run() -> None:
        while len(list(folder.glob("*.begun"))) < 2:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    chain = two_folds()
    threading.Thread(target=signal_when_both_run, daemon=True).start()
    with raising_on_signals(), pytest.raises(Stopped):
        run_on(chain, "0", "1")
    assert len(list(folder.glob("*.stopped"))) == 2


@pytest.mark.chain
def test_two_folds_trained_side_by_side_are_those_of_one_after_the_other(world):
    """The real stage command on two slots of the CPU: both folds end, and the command says how to predict."""
    from support.world import SCRIPTS

    recipe = ["-device", "cpu", "-epochs", "1", "-iterations", "2", "-seed", "0", "-np", "2"]
    command = [str(SCRIPTS / "nnUNetv2_seq_train"), "901", "3d_fullres", "0", "1", "-s", "none", *recipe]
    finished = run([*command, "-devices", "0,1"], python_environment(world))
    assert "-f 0 1" in finished.stdout
    base = world.results / TARGET / "nnUNetTrainerSeqTransfer__nnUNetPlans_scratch__3d_fullres"
    assert sorted(path.parent.parent.name for path in base.glob("fold_*/validation/summary.json")) == [
        "fold_0",
        "fold_1",
    ]
    assert (base / "fold_0" / "checkpoint_final.pth").is_file()
