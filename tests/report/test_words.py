"""What the page says of a run: scores of fold all, the methods paragraph, commands that repeat it, no folders."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_seqtransfer.affinity.record import Affinity, read_affinity
from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.report.page.findings import Findings, find
from nnunet_seqtransfer.report.page.methods import methods
from nnunet_seqtransfer.report.page.page import render
from nnunet_seqtransfer.report.page.private import without_folders
from nnunet_seqtransfer.report.page.provenance import commands, facts
from nnunet_seqtransfer.report.page.training_words import happened
from nnunet_seqtransfer.report.page.words import result
from nnunet_seqtransfer.training.recipe import Init
from support import made_run
from support.made_run import FAR, NEAR, SMALL, TARGET


def made(folders: Path, sources: Sequence[str] = (NEAR,), folds: Sequence[str] = ("0",), begun: int = 2) -> Findings:
    """A run on few cases, without plan and distances."""
    made_run.write_world(folders / "raw", cases=3)
    return find(made_run.write_made_run(sources, folds, begun=begun))


def planned(folders: Path) -> Findings:
    """A run that follows its plan."""
    made_run.write_world(folders / "raw", cases=1)
    made_run.write_made_plan(made_run.write_made_affinity())
    return find(made_run.write_made_run(begun=0))


def with_recipe(found: Findings, place: int, **changed: object) -> Findings:
    """With another recipe of one stage."""
    stages = list(found.stages)
    entry = stages[place].entry
    stages[place] = replace(stages[place], entry=replace(entry, recipe=replace(entry.recipe, **changed)))  # type: ignore[arg-type]
    return replace(found, stages=tuple(stages))


def test_scores_of_fold_all_are_those_of_training_cases(folders: Path) -> None:
    """nnU-Net validates fold all on the cases that it trained on: no sentence, heading or caption calls them unseen."""
    found = made(folders, (), ("all",), begun=1)
    assert "on the training cases themselves (3 cases), since fold all holds none out" in result(found)
    told = methods(found, {})
    assert "on the training cases themselves (3 cases)" in told and "held out by" not in told
    text = render(found)
    assert "Worst training case: " in text and "Cases that the network was trained on. From left to right" in text
    assert 'class="trained-on"' in text and "validated training cases" in text


def test_fold_all_is_left_out_beside_other_folds(folders: Path) -> None:
    """With folds 0 and all the cases of fold 0 count once, and are called held out."""
    found = made(folders, (), ("0", "all"), begun=2)
    assert [stage.validated for stage in found.stages] == [True, True]
    assert {case.fold for case in found.cases} == {"0"} and len(found.cases) == 3
    assert "in the validation of fold 0 (3 cases)" in result(found)
    assert "On the 3 cases held out by the validated folds" in methods(found, {})
    text = render(found)
    assert "Worst case: " in text and "training cases" not in text and 'class="trained-on"' not in text


def test_methods_tell_what_happened_in_the_training(folders: Path) -> None:
    """A finished stage took its epochs, one at work has done some, one that is to come has not begun."""
    found = made(folders, (NEAR, SMALL), begun=1)
    told = methods(found, {})
    assert f"Training on {NEAR} (3 labelled cases) took 12 epochs of 10 iterations at an initial" in told
    assert f"Training on {SMALL} (3 labelled cases) is not finished, with 6 of 12 epochs of 10 iterations" in told
    assert f"Training on {TARGET} has not begun, it is to take 12 epochs of 10 iterations" in told


def test_methods_tell_of_a_training_that_ended_early(folders: Path) -> None:
    """With -patience a finished stage may have fewer epochs; without it, or without logs, it has them all."""
    found = with_recipe(made(folders, begun=2), 0, epochs=50, patience=5)
    assert happened(found.stages[0]) == "ended early after 12 of 50 epochs"
    assert "ended early after 12 of 50 epochs of 10 iterations" in methods(found, {})
    assert happened(replace(found.stages[0], curve=())) == "took 50 epochs"
    assert happened(with_recipe(found, 0, patience=None).stages[0]) == "took 50 epochs"


def test_folds_that_went_differently_are_told_apart(folders: Path) -> None:
    """Folds alike share a sentence, others have one each."""
    found = made(folders, (), ("0", "1"), begun=2)
    assert f"Training on {TARGET} took 12 epochs" in methods(found, {})
    found = replace(found, stages=(found.stages[0], replace(found.stages[1], trained=False)))
    told = methods(found, {})
    assert f"Training on {TARGET}, fold 0, took 12 epochs" in told
    assert f"Training on {TARGET}, fold 1, is not finished, with 12 of 12 epochs" in told


def test_cases_that_a_stage_leaves_out_are_not_counted(folders: Path) -> None:
    """With --exclude_overlap a source is trained without cases that the target validates on."""
    found = made(folders)
    stage = found.stages[0]
    without = replace(stage, entry=replace(stage.entry, excluded=("case0",)))
    told = methods(replace(found, stages=(without, found.stages[1])), {})
    shared = "shared with the target's validation cases"
    assert f"Training on {NEAR} (2 of 3 labelled cases, without those {shared}) took" in told
    told = methods(replace(found, stages=(without, stage, found.stages[1])), {})
    assert f"Training on {NEAR} (2 to 3 of 3 labelled cases, without those {shared}) took" in told
    told = methods(replace(found, stages=(without, found.stages[1]), case_counts={}), {})
    assert f"Training on {NEAR} (without 1 case {shared}) took" in told


def test_a_planned_path_is_not_chosen_by_hand(folders: Path) -> None:
    """Also where the affinity that the plan rests on was kept elsewhere, or has been deleted."""
    found = planned(folders)
    assert found.follows_plan and found.plan is not None
    told = methods(replace(found, affinity=None), {})
    assert "by hand." not in told
    assert f"Distances were measured by the metric {found.plan.metric}, and the path chosen by" in told
    assert "The order was chosen by hand." in methods(replace(found, plan=None), {})


def test_validation_cases_that_sources_may_hold_are_not_called_unseen(folders: Path) -> None:
    """With --allow_overlap the paragraph and the result say what that means for the Dice."""
    found = made(folders)
    assert "Sources may hold" not in methods(found, {}) and "sources may hold" not in result(found)
    found = replace(found, run=replace(found.run, request=replace(found.run.request, overlap="allow")))
    assert "Sources may hold some of these cases, which makes it too high (--allow_overlap)." in methods(found, {})
    assert "some of which sources may hold" in result(found)


def test_heads_that_were_kept_are_told(folders: Path) -> None:
    """With --keep_heads those of equal names were handed on; without, or where none was, all heads were new."""
    found = made(folders)
    new = "All weights but those of the segmentation heads were handed"
    assert new in methods(found, {})
    found = replace(found, run=replace(found.run, request=replace(found.run.request, keep_heads=True)))
    assert new in methods(found, {}), "the hand-off says that no head was kept"
    target = found.stages[-1]
    assert target.block is not None and isinstance(target.block.init, Init)
    block = replace(target.block, init=replace(target.block.init, heads=(0, None, 1)))
    told = methods(replace(found, stages=(*found.stages[:-1], replace(target, block=block))), {})
    assert new not in told and "of the segmentation heads only those of labels with the same name" in told


def test_constants_given_by_hand_are_no_defaults(folders: Path) -> None:
    """The methods and the provenance say which constants were given; the metric's unit is none of them."""
    found = planned(folders)
    assert found.plan is not None
    for constants, words in (
        ({"start_scale": 2.5, "unit": 7.0, "hop_exponent": 2.0}, "uncalibrated default constants;"),
        ({"start_scale": 3.0}, "uncalibrated default constants but for start scale 3, given by hand;"),
    ):
        changed = replace(found, plan=replace(found.plan, constants=constants))
        assert f"by the strategy exact with {words}" in methods(changed, {})
        assert words.removesuffix(";") in dict(facts(changed))["constants of the cost"]
    calibrated = replace(found, plan=replace(found.plan, constants={"start_scale": 3.0}, calibration="ours"))
    assert "with the calibration ours;" in methods(calibrated, {})


def repeated(found: Findings, affinity: Affinity) -> dict[str, str]:
    """The commands by what they do, with another affinity."""
    return dict(commands(replace(found, affinity=affinity)))


def test_the_commands_repeat_the_affinity_and_the_plan(folders: Path) -> None:
    """Number of cases, metric, seed, weights, and the files of datasets that are not registered here."""
    found = planned(folders)
    assert found.affinity is not None and found.affinity_file is not None and found.plan is not None
    affinity = read_affinity(found.affinity_file)
    told = repeated(found, affinity)
    sources = "-t 901 -c 3d_fullres -s 902 905 903 -m descriptors"
    assert told["Measure the distances"] == f"nnUNetv2_seq_affinity {sources} -cases 2 -seed 3"
    assert told["Plan (with the options in the record)"] == "nnUNetv2_seq_plan -t 901 -c 3d_fullres -m descriptors"
    tasks = tuple(replace(task, registered=task.dataset != SMALL) for task in affinity.tasks)
    told = repeated(found, replace(affinity, cases=0, calibration="ours", tasks=tasks))
    what = f"Measure the distances (with the signature file of {SMALL} and the file of the calibration ours)"
    assert told[what] == (
        f"nnUNetv2_seq_affinity -t 901 -c 3d_fullres -s 902 903 {SMALL}.npz -m descriptors -cases auto -seed 3 "
        "-weights ours.json"
    )
    calibrated = dict(commands(replace(found, plan=replace(found.plan, calibration="ours"))))
    plan = calibrated["Plan (with the options in the record and the file of the calibration ours)"]
    assert plan.endswith("-m descriptors -weights ours.json")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("damaged: /home/some one/data/x.json; make it again", "damaged: x.json; make it again"),
        ("cannot read /a/b.png and '/c/d e/f.png'", "cannot read b.png and 'f.png'"),
        (r"cannot read C:\Users\me\x.nii.gz", "cannot read x.nii.gz"),
        ("the folder /home/me/secret", "the folder secret"),
        ("Dataset901_Target/nnUNetPlans has 3/4 and/or https://example.org/page", None),
        ("1 / 2, a - b", None),
    ],
)
def test_texts_name_no_folders(folders: Path, text: str, shown: str | None) -> None:
    """Absolute paths become their last part; names of runs, shares and addresses stay."""
    assert without_folders(text) == (text if shown is None else shown)


def test_nnunets_folders_become_their_variables(folders: Path) -> None:
    """Below nnU-Net's folders the path stays, to be found again; a folder whose name only begins alike is another."""
    root = results_folder()
    assert without_folders(f"broken: {root}/{TARGET}/x.json; run") == f"broken: nnUNet_results/{TARGET}/x.json; run"
    assert without_folders(f"broken: {root}_old/x.json") == "broken: x.json"


def test_notes_on_the_page_name_no_folders(folders: Path) -> None:
    """Also those with paths that are none of nnU-Net's."""
    found = made(folders, begun=0)
    text = render(replace(found, notes=("The file is damaged: /home/someone/private/x.json; make it again.",)))
    assert "damaged: x.json; make it again" in text and "someone" not in text and json.dumps("private") not in text


def test_an_order_of_ones_own_needs_no_plan(folders: Path) -> None:
    """Without distances and plan only what trains, goes on and predicts is told."""
    assert [what for what, _ in commands(made(folders, (FAR,), begun=0))] == ["Train", "Go on with this run", "Predict"]
