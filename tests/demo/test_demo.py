"""The demo around its trainings: folder, environment, child processes, and the comparison it asks for."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

import pytest

from nnunet_seqtransfer.demo.demo import (
    FOLDERS,
    compare_command,
    demo_digest,
    demo_environment,
    demo_request,
    open_folder,
    run_logged,
)
from nnunet_seqtransfer.entry_points import compare
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.nnunet.folders import dataset_id


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


def test_a_failing_child_names_its_log(tmp_path):
    """A command that fails is one line with its exit status and its log, which holds the output of every call."""
    (tmp_path / "logs").mkdir()
    code = "import os, sys; print(sys.argv[1], os.environ['EXTRA']); sys.exit(int(sys.argv[1]))"
    run_logged(tmp_path, "step", sys.executable, ["-c", code, "0"], EXTRA="a b")
    with pytest.raises(SeqTransferError, match=r"status 3, see .*step\.log"):
        run_logged(tmp_path, "step", sys.executable, ["-c", code, "3"], EXTRA="c")
    assert (tmp_path / "logs" / "step.log").read_text().splitlines() == ["0 a b", "3 c"]


def test_the_parts_side_by_side_are_the_comparison():
    """The command of each seed asks for the same comparison as the call that collects all seeds."""
    whole = demo_request(2)
    for seed in whole.seeds:
        part = compare._request(compare._parse(compare_command(seed)))
        part = replace(part, devices=replace(part.devices, checkpoint_minutes=whole.devices.checkpoint_minutes))
        number = str(dataset_id(whole.target))
        assert part == replace(whole, seeds=(seed,), target=number, test=number)
