"""The record of a comparison and its tables."""

from __future__ import annotations

import csv
import json
from dataclasses import replace

import numpy as np
import pytest

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.evaluation.comparison import Budget, Comparison, read_comparison, write_comparison
from nnunet_seqtransfer.evaluation.statistics import differences, measurements, rankings
from nnunet_seqtransfer.report.comparison_text import budget_text, comparison_text
from nnunet_seqtransfer.storage import read_record, write_record
from support.comparison_cases import A, B, affinity, arm, scores

ARMS = (arm(roles=("scratch",)), arm(A, B, roles=("planned",)), arm(B), arm(roles=("long",), extra=4))


@pytest.fixture
def comparison() -> Comparison:
    """Three arms of two seeds, and a label that a case does not have; a fourth arm is not trained."""
    rng = np.random.default_rng(0)
    every = []
    for number, one in enumerate(ARMS[:3]):
        for seed in (0, 1):
            dice = {f"case{case}": float(rng.uniform(0.2, 0.5) + 0.1 * number) for case in range(6)}
            model = scores(one.name, dice, seed)
            absent = scores(one.name, {"case0": None}, seed, label="other")
            every.append(replace(model, cases=(*model.cases, *absent.cases)))
    direct = dict(zip(affinity().sources, (0.6, 0.8, 0.7, 0.1), strict=True))
    return Comparison(
        target="Dataset004_Target",
        plans="nnUNetPlans",
        configuration="3d_fullres",
        folds=("0",),
        seeds=(0, 1),
        test_set=None,
        cases=6,
        budget=Budget(9, 8, 500, 0.5, 500),
        arms=ARMS,
        scores=tuple(every),
        differences=differences(ARMS, every),
        rankings=rankings((affinity(),), direct),
        provenance={"device": "cpu"},
    )


def test_a_record_is_read_as_it_was_written(comparison, tmp_path):
    """Everything comes back equal; the tables next to it hold the same rows."""
    path = tmp_path / "comparison.json"
    write_comparison(path, comparison, measurements(comparison))
    assert read_comparison(path) == comparison
    with (tmp_path / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3 * 2 * 7 and float(rows[0]["dice"]) == comparison.scores[0].cases[0].dice
    assert rows[6]["label"] == "other" and rows[6]["dice"] == ""
    with (tmp_path / "measurements.csv").open() as stream:
        assert [row["path"] for row in csv.DictReader(stream)] == ["scratch"] * 2 + ["21 -> 22"] * 2 + ["22"] * 2
    assert not comparison.complete, "one arm is not trained yet"


def test_a_record_of_format_1_is_refused_with_a_remedy(comparison, tmp_path):
    """Version 0.1.0 wrote flat scores with surface distances, and what was evaluated in words."""
    path = tmp_path / "comparison.json"
    write_comparison(path, comparison)
    content = read_record(path, "comparison", 2, "")
    del content["test_set"], content["cases"]
    content |= {"scores": [], "curves": [], "savings": [], "tolerance": 1.0, "evaluated_on": "6 cases"}
    write_record(path, "comparison", 1, content)
    with pytest.raises(RecordError, match=r"run nnUNetv2_seq_compare again"):
        read_comparison(path)


@pytest.mark.parametrize("broken", ["edited", "cut", "newer", "lacking"])
def test_a_broken_record_is_refused(comparison, tmp_path, broken):
    """An edited, truncated, newer or incomplete record is named with what to do."""
    path = tmp_path / "comparison.json"
    write_comparison(path, comparison)
    if broken == "cut":
        path.write_text(path.read_text()[:500])
    elif broken == "lacking":
        write_record(path, "comparison", 2, {"target": "x"})
    else:
        content = json.loads(path.read_text())
        content |= {"target": "other"} if broken == "edited" else {"format": 99}
        path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=r"comparison\.json"):
        read_comparison(path)


def test_the_tables_hold_what_was_reached(comparison):
    """Means, spread, differences with intervals, rankings, and what is not finished."""
    text = comparison_text(comparison)
    (entry,) = [one for one in comparison.differences if one.against == ARMS[2].name]
    rows = [line.split("  ") for line in text.splitlines()]
    (row,) = [[cell.strip() for cell in row if cell] for row in rows if ARMS[2].name in map(str.strip, row[1:])]
    wanted = [f"{entry.mean:+.3f}", f"{entry.low:+.3f} to {entry.high:+.3f}", f"{entry.p:.2g}", f"{entry.p_holm:.2g}"]
    assert row == [ARMS[1].name, ARMS[2].name, "6", *wanted]
    assert "6 validation cases of fold 0" in text and "not finished" in text
    assert all(name in text for name in ("largest source", "same modality", "random", "descriptors"))


def test_predicted_gains_are_shown_next_to_measured_ones(comparison):
    """Only if there is a plan that predicts them; the measured one is the difference of the means."""
    assert "predicted gain" not in comparison_text(comparison)
    arms = (comparison.arms[0], replace(comparison.arms[1], predicted=0.0625), *comparison.arms[2:])
    lines = comparison_text(replace(comparison, arms=arms)).splitlines()
    (line,) = [line for line in lines if line.startswith("21 -> 22 -> 4") and "planned" in line]
    measured = next(one.mean for one in comparison.differences if one.arm == arms[1].name)
    assert line.split()[-2:] == ["+0.062", f"{measured:+.3f}"]


def test_the_budget_counts_shared_stages_once(comparison):
    """The text before anything is trained has the stages, iterations and time."""
    text = budget_text(comparison.arms, comparison.budget, (0, 1))
    assert "9 stages" in text and "1 left" in text and "500 iterations" in text and "30 min" in text


def test_one_seed_has_no_spread(comparison):
    """The spread of a single seed is a dash, not 0; of two seeds it is a number."""
    alone = tuple(model for model in comparison.scores if model.seed == 0)
    spreads = []
    for shown in (comparison, replace(comparison, seeds=(0,), scores=alone)):
        line = next(line for line in comparison_text(shown).splitlines() if line.startswith("scratch  "))
        spreads.append(line.split()[-1])
    assert float(spreads[0]) > 0 and spreads[1] == "-"
