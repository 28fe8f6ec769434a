"""Runs recorded by version 0.1.0 are read, continued, reported and predicted from.

tests/data/runs_of_0_1_0.tar.xz.base64 (packed by `tar -cJ preprocessed results | base64 --wrap=0`) holds nnU-Net's
preprocessed and results folders after these commands of version 0.1.0, without pictures, logs of commands and locks
(nnUNet_n_proc_DA=0, datasets of support/world.py, its narrow network):

    nnUNetv2_plan_and_preprocess -d 901 -c 3d_fullres -np 1
    nnUNetv2_seq_affinity -t 901 -s 902 -c 3d_fullres -np 1
    nnUNetv2_seq_plan -t 901 -c 3d_fullres
    nnUNetv2_seq_train 901 3d_fullres 0 -s 902 -iterations 2 -device cpu -seed 1 -np 1 -source_epochs 2 -epochs 2
    the same with -tag between, killed before the first epoch of the target
    the same with -tag within -epochs 6, killed after the target's first checkpoint; its source's checkpoint is deleted
"""

from __future__ import annotations

import base64
import io
import tarfile
from pathlib import Path

import pytest

from nnunet_seqtransfer.affinity.record import affinity_path, read_affinity
from nnunet_seqtransfer.nnunet.training_log import read_training
from nnunet_seqtransfer.training.decide import Action
from nnunet_seqtransfer.training.run_record import find_run, read_run
from nnunet_seqtransfer.training.status import State, run_status
from nnunet_seqtransfer.training.train import look_ahead
from support.world import NEAR, SCRIPTS, TARGET, World, make_dataset, python_environment, run

ARCHIVE = Path(__file__).parents[1] / "data" / "runs_of_0_1_0.tar.xz.base64"
FINISHED, BETWEEN, WITHIN = (f"nnUNetPlans_via902{tag}_3d_fullres" for tag in ("", "_between", "_within"))
STARTED = {FINISHED: State.FINISHED, BETWEEN: State.INTERRUPTED, WITHIN: State.INTERRUPTED}


@pytest.fixture
def old_world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """Return nnU-Net's folders as version 0.1.0 left them, with raw datasets."""
    world = World(tmp_path / "world")
    world.raw.mkdir(parents=True)
    make_dataset(world.raw, TARGET, ("MRI",), ("front", "back"), 60)
    make_dataset(world.raw, NEAR, ("T1",), ("organ",), 60)
    with tarfile.open(fileobj=io.BytesIO(base64.b64decode(ARCHIVE.read_bytes()))) as archive:
        if hasattr(tarfile, "data_filter"):  # not in the first releases of Python 3.10 and 3.11
            archive.extraction_filter = tarfile.data_filter
        archive.extractall(world.root)  # noqa: S202 - our own archive
    for name, value in world.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    return world


def test_old_records_are_read(old_world: World) -> None:
    """Run records give back the request, and the affinity is read."""
    for name in STARTED:
        found = read_run(find_run(name))
        assert found.version == "0.1.0" and found.request.sources == (NEAR,) and found.request.pretrained is None
        assert [found.role(entry) for entry in found.stages] == ["source", "target"]
    assert read_affinity(affinity_path(TARGET, "nnUNetPlans", "3d_fullres", "descriptors")).target == TARGET


def test_old_runs_have_a_status(old_world: World) -> None:
    """The states are those that the runs were left in."""
    assert {run.folder.name: run.state for run in run_status()} == STARTED
    within = next(run for run in run_status() if run.folder.name == WITHIN)
    assert [stage.state for stage in within.stages] == [State.NOT_NEEDED, State.INTERRUPTED]


def test_old_blocks_are_decided_about(old_world: World) -> None:
    """Recipes, weights and checksums of old blocks count: nothing that was trained is trained again."""
    wanted = {
        FINISHED: [Action.NOTHING, Action.NOTHING],
        BETWEEN: [Action.NOTHING, Action.START],
        WITHIN: [Action.NOT_NEEDED, Action.RESUME],
    }
    for name, actions in wanted.items():
        outlook = look_ahead(read_run(find_run(name)).request)
        assert list(outlook.actions.values()) == actions
        assert not outlook.initial, "the weights that 0.1.0 handed over are used"


@pytest.mark.parametrize("name", [FINISHED, BETWEEN, WITHIN])
def test_old_runs_are_reported(old_world: World, command, name: str) -> None:
    """A page is written, whatever state the run is in."""
    outcome = command("report", name)
    assert outcome.status == 0, outcome.err
    assert (old_world.results / TARGET / "seqtransfer" / name / "report.html").is_file()


@pytest.mark.chain
def test_old_runs_are_continued_and_predicted_from(old_world: World) -> None:
    """Both interrupted runs are finished; stock nnU-Net predicts with a model of before and one of after."""
    environment = python_environment(old_world)
    for name in (BETWEEN, WITHIN):
        run([str(SCRIPTS / "nnUNetv2_seq_continue"), name, "-np", "1"], environment)
        folder = find_run(name)
        assert all(stage.state in (State.FINISHED, State.NOT_NEEDED) for stage in run_status([name])[0].stages)
        assert read_training(read_run(folder).stages[-1].files.output).epochs
    for plans in ("nnUNetPlans_via902", "nnUNetPlans_via902_within"):
        out = old_world.root / plans
        words = ["-i", str(old_world.raw / TARGET / "imagesTr"), "-o", str(out), "-d", "901", "-f", "0"]
        words += ["-tr", "nnUNetTrainerSeqTransfer", "-p", plans, "-c", "3d_fullres", "-device", "cpu", "-npp", "1"]
        run([str(SCRIPTS / "nnUNetv2_predict"), *words, "-nps", "1", "--disable_tta"], environment)
        assert len(list(out.glob("*.nii.gz"))) == 6
