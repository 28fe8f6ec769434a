"""What a scheduler is given to run: the stages' commands, and one dataset's signature at a time."""

from __future__ import annotations

import shlex

from nnunet_seqtransfer.affinity.compute import AffinityRequest
from nnunet_seqtransfer.affinity.filling import missing_signatures
from nnunet_seqtransfer.affinity.metric import find_metric
from nnunet_seqtransfer.slurm.signatures import affinity_jobs
from nnunet_seqtransfer.training.run_record import find_run, read_run
from support.world import FAR, NEAR, TARGET

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


def test_signatures_are_made_one_dataset_at_a_time(world, command):
    """Of a source and of the target; then none is missing, and the affinity is computed without reading an image."""
    request = AffinityRequest("901", ("902", "903"), "nnUNetPlans", "3d_fullres")
    metric = find_metric("descriptors")
    assert missing_signatures(request, metric) == (NEAR, FAR, TARGET)
    assert command("affinity", "-t", "901", "-s", "902", "--signatures_only", "-np", "1").status == 0
    assert missing_signatures(request, metric) == (FAR, TARGET)
    assert command("affinity", "-t", "901", "-s", "901", "903", "--signatures_only", "-np", "1").status == 0
    assert missing_signatures(request, metric) == ()
    made = {path: path.stat().st_mtime_ns for path in world.preprocessed.glob("*/seqtransfer/signature_*.npz")}
    assert len(made) == 3
    assert command("affinity", "-t", "901", "-s", "902", "903", "-np", "1").status == 0
    assert {path: path.stat().st_mtime_ns for path in world.preprocessed.glob("*/seqtransfer/signature_*.npz")} == made


def test_a_source_that_cannot_be_compared_needs_no_signature(world):
    """It would be missing for ever: why it is left out is said where the distances are computed."""
    request = AffinityRequest("901", ("all",), "nnUNetPlans", "3d_fullres")
    missing = missing_signatures(request, find_metric("descriptors"))
    assert "Dataset912_FlatSource" not in missing and NEAR in missing
    (world.preprocessed / NEAR / "dataset_fingerprint.json").unlink()
    assert NEAR in missing_signatures(request, find_metric("descriptors")), "its job extracts the fingerprint first"


def test_the_distances_wait_for_the_array_and_find_files_from_where_they_run(world, monkeypatch):
    """Signature files and a calibration that were named relative to the shell's folder."""
    monkeypatch.chdir(world.root)
    request = AffinityRequest(TARGET, ("902", "elsewhere.npz"), "nnUNetPlans", "3d_fullres", cases=0)
    signatures, distances = affinity_jobs(request, "descriptors", None, (NEAR, TARGET))
    assert signatures.array == (NEAR, TARGET) and signatures.command[-2:] == ("--signatures_only", "-s")
    assert distances.after == signatures.key and distances.after_any
    assert distances.command[-3:] == ("-s", "902", str(world.root / "elsewhere.npz"))
    assert "auto" in distances.command and signatures.name != distances.name
