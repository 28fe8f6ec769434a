"""nnUNetv2_seq_affinity leaves out what would leak, and shows the evidence next to the distance."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

from nnunet_seqtransfer.affinity.record import affinity_path, read_affinity
from nnunet_seqtransfer.planning.record import plan_file, read_plan
from support.bad_inputs import Command
from support.world import NEAR, TARGET, World, python_environment

PLANS = ("nnUNetPlans", "3d_fullres")


def test_relatives_of_the_target_are_left_out(world: World, command: Command) -> None:
    """Its origin, and siblings with a common case, get one line each, no distance, and no place in a plan."""
    for number, name in (("951", "Part"), ("952", "Sibling")):
        assert command("derive", "-d", "901", "-most", "4", "-number", number, "-name", name).status == 0
    target, sibling = "Dataset951_Part", "Dataset952_Sibling"
    # planned and preprocessed as its origin is, which saves a minute
    shutil.copytree(world.preprocessed / TARGET, world.preprocessed / target)
    plans = world.preprocessed / target / "nnUNetPlans.json"
    plans.write_text(json.dumps({**json.loads(plans.read_text()), "dataset_name": target}))
    shutil.copyfile(world.raw / target / "dataset.json", world.preprocessed / target / "dataset.json")
    cases = set(json.loads((world.raw / target / "derived.json").read_text())["cases"])
    fingerprint = world.preprocessed / target / "dataset_fingerprint.json"
    content = json.loads(fingerprint.read_text())
    kept = [place for place in range(6) if f"case{place}" in cases]
    for key in ("spacings", "shapes_after_crop"):
        content[key] = [content[key][place] for place in kept]
    fingerprint.write_text(json.dumps(content))

    outcome = command("affinity", "-t", "951", "-np", "1", "-n_cases", "2")
    assert outcome.status == 0, outcome.err
    assert "901, 952 (shared cases" in outcome.err
    assert not {TARGET, sibling} & set(read_affinity(affinity_path(target, *PLANS, "descriptors")).names)
    assert command("plan", "-t", "951", "-np", "1").status == 0
    assert not {TARGET, sibling} & {
        name for path in read_plan(plan_file(target, *PLANS)).candidates for name in path.path
    }

    outcome = command("affinity", "-t", "951", "-np", "1", "-n_cases", "2", "--allow_overlap", "-s", "901", "902")
    assert outcome.status == 0, outcome.err
    marked = [line for line in outcome.out.splitlines() if "holds cases of the target" in line]
    assert len(marked) == 1 and TARGET in marked[0]
    assert command("plan", "-t", "951", "-np", "1").status == 0
    plan = read_plan(plan_file(target, *PLANS))
    assert [entry.dataset for entry in plan.left_out] == [TARGET]


def test_names_stand_next_to_the_distance(world: World, command: Command) -> None:
    """The table has the match of the names; nothing to probe is said, and is no error."""
    outcome = command("affinity", "-t", "901", "-s", "902", "-np", "1", "-n_cases", "2", "--probe", "-device", "cpu")
    assert outcome.status == 0, outcome.err
    assert "names" in outcome.out and "none of the sources has a finished model" in outcome.err
    assert NEAR in outcome.out


@pytest.mark.parametrize("metric", ["descriptors", "published"])
def test_a_dataset_is_nearest_to_a_random_part_of_it(
    folders: Path, shared_data: Path, command: Command, metric: str
) -> None:
    """Eight cases of real data with mixed intensity scales lie nearer to the whole dataset than to any other."""
    for number in ("004", "021", "023", "025"):
        dataset = next(shared_data.glob(f"Dataset{number}_*"))
        (folders / "raw" / dataset.name).symlink_to(dataset)
    assert command("derive", "-d", "4", "-most", "8", "-number", "501", "-name", "HippoEight").status == 0
    target = "Dataset501_HippoEight"
    extract_fingerprints([501], num_processes=1)
    plan_experiments([501])
    preprocess([501], configurations=["3d_fullres"], num_processes=[1])
    arguments = ("-t", "501", "-s", "4", "21", "23", "25", "-np", "1", "-m", metric, "--allow_overlap")
    outcome = command("affinity", *arguments)
    assert outcome.status == 0, outcome.err
    affinity = read_affinity(affinity_path(target, *PLANS, metric))
    assert affinity.names[affinity.ranking()[0]].startswith("Dataset004")


def test_a_dry_run_after_an_affinity_reads_little(world: World, command: Command) -> None:
    """It sketches nothing and does without torch, whose import takes longer than all the rest."""
    assert command("affinity", "-t", "901", "-s", "902", "-np", "1").status == 0
    before = {path: stamp for path, stamp in world.snapshot().items() if "sketches_" in path}
    assert len(before) == 2
    words = ["train", "901", "3d_fullres", "0", "-s", "902", "--dry_run"]
    code = (
        f"import sys; sys.argv = {words}\nfrom nnunet_seqtransfer.entry_points.train import main\n"
        "try:\n    main()\nfinally:\n    print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=python_environment(world),
        cwd=world.root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[-1] == "False", done.stderr
    assert {path: stamp for path, stamp in world.snapshot().items() if "sketches_" in path} == before
