"""The demo around its trainings: folder, environment, child processes, and the comparison it asks for."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_seqtransfer.demo.demo import (
    ARMS,
    FOLDERS,
    demo_digest,
    demo_environment,
    demo_request,
    open_folder,
    pools,
    run_forked,
)
from nnunet_seqtransfer.demo.phantoms import SOURCES, TARGET, case_name, write_task
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.training.job import Job


def test_foreign_folders_are_refused(tmp_path, command):
    """A file, or a folder without a demo, is left alone: one line, exit status 2, nothing written."""
    (tmp_path / "mine.txt").write_text("thesis")
    for place in (tmp_path, tmp_path / "mine.txt"):
        outcome = command("demo", "-o", str(place))
        assert outcome.status == 2 and outcome.err.count("\n") == 1 and str(place) in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_demo_is_found_again(tmp_path):
    """An empty or missing folder becomes a demo's, which is opened again; one of another recipe is refused."""
    assert demo_digest() == demo_digest()
    folder = tmp_path / "a'; echo foo"
    assert open_folder(folder, "recipe") == open_folder(folder, "recipe") == folder
    assert (folder / "nnUNet_raw").is_dir()
    with pytest.raises(SeqTransferError, match="another version"):
        open_folder(folder, "other")


def test_the_environment_is_the_demos_and_comes_back(tmp_path, monkeypatch):
    """Children get the demo's folders, one thread, no workers and no foreign trainers; then all is as before."""
    for name, value in (("nnUNet_raw", "/mine"), ("nnUNet_extTrainer", "/elsewhere"), ("nnUNet_n_proc_DA", "7")):
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("nnUNet_results", raising=False)
    before = dict(os.environ)
    with pytest.raises(KeyError), demo_environment(tmp_path):
        assert {name: os.environ[name] for name in FOLDERS} == {name: str(tmp_path / name) for name in FOLDERS}
        assert os.environ["nnUNet_n_proc_DA"] == "0" and os.environ["OMP_NUM_THREADS"] == "1"
        assert "nnUNet_extTrainer" not in os.environ
        raise KeyError
    assert dict(os.environ) == before


def job(folder: Path, *arguments: str) -> Job:
    """A job of nnU-Net's command for training."""
    return Job("step", ("nnUNetv2_train", *arguments), {"EXTRA": "a b"}, folder / "logs" / "step.log", 1)


def test_commands_run_in_forks(tmp_path):
    """A command has its arguments, output and exit status; one that fails is one line that names its log."""
    run_forked(job(tmp_path, "-h"))
    with pytest.raises(SeqTransferError, match=r"nnUNetv2_train ended with exit status 2, see .*step\.log"):
        run_forked(job(tmp_path, "210"))
    log = (tmp_path / "logs" / "step.log").read_text()
    assert log.startswith("usage: nnUNetv2_train") and "the following arguments are required" in log


def test_nnunets_pools_are_forked_for_as_long_as_they_are_asked_to():
    """Whatever context is asked for; then all is as before."""
    before = multiprocessing.get_context
    with pools("fork"):
        assert multiprocessing.get_context("spawn").get_start_method() == "fork"
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.map(abs, [-1]) == [1]
    assert multiprocessing.get_context is before


def test_the_target_is_trained_on_few_of_its_cases(tmp_path):
    """All sources are compared, and the held-out cases are those that are not trained on."""
    request = demo_request(3)
    assert request.seeds == (0, 1, 2) and request.nearest == len(SOURCES) and set(request.kinds) == set(ARMS)
    write_task(tmp_path, replace(TARGET, cases=3))
    names = sorted(path.name for path in (tmp_path / TARGET.name / "labelsTr").iterdir())
    assert names == [f"{case_name(index)}.nii.gz" for index in range(3)] and TARGET.trained < TARGET.cases
