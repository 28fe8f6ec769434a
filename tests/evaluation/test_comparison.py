"""The record of a comparison, its tables and its pictures."""

from __future__ import annotations

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.evaluation.cache import cached
from nnunet_seqtransfer.evaluation.comparison import Budget, Comparison, Score, read_comparison, write_comparison
from nnunet_seqtransfer.evaluation.curves import savings
from nnunet_seqtransfer.evaluation.differences import differences
from nnunet_seqtransfer.evaluation.rankings import rankings
from nnunet_seqtransfer.report.comparison_pictures import draw_comparison, drawn_differences
from nnunet_seqtransfer.report.comparison_text import budget_text, comparison_text
from support.comparison_cases import A, B, affinity, arm, curve, scores

ARMS = (arm(roles=("scratch",)), arm(A, B, roles=("planned",)), arm(B), arm(roles=("long",), extra=4))


@pytest.fixture
def comparison() -> Comparison:
    """Three arms of two seeds, one of them without a curve, and a label that a case does not have."""
    rng = np.random.default_rng(0)
    every, curves = [], []
    for place, one in enumerate(ARMS[:3]):
        for seed in (0, 1):
            dice = {f"case{number}": float(rng.uniform(0.2, 0.5) + 0.1 * place) for number in range(6)}
            every += scores(one.name, dice, seed)
            every.append(Score(one.name, "0", seed, "case0", "other", math.nan, math.nan))
            curves.append(curve(one.name, (0.1 + 0.1 * place, 0.2 + 0.1 * place, 0.3 + 0.1 * place), seed))
    direct = dict(zip(affinity().sources, (0.6, 0.8, 0.7, 0.1), strict=True))
    return Comparison(
        target="Dataset004_Target",
        plans="nnUNetPlans",
        configuration="3d_fullres",
        folds=("0",),
        seeds=(0, 1),
        tolerance=1.0,
        evaluated_on="6 cases",
        budget=Budget(9, 8, 500, 0.5, 500),
        arms=ARMS,
        scores=tuple(every),
        curves=tuple(curves),
        differences=differences(ARMS, every),
        savings=savings(ARMS, curves),
        rankings=rankings((affinity(),), direct),
        provenance={"device": "cpu"},
    )


def test_a_record_is_read_as_it_was_written(comparison, tmp_path):
    """Everything comes back equal, NaN included; the tables beside it hold the same rows."""
    write_comparison(tmp_path / "comparison.json", comparison)
    found = read_comparison(tmp_path / "comparison.json")
    assert repr(found.scores) == repr(comparison.scores) and math.isnan(found.scores[6].dice)
    assert found.curves == comparison.curves and found.differences == comparison.differences
    assert (found.arms, found.savings, found.rankings) == (comparison.arms, comparison.savings, comparison.rankings)
    assert (found.folds, found.seeds, found.budget) == (comparison.folds, comparison.seeds, comparison.budget)
    with (tmp_path / "scores.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == len(comparison.scores) and float(rows[0]["dice"]) == comparison.scores[0].dice
    assert not found.complete, "one arm is not trained yet"


@pytest.mark.parametrize("broken", ["edited", "cut", "newer", "lacking"])
def test_a_broken_record_is_refused(comparison, tmp_path, broken):
    """An edited, truncated, newer or incomplete record is named with what to do."""
    path = tmp_path / "comparison.json"
    write_comparison(path, comparison)
    if broken == "cut":
        path.write_text(path.read_text()[:500])
    elif broken == "lacking":
        from nnunet_seqtransfer.storage import write_record

        write_record(path, "comparison", 1, {"target": "x"})
    else:
        content = json.loads(path.read_text())
        content |= {"target": "other"} if broken == "edited" else {"format": 99}
        path.write_text(json.dumps(content))
    with pytest.raises(RecordError, match=r"comparison\.json"):
        read_comparison(path)


def test_the_tables_say_what_was_reached(comparison):
    """Means, spread, differences with intervals, epochs, rankings, and what is not finished."""
    text = comparison_text(comparison)
    line = next(line for line in text.splitlines() if line.startswith("21 -> 22 -> 4") and "planned" in line)
    assert "3 of 3" in line
    for words in ("95 % interval", "p Holm", "weighted tau", "regret", "largest source", "at 1 mm", "not everything"):
        assert words in text or words.capitalize() in text
    assert "training cases themselves" not in text


def test_the_budget_counts_shared_stages_once(comparison):
    """The text before anything is trained says how many stages, iterations and hours."""
    text = budget_text(comparison.arms, comparison.budget, (0, 1), "given")
    assert "9 stages" in text and "1 left" in text and "500 iterations" in text and "30 min (given)" in text


def test_pictures_are_drawn(comparison, tmp_path):
    """A picture of the differences and one of the curves, each as PNG and SVG; twice the same bytes."""
    found = draw_comparison(comparison, tmp_path)
    assert [path.name for path in found] == ["differences.png", "curves.png"]
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert len(before) == 4
    draw_comparison(comparison, tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_every_pair_is_drawn_where_there_is_no_scratch(comparison, tmp_path):
    """Against scratch the arms alone; without scratch the plan against each other path, not only against the first."""
    assert [one.against for one in drawn_differences(comparison)] == ["scratch"] * 2
    arms = (ARMS[1], ARMS[2], arm(A))
    every = (*comparison.scores, *scores(arms[2].name, {f"case{number}": 0.3 for number in range(6)}))
    changed = replace(comparison, arms=arms, scores=every, differences=differences(arms, every), curves=())
    found = drawn_differences(changed)
    assert {(one.arm, one.against) for one in found} == {(arms[0].name, arms[1].name), (arms[0].name, arms[2].name)}
    assert found[0].mean <= found[1].mean
    (picture,) = draw_comparison(changed, tmp_path)
    assert picture.name == "differences.png"


def test_one_seed_has_no_spread(comparison):
    """The spread of a single seed is a dash, not 0; of two seeds it is a number."""

    def spread(shown: Comparison) -> str:
        lines = comparison_text(shown).splitlines()
        heading = next(number for number, line in enumerate(lines) if "spread" in line)
        place = lines[heading].index("spread")
        line = next(line for line in lines[heading:] if line.startswith("scratch"))
        return line[place : place + len("spread")].strip()

    assert float(spread(comparison)) > 0
    alone = tuple(score for score in comparison.scores if score.seed == 0)
    assert spread(replace(comparison, seeds=(0,), scores=alone)) == "-"


def test_what_is_cached_is_made_again_when_a_file_or_setting_changes(tmp_path):
    """Nothing changed: not made; another file, setting, or a damaged cache: made anew; an error leaves nothing."""
    file, cache = tmp_path / "file", tmp_path / "cache.json"
    file.write_text("a")
    made = []

    def make():
        made.append(1)
        return [len(made)]

    assert cached(cache, [file], 1, make) == cached(cache, [file], 1, make) == [1]
    assert cached(cache, [file], 2, make) == [2]
    file.write_text("longer")
    assert cached(cache, [file], 2, make) == [3]
    cache.write_text("{")
    assert cached(cache, [file], 2, make) == [4]
    cache.unlink()
    with pytest.raises(ZeroDivisionError):
        cached(cache, [file], 2, lambda: 1 / 0)
    assert not cache.exists()
