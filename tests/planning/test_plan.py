"""The plan command on an archive of datasets: what it decides, says, writes and refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.metric import find_metric
from nnunet_seqtransfer.calibration.record import Calibration, Measurements, RankingQuality, write_calibration
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.planning.options import PlanOptions
from nnunet_seqtransfer.planning.record import changed_affinity, plan_path, read_plan, write_plan
from nnunet_seqtransfer.storage import checksum
from nnunet_seqtransfer.training.recipe import Recipe
from support.archives import COMBINATION, CONFIGURATION, METRIC, PLANS, Archive, make_archive
from support.world import Outcome

A, B, C, T, U = "Dataset021_A", "Dataset024_B", "Dataset025_C", "Dataset004_T", "Dataset007_U"
PLACES = {A: (0.0, 0.0), B: (0.5, 0.0), C: (0.0, 3.0), T: (1.0, 0.0)}
COUNTS = {A: 400, B: 20, C: 90, T: 3, U: 3}
Command = Callable[..., Outcome]
pytestmark = pytest.mark.usefixtures("no_pictures")


@pytest.fixture
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take seconds and have tests of their own; one test here draws them."""
    if request.function is not test_every_file_that_is_named_is_written:
        for name in ("cost_figures.draw_costs", "graph_figure.draw_graph", "figures.save"):
            monkeypatch.setattr(f"nnunet_seqtransfer.report.{name}", lambda *_: ())


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """A -> B -> T is the cheapest path to T, and its distances hardly scatter."""
    made = make_archive(tmp_path / "archive", monkeypatch)
    made.add_affinity(PLACES, COUNTS)
    return made


def calibration(path: Path, held_out: tuple[RankingQuality, ...] = (), **changes: object) -> Path:
    """A calibration file for our metric."""
    measurements = Measurements(
        targets=(T,),
        paths=(),
        constants=2,
        free_weights=False,
        exponents_chosen=False,
        correlation=0.5,
        run_noise=None,
        left_out="path",
        held_out=held_out,
        intervals={},
    )
    made = Calibration(
        name=path.stem,
        metric=METRIC,
        metric_version=find_metric(METRIC).version,
        combination=COMBINATION,
        start_scale=2.5,
        start_exponent=0.5,
        stage_cost=0.0,
        dice_per_cost=0.2,
        dice_per_cost_interval=(0.1, 0.3),
        residual=0.05,
        measurements=measurements,
    )
    write_calibration(path, replace(made, **changes))
    return path


def test_the_plan_names_path_doubt_and_effort(archive: Archive, command: Command) -> None:
    """Parts of the cost, share of the resamples, support against simpler paths, no Dice, epochs and hours."""
    outcome = command("plan", "-t", "4")
    assert outcome.status == 0
    text = outcome.out
    assert f"{A} -> {B} -> {T} costs 0.62: start 0.12 (400 cases)" in text
    assert "21 -> 24 wins in 100 % of 60 resamples." in text
    assert "The data support an intermediate: it costs less than scratch in 100 % of the resamples" in text
    assert "than every direct transfer in 100 % of the resamples (0.18 less than direct transfer from" in text
    assert "Costs are not Dice" in text
    assert "in all 750 epochs, about 9.4 GPU hours at 45 s an epoch (nnU-Net's on an A100, not measured here)." in text
    plan = read_plan(plan_path(T, PLANS, CONFIGURATION))
    assert (plan.sources, plan.supported, plan.resamples) == ((A, B), True, 60)
    assert [win.path for win in plan.wins] == [(A, B, T)]
    assert plan.gpu_hours == pytest.approx(750 * 45 / 3600)
    assert plan.options == PlanOptions() and plan.calibration is None


def test_every_file_that_is_named_is_written(archive: Archive, command: Command) -> None:
    """The record, the costs and the graph; pictures are there as SVG and PDF too."""
    outcome = command("plan", "-t", "4")
    written = [Path(line.split()[-1]) for line in outcome.out.split("written:")[1].strip().splitlines()]
    assert len(written) == 3 and all(path.stat().st_size > 1000 for path in written)
    assert [path.suffix for path in written] == [".json", ".png", ".png"]
    assert all(path.with_suffix(ending).is_file() for path in written[1:] for ending in (".svg", ".pdf"))


def test_a_noisy_affinity_does_not_support_the_intermediate(archive: Archive, command: Command) -> None:
    """Exact still takes the cheapest path and says what it is worth; auto takes what cannot be told from it."""
    archive.add_affinity(PLACES, COUNTS, scatter=0.7)
    exact = command("plan", "-t", "4")
    assert "The data do not support" in exact.out and "80 % are asked for" in exact.out
    plan = read_plan(plan_path(T, PLANS, CONFIGURATION))
    assert plan.sources == (A, B) and plan.supported is False
    auto = command("plan", "-t", "4", "-strategy", "auto")
    assert "is taken, the simplest path that the data cannot tell from the best." in auto.out
    plan = read_plan(plan_path(T, PLANS, CONFIGURATION))
    assert len(plan.sources) < 2 and plan.strategy == "auto"
    assert plan.explanation[0].startswith(" -> ".join((*plan.sources, plan.target)))


def test_auto_keeps_what_the_data_support(archive: Archive, command: Command) -> None:
    """Where nothing is in doubt, auto is exact."""
    assert command("plan", "-t", "4", "-strategy", "auto").status == 0
    assert read_plan(plan_path(T, PLANS, CONFIGURATION)).sources == (A, B)


@pytest.mark.parametrize("single", [(), (T,)])
def test_without_resamples_the_doubt_is_unknown(archive: Archive, command: Command, single: tuple[str, ...]) -> None:
    """No file beside the affinity, or a target of a single case: it is said, and auto plans as exact does."""
    path = archive.add_affinity(PLACES, COUNTS, scatter=0.7 if single else None, single=single)
    if not single:
        path.with_suffix(".npz").unlink()
    outcome = command("plan", "-t", "4", "-strategy", "auto")
    assert "How sure this is is not known" in outcome.out and "wins" not in outcome.out
    plan = read_plan(plan_path(T, PLANS, CONFIGURATION))
    assert (plan.sources, plan.supported, plan.resamples) == ((A, B), None, 0)


def test_a_single_source(archive: Archive, command: Command) -> None:
    """There is one direct path and scratch, and words for both."""
    archive.add_affinity({A: (0.0, 0.0), T: (1.0, 0.0)}, COUNTS)
    outcome = command("plan", "-t", "4")
    assert f"{A} -> {T} costs 1.12" in outcome.out and "21 alone wins in 100 %" in outcome.out
    assert "The data support a transfer" in outcome.out


def test_scratch_is_said_to_win(archive: Archive, command: Command) -> None:
    """Where every source is far, scratch wins the resamples too, and nothing has to be supported."""
    archive.add_affinity({A: (9.0, 0.0), B: (8.0, 0.0), T: (0.0, 0.0)}, COUNTS)
    outcome = command("plan", "-t", "4")
    assert f"{T} is trained from scratch" in outcome.out and "scratch wins in 100 % of 60" in outcome.out
    assert "support" not in outcome.out
    assert f"To train: 250 epochs on {T}; in all 250 epochs" in outcome.out


@pytest.mark.parametrize(
    ("given", "sources"),
    [
        (("-must", "25"), (C, B, T)),
        (("-avoid", "24"), (A, T)),
        (("-avoid", B, "21"), (T,)),
        (("-min_landmark_cases", "401"), (T,)),
        (("-budget_epochs", "600"), (B, T)),
        (("-budget_epochs", "300"), (T,)),
        (("-budget_gpu_hours", "7"), (B, T)),
        (("-budget_gpu_hours", "7", "-epoch_time", "20"), (A, B, T)),
        (("-budget_gpu_hours", "7", "-epochs", "50", "-source_epochs", "50"), (A, B, T)),
        (("-budget_epochs", "1000", "-folds", "3"), (B, T)),
        (("-max_sources", "1"), (B, T)),
    ],
)
def test_constraints(archive: Archive, command: Command, given: tuple[str, ...], sources: tuple[str, ...]) -> None:
    """Each of them changes the path, and the plan records what was asked."""
    outcome = command("plan", "-t", "4", *given)
    assert outcome.status == 0, outcome.err
    plan = read_plan(plan_path(T, PLANS, CONFIGURATION))
    assert (*plan.sources, plan.target) == sources
    assert plan.options != PlanOptions()


def test_a_plan_over_budget_says_what_it_would_have_taken(archive: Archive, command: Command) -> None:
    """The cheaper path that the budget rules out is listed, marked, and named with the reason."""
    outcome = command("plan", "-t", "4", "-budget_epochs", "300")
    assert (
        f"irect transfer from {B} costs 0.81, but is ruled out: it costs 500, above the budget of 300." in outcome.out
    )
    assert "x ruled out, listed for comparison" in outcome.out
    plan = read_plan(plan_path(T, PLANS, CONFIGURATION))
    assert {entry.path: bool(entry.ruled_out) for entry in plan.candidates}[B, T]


def test_finished_stages_cost_nothing(archive: Archive, command: Command) -> None:
    """A budget too small for a path allows it once its first stage is trained, and the plan says so."""
    assert command("plan", "-t", "4", "-budget_epochs", "500").status == 0
    assert read_plan(plan_path(T, PLANS, CONFIGURATION)).sources == (B,)
    archive.add_stage((A,), T, f"{PLANS}_for4", Recipe())
    outcome = command("plan", "-t", "4", "-budget_epochs", "500")
    assert f"Trained already, so it costs nothing: {A}." in outcome.out
    plan = read_plan(plan_path(T, PLANS, CONFIGURATION))
    assert plan.sources == (A, B) and plan.gpu_hours == pytest.approx(500 * 45 / 3600)


def test_a_stage_of_another_recipe_on_the_path_is_named(archive: Archive, command: Command) -> None:
    """It does not count as finished."""
    archive.add_stage((A,), T, f"{PLANS}_for4", Recipe(epochs=100))
    outcome = command("plan", "-t", "4")
    assert f"{A} is trained with 100 epochs of 250 iterations, not 250 of 250: that does not count" in outcome.out


@pytest.mark.parametrize(("lead", "doubted"), [((-0.1, 0.3), True), ((0.1, 0.3), False)])
def test_a_calibration_that_may_be_no_better_is_said(
    archive: Archive, command: Command, tmp_path: Path, lead: tuple[float, float], doubted: bool
) -> None:
    """Where the largest source may rank as well on what was held out, the plan says so beside its prediction."""
    own = RankingQuality("calibrated", 0.5, 0.5, 0.01, (0.5,))
    baseline = RankingQuality("largest source", 0.4, 0.4, 0.02, (0.4,), lead)
    outcome = command("plan", "-t", "4", "-weights", str(calibration(tmp_path / "ours.json", (own, baseline))))
    assert ("did not surely rank better than largest source" in outcome.out) is doubted
    assert "Predicted change of Dice" in outcome.out


def test_a_calibration_predicts_dice(archive: Archive, command: Command, tmp_path: Path) -> None:
    """Its constants price the paths, and gains come with intervals, against direct transfer and scratch."""
    file = calibration(tmp_path / "ours.json")
    outcome = command("plan", "-t", "4", "-weights", str(file))
    assert "Costs are not Dice" not in outcome.out
    assert "Predicted change of Dice, with 95 % intervals of a single run: +0.037 (" in outcome.out
    assert f"against direct transfer from {B}" in outcome.out and "against scratch" in outcome.out
    assert "calibration ours, fitted on" in outcome.out
    plan = read_plan(plan_path(T, PLANS, CONFIGURATION))
    assert plan.calibration == "ours"
    by_path = {gain.path: gain for gain in plan.gains}
    costs = {entry.path: entry.cost for entry in plan.candidates}
    for path, gain in by_path.items():
        assert gain.mean == pytest.approx(0.2 * (costs[path] - costs[A, B, T]))
        assert gain.low < gain.mean < gain.high


def test_a_calibration_recombines_the_components(archive: Archive, command: Command, tmp_path: Path) -> None:
    """Weights four times as high are distances twice as long, in the costs and in the resamples."""
    weights = {name: 4 * weight for name, weight in COMBINATION.weights.items()}
    file = calibration(tmp_path / "ours.json", combination=replace(COMBINATION, weights=weights))
    command("plan", "-t", "4")
    before = read_plan(plan_path(T, PLANS, CONFIGURATION))
    command("plan", "-t", "4", "-weights", str(file))
    after = read_plan(plan_path(T, PLANS, CONFIGURATION))
    hops = [{entry.path: entry.hop_costs for entry in plan.candidates} for plan in (before, after)]
    for path in hops[0]:
        assert hops[1][path] == pytest.approx([4 * cost for cost in hops[0][path]])
    assert after.resamples == 60


@pytest.mark.parametrize(
    ("changes", "words"),
    [({"metric": "published"}, "was fitted for the metric published"), ({"metric_version": 99}, "version 99")],
)
def test_a_calibration_of_something_else_is_refused(
    archive: Archive, command: Command, tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    """Another metric, or another version of it."""
    before = archive.files()
    outcome = command("plan", "-t", "4", "-weights", str(calibration(tmp_path / "other.json", **changes)))
    assert outcome.status == 2 and words in outcome.err and archive.files() == before


def test_datasets_known_by_signature_are_left_out(archive: Archive, command: Command) -> None:
    """They are ranked by the affinity and cannot be trained on here; the plan names them."""
    archive.add_affinity(
        {"Dataset030_Away": (0.9, 0.0), **PLACES}, COUNTS | {"Dataset030_Away": 50}, elsewhere=["Dataset030_Away"]
    )
    outcome = command("plan", "-t", "4")
    assert outcome.status == 0, outcome.err
    assert "Left out, since known only by a signature file and not registered here: Dataset030_Away." in outcome.out
    plan = read_plan(plan_path(T, PLANS, CONFIGURATION))
    assert plan.left_out == ("Dataset030_Away",) and plan.sources == (A, B)
    assert not any("Dataset030_Away" in entry.path for entry in plan.candidates)


def test_the_number_of_candidates(archive: Archive, command: Command) -> None:
    """The cheapest are listed, and always scratch and the best direct path."""
    for strategy in ("exact", "published"):
        assert command("plan", "-t", "4", "-top", "1", "-strategy", strategy).status == 0
        few = read_plan(plan_path(T, PLANS, CONFIGURATION)).candidates
        assert command("plan", "-t", "4", "-top", "99", "-strategy", strategy).status == 0
        many = read_plan(plan_path(T, PLANS, CONFIGURATION)).candidates
        assert len(few) < len(many) or strategy == "published"
        assert {(T,), (B, T)} <= {entry.path for entry in few} <= {entry.path for entry in many}


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("-must", "99"), "no dataset with number 99"),
        (("-must", "4"), "must names Dataset004_T, which is the target"),
        (("-must", "21", "-avoid", "21"), "must and avoid both name Dataset021_A"),
        (("-must", "30"), "Dataset030_Other must be on the path, but is not among the sources"),
        (("-budget_epochs", "100"), "below the 250 that the stage on Dataset004_T costs"),
        (("-must", "21", "-budget_epochs", "400"), "the budget of 400 is too small"),
        (("-weights", "/no/such/file"), "is missing: /no/such/file"),
    ],
)
def test_impossible_wishes(archive: Archive, command: Command, given: tuple[str, ...], words: str) -> None:
    """One line that says which of them, and nothing is written."""
    archive.register("Dataset030_Other")
    before = archive.files()
    outcome = command("plan", "-t", "4", *given)
    assert outcome.status == 2 and words in outcome.err and len(outcome.err.strip().splitlines()) == 1
    assert archive.files() == before


def test_a_source_to_be_avoided_may_be_no_source(archive: Archive, command: Command) -> None:
    """Nothing goes through it anyway."""
    archive.register("Dataset030_Other")
    assert command("plan", "-t", "4", "-avoid", "30").status == 0
    assert read_plan(plan_path(T, PLANS, CONFIGURATION)).sources == (A, B)


def test_a_plan_is_read_as_it_was_written(archive: Archive, command: Command, tmp_path: Path) -> None:
    """Every field, whatever was asked."""
    command(
        "plan",
        "-t",
        "4",
        "-must",
        "21",
        "-budget_gpu_hours",
        "99",
        "-tag",
        "long",
        "-weights",
        str(calibration(tmp_path / "ours.json")),
    )
    path = plan_path(T, PLANS, CONFIGURATION)
    plan = read_plan(path)
    assert plan.options.must == (A,) and plan.options.training.tag == "long" and plan.gains
    write_plan(tmp_path / "again.json", plan)
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()
    assert read_plan(tmp_path / "again.json") == plan


def test_plans_of_the_first_format_are_refused(archive: Archive, command: Command) -> None:
    """Their shares and options are missing; the command that makes a new one is named."""
    command("plan", "-t", "4")
    path = plan_path(T, PLANS, CONFIGURATION)
    content = json.loads(path.read_text())
    old = {
        key: content[key]
        for key in (
            "target",
            "plans",
            "configuration",
            "sources",
            "strategy",
            "metric",
            "affinity_file",
            "candidates",
            "explanation",
            "version",
        )
    }
    path.write_text(json.dumps({"kind": "sequence plan", "format": 1, "checksum": checksum(old), **old}))
    with pytest.raises(RecordError, match=r"older version.*run nnUNetv2_seq_plan again"):
        read_plan(path)


def test_a_changed_affinity_is_noticed(archive: Archive, command: Command) -> None:
    """A line where the affinity is another one now; none where it is the same, or gone."""
    path = archive.add_affinity(PLACES, COUNTS)
    command("plan", "-t", "4")
    plan = read_plan(plan_path(T, PLANS, CONFIGURATION))
    assert changed_affinity(plan) is None
    archive.add_affinity(PLACES, COUNTS)
    assert changed_affinity(plan) is None
    archive.add_affinity(PLACES | {C: (0.0, 2.0)}, COUNTS)
    line = changed_affinity(plan)
    assert line is not None and T in line and "nnUNetv2_seq_plan" in line
    path.unlink()
    assert changed_affinity(plan) is None


def test_a_plan_twice_is_the_same(archive: Archive, command: Command) -> None:
    """Nothing is random."""
    command("plan", "-t", "4")
    first = plan_path(T, PLANS, CONFIGURATION).read_bytes()
    command("plan", "-t", "4")
    assert plan_path(T, PLANS, CONFIGURATION).read_bytes() == first


def test_hops_beyond_the_resampled_ones_are_named(archive: Archive, command: Command) -> None:
    """A task of a single case does not scatter: its distances count as certain, and that is said."""
    archive.add_affinity(PLACES, COUNTS, single=[A])
    outcome = command("plan", "-t", "4")
    assert f"Not resampled, and so taken as certain: the distance of {A} -> {B}." in outcome.out


def test_costs_grow_with_the_distance(archive: Archive, command: Command) -> None:
    """A cost model constant given on the command line is the one in the record."""
    command("plan", "-t", "4", "-hop_exponent", "1.5", "-start_scale", "4")
    constants = read_plan(plan_path(T, PLANS, CONFIGURATION)).constants
    assert (constants["hop_exponent"], constants["start_scale"]) == (1.5, 4.0)
    assert np.isfinite(list(constants.values())).all()
