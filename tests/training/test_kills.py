"""A chain killed at every step (SIGKILL, all processes): the same command again finishes, and nothing is lost."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from nnunet_seqtransfer.nnunet.plans import data_folder, read_plans
from nnunet_seqtransfer.nnunet.preprocessing import load_preprocessed_case, preprocessed_cases
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.task import load_task
from nnunet_seqtransfer.transfer.checkpoints import body_digest, load_checkpoint
from support.models import theirs
from support.world import FAR, NEAR, SCRIPTS, TARGET, World, kill_when, python_environment, run

pytestmark = pytest.mark.chain

TRAINER = "nnUNetTrainerSeqTransfer"
RECIPE = ["-device", "cpu", "-epochs", "3", "-source_epochs", "3", "-iterations", "15", "-np", "1"]
CHAIN = [str(SCRIPTS / "nnUNetv2_seq_train"), "901", "3d_fullres", "0", "-s", "902", "903", *RECIPE]

KILL_INSIDE = """
import os, signal, sys
import nnunet_seqtransfer.training.{module} as module
real = module.{name}
def killed(*arguments, **options):
    {before}
    os.killpg(0, signal.SIGKILL)
module.{name} = killed
from nnunet_seqtransfer.entry_points.train import main
main(sys.argv[1:])
"""
"""The train command, killed with its process group when it calls a certain function."""


class Folders:
    """Where the three stages leave their results."""

    def __init__(self, world: World) -> None:
        def base(dataset: str, plans: str) -> Path:
            return world.results / dataset / f"{TRAINER}__{plans}__3d_fullres"

        self.first = base(NEAR, "nnUNetPlans_for901") / "fold_all"
        self.second = base(FAR, "nnUNetPlans_for901_via902") / "fold_all"
        self.target = base(TARGET, "nnUNetPlans_via902_903") / "fold_0"


def source_data(world: World) -> Path:
    """Where the first source's preprocessed cases will be."""
    target = load_task(TARGET)
    source = load_task(NEAR)
    plans = align_plans(read_plans(TARGET, "nnUNetPlans", "3d_fullres"), target, source)
    return data_folder(NEAR, plans, "3d_fullres")


def log_text(folder: Path) -> str:
    return "".join(path.read_text() for path in sorted(folder.glob("training_log_*.txt")))


def kill_inside(
    world: World, module: str, name: str, before: str = "pass", command: Sequence[str] = tuple(CHAIN)
) -> None:
    """Runs the chain until it calls a certain function, where it is killed."""
    script = KILL_INSIDE.format(module=module, name=name, before=before)
    child = subprocess.run(
        [sys.executable, "-c", script, *command[1:]],
        env=python_environment(world),
        cwd=world.root,  # python -c puts the working folder on the path, which must not be the checkout
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        start_new_session=True,
        check=False,
    )
    assert child.returncode == -signal.SIGKILL, child.stderr


def test_a_chain_killed_at_every_step_finishes_and_loses_nothing(world):
    """Killed while preprocessing, in both source stages, at the hand-off, in the target stage and its validation."""
    stage = Folders(world)
    data = source_data(world)

    # preprocessing: what was whole stays, and is not done again
    kill_when(CHAIN, world, lambda: len(preprocessed_cases(data)) >= 1)
    kept = {case: (data / f"{case}.pkl").stat().st_mtime_ns for case in preprocessed_cases(data)}

    # first source before its first checkpoint: there is nothing to go on from, so it starts again
    kill_when(CHAIN, world, lambda: "Epoch 0" in log_text(stage.first))
    assert not list(stage.first.glob("checkpoint_*.pth"))
    assert {case: (data / f"{case}.pkl").stat().st_mtime_ns for case in kept} == kept

    # first source after a checkpoint: it goes on, epoch 0 is not repeated
    kill_when(CHAIN, world, lambda: "Epoch 1" in log_text(stage.first))
    assert list(stage.first.glob("checkpoint_*.pth"))
    repeated = log_text(stage.first).count("Epoch 0 ")

    # hand-off: before the weights are written, and after it but before the plans say so
    kill_inside(world, "run_stage", "write_initial")
    assert log_text(stage.first).count("Epoch 0 ") == repeated
    first = sha256(stage.first / "checkpoint_final.pth")
    kill_inside(world, "run_stage", "write_initial", before="real(*arguments, **options)")
    assert (stage.second.parent / "seq_transfer_init.pth").is_file()
    assert not stage.second.exists(), "no training has started"

    # second source, after its first checkpoint
    kill_when(CHAIN, world, (stage.second / "checkpoint_best.pth").is_file)

    # target, before and after its first checkpoint
    kill_when(CHAIN, world, lambda: "Epoch 0" in log_text(stage.target))
    second = sha256(stage.second / "checkpoint_final.pth")
    kill_when(CHAIN, world, (stage.target / "checkpoint_best.pth").is_file)

    # final validation
    kill_when(CHAIN, world, lambda: "predicting case" in log_text(stage.target))
    final = sha256(stage.target / "checkpoint_final.pth")
    assert not (stage.target / "validation" / "summary.json").is_file()

    run(CHAIN, python_environment(world))
    assert (stage.target / "validation" / "summary.json").is_file()
    assert sha256(stage.first / "checkpoint_final.pth") == first, "the first source was trained once"
    assert sha256(stage.second / "checkpoint_final.pth") == second, "the second source was trained once"
    assert sha256(stage.target / "checkpoint_final.pth") == final, "the target was not trained again to be validated"
    for before, after in ((stage.first, stage.second), (stage.second, stage.target)):
        assert_never_from_random_weights(before, after)


def assert_never_from_random_weights(before: Path, after: Path) -> None:
    """Every time the stage began at epoch 0, it had just received the body of the final checkpoint before it."""
    expected = body_digest(load_checkpoint(before / "checkpoint_final.pth")["network_weights"])
    begun = 0
    for log in sorted(after.glob("training_log_*.txt")):
        text = log.read_text()
        if re.search(r"Epoch 0\s", text):
            begun += 1
            assert f"body SHA-256 {expected}" in text.split("Epoch 0")[0]
    assert begun >= 1


def test_a_chain_that_begins_with_a_model_survives_kills(world, tmp_path):
    """Killed before the adapted weights are written, and after it but before the plans say so; then it finishes."""
    path, _ = theirs(world, tmp_path / "theirs.pth")
    recipe = [*RECIPE[:2], "-epochs", "1", "-iterations", "2", "-np", "1"]
    begin = ["-s", "none", "-init", str(path), "-min_coverage", "0.1", *recipe]
    chain = [*CHAIN[:4], *begin]
    name = f"nnUNetPlans_init{sha256(path)[:8]}"
    base = world.results / TARGET / f"{TRAINER}__{name}__3d_fullres"
    plans = world.preprocessed / TARGET / f"{name}.json"

    kill_inside(world, "run_stage", "write_initial", command=chain)
    assert not list(base.glob("*.pth")) and not plans.is_file()
    kill_inside(world, "run_stage", "write_initial", before="real(*arguments, **options)", command=chain)
    weights = sha256(base / "seq_transfer_init.pth")
    assert not plans.is_file() and not (base / "fold_0").exists(), "no training has started"
    kill_when(chain, world, lambda: "Epoch 0" in log_text(base / "fold_0"))

    run(chain, python_environment(world))
    assert (base / "fold_0" / "validation" / "summary.json").is_file()
    assert sha256(base / "seq_transfer_init.pth") == weights, "made again, it is the same file"
    expected = body_digest(load_checkpoint(base / "seq_transfer_init.pth")["network_weights"])
    for log in (base / "fold_0").glob("training_log_*.txt"):
        text = log.read_text()
        assert "Epoch 0" not in text or f"body SHA-256 {expected}" in text.split("Epoch 0")[0]
    snapshot = world.snapshot()
    run(chain, python_environment(world))
    assert world.snapshot() == snapshot


def test_an_affinity_killed_while_profiling_is_finished_by_the_same_command(world):
    """What a killed affinity leaves behind does not disturb the next one, whose result is the undisturbed one."""
    affinity = [str(SCRIPTS / "nnUNetv2_seq_affinity"), "-t", "901", "-s", "902", "903", "-np", "2"]
    written = world.preprocessed / TARGET / "seqtransfer"
    (world.preprocessed / NEAR / "dataset_fingerprint.json").unlink()
    kill_when(CHAIN, world, (world.preprocessed / NEAR / "dataset_fingerprint.json").is_file)
    kill_when(affinity, world, lambda: bool(list((world.preprocessed / NEAR).glob("seqtransfer/signature_*"))))
    run(affinity, python_environment(world))
    table = (written / "affinity_nnUNetPlans_3d_fullres_descriptors.csv").read_text()
    for folder in list(world.preprocessed.glob("*/seqtransfer")):
        shutil.rmtree(folder)
    run(affinity, python_environment(world))
    assert (written / "affinity_nnUNetPlans_3d_fullres_descriptors.csv").read_text() == table


def test_a_killed_preprocessing_leaves_only_whole_cases(world):
    """Every case that counts as preprocessed after a kill can be read."""
    data = source_data(world)
    kill_when(CHAIN, world, lambda: len(preprocessed_cases(data)) >= 2)
    for case in preprocessed_cases(data):
        assert load_preprocessed_case(data, case).images.ndim == 4
