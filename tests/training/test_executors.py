"""Executors: by name, of this package and of others, and the commands for another scheduler."""

from __future__ import annotations

import importlib.metadata
import shlex

import pytest

from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.slurm.executor import SlurmExecutor
from nnunet_seqtransfer.training import executors
from nnunet_seqtransfer.training.executors import (
    DevicesExecutor,
    ExecutorOptions,
    LocalExecutor,
    RecordExecutor,
    make_executor,
)
from nnunet_seqtransfer.training.run_record import find_run, read_run
from support.world import NEAR, TARGET

SOURCE = f"{NEAR}/nnUNetPlans_for901/fold_all"


def test_a_run_can_be_recorded_for_another_scheduler(world, command):
    """Key, command and the stage to wait for, a line each; nothing is trained, and the commands find the run."""
    outcome = command("train", "901", "3d_fullres", "0", "1", "-s", "902", "-executor", "record", "-np", "3")
    assert outcome.status == 0, outcome.err
    rows = [line.split("\t") for line in outcome.out.splitlines()]
    folds = [f"{TARGET}/nnUNetPlans_via902/fold_{fold}" for fold in (0, 1)]
    assert [(key, after) for key, _, after in rows] == [(SOURCE, ""), (folds[0], SOURCE), (folds[1], SOURCE)]
    words = shlex.split(rows[1][1])
    assert words[2:] == ["-stage", folds[0], "--wait", "-np", "3"]
    assert [entry.key for entry in read_run(find_run(words[1])).stages] == [SOURCE, *folds]
    assert not list(world.results.rglob("*.pth"))


def test_executors_are_made_by_name(tmp_path, monkeypatch):
    """-devices changes what local means; an unknown name is answered with all names."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    options = ExecutorOptions(wait=True, prefetch=3, slurm=("partition=gpu",))
    assert make_executor("local", options) == LocalExecutor(wait=True, prefetch=3)
    assert make_executor("record", options) == RecordExecutor()
    slurm = make_executor("slurm", options)
    assert isinstance(slurm, SlurmExecutor) and slurm.site.arguments == ("--partition=gpu",)
    devices = make_executor("local", ExecutorOptions(devices=("0", "1")))
    assert isinstance(devices, DevicesExecutor) and devices.devices == ("0", "1")
    with pytest.raises(StageError, match="local, slurm, record"):
        make_executor("lsf", options)


def test_other_packages_can_add_an_executor(monkeypatch):
    """Through an entry point; names of this package stay its own."""
    points = [
        importlib.metadata.EntryPoint(name, f"{executors.__name__}:record_executor", executors.ENTRY_POINT_GROUP)
        for name in ("lsf", "local")
    ]
    monkeypatch.setattr(executors, "entry_points", lambda group: points)
    assert list(executors.executors()) == ["local", "slurm", "record", "lsf"]
    assert isinstance(make_executor("lsf", ExecutorOptions(wait=True)), RecordExecutor)
    assert isinstance(make_executor("local", ExecutorOptions()), LocalExecutor)
