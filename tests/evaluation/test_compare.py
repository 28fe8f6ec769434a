"""A real, small comparison: trained, evaluated, resumed, and evaluated on a test set."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import SimpleITK as sitk

from nnunet_seqtransfer.affinity.record import affinity_path
from nnunet_seqtransfer.calibration.runs import read_measurements
from nnunet_seqtransfer.evaluation.comparison import comparison_path, read_comparison
from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.nnunet.validation import mean_dice
from nnunet_seqtransfer.storage import read_json
from nnunet_seqtransfer.training.recipe import read_block
from support.models import checkpoint, save, theirs
from support.world import TARGET

TINY = ("-device", "cpu", "-epochs", "1", "-source_epochs", "1", "-iterations", "2", "-np", "1", "-layer_decay", "0.7")
WANTED = ("901", "3d_fullres", "-arms", "scratch", "direct", "-nearest", "1", *TINY)


def test_without_an_affinity_a_dry_run_says_what_to_run(world, command):
    """It writes nothing, and does not begin to compute."""
    snapshot = world.snapshot()
    outcome = command("compare", *WANTED, "--dry_run")
    assert outcome.status == 2 and "run nnUNetv2_seq_affinity" in outcome.err
    assert world.snapshot() == snapshot


MISTAKES = (
    (("-arms", "best"), "invalid choice: 'best'"),
    (("-paths", "901"), "the target Dataset901_Target is among its sources"),
    (("-f", "7"), "has no fold 7"),
    (("-f", "all"), "fold all holds no case out"),
    (("-test", "902"), "has other channels and labels"),
    (("-test", "901"), "has no labelled test cases"),
    (("-paths", "nowhere.txt"), "cannot read the file of paths nowhere.txt"),
    (("-arms", "scratch"), "at least two are needed"),
)


def test_mistakes_are_one_line(compared, command):
    """What a user can mend is one line and status 2, before anything is trained."""
    for options, message in MISTAKES:
        outcome = command("compare", *WANTED, *options, "--dry_run")
        assert outcome.status == 2 and message in outcome.err, outcome.err
        assert "Traceback" not in outcome.err


def test_wrong_names_are_reported_together(compared, command):
    """Every wrong path and the test set, each once."""
    outcome = command("compare", *WANTED, "-paths", "999", "902,901", "-test", "998", "--dry_run")
    assert outcome.status == 2
    assert all(
        words in outcome.err
        for words in ("unknown dataset '999'", "unknown dataset '998'", "the target Dataset901_Target is among")
    )


def test_a_stored_plan_of_another_metric_or_through_the_test_set_is_not_compared(compared, command):
    """One line that says what to do, before anything is trained; without a plan among the arms it does not matter."""
    wanted = ("901", "3d_fullres", "-arms", "scratch", "planned", *TINY, "--dry_run")
    assert command("plan", "-t", "901", "-must", "902", "-np", "1").status == 0
    assert command("compare", *wanted).status == 0
    outcome = command("compare", *wanted, "-test", "902")
    assert outcome.status == 2 and "goes through the test set Dataset902_Near" in outcome.err
    assert "-avoid 902" in outcome.err and "Traceback" not in outcome.err
    assert command("affinity", "-t", "901", "-s", "902", "903", "-m", "published", "-np", "1").status == 0
    other = str(affinity_path(TARGET, "nnUNetPlans", "3d_fullres", "published"))
    outcome = command("compare", *wanted, "-a", other)
    assert outcome.status == 2 and "rests on the metric descriptors, the affinity on published" in outcome.err
    assert command("compare", *WANTED, "-a", other, "--dry_run").status == 0


def test_paths_of_ones_own(compared, command, tmp_path):
    """From options and from a file, by number or name, once each; comments and empty lines are left out."""
    (tmp_path / "paths.txt").write_text("# mine\n\n902 -> 903\nDataset903_Far\n")
    own = ("-paths", "903,902", "903", str(tmp_path / "paths.txt"))
    outcome = command("compare", "901", "3d_fullres", "-arms", "scratch", *own, *TINY, "--dry_run")
    assert outcome.status == 0, outcome.err
    lines = [line.split("  ")[0] for line in outcome.out.splitlines() if line.rstrip().endswith(("own", "scratch"))]
    assert lines == ["scratch", "903 -> 901", "903 -> 902 -> 901", "902 -> 903 -> 901"]


def test_a_model_is_an_arm_of_its_own(compared, command, tmp_path):
    """-init adds one path that starts from the model, if it covers enough; a wrong file is one line."""
    shallow, architecture = theirs(compared, tmp_path / "theirs.pth")
    path = save(tmp_path / "same.pth", checkpoint(architecture))
    outcome = command("compare", *WANTED, "-init", str(path), "--dry_run", "--json")
    assert outcome.status == 0, outcome.err
    arms = json.loads(outcome.out)[0]
    assert [bool(arm.get("model")) for arm in arms].count(True) == 1 and len(arms) == 3
    covered = ("compare", *WANTED, "--dry_run", "-init", str(shallow), "-min_coverage")
    strict, lax = (command(*covered, least) for least in ("1", "0"))
    assert (strict.status, lax.status) == (2, 0) and "-min_coverage 1" in strict.err, lax.err
    missing = command("compare", *WANTED, "-init", str(tmp_path / "none.pth"), "--dry_run")
    assert missing.status == 2 and "none.pth" in missing.err and "Traceback" not in missing.err


def test_a_plan_takes_no_options_that_it_does_not_obey(command):
    """What a stage keeps of earlier ones is asked of train and compare; the plan does not price it."""
    outcome = command("plan", "901", "-replay", "0.25")
    assert outcome.status == 2 and "unknown option -replay" in outcome.err


@pytest.fixture
def compared(world, command):
    """The world with the affinity of its target."""
    assert command("affinity", "-t", "901", "-s", "902", "903", "-np", "1").status == 0
    return world


@pytest.mark.chain
def test_a_comparison_from_the_budget_to_a_test_set(compared, command, monkeypatch):
    """Two paths trained and scored by nnU-Net's own validation; called again nothing is done; then a test set."""
    world = compared
    snapshot = world.snapshot(caches=False)
    dry = command("compare", *WANTED, "--dry_run")
    assert dry.status == 0 and "3 stages" in dry.out and "0 finished, 3 left" in dry.out, dry.err
    assert world.snapshot(caches=False) == snapshot, "a dry run writes nothing"

    outcome = command("compare", *WANTED)
    assert outcome.status == 0, outcome.err
    assert "95 % interval" in outcome.out
    path = comparison_path(TARGET, "nnUNetPlans", "3d_fullres")
    found = read_comparison(path)
    assert found.complete and [arm.name for arm in found.arms] == ["scratch", "902 -> 901"]
    block = read_block(read_json(plans_path(TARGET, "nnUNetPlans_via902_seed0"), "plans", ""), "3d_fullres")
    assert block is not None and block.recipe.layer_decay == 0.7, "every path is fine-tuned as asked for"
    assert {one.cases for one in found.differences} == {2}
    _agrees_with_nnunet(world, found)
    assert {path.name for path in path.parent.glob("differences.[sp]*")} == {"differences.svg", "differences.pdf"}
    runs = read_measurements(path.with_name("measurements.csv"))
    assert [(run.sources, run.seed) for run in runs] == [((), "0"), (("902",), "0")]

    trained = {name: stamp for name, stamp in world.snapshot().items() if "nnUNetTrainer" in name}
    again = command("compare", *WANTED)
    assert again.status == 0 and "3 finished, 0 left" in again.out
    after = world.snapshot()
    assert {name: after[name] for name in trained} == trained, "nothing is trained twice"
    assert read_comparison(path).scores == found.scores

    with monkeypatch.context() as patch:
        patch.setattr("nnunet_seqtransfer.training.job.train_command", lambda: "/bin/false")
        failed = command("compare", *WANTED, "-paths", "903")
    assert failed.status == 2, failed.err
    kept = read_comparison(path)
    assert kept.scores == found.scores and not kept.complete, "a further path that fails takes nothing away"

    _add_test_set(world)
    tested = command("compare", *WANTED, "-test", "901", "--disable_tta")
    assert tested.status == 0, tested.err
    assert "1 held-out case of Dataset901_Target/imagesTs" in tested.out
    apart = comparison_path(TARGET, "nnUNetPlans", "3d_fullres", test=TARGET)
    assert {one.case for model in read_comparison(apart).scores for one in model.cases} == {"new"}
    assert read_comparison(path).scores == found.scores, "the comparison on the folds stays"


def _agrees_with_nnunet(world, found):
    """Every Dice is the one in nnU-Net's own summary of the validation."""
    for name, plans in (("scratch", "nnUNetPlans_scratch_seed0"), ("902 -> 901", "nnUNetPlans_via902_seed0")):
        folder = world.results / TARGET / f"nnUNetTrainerSeqTransfer__{plans}__3d_fullres" / "fold_0"
        summary = json.loads((folder / "validation" / "summary.json").read_text())
        cases = {entry["reference_file"].split("/")[-1][:5]: entry["metrics"] for entry in summary["metric_per_case"]}
        (model,) = [model for model in found.scores if model.arm == name]
        assert {one.case for one in model.cases} == set(cases)
        for one in model.cases:
            wanted = cases[one.case][{"front": "1", "back": "2"}[one.label]]["Dice"]
            assert (math.nan if one.dice is None else one.dice) == pytest.approx(wanted, nan_ok=True)
        assert mean_dice(model.cases) == pytest.approx(summary["foreground_mean"]["Dice"])
    with comparison_path(TARGET, "nnUNetPlans", "3d_fullres").with_name("scores.csv").open() as stream:
        assert len(list(csv.DictReader(stream))) == sum(len(model.cases) for model in found.scores)


def _add_test_set(world):
    """A case in imagesTs that no other dataset has."""
    folder = world.raw / TARGET
    for part in ("imagesTs", "labelsTs"):
        (folder / part).mkdir()
    rng = np.random.default_rng(11)
    image = sitk.GetImageFromArray(rng.normal(100, 20, (20, 24, 20)).astype(np.float32))
    label = sitk.GetImageFromArray(rng.integers(0, 3, (20, 24, 20), np.uint8))
    sitk.WriteImage(image, str(folder / "imagesTs/new_0000.nii.gz"))
    sitk.WriteImage(label, str(folder / "labelsTs/new.nii.gz"))
