"""The demo around its trainings: folders, child processes, table, words, pictures."""

from __future__ import annotations

import os
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from nnunet_seqtransfer.demo.children import Children, run_lanes
from nnunet_seqtransfer.demo.demo import sequence_of
from nnunet_seqtransfer.demo.pictures import picked
from nnunet_seqtransfer.demo.summary import Outcome, Row, results_table, verdict
from nnunet_seqtransfer.demo.trials import Trial, plans_name, recipe_digest
from nnunet_seqtransfer.demo.workplace import nnunet_folders, open_workplace
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.nnunet import folders as folders_module
from nnunet_seqtransfer.planning.record import CandidatePath, SequencePlan
from nnunet_seqtransfer.report.overlay import OverlayRow, draw_overlay

TARGET, NEAR, FAR = "Dataset210_T", "Dataset201_A", "Dataset202_B"


def test_foreign_folders_are_refused(tmp_path, command):
    """A folder that holds anything but a demo is left alone: one line, exit status 2, nothing written."""
    (tmp_path / "mine.txt").write_text("thesis")
    outcome = command("demo", "-o", str(tmp_path))
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert str(tmp_path) in outcome.err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_files_are_refused_as_folders(tmp_path, command):
    """A file where the folder should be is refused in the same way."""
    (tmp_path / "file").write_text("")
    outcome = command("demo", "-o", str(tmp_path / "file"))
    assert outcome.status == 2
    assert outcome.err.startswith("error: ")


def test_a_demo_is_found_again(tmp_path):
    """An empty or missing folder becomes a demo's, which is opened again; one of another recipe is refused."""
    folder = tmp_path / "a'; echo foo"
    place = open_workplace(folder, "recipe")
    assert open_workplace(folder, "recipe") == place
    assert place.raw.is_dir()
    with pytest.raises(SeqTransferError, match="another version"):
        open_workplace(folder, "other")


def test_the_recipe_is_stable():
    """The digest that tells recipes apart is the same whenever it is computed."""
    assert recipe_digest() == recipe_digest()


def test_own_folders_come_back(tmp_path, monkeypatch):
    """The user's own nnU-Net folders are set again when the demo is over, and unset where they were not set."""
    monkeypatch.setenv("nnUNet_raw", "/mine")
    monkeypatch.delenv("nnUNet_results", raising=False)
    place = open_workplace(tmp_path / "demo", "recipe")
    with nnunet_folders(place):
        assert os.environ["nnUNet_raw"] == str(place.raw)
    assert os.environ["nnUNet_raw"] == "/mine"
    assert "nnUNet_results" not in os.environ


def test_children_see_the_demo_only(tmp_path, monkeypatch):
    """Children get the demo's folders and no foreign trainers; only trainings are told to augment by themselves."""
    monkeypatch.setenv("nnUNet_extTrainer", "/elsewhere")
    monkeypatch.setenv("nnUNet_n_proc_DA", "7")
    place = open_workplace(tmp_path / "demo", "recipe")
    children = Children(place, 2)
    planning, training = children.environment(trains=False), children.environment(trains=True)
    assert planning["nnUNet_raw"] == str(place.raw)
    assert "nnUNet_extTrainer" not in planning
    assert "nnUNet_n_proc_DA" not in planning
    assert training["nnUNet_n_proc_DA"] == "0"
    assert training["PYTHON_CPU_COUNT"] == "1"


def test_a_failing_child_names_its_log(tmp_path, monkeypatch):
    """A command that fails is one line with its exit status and its log, which holds command and output."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    script = scripts / "fails"
    script.write_text(f"#!{sys.executable}\nimport os, sys\nprint('cores', os.cpu_count())\nsys.exit(3)\n")
    script.chmod(0o755)
    monkeypatch.setattr(folders_module, "scripts_folder", lambda: scripts)
    children = Children(open_workplace(tmp_path / "demo", "recipe"), 2)
    with pytest.raises(SeqTransferError, match="status 3") as caught:
        children.run("step", "fails", "-x", "a b")
    log = children.place.logs / "step.log"
    assert str(log) in str(caught.value)
    assert log.read_text().splitlines() == ["$ fails -x a b", "cores 1"]
    with pytest.raises(SeqTransferError, match="command missing is neither in"):
        children.run("step", "missing")


def test_lanes_keep_their_order_and_stop_at_an_error():
    """Steps of a lane follow each other, lanes run side by side, and an error ends what has not begun."""
    done: list[str] = []
    both = threading.Barrier(2, timeout=10)
    run_lanes([[both.wait, lambda: done.append("a2")], [both.wait, lambda: done.append("b2")]], 2)
    assert sorted(done) == ["a2", "b2"]

    def fail() -> None:
        raise SeqTransferError("no")

    late: list[str] = []
    slow = [lambda: time.sleep(0.2), lambda: late.append("late")]
    with pytest.raises(SeqTransferError, match="no"):
        run_lanes([[fail], slow, [lambda: late.append("later")]], 2)
    assert late == []


def test_plans_names_follow_the_path():
    """A trial is predicted under the plans name that the project's training gave it."""
    assert plans_name(Trial((), 1)) == "nnUNetPlans_scratch_seed1"
    assert plans_name(Trial((), 1, 6)) == "nnUNetPlans_scratch_long_seed1"
    assert plans_name(Trial((NEAR, FAR), 0)) == "nnUNetPlans_via201_202_seed0"


def test_the_sequence_that_is_trained():
    """The planned sequence, else the cheapest one among the candidates, else none."""
    candidates = [CandidatePath((*sources, TARGET), 1.0, 1.0, (), 0.0) for sources in ((NEAR,), (FAR, NEAR), ())]
    assert sequence_of(_plan((NEAR, FAR), candidates)) == (NEAR, FAR)
    assert sequence_of(_plan((NEAR,), candidates)) == (FAR, NEAR)
    assert sequence_of(_plan((), candidates[:1])) is None


def test_the_table():
    """Each path has a row with its seeds, mean and spread; roles are named."""
    lines = results_table(_outcome(planned=(NEAR, FAR)), TARGET).splitlines()
    assert lines[0].split() == ["path", "seed", "0", "seed", "1", "mean", "spread"]
    assert lines[2].split() == ["scratch", "(210)", "0.400", "0.500", "0.450", "0.100"]
    assert lines[3].startswith("scratch (210), as long")
    assert "best direct" in lines[4]
    assert "worst direct" in lines[5]
    assert lines[6].split() == ["201", "->", "202", "->", "210", "planned", "0.700", "0.500", "0.600", "0.200"]


def test_words_when_the_sequence_loses():
    """A plan that did worse than the best direct transfer is said to be a loss, and a harmful source to do harm."""
    text = "\n".join(verdict(_outcome(planned=(NEAR, FAR)), TARGET))
    assert "a loss (-0.100), better on 0 of 2 seeds" in text
    assert "does harm" in text
    assert "1 of 1 pairs" in text


@pytest.mark.parametrize(("planned", "kind"), [((), "scratch"), ((NEAR,), "direct transfer")])
def test_words_when_no_sequence_is_planned(planned, kind):
    """A plan without a sequence is reported as such, and the trained sequence as a comparison."""
    text = "\n".join(verdict(_outcome(planned=planned), TARGET))
    assert f"The plan was {kind}" in text
    assert "No sequence was planned" in text


@pytest.mark.parametrize(("long_dice", "words"), [(0.5, "worth +0.100"), (0.6, "the length"), (0.9, "the length")])
def test_words_on_the_length_of_training(long_dice, words):
    """A path's gain counts as its own only beyond what scratch reaches in as many iterations."""
    text = "\n".join(verdict(_outcome((NEAR, FAR), long_dice), TARGET))
    assert words in text
    assert "its 3 stages" in text


def test_picked_cases():
    """Worst, median and best follow the Dice, and names where it is equal."""
    assert picked({"a": 0.5, "b": 0.1, "c": 0.9}) == {"worst": "b", "median": "a", "best": "c"}
    assert picked({"b": 0.5, "a": 0.5}) == {"worst": "a", "median": "a", "best": "b"}


def test_the_overlay_is_drawn(tmp_path):
    """Cases with and without foreground are drawn into one PNG of some size."""
    image = np.random.default_rng(0).normal(size=(32, 32))
    square = np.zeros((32, 32), dtype=np.uint8)
    square[0:20, 10:20] = 1
    rows = [
        OverlayRow("case", image, square, (square, np.zeros_like(square)), ("one", "two")),
        OverlayRow("empty", image, np.zeros_like(square), (np.zeros_like(square),) * 2, ("one", "two")),
    ]
    draw_overlay(rows, [("object", 1), ("other", 2)], "title", tmp_path / "overlay.png")
    with Image.open(tmp_path / "overlay.png") as picture:
        assert min(picture.size) > 600
    assert [path.name for path in tmp_path.iterdir()] == ["overlay.png"]


def _plan(sources, candidates):
    return SequencePlan(TARGET, "nnUNetPlans", "2d", sources, "exact", "descriptors", "x", tuple(candidates), ())


def _outcome(planned, long_dice=0.5):
    return Outcome(
        scratch=Row((), (0.4, 0.5)),
        long_scratch=Row((), (long_dice, long_dice), as_long=True),
        directs=(Row((NEAR,), (0.8, 0.6)), Row((FAR,), (0.1, 0.2))),
        sequence=Row((NEAR, FAR), (0.7, 0.5)),
        planned=planned,
    )
