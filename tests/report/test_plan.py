"""A plan in words and bars."""

from __future__ import annotations

from dataclasses import replace

import pytest

from nnunet_seqtransfer.planning.record import CandidatePath, SequencePlan, Win
from nnunet_seqtransfer.report.plan_text import plan_text

A, B, T = "Dataset021_A", "Dataset024_B", "Dataset004_T"


@pytest.fixture
def plan() -> SequencePlan:
    """Direct transfer wins; a sequence is ruled out."""
    candidates = (
        CandidatePath((A, B, T), 0.6, 0.1, (0.25, 0.25), 0.0, 9.4, "costs 750, above the budget of 500"),
        CandidatePath((B, T), 0.8, 0.55, (0.25,), 0.0, 6.2),
        CandidatePath((T,), 1.4, 1.4, (), 0.0, 3.1),
    )
    wins = (Win((B, T), 0.83), Win((T,), 0.165), Win((A, T), 0.005))
    return SequencePlan(
        T,
        "nnUNetPlans",
        "3d_fullres",
        (B,),
        "exact",
        "descriptors",
        "x",
        candidates,
        ("Why.",),
        resamples=200,
        wins=wins,
    )


def test_the_table_marks_what_is_chosen_and_what_is_ruled_out(plan: SequencePlan) -> None:
    """Cost, parts, hours and share of the resamples stand in the row of their path."""
    lines = plan_text(plan).splitlines()
    assert lines[0] == "Why."
    rows = {line[3:].split("  ")[0].strip(): line for line in lines[4:7]}
    assert rows[f"{B} -> {T}"].startswith(">") and rows[f"{B} -> {T}"].split()[-2:] == ["83", "%"]
    assert rows[f"{A} -> {B} -> {T}"].startswith("x") and "0.250 + 0.250" in rows[f"{A} -> {B} -> {T}"]
    assert rows[f"{T} (scratch)"].startswith(" ") and "3.1" in rows[f"{T} (scratch)"]
    assert "x ruled out, listed for comparison" in lines


def test_without_resamples_there_is_no_share(plan: SequencePlan) -> None:
    """The column is left out, not filled with zeros."""
    text = plan_text(replace(plan, resamples=0, wins=()))
    assert "wins" not in text and "%" not in text
