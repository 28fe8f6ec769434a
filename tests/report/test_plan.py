"""A plan in words and as a picture."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnunet_seqtransfer.planning.record import CandidatePath, LeftOut, LongerScratch, SequencePlan
from nnunet_seqtransfer.report.plan_text import headline, plan_text, sentences
from nnunet_seqtransfer.report.result_figures import draw_gains
from nnunet_seqtransfer.report.words import path_words

A, B, T = "Dataset021_A", "Dataset024_B", "Dataset004_T"


@pytest.fixture
def plan() -> SequencePlan:
    """Direct transfer from B is chosen, A is close, a sequence is ruled out."""
    candidates = (
        CandidatePath((A, B, T), 0.2, -0.1, 0.5, 0.1, 750, 9.4, "budget"),
        CandidatePath((B, T), 0.15, -0.05, 0.4, 0.12, 500, 6.2),
        CandidatePath((A, T), 0.14, -0.06, 0.4, 0.15, 500, 6.2, clash="CT/MR"),
        CandidatePath((T,), 0.0, 0.0, 0.0, 0.0, 250, 3.1),
    )
    return SequencePlan(
        T,
        "nnUNetPlans",
        "3d_fullres",
        (B,),
        "gain",
        "descriptors",
        "x",
        candidates,
        close=((A, T),),
        evidence=("closeness", "names"),
        measured=(515, 12),
        longer=LongerScratch(2.0, 6.2),
        gpu_hours=6.2,
    )


def test_the_table_marks_what_is_chosen_close_and_ruled_out(plan: SequencePlan) -> None:
    """Gain, interval, harm, hours and the reason or clash stand in the row of their path; scratch has no interval."""
    rows = {line[3:].split("  ")[0]: line for line in plan_text(plan).splitlines()[-4:]}
    assert rows[B].startswith(">") and "+0.150" in rows[B] and "12 %" in rows[B] and "6.2" in rows[B]
    assert rows[f"{A} -> {B}"].startswith("x") and rows[f"{A} -> {B}"].rstrip().endswith("over budget")
    assert rows[A].startswith("~") and rows[A].rstrip().endswith("CT/MR")
    assert "-0.10" not in rows["scratch"] and "3.1" in rows["scratch"]


def test_the_published_strategy_shows_its_cost(plan: SequencePlan) -> None:
    """A column of path costs, only if there are any."""
    assert "path cost" not in plan_text(plan)
    costs = tuple(replace(entry, cost=1.5) for entry in plan.candidates)
    assert "1.500" in plan_text(replace(plan, candidates=costs))


def test_scratch_is_an_honest_answer(plan: SequencePlan) -> None:
    """The headline says so, and the best transfer is given with its chance of harm."""
    scratch = replace(plan, sources=(), close=())
    assert headline(scratch) == f"{T}: stay with scratch"
    worth = sentences(scratch)[0]
    assert "ruled out: over budget" in worth
    harmful = tuple(replace(entry, gain=-0.1, harm=0.7, ruled_out="") for entry in plan.candidates[1:3])
    worth = sentences(replace(scratch, candidates=(*harmful, plan.candidates[3])))[0]
    assert worth.startswith("No source is expected to help. The best, 24 -> 4: Dice -0.10") and "70 %" in worth


def test_support_is_said_only_without_zero_in_the_interval(plan: SequencePlan) -> None:
    """With 0 in the interval a sentence says that a gain is not certain."""
    assert any("contains 0" in line for line in sentences(plan))
    assert not any("contains 0" in line for line in sentences(replace(plan, supported=True)))


def test_what_is_left_out_is_one_line_each(plan: SequencePlan) -> None:
    """Sources with cases of the target by name, those without images together."""
    left_out = (LeftOut(A, "overlap"), LeftOut("Dataset030_X", "signature"), LeftOut("Dataset031_Y", "signature"))
    lines = [line for line in sentences(replace(plan, left_out=left_out)) if line.startswith("Left out")]
    assert len(lines) == 2 and A in lines[0] and "Dataset030_X, Dataset031_Y" in lines[1]


def test_headroom_and_longer_training(plan: SequencePlan) -> None:
    """Unknown and known Dice of scratch, and a rival whose gain was or was not measured."""
    assert any("-scratch_dice X" in line for line in sentences(plan))
    assert any("measured for short trainings only" in line for line in sentences(plan))
    known = replace(plan, scratch_dice=0.75, longer=LongerScratch(5.0, 1.0, 0.1, 0.05, 0.2))
    told = " ".join(sentences(known))
    assert "0.25 is left to gain" in told and "+0.10 (+0.05 to +0.20)" in told


def test_a_network_as_it_is_is_a_rival(plan: SequencePlan) -> None:
    """Its Dice is said, and whether it is above what the path is expected to reach."""
    weak, strong = (" ".join(sentences(replace(plan, scratch_dice=0.5, as_it_is=(A, dice)))) for dice in (0.1, 0.99))
    assert "Dice 0.10 on the labelled cases." in weak and "Dice 0.99 on the labelled cases, above" in strong


def test_the_picture_shows_gains_and_marks_the_path(plan: SequencePlan) -> None:
    """A point for each candidate, an interval and the chance of harm for transfers, the path in bold."""
    axes = draw_gains(plan, plan.path).axes[0]
    bold = [tick.get_text() for tick in axes.get_yticklabels() if tick.get_fontweight() == "bold"]
    assert bold == [path_words(plan.path)]
    points = [line.get_xdata()[0] for line in axes.lines if line.get_marker() == "o"]
    assert points == pytest.approx([0.2, 0.15, 0.14, 0.0])
    assert [text.get_text() for text in axes.texts] == ["ruled out", "harm 12 %", "harm 15 %"]
