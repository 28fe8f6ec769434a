"""Calibration: the user's runs become measured transfers, and what they add is judged on targets left out."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_seqtransfer import CalibrationRequest, Context, calibrate
from nnunet_seqtransfer.affinity.record import write_affinity
from nnunet_seqtransfer.calibration.calibrate import join, judge
from nnunet_seqtransfer.calibration.runs import MeasuredRun
from nnunet_seqtransfer.planning.measured import MeasuredTable, read_table
from nnunet_seqtransfer.training.plan import own_table_file
from support.archives import METRIC
from support.bad_inputs import Command
from support.calibration_cases import SOURCES, TARGET, measured_rows, measured_world, target_affinity, write_rows
from support.world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world with the affinity of one target, and a table of measured paths."""
    return measured_world(tmp_path, monkeypatch)


def run(*sources: str, dice: float = 0.6, seed: str = "", target: str = TARGET) -> MeasuredRun:
    return MeasuredRun(sources, target, dice, seed, "row", 200)


def test_runs_of_one_path_are_averaged() -> None:
    """Gains are over the mean of all runs from scratch; evidence is that of the affinity."""
    runs = (run(dice=0.4), run(dice=0.6), run(SOURCES[1], dice=0.7, seed="1"), run(SOURCES[1], dice=0.9, seed="2"))
    (row,) = join(runs, {TARGET: target_affinity()}, pytest.fail)
    assert (row.scratch, row.dice, row.gain) == (pytest.approx(0.5), pytest.approx(0.8), pytest.approx(0.3))
    (source,) = row.evidence
    assert row.own and row.iterations == 200 and (source.label_match, source.cases) == (1.0, 20)
    assert set(source.components[METRIC]) == {"image", "contrast", "label"}, "geometry is not what gains are fitted on"


def test_what_cannot_be_used_is_named() -> None:
    """Unknown names, a path through the target, three sources, one seed twice, and targets without scratch."""
    lines: list[str] = []
    runs = (
        run("999"),
        run(TARGET, SOURCES[0]),
        run(*SOURCES[:3]),
        replace(run(SOURCES[0], seed="1"), place="first"),
        replace(run(SOURCES[0], seed="1"), place="copy"),
    )
    assert join(runs, {TARGET: target_affinity()}, lines.append) == ()
    for words in (
        "unknown dataset '999'",
        "its own target",
        "has 3 sources",
        "seed 1 of this path",
        "no run from scratch",
    ):
        assert any(words in line for line in lines), (words, lines)
    assert len(lines) == 5


def test_what_is_held_out_is_not_used() -> None:
    """A target's own Dice does not change its predictions; that of the user's other targets does."""
    rows = tuple(row for row in measured_rows(3, own=True) if row.sources)
    before = judge(MeasuredTable("x", rows), METRIC, 0)
    changed = tuple(replace(row, dice=row.scratch) if row.target == "T3_0" else row for row in rows)
    after = judge(MeasuredTable("x", changed), METRIC, 0)
    for one, other in zip(before.held_out, after.held_out, strict=True):
        assert one.shipped == other.shipped
        assert (one.own == other.own) == (one.transfer.target == "T3_0")


def test_the_regret_against_brute_force() -> None:
    """The best gain, or 0 for scratch, minus that of the source of the highest predicted gain; mean over targets."""
    rows = tuple(row for row in measured_rows(5, targets=20, noise=0.0, own=True) if len(row.sources) == 1)
    found = judge(MeasuredTable("x", rows), METRIC, 0)
    assert found.weighted_tau[0] > 0 and found.regret[0] >= 0
    best = {target: max(row.gain for row in rows if row.target == target) for target in {row.target for row in rows}}
    by_hand = []
    for target, gain in best.items():
        first = max(
            (e for e in found.held_out if e.transfer.target == target),
            key=lambda entry: (entry.own, entry.transfer.sources),
        )
        by_hand.append(max(0.0, gain) - (first.transfer.gain if first.own > 0 else 0.0))
    assert found.regret[1] == pytest.approx(sum(by_hand) / len(by_hand))
    assert found.lead is not None and found.lead[0] <= found.regret[0] - found.regret[1] <= found.lead[1]


def test_one_target_gives_no_interval(world: World) -> None:
    """Nothing can be said about other targets."""
    request = CalibrationRequest(world.root / "out.json", world.root / "measurements.csv")
    found = calibrate(request, Context(pytest.fail))
    assert found.lead is None and found.metric == METRIC and len(found.held_out) == 4
    assert read_table(world.root / "out.json") == found.table and found.table.name == "out"


def test_the_order_of_rows_does_not_matter(world: World) -> None:
    """A table upside down gives the very same file."""
    request = CalibrationRequest(world.root / "out.json", world.root / "measurements.csv")
    calibrate(request, Context())
    first = (world.root / "out.json").read_bytes()
    header, *rows = (world.root / "measurements.csv").read_text().splitlines()
    (world.root / "measurements.csv").write_text("\n".join([header, *rows[::-1]]))
    calibrate(request, Context())
    assert (world.root / "out.json").read_bytes() == first


def test_affinities_of_several_configurations(tmp_path: Path) -> None:
    """They are used together, which is said."""
    files = []
    for name, configuration in ((TARGET, "2d"), ("Dataset901_Other", "3d_fullres")):
        files.append(tmp_path / f"{configuration}.json")
        write_affinity(files[-1], replace(target_affinity(name), configuration=configuration))
    rows = [("scratch", "900", 0.5), ("100", "900", 0.6), ("scratch", "901", 0.4), ("101", "901", 0.7)]
    table = write_rows(tmp_path / "m.csv", rows)
    lines: list[str] = []
    found = calibrate(CalibrationRequest(tmp_path / "o.json", table, affinities=tuple(files)), Context(lines.append))
    assert {row.target for row in found.table.rows} == {TARGET, "Dataset901_Other"}
    assert len(lines) == 1 and "several configurations" in lines[0]


def test_command(world: World, command: Command) -> None:
    """It writes the file that plans use by themselves and a picture, and prints both qualities."""
    outcome = command("calibrate", "-i", str(world.root / "measurements.csv"))
    assert (outcome.status, outcome.err) == (0, "")
    assert "4 measured transfers to 1 target (descriptors)" in outcome.out and "weighted tau" in outcome.out
    assert own_table_file().with_suffix(".svg").read_bytes().startswith(b"<svg")
    first = own_table_file().read_bytes()
    assert command("calibrate", "-i", str(world.root / "measurements.csv"), "-seed", "7").status == 0
    assert own_table_file().read_bytes() == first
