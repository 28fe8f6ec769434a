"""What the queue and the outputs of jobs say, and what follows from it: pure functions, and commands without Slurm."""

from __future__ import annotations

import pytest

from nnunet_seqtransfer.slurm import commands as slurm
from nnunet_seqtransfer.slurm.commands import QueuedJob, parse_queue
from nnunet_seqtransfer.slurm.queue import (
    SubmittedJob,
    ended_stages,
    queue_states,
    read_jobs,
    require_nothing_queued,
    why_it_ended,
    write_jobs,
)
from nnunet_seqtransfer.training.run_record import RECORD, find_runs, read_run
from support.world import TARGET

LISTED = """\
12|seq-a|RUNNING|node7|12:03|None
13|seq-b|PENDING||0:00|Dependency
14|seq-c|RUNNING|node8|1-02:03:04|None
15|seq-d|PENDING||0:00|(Nodes required for job are DOWN | DRAINED)
"""


def queued(name: str, state: str = "PENDING", reason: str = "Dependency") -> QueuedJob:
    return QueuedJob("7", name, state, "", "0:00", reason)


def test_the_queue_is_put_into_words():
    """State, place and time, or why it waits."""
    assert [str(job) for job in parse_queue(LISTED)] == [
        "running on node7 for 0:12:03",
        "pending (Dependency)",
        "running on node8 for 1-02:03:04",
        "pending ((Nodes required for job are DOWN | DRAINED))",
    ]


def test_a_record_is_not_replaced_under_jobs_that_go_by_it(world, command, monkeypatch):
    """Asked for with another recipe, the run needs another name, or an empty queue; other folds only join it."""
    asked = ("901", "3d_fullres", "-s", "902", "-executor", "record", "-np", "1")
    assert command("train", *asked[:2], "0", *asked[2:], "-epochs", "9").status == 0
    (folder,) = find_runs()
    write_jobs(folder, {f"{TARGET}/nnUNetPlans_via902/fold_0": SubmittedJob("7", "seq-a")})
    found = {"seq-a": queued("seq-a")}
    monkeypatch.setattr(slurm, "is_installed", lambda: True)
    monkeypatch.setattr(slurm, "queue", lambda names: {name: found[name] for name in names if name in found})
    before = (folder / RECORD).read_text()
    outcome = command("train", *asked[:2], "0", *asked[2:], "-epochs", "8")
    assert outcome.status == 2 and (folder / RECORD).read_text() == before
    assert "is already queued with other options (1 jobs); name the new run with -tag NAME" in outcome.err
    assert command("train", *asked[:2], "1", *asked[2:], "-epochs", "9").status == 0
    assert read_run(folder).request.folds == ("0", "1")
    found.clear()
    assert command("train", *asked[:2], "0", *asked[2:], "-epochs", "8").status == 0
    assert read_run(folder).request.target_recipe.epochs == 8


def test_where_slurm_does_not_answer_a_record_of_jobs_is_not_replaced(tmp_path, monkeypatch):
    """Its jobs may be in the queue; without recorded jobs, or without Slurm, nothing is asked."""

    def silent(names):
        raise slurm.SlurmError("squeue does not answer")

    monkeypatch.setattr(slurm, "is_installed", lambda: True)
    monkeypatch.setattr(slurm, "queue", silent)
    require_nothing_queued(tmp_path)
    write_jobs(tmp_path, {"a": SubmittedJob("7", "seq-a")})
    with pytest.raises(slurm.SlurmError, match="does not answer"):
        require_nothing_queued(tmp_path)
    monkeypatch.setattr(slurm, "is_installed", lambda: False)
    require_nothing_queued(tmp_path)


def test_a_comparison_does_not_replace_a_record_under_jobs_either(world, command, monkeypatch):
    """Its runs have names that a training can have too; it stops before it trains anything."""
    assert command("affinity", "-t", "901", "-s", "902", "903", "-np", "1").status == 0
    asked = ("901", "3d_fullres", "0", "-s", "none", "-tag", "seed0", "-executor", "record", "-np", "1")
    assert command("train", *asked, "-epochs", "9").status == 0
    (folder,) = find_runs()
    write_jobs(folder, {f"{TARGET}/nnUNetPlans_scratch_seed0/fold_0": SubmittedJob("7", "seq-a")})
    monkeypatch.setattr(slurm, "is_installed", lambda: True)
    monkeypatch.setattr(slurm, "queue", lambda names: {name: queued(name) for name in names})
    before = (folder / RECORD).read_text()
    recipe = ("-epochs", "1", "-source_epochs", "1", "-iterations", "1", "-device", "cpu", "-np", "1")
    outcome = command("compare", "901", "3d_fullres", "-arms", "scratch", "direct", *recipe)
    assert outcome.status == 2 and "is already queued with other options (1 jobs)" in outcome.err, outcome.err
    assert (folder / RECORD).read_text() == before and not list(world.results.rglob("*.pth"))


@pytest.mark.parametrize(
    ("last", "reason"),
    [
        ("ended with exit status 0", None),
        ("error: stage 1 of 2: no disk\nended with exit status 2", "failed: stage 1 of 2: no disk"),
        (
            "slurmstepd-vm: error: *** JOB 7 ON vm CANCELLED AT 2026-11-25T22:55:35 DUE TO TIME LIMIT ***",
            "was ended by Slurm (time limit)",
        ),
        ("slurmstepd-vm: error: *** JOB 7 ON vm CANCELLED AT 2026-11-25T22:55:35 ***", "was cancelled"),
        ("cancelled\nended with exit status 75", "was cancelled"),
        ("  File x\nKeyError: 3\nended with exit status 1", "ended with exit status 1: KeyError: 3"),
        ("Killed", "ended without a message"),
    ],
)
def test_the_output_says_why_a_job_has_ended(last, reason):
    """Of its last start; an error of an earlier one does not count."""
    output = (
        f"\njob 7, start 1, on vm\nerror: earlier\nended with exit status 2\njob 7, start 2, on vm\nepoch 3\n{last}\n"
    )
    assert why_it_ended(output) == reason


def test_stages_that_are_in_no_queue_say_why(tmp_path):
    """With the number of the job and its output; those in the queue and those that ended well say nothing."""
    write_jobs(tmp_path, {key: SubmittedJob("7", f"seq-{key}") for key in ("failed", "good", "queued", "never")})
    (tmp_path / "logs").mkdir()
    for key, status in (("failed", 2), ("good", 0), ("queued", 2)):
        text = f"job 7, start 1, on vm\nerror: no disk\nended with exit status {status}\n"
        (tmp_path / "logs" / f"seq-{key}.log").write_text(text)
    ended = ended_stages(tmp_path, ["queued"])
    assert list(ended) == ["failed"]
    assert ended["failed"].startswith("Slurm job 7 failed: no disk; its output is in ")


def test_the_record_of_jobs_keeps_earlier_ones_and_a_broken_one_is_none(tmp_path):
    """It is only a help: the queue is asked by the names of the stages."""
    write_jobs(tmp_path, {"a": SubmittedJob("1", "seq-a")})
    write_jobs(tmp_path, {"b": SubmittedJob("2", "seq-b")})
    assert {key: job.id for key, job in read_jobs(tmp_path).items()} == {"a": "1", "b": "2"}
    (tmp_path / "slurm.json").write_text("{")
    assert read_jobs(tmp_path) == {} and queue_states(tmp_path) == {}
