"""What a scheduler is given to run: the commands of the stages."""

from __future__ import annotations

import shlex

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
