"""Chains on a real Slurm on this machine: submitted, shared, failed, gone on with, cancelled."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nnunet_seqtransfer.slurm.queue import ended_stages, queue_states, stage_job_name
from support.world import NEAR, SHARED, TARGET, World

pytestmark = [pytest.mark.slurm, pytest.mark.chain, pytest.mark.xdist_group("slurm")]

STARTER = SHARED / "slurm" / "single_node_slurm.sh"
SMALL = ("-device", "cpu", "-epochs", "1", "-source_epochs", "1", "-iterations", "2", "-seed", "0", "-np", "1")
SITE = ("-executor", "slurm", "-slurm", "cpus-per-task=1")
TRAINER = "nnUNetTrainerSeqTransfer"
HOSTILE = 'a\'; echo foo\n"$HOME" %j'


def answers() -> bool:
    return bool(shutil.which("sinfo")) and subprocess.run(["sinfo"], capture_output=True, check=False).returncode == 0


@pytest.fixture(scope="session")
def slurm() -> Iterator[None]:
    """A Slurm that has this machine as a node; one that was started for the tests is stopped after them."""
    if answers():
        yield
        return
    if not STARTER.is_file():
        pytest.skip(f"no Slurm answers, and there is no {STARTER} to start one")
    if os.geteuid() != 0:
        pytest.skip("no Slurm answers, and only root can start one")
    started = subprocess.run(["bash", str(STARTER), "start"], capture_output=True, text=True, check=False, timeout=300)
    if started.returncode != 0 and shutil.which("slurmctld") is None:
        pytest.skip(f"Slurm cannot be installed: {started.stderr[-200:]}")
    assert started.returncode == 0, started.stderr
    yield
    subprocess.run(["bash", str(STARTER), "stop"], check=True)


@pytest.fixture
def hostile_world(slurm: None, world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The world in a folder whose name no shell and no pattern of Slurm must see."""
    moved = World(world.root.with_name(HOSTILE))
    world.root.rename(moved.root)
    for name, value in moved.environment.items():
        monkeypatch.setenv(name, value)
    return moved


def squeue(*options: str) -> list[str]:
    finished = subprocess.run(["squeue", "--noheader", *options], capture_output=True, text=True, check=True)
    return finished.stdout.splitlines()


def wait_for(*keys: str, seconds: float = 400) -> None:
    """Until the jobs of these stages have left the queue; those that were requeued start at once."""
    names = ",".join(stage_job_name(key, "3d_fullres") for key in keys)
    deadline = time.monotonic() + seconds
    while listed := squeue(f"--name={names}", "--format=%i|%T|%r"):
        assert time.monotonic() < deadline, listed
        time.sleep(1)


def run_folder(world: World, name: str) -> Path:
    return world.results / TARGET / "seqtransfer" / name


def test_chains_share_a_stage_and_a_failure_is_said_and_gone_on_from(hostile_world, command):
    """What fails says why and stops what is behind it; the same command submits it again, once for two chains."""
    world = hostile_world
    first = ("901", "3d_fullres", "0", "-s", "902", *SMALL, *SITE)
    second = ("901", "3d_fullres", "0", "-s", "902", "903", *SMALL, *SITE)
    source, target = f"{NEAR}/nnUNetPlans_for901/fold_all", f"{TARGET}/nnUNetPlans_via902/fold_0"
    run = run_folder(world, "nnUNetPlans_via902_3d_fullres")

    outcome = command("train", *first, "-slurm", "hold")
    assert outcome.status == 0, outcome.err
    assert "2 job(s) submitted, 0 in the queue already" in outcome.err and "predict with" not in outcome.out
    assert queue_states(run)[target].startswith("pending (")
    broken = world.preprocessed / NEAR / "nnUNetPlans_for901.json"
    broken.write_text("{")
    names = ",".join(stage_job_name(key, "3d_fullres") for key in (source, target))
    numbers = squeue(f"--name={names}", "--format=%i")
    subprocess.run(["scontrol", "release", *numbers], check=True)
    wait_for(source, target)
    ended = ended_stages(run, queue_states(run))
    assert set(ended) == {source} and "failed: the plans file nnUNetPlans_for901 is broken" in ended[source]

    broken.unlink()
    assert "2 job(s) submitted, 0 in the queue already" in command("train", *first).err
    outcome = command("train", *second)
    assert "2 job(s) submitted, 1 in the queue already" in outcome.err, "the source is there already"
    assert command("cancel", run_folder(world, "nnUNetPlans_via902_903_3d_fullres").name).status == 0
    assert set(queue_states(run)) == {source, target}, "the other run keeps the source"
    wait_for(source, target)
    results = world.results / TARGET / f"{TRAINER}__nnUNetPlans_via902__3d_fullres"
    assert (results / "fold_0" / "validation" / "summary.json").is_file(), ended_stages(run, ())
    logs = world.results / NEAR / f"{TRAINER}__nnUNetPlans_for901__3d_fullres" / "fold_all"
    assert len(list(logs.glob("training_log_*.txt"))) == 1, "the source was trained once"
    outcome = command("train", *first)
    assert outcome.status == 0 and "predict with" in outcome.out, "all is finished: nothing is submitted"


def test_submissions_for_later_are_shown_and_cancelled(hostile_world, command):
    """No training: what --dry_run prints is submitted, the queue says it waits, and cancelling empties it."""
    arguments = ("901", "3d_fullres", "0", "1", "-s", "902", *SMALL, *SITE, "-slurm", "begin=now+1day", "-tag", "later")
    printed = command("train", *arguments, "--dry_run")
    assert printed.status == 0 and printed.out.count("sbatch --parsable") == 3 and not squeue("--name=x")
    assert command("train", *arguments).status == 0
    run = run_folder(hostile_world, "nnUNetPlans_via902_later_3d_fullres")
    states = queue_states(run)
    assert len(states) == 3 and all(state.startswith("pending (") for state in states.values())
    again = command("train", *arguments)
    assert "0 job(s) submitted, 3 in the queue already" in again.err
    assert command("cancel", run.name).out.count("cancelled") == 3
    assert not queue_states(run)


def test_what_slurm_refuses_is_one_line_with_its_words(slurm, world, command):
    """A partition that there is not, before anything is written; those that there are."""
    outcome = command("train", "901", "3d_fullres", "0", "-s", "902", *SMALL, *SITE, "-slurm", "partition=nowhere")
    assert outcome.status == 2 and "partitions are: " in outcome.err
    assert not list(world.results.glob("*/seqtransfer"))
