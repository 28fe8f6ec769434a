"""What is submitted, kept and cancelled for a chain, and what Slurm's refusals look like."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_seqtransfer.slurm.commands import QueuedJob, SlurmError, require_accepted, submit
from nnunet_seqtransfer.slurm.executor import needed_by_others, plan_submission, stage_jobs
from nnunet_seqtransfer.slurm.script import BatchJob, SiteOptions
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import ChainRequest
from nnunet_seqtransfer.training.train import look_ahead
from support.world import TARGET


def queued(name: str, state: str = "PENDING", reason: str = "Dependency") -> QueuedJob:
    return QueuedJob("7", name, state, "", "0:00", reason)


def jobs(*after: str | None) -> list[BatchJob]:
    names = "abcdef"
    return [
        BatchJob(names[place], f"seq-{names[place]}", Path("/x"), ("x",), after=before)
        for place, before in enumerate(after)
    ]


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Install an sbatch that prints and exits as told, and an sinfo with two partitions."""

    def install(stderr: str = "", status: int = 0, stdout: str = "") -> None:
        for name, lines in (("sbatch", (stdout, stderr, status)), ("sinfo", ("gpu cpu", "", 0))):
            script = tmp_path / name
            script.write_text(f"#!/bin/sh\necho '{lines[0]}'\necho '{lines[1]}' >&2\nexit {lines[2]}\n")
            script.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    return install


@pytest.mark.parametrize(
    "words",
    [
        "sbatch: unrecognized option --partitoin=gpu",
        "allocation failure: Invalid account or account/partition combination specified",
        "sbatch: error: invalid partition specified: nowhere",
    ],
)
def test_options_that_sbatch_refuses_are_one_line_with_its_words(sbatch, words: str) -> None:
    """An unknown option too: this project keeps no list of them. The partitions are named if one is wrong."""
    sbatch(words, 1)
    with pytest.raises(SlurmError) as raised:
        require_accepted(SiteOptions((("partition", "gpu"),)))
    assert words in str(raised.value) and "--partition=gpu" in str(raised.value)
    assert ("partitions are: gpu, cpu" in str(raised.value)) == ("partition" in words)


def test_a_refusal_that_may_pass_is_none(sbatch) -> None:
    """A job that no node can run right now is queued all the same."""
    sbatch("allocation failure: Requested node configuration is not available", 1)
    require_accepted(SiteOptions())


def test_a_job_without_a_number_is_an_error(sbatch) -> None:
    """As if an option made sbatch print its help; with federated clusters the number comes first."""
    sbatch(stdout="12;cluster")
    assert submit(["sbatch"], "") == "12"
    sbatch(stdout="Usage: sbatch")
    with pytest.raises(SlurmError, match="no job number"):
        submit(["sbatch"], "")


def test_only_what_is_not_in_the_queue_is_submitted():
    """A stage that another chain has submitted is depended on."""
    decision = plan_submission(jobs(None, "a", "b", "b"), {"seq-a": queued("seq-a", "RUNNING")})
    assert [job.key for job in decision.submit] == ["b", "c", "d"]
    assert decision.keep["a"].id == "7" and not decision.replace


def test_jobs_behind_a_failed_one_are_submitted_anew():
    """They wait for a number that will never end well, whether Slurm has noticed already or not."""
    found = {"seq-b": queued("seq-b"), "seq-c": queued("seq-c", reason="DependencyNeverSatisfied")}
    decision = plan_submission(jobs(None, "a", "a"), found)
    assert [job.key for job in decision.submit] == ["a", "b", "c"]
    assert [job.name for job in decision.replace] == ["seq-b", "seq-c"]


def test_a_job_that_runs_is_never_replaced():
    """Even where what it was submitted behind is submitted again."""
    decision = plan_submission(jobs(None, "a"), {"seq-b": queued("seq-b", "RUNNING")})
    assert [job.key for job in decision.submit] == ["a"] and list(decision.keep) == ["b"]


def test_two_configurations_of_one_path_are_other_jobs(world):
    """Their stages' keys are equal, since a run is of one configuration; what the first has submitted is not theirs."""
    recipe = Recipe(1, 2)
    planned = [
        stage_jobs(look_ahead(ChainRequest(TARGET, (), "nnUNetPlans", name, ("0",), recipe, recipe, 0)), 1)
        for name in ("2d", "3d_fullres")
    ]
    assert planned[0][0].key == planned[1][0].key
    found = {job.name: queued(job.name) for job in planned[0]}
    assert plan_submission(planned[1], found).submit == planned[1]
    assert not plan_submission(planned[0], found).submit, "the same work is found by its name"


def test_a_stage_that_another_run_waits_for_is_not_cancelled():
    """Another run with jobs of its own in the queue; one that is only recorded needs nothing."""
    one, two, three = Path("/1"), Path("/2"), Path("/3")
    names = {one: {"s": "S", "x": "X"}, two: {"s": "S", "y": "Y"}, three: {"x": "X", "z": "Z"}}
    found = {name: queued(name) for name in ("s", "x", "y")}
    assert needed_by_others(one, names, found) == {"s": two}


TRAIN = ("train", "901", "3d_fullres", "0", "-s", "902", "-executor", "slurm")


@pytest.mark.parametrize("arguments", [TRAIN, (*TRAIN, "--dry_run"), ("cancel", "r")])
def test_without_slurm_there_is_one_clear_line(world, command, monkeypatch, arguments):
    """And nothing is written."""
    monkeypatch.setenv("PATH", "/nowhere")
    run = world.results / TARGET / "seqtransfer" / "r"
    run.mkdir(parents=True)
    (run / "run.json").write_text("{}")
    before = set(world.results.rglob("*"))
    outcome = command(*arguments)
    assert outcome.status == 2
    errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "needs Slurm's commands (sbatch" in errors[0]
    assert set(world.results.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("-slurm", "partition=gpu"), "need -executor slurm"),
        (("-executor", "slurm", "-devices", "0,1"), "-devices is for this machine"),
        (("-devices", "0,0"), "not a list of different devices"),
        (("-executor", "slurm", "-slurm", "array=0-3"), "array cannot be set"),
        (("-devices", "0,1", "-num_gpus", "2", "-device", "cpu"), "leave out -num_gpus"),
    ],
)
def test_options_that_exclude_each_other_are_refused(world, command, arguments, says):
    """In one line."""
    outcome = command("train", "901", "3d_fullres", "0", "-s", "none", *arguments)
    assert outcome.status == 2 and says in outcome.err
