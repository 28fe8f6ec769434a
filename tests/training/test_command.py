"""The command of a request: repeated, it asks for the same."""

from __future__ import annotations

from pathlib import Path

import pytest

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points import train
from nnunet_seqtransfer.entry_points.train import _parse, _request
from nnunet_seqtransfer.tasks import path_syntax
from nnunet_seqtransfer.training.command import seq_train_command
from nnunet_seqtransfer.training.job import CHECKPOINT_VARIABLE, DeviceOptions
from nnunet_seqtransfer.training.stages import ChainRequest
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel
from support.world import FAR, NEAR, TARGET

PLAIN = "901 3d_fullres 0"
LINES = (
    f"{PLAIN} -s none",
    f"{PLAIN} 3 -s none -seed 0 -initial_lr 0.003 -tag mine",
    f"{PLAIN} -s 902 903",
    f"{PLAIN} all -s 902 903 -epochs 40 -source_epochs 40 -iterations 100 -p nnUNetResEncUNetMPlans",
    f"{PLAIN} -s 902 903 -source_epochs 10 20 -source_iterations 30 40 -source_initial_lr 0.01 0.001",
    f"{PLAIN} -s 902 -epochs 7 -iterations 9 -source_iterations 11 -warmup_epochs 0",
    f"{PLAIN} -s 902 -heads_first_epochs 3 -frozen_encoder_epochs 4 -layer_decay 0.7 -patience 30 --new_heads",
    f"{PLAIN} -s 902+903 903 -replay 0.25 -source_epochs 10 20",
    f"{PLAIN} -s 902 902+901 -source_epochs 10",
    f"{PLAIN} -s 903+901",
    f"{PLAIN} -s 902 -init model.zip -min_coverage 0.25 --exclude_overlap -device cpu -checkpoint_minutes 0 --npz",
    f"{PLAIN} -s none -init model.zip --allow_overlap -num_gpus 2",
)


@pytest.fixture(autouse=True)
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Datasets and the pretrained model are looked up as in the world of the tests."""
    known = {"901": TARGET, "902": NEAR, "903": FAR}
    monkeypatch.setattr(train, "dataset_name", known.__getitem__)
    monkeypatch.setattr(path_syntax, "dataset_name", known.__getitem__)
    monkeypatch.setattr(path_syntax, "registered_datasets", tuple)
    model = PretrainedModel(Path("/home/someone/model.zip"), None, "ab" * 32)
    monkeypatch.setattr(train, "find_pretrained", lambda path, configuration: model)


def requested(line: str) -> tuple[ChainRequest, DeviceOptions]:
    """Return what a command line asks for."""
    options = _parse(line.split())
    devices = DeviceOptions(options.device, options.gpus, options.npz, options.checkpoint_minutes)
    return _request(options, Context()), devices


@pytest.mark.parametrize("line", LINES)
def test_the_command_of_a_request_asks_for_it_again(line: str) -> None:
    """Whatever was asked for: the command's own parser makes the same request of it."""
    request, options = requested(line)
    words = seq_train_command(request, options)
    assert words[0] == "nnUNetv2_seq_train" and requested(" ".join(words[1:])) == (request, options)


def test_the_command_says_no_more_than_it_must() -> None:
    """Defaults are left out, equal values of several sources are one, and no path of a model is told."""
    words = seq_train_command(
        *requested(f"{PLAIN} -s 902 903 -source_epochs 250 250 -epochs 250 -init /home/a/model.zip")
    )
    assert words == [*f"nnUNetv2_seq_train {PLAIN} -s 902 903 -init model.zip".split()]


def test_minutes_between_checkpoints_come_from_the_option_else_from_the_variable(monkeypatch, capsys):
    """Else they are ten; what is no number is one line that names where it may come from."""
    words = PLAIN.split()
    monkeypatch.delenv(CHECKPOINT_VARIABLE, raising=False)
    assert _parse(words).checkpoint_minutes == 10
    for written, minutes in (("0.5", 0.5), ("0", 0), (" ", 10)):
        monkeypatch.setenv(CHECKPOINT_VARIABLE, written)
        assert _parse(words).checkpoint_minutes == minutes
    assert _parse([*words, "-checkpoint_minutes", "3"]).checkpoint_minutes == 3
    monkeypatch.setenv(CHECKPOINT_VARIABLE, "ten")
    with pytest.raises(SystemExit) as ended:
        _parse(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2 and CHECKPOINT_VARIABLE in line and "-checkpoint_minutes" in line and "'ten'" in line
