"""Runs: recorded whole, found by name, gone on with by any process, all of them or stage by stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_seqtransfer.calibration.runs import read_trained
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import RecordError, StageError
from nnunet_seqtransfer.nnunet.folders import dataset_id
from nnunet_seqtransfer.report.findings import read_findings
from nnunet_seqtransfer.storage import write_record
from nnunet_seqtransfer.training.actions import Action
from nnunet_seqtransfer.training.clean import find_unneeded
from nnunet_seqtransfer.training.decide import Outlook
from nnunet_seqtransfer.training.history import find_trained
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.prefetch import Prefetch
from nnunet_seqtransfer.training.prepare import write_stage_plans
from nnunet_seqtransfer.training.recipe import Recipe, StageBlock
from nnunet_seqtransfer.training.run_record import RECORD, find_run, find_runs, read_run, run_name, write_run
from nnunet_seqtransfer.training.run_stage import prepare_data, run_stage
from nnunet_seqtransfer.training.stages import ChainRequest
from nnunet_seqtransfer.training.status import State, run_status
from nnunet_seqtransfer.training.train import look_ahead
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel
from support.runs import checkpoint
from support.world import FAR, NEAR, SCRIPTS, TARGET, World, python_environment, run

OPTIONS = DeviceOptions("cpu", npz=True, checkpoint_minutes=3)


def request(*sources: str, folds: tuple[str, ...] = ("0",), epochs: int = 2) -> ChainRequest:
    recipe = Recipe(epochs=epochs, iterations=3, seed=1)
    return ChainRequest(TARGET, sources, "nnUNetPlans", "3d_fullres", folds, recipe, recipe, 5)


def recorded(*sources: str, folds: tuple[str, ...] = ("0",), epochs: int = 2) -> Outlook:
    chain = look_ahead(request(*sources, folds=folds, epochs=epochs))
    write_run(chain.request, chain.stages, OPTIONS, 3)
    return chain


def test_a_record_gives_back_everything_that_was_asked_for(world):
    """Request, options and processes come back equal, and every stage names the one that it starts from."""
    chain = recorded(NEAR, FAR, folds=("0", "1"))
    found = read_run(chain.folder)
    assert (found.request, found.options, found.processes) == (chain.request, OPTIONS, 3)
    assert [entry.key for entry in found.stages] == [stage.key for stage in chain.stages]
    assert [entry.after for entry in found.stages] == [None, found.stages[0].key, *[found.stages[1].key] * 2]
    assert found.name == f"{TARGET}/nnUNetPlans_via902_903_3d_fullres"


def test_a_record_keeps_the_model_that_a_chain_begins_with(world, tmp_path):
    """File, member of the archive and checksum are those of the request."""
    chain = look_ahead(request())
    model = PretrainedModel(tmp_path / "a b'.zip", "x/checkpoint_final.pth", "ab" * 32)
    run = write_run(replace(chain.request, pretrained=model), chain.stages, OPTIONS, 3)
    assert read_run(run.folder).request.pretrained == model


def test_folds_of_one_run_are_recorded_together(world):
    """A call for another fold adds it; a call with another recipe is another run in the same place, and replaces it."""
    recorded(NEAR, folds=("0",))
    folder = recorded(NEAR, folds=("2", "1")).folder
    both = read_run(folder)
    assert both.request.folds == ("0", "2", "1")
    assert sorted(entry.fold for entry in both.stages) == ["0", "1", "2", "all"]
    assert read_run(recorded(NEAR, folds=("1",), epochs=9).folder).request.folds == ("1",)


@pytest.mark.parametrize("damage", ["truncated", "edited", "older", "empty"])
def test_a_record_that_cannot_be_read_is_one_line(world, damage):
    """Cut off, edited, of the format before, or empty: the line names the file and how to write it anew."""
    folder = recorded(NEAR).folder
    path = folder / RECORD
    content = json.loads(path.read_text())
    if damage == "edited":
        content["processes"] = 99
    text = json.dumps(content)
    path.write_text("" if damage == "empty" else text[: len(text) // 2] if damage == "truncated" else text)
    if damage == "older":
        write_record(path, "run", 1, {"version": "0.1.0", "started": "", "target": TARGET, "sources": [], "stages": []})
    with pytest.raises(RecordError, match=r"nnUNetv2_seq_train command of this run again") as caught:
        read_run(folder)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_runs_are_found_by_name_by_short_name_and_by_path(world):
    """A name that no run has, or two have, is one line with the names that there are."""
    first, second = recorded(NEAR).folder, recorded(FAR).folder
    assert set(find_runs()) == {first, second}
    for name in (run_name(first), first.name, str(first)):
        assert find_run(name) == first
    with pytest.raises(StageError, match=f"no run 'x'; give one of: .*{second.name}"):
        find_run("x")
    twin = world.results / "Dataset999_Twin" / "seqtransfer" / first.name
    twin.mkdir(parents=True)
    (twin / RECORD).write_text((first / RECORD).read_text())
    with pytest.raises(StageError, match="several targets have a run"):
        find_run(first.name)


def test_runs_are_found_by_target_and_by_plans_name(world):
    """A target means the newest run that fits the configuration, fold and plans named after it."""
    first, second = recorded(NEAR), recorded(FAR)
    os.utime(first.folder / RECORD, (1, 1))
    number, plans = str(dataset_id(TARGET)), first.stages[-1].plans_name
    for words in ((number,), (TARGET,), (number, first.request.configuration, *first.request.folds)):
        assert find_run(*words) == second.folder
    assert find_run(plans) == find_run(number, plans) == first.folder
    for words in ((number, "2d"), (number, "4"), ("4",)):
        with pytest.raises(StageError, match="no run"):
            find_run(*words)


def test_a_run_found_by_its_path_is_the_one_that_all_commands_know(world, monkeypatch):
    """Also where nnUNet_results is a link, or relative: then its folder has several names."""
    folder = recorded(NEAR).folder
    link = world.root / "link"
    link.symlink_to(world.results)
    for results in (str(link), "link"):
        monkeypatch.chdir(world.root)
        monkeypatch.setenv("nnUNet_results", results)
        assert find_run(str(folder)) in set(find_runs())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nowhere"], "there is no run 'nowhere'"),
        (["RUN", "-stage", "a/b/c"], "has no stage 'a/b/c'; choose from"),
        (["RUN", "-stage", "x", "--prepare_only"], "exclude each other"),
        (["RUN", "-device", "cuda", "-num_gpus", "64"], "-num_gpus 64 exceeds the batch size"),
    ],
)
def test_mistakes_of_the_continue_command_are_one_line(world, command, arguments, words):
    """Unknown runs and stages, options that exclude each other, devices that are not there."""
    name = run_name(recorded(NEAR).folder)
    outcome = command("continue_run", *(name if word == "RUN" else word for word in arguments))
    assert outcome.status == 2 and words in outcome.err


def test_a_stage_whose_stage_before_is_not_trained_is_refused(world, command):
    """The line says which weights are missing, and that nothing was trained."""
    chain = recorded(NEAR)
    outcome = command("continue_run", run_name(chain.folder), "-stage", chain.stages[-1].key)
    assert outcome.status == 2 and "is not trained yet" in outcome.err
    assert not list(world.results.rglob("*.pth")) and not list(world.results.rglob(".*.lock"))


def test_data_of_all_sources_can_be_prepared_without_training(world, command):
    """--prepare_only preprocesses what is missing, once, and writes nothing into nnUNet_results."""
    chain = recorded(NEAR, FAR)
    before = {path for path in world.results.rglob("*") if path.is_file()}
    assert command("continue_run", run_name(chain.folder), "--prepare_only").status == 0
    again = look_ahead(chain.request)
    assert chain.to_preprocess.keys() == {NEAR, FAR}
    assert not any(again.to_preprocess.values())
    assert {path for path in world.results.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize("finished", [True, False])
def test_what_another_command_has_trained_otherwise_meanwhile_is_left_alone(world, finished):
    """A command that has waited neither takes it for its own nor writes over its plans: it ends as if it came later."""
    chain, other = (look_ahead(request(NEAR, epochs=epochs)) for epochs in (2, 9))
    stage, theirs = chain.stages[0], other.stages[0]
    block = StageBlock(theirs.target, theirs.path, theirs.role, theirs.recipe, None)
    write_stage_plans(theirs.files, other.survey.plans[theirs], block)
    checkpoint(theirs.output / ("checkpoint_final.pth" if finished else "checkpoint_latest.pth"))
    before = world.snapshot()
    with pytest.raises(StageError, match="trained with a different recipe") as caught:
        run_stage(chain, stage, Context(), train=pytest.fail, wait=True)
    assert world.snapshot() == before
    with pytest.raises(StageError) as later:
        look_ahead(chain.request)
    assert str(later.value) == str(caught.value)


def test_nothing_is_prefetched_if_nothing_is_missing(world):
    """Neither for the stage that trains, nor for sources that are ready."""
    chain = recorded(NEAR, FAR)
    with Prefetch(chain, 2) as prefetch:
        assert prefetch.start(chain.stages[1]) == 0, "the second source trains, the target is preprocessed"
        prepare_data(chain, Context())
        assert prefetch.start(chain.stages[0]) == 0


def test_three_mistakes_are_three_lines(world, command):
    """A fold that does not exist, more GPUs than cases in a batch, and GPUs without CUDA: all are named in one go."""
    before = world.snapshot()
    train = ("train", "901", "3d_fullres", "7", "-s", "902", "-device", "cpu", "-num_gpus", "9", "-np", "1")
    outcome = command(*train)
    assert outcome.status == 2
    lines = outcome.err.splitlines()
    assert len(lines) == 3 and all(line.startswith("error: ") for line in lines)
    for words in ("has no fold 7", "-num_gpus 9 exceeds the batch size of 2", "-num_gpus 9 needs -device cuda"):
        assert sum(words in line for line in lines) == 1
    assert world.snapshot() == before


def test_a_truncated_final_checkpoint_is_unfinished_for_every_command(world, command):
    """Train, continue, status, clean, report, calibrate and plan agree on stages with a checkpoint that is cut off."""
    outlook = recorded(NEAR)
    for stage in outlook.stages:
        block = StageBlock(stage.target, stage.path, stage.role, stage.recipe, None)
        write_stage_plans(stage.files, outlook.survey.plans[stage], block)
        final = checkpoint(stage.files.final)
        final.write_bytes(final.read_bytes()[:-10])
        stage.files.summary.parent.mkdir()
        stage.files.summary.write_text('{"foreground_mean": {"Dice": 0.8}}')
    source, target = outlook.stages
    latest = checkpoint(source.output / "checkpoint_latest.pth")

    (run,) = run_status()
    assert [stage.state for stage in run.stages] == [State.INTERRUPTED, State.WAITING]
    assert latest not in {item.path for item, _ in find_unneeded().items}
    assert [stage.is_finished for stage in read_findings(outlook.folder).stages] == [False, False]
    assert read_trained("nnUNetPlans", "3d_fullres", print) == ()
    assert find_trained(TARGET, "nnUNetPlans", "3d_fullres", None) == {}
    dry = ("-device", "cpu", "--dry_run", "-np", "1")
    recipe = ("-epochs", "2", "-source_epochs", "2", "-iterations", "3", "-seed", "1")
    for words in (("train", "901", "3d_fullres", "0", "-s", "902", *recipe, *dry), ("continue_run", run.name, *dry)):
        out = command(*words).out
        assert f"{source.dataset} fold all {Action.RESUME.value}" in out
        assert f"{target.dataset} fold 0 {Action.START.value}" in out


def wait_until(holds: Callable[[], bool], child: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not holds():
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def log_of(stage: Path) -> str:
    return "".join(path.read_text() for path in sorted(stage.glob("training_log_*.txt")))


def start_training(world: World, arguments: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(SCRIPTS / "nnUNetv2_seq_train"), *arguments],
        env=python_environment(world),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.chain
def test_a_run_is_stopped_and_finished_stage_by_stage_by_other_processes(world):
    """While one process trains, a second says so; the next source is preprocessed meanwhile; SIGTERM stops it at a
    checkpoint; other processes finish the run, one stage each, from its record alone."""
    arguments = ["901", "3d_fullres", "0", "-s", "902", "903", "-device", "cpu", "-epochs", "1", "-iterations", "2"]
    arguments += ["-source_epochs", "200"]
    training = start_training(world, [*arguments, "-np", "1"])
    first = world.results / NEAR / "nnUNetTrainerSeqTransfer__nnUNetPlans_for901__3d_fullres" / "fold_all"
    wait_until(lambda: "Epoch 1" in log_of(first), training)

    again = run([str(SCRIPTS / "nnUNetv2_seq_train"), *arguments], python_environment(world), 2)
    assert f"process {training.pid} on" in again.stderr and "Traceback" not in again.stderr

    prepared = world.preprocessed / FAR
    wait_until(lambda: len(list(prepared.glob("nnUNetPlans_for901_*/*.pkl"))) == 6, training)
    assert "Epoch 199" not in log_of(first), "the second source was preprocessed while the first trained"
    training.send_signal(signal.SIGTERM)
    _, err = training.communicate(timeout=120)
    assert training.returncode == 75 and "stopped by SIGTERM; the same command goes on" in err
    assert (first / "checkpoint_latest.pth").is_file() and not (first / "checkpoint_final.pth").is_file()

    (folder,) = find_runs()
    keys = [entry.key for entry in read_run(folder).stages]
    go_on = [str(SCRIPTS / "nnUNetv2_seq_continue"), run_name(folder)]
    for key in keys:
        run([*go_on, "-stage", key], python_environment(world))
    assert (world.results / read_run(folder).stages[-1].output / "validation" / "summary.json").is_file()
    finished = run(go_on, python_environment(world))
    assert finished.stderr.count("finished") == 3 and "nnUNetv2_predict -d" in finished.stdout
    assert log_of(first).count("Epoch 0 ") == 1, "the first source went on where it was stopped"
