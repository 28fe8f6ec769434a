"""From an affinity to a plan: evidence, what is left out, what cannot be told apart, and the record."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_seqtransfer.affinity.record import Affinity, read_affinity, require_fitting
from nnunet_seqtransfer.errors import Problems, RecordError, SequenceError
from nnunet_seqtransfer.planning.decide import Known, make_plan, problem_of
from nnunet_seqtransfer.planning.measured import MeasuredTable
from nnunet_seqtransfer.planning.options import EpochTime, History, PlanOptions, Training
from nnunet_seqtransfer.planning.record import (
    ReadyModel,
    SequencePlan,
    changed_affinity,
    plan_file,
    read_plan,
    write_plan,
)
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel
from support.archives import CONFIGURATION, PLANS, RESAMPLES, Archive, make_archive
from support.calibration_cases import measured_rows

A, B, C, T = "Dataset021_A", "Dataset024_B", "Dataset025_C", "Dataset004_T"
PLACES = {A: (0.3, 0.0), B: (0.9, 0.0), C: (0.0, 2.0), T: (0.0, 0.0)}
COUNTS = {A: 20, B: 400, C: 90, T: 80, "Dataset030_Away": 50}


HISTORY = History(EpochTime(36.0, "logged", 12), source_hours=2.5, target_hours=3.0, preprocessing={B: 0.25})


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """A is nearest to T, B is larger, C is far; distances hardly scatter."""
    return make_archive(tmp_path / "archive", monkeypatch)


def made(
    archive: Archive, known: Known | None = None, history: History | None = None, scatter: float | None = 0.02,
    places: dict[str, tuple[float, float]] = PLACES, elsewhere: tuple[str, ...] = (), **options: object,
) -> SequencePlan:  # fmt: skip
    """A plan on such an affinity."""
    file = archive.add_affinity(places, COUNTS, scatter=scatter, elsewhere=elsewhere)
    affinity: Affinity = read_affinity(file)
    return make_plan(affinity, file, PlanOptions(**options), history or HISTORY, known or Known())  # type: ignore[arg-type]


def test_the_nearest_source_is_planned_though_all_have_fewer_cases(archive: Archive) -> None:
    """Gain, interval and harm are recorded; the number of the target's cases decides nothing."""
    plan = made(archive, scratch_dice=0.5)
    assert plan.sources == (A,) and plan.path == (A, T)
    assert plan.chosen.low < 0 < plan.chosen.gain < plan.chosen.high and 0 < plan.chosen.harm < 0.5
    assert not plan.supported and plan.evidence == ("closeness", "names") and plan.resamples == RESAMPLES
    assert {entry.path[:-1] for entry in plan.candidates} >= {(), (A,), (B,), (C,)}
    assert plan.measured[1] == 12 and plan.scratch_dice == 0.5


def test_support_needs_an_interval_above_zero(archive: Archive) -> None:
    """With next to no scatter in the measurements of one's own, the interval leaves 0 out."""
    own = MeasuredTable("ours", tuple(measured_rows(0, targets=200, noise=0.001, own=True)))
    plan = made(archive, Known(own=own), scratch_dice=0.2)
    assert plan.calibration == "ours" and plan.measured[1] == 212
    assert plan.supported == (plan.chosen.low > 0)


def test_a_good_scratch_is_left_alone(archive: Archive) -> None:
    """Nothing is left to gain: scratch is planned, nothing is called close, and the Dice given beats the one found."""
    far = {name: (10 * x, 10 * y) for name, (x, y) in PLACES.items()}
    plan = made(archive, history=History(scratch_dice=0.1), places=far, scratch_dice=0.95)
    assert plan.sources == () and plan.chosen.gain == 0 and plan.close == () and not plan.supported
    assert plan.scratch_dice == 0.95
    assert made(archive, history=History(scratch_dice=0.1)).scratch_dice == 0.1


def test_sources_that_cannot_be_told_apart_are_close(archive: Archive) -> None:
    """Much scatter makes the next source close; so does a gain within 0.01 without any resamples."""
    assert made(archive).close == ()
    assert (B, T) in made(archive, scatter=0.7).close
    twins = {A: (0.3, 0.0), B: (0.0, 0.301), C: (0.0, 2.0), T: (0.0, 0.0)}
    archive.add_affinity(twins, COUNTS).with_suffix(".npz").unlink()
    plan = made(archive, scatter=None, places=twins)
    assert plan.resamples == 0 and plan.close[0] == (B, T)


def test_a_network_may_do_without_training(archive: Archive) -> None:
    """Of the probed sources that have all labels of the target, the best one is named with its Dice."""
    assert made(archive).as_it_is is None
    other = ReadyModel("Dataset801_Liver", PretrainedModel("x.pth", None, "0"), 1.0, ("T1",), ("liver",))
    known = Known(models={other.dataset: other}, zero_shot={A: 0.4, B: 0.6, other.dataset: 0.9})
    assert made(archive, known).as_it_is == (B, 0.6)


def test_resamples_count_only_if_distances_do(archive: Archive) -> None:
    """With one registered source and names alone nothing rests on distances, so no resample is claimed."""
    plan = made(archive, max_sources=0)
    assert plan.resamples == 0 and plan.evidence == () and plan.sources == ()


def test_sources_with_cases_of_the_target_are_left_out(archive: Archive) -> None:
    """Unless overlap is allowed; a source that must be on the path and is left out is an error."""
    known = Known(shared=frozenset({A}))
    plan = made(archive, known)
    assert [(entry.dataset, entry.reason) for entry in plan.left_out] == [(A, "overlap")]
    assert plan.sources == (B,) and not any(A in entry.path for entry in plan.candidates)
    assert made(archive, known, allow_overlap=True).sources == (A,)
    with pytest.raises(SequenceError, match=f"{A} must be on the path, but it is left out"):
        made(archive, known, must=(A,))
    with pytest.raises(Problems) as refused:
        made(archive, known, must=(A, "Dataset099_X"))
    assert len(refused.value.problems) == 2


def test_datasets_known_by_signature_are_left_out(archive: Archive) -> None:
    """They are ranked by the affinity and cannot be trained on here."""
    places = {"Dataset030_Away": (0.1, 0.0), **PLACES}
    plan = made(archive, places=places, elsewhere=("Dataset030_Away",))
    assert [(entry.dataset, entry.reason) for entry in plan.left_out] == [("Dataset030_Away", "signature")]
    assert plan.sources == (A,)


def test_zero_shot_and_track_records_are_evidence(archive: Archive) -> None:
    """Each raises the gain of its source, and is a term of the plan."""
    before = made(archive, scratch_dice=0.5)
    after = made(archive, Known(zero_shot={A: 0.9}), scratch_dice=0.5)
    assert after.evidence == ("closeness", "names", "zero_shot") and after.chosen.gain > before.chosen.gain
    rows = measured_rows(1, own=True)
    renamed = [
        row.__class__(**{**vars(row), "sources": tuple(A if name == "S0" else name for name in row.sources)})
        for row in rows
    ]
    plan = made(archive, Known(own=MeasuredTable("ours", tuple(renamed))), scratch_dice=0.5)
    assert "track_record" in plan.evidence


def test_prices_and_finished_stages(archive: Archive) -> None:
    """Hours and epochs of each candidate; what is trained costs nothing, what is trained otherwise is named."""
    history = replace(HISTORY, trained={(A,): (250, 250), (B,): (100, 250)})
    plan = made(archive, history=history)
    hours = {entry.path[:-1]: (entry.epochs, entry.gpu_hours) for entry in plan.candidates}
    assert hours[()] == hours[(A,)] == (250, pytest.approx(3.0)) and hours[(B,)] == (500, pytest.approx(5.75))
    assert (plan.finished, plan.gpu_hours) == ((A,), pytest.approx(3.0))
    must = made(archive, history=history, must=(B,), max_sources=1)
    assert must.other_recipes == {B: (100, 250)}


def test_the_published_strategy_has_costs_and_communities(archive: Archive) -> None:
    """Its candidates carry path costs next to expected gains."""
    plan = made(archive, strategy="published")
    assert len(plan.sources) == 2 and plan.communities
    assert all(entry.cost is not None for entry in plan.candidates)
    assert made(archive).communities == () and made(archive).chosen.cost is None


def test_scratch_that_is_trained_as_long(archive: Archive) -> None:
    """It has the iterations of the path; its gain is known for short trainings alone."""
    longer = made(archive).longer
    assert longer is not None and (longer.length, longer.gain) == (2.0, None)
    assert longer.gpu_hours == pytest.approx(3.0 + 250 * 36 / 3600)
    short = Training(epochs=2, source_epochs=8, iterations=100)
    measured = made(archive, training=short, scratch_dice=0.5).longer
    assert measured is not None and measured.length == 5.0 and measured.gain == pytest.approx(0.22, abs=0.02)


def test_evidence_of_an_affinity(archive: Archive) -> None:
    """Components, names and cases of each source; a dataset can be left out."""
    affinity = read_affinity(archive.add_affinity(PLACES, COUNTS))
    problem = problem_of(affinity, {B})
    assert problem.names == (A, C, T)
    first = problem.evidence[0]
    assert (first.label_match, first.channel_match, first.cases) == (1.0, 1.0, 20)
    assert first.components["image"] == pytest.approx(0.3 / 2**0.5)


def test_a_plan_is_read_as_it_was_written(archive: Archive, tmp_path: Path) -> None:
    """Every field, whatever was asked; twice the same bytes."""
    plan = made(archive, must=(A,), budget=99.0, training=Training(tag="long"), strategy="published")
    write_plan(tmp_path / "p.json", plan)
    assert read_plan(tmp_path / "p.json") == plan
    before = (tmp_path / "p.json").read_bytes()
    write_plan(tmp_path / "p.json", made(archive, **vars(plan.options)))
    assert (tmp_path / "p.json").read_bytes() == before


def test_plans_of_older_formats_are_refused(archive: Archive, tmp_path: Path) -> None:
    """One line that names the command which makes a new one."""
    from nnunet_seqtransfer.storage import write_record

    old = {"target": T, "plans": PLANS, "sources": [A], "candidates": [{"path": [A, T], "cost": 0.5}]}
    write_record(tmp_path / "p.json", "sequence plan", 2, old)
    with pytest.raises(RecordError, match="run nnUNetv2_seq_plan again") as refused:
        read_plan(tmp_path / "p.json")
    assert "\n" not in str(refused.value)


def test_a_changed_affinity_is_noticed(archive: Archive) -> None:
    """A line if the affinity is another one now; none if it is the same, or gone."""
    plan = made(archive)
    write_plan(plan_file(T, PLANS, CONFIGURATION), plan)
    assert changed_affinity(plan) is None
    path = archive.add_affinity(PLACES | {C: (0.0, 1.0)}, COUNTS)
    line = changed_affinity(plan)
    assert line is not None and T in line and "nnUNetv2_seq_plan" in line
    path.unlink()
    assert changed_affinity(plan) is None and json.loads(plan_file(T, PLANS, CONFIGURATION).read_text())["format"] == 3


def ready(dataset: str, channels: tuple[str, ...] = ("T1",), labels: tuple[str, ...] = ("organ",)) -> ReadyModel:
    """A model that gives the whole network."""
    return ReadyModel(dataset, PretrainedModel(Path("/model.pth"), None, "a" * 64, dataset), 1.0, channels, labels, 9)


def test_a_ready_model_costs_nothing_and_keeps_the_gain(archive: Archive) -> None:
    """A path from a model has the gain of the trained source for the hours of the target alone; never a later place."""
    plain = made(archive, scratch_dice=0.4)
    plan = made(archive, Known(models={A: ready(A)}), scratch_dice=0.4)
    assert plan.path == plain.path == (A, T) and plan.starred(plan.path) == (f"{A}*", T)
    assert plan.chosen.gain == plain.chosen.gain and plan.to_train == () and plan.model == ready(A)
    scratch = next(entry for entry in plan.candidates if entry.path == (T,))
    assert plan.gpu_hours == plan.chosen.gpu_hours == scratch.gpu_hours < plain.gpu_hours
    assert plan.starred((B, A, T)) == (B, A, T) and plan.finished == ()


def test_a_model_of_an_unknown_dataset_is_ranked_by_names(archive: Archive) -> None:
    """A dataset that was never compared can begin a path and is never trained; fitting names rank higher."""
    unfit = ready("Dataset801_Unfit", ("CT",), ("liver",))
    models = {one.dataset: one for one in (ready("Dataset800_Fit"), unfit)}
    plan = made(archive, Known(models=models), scratch_dice=0.4, listed=99)
    gains = {entry.path: entry.gain for entry in plan.candidates}
    assert gains[("Dataset800_Fit", T)] > gains[("Dataset801_Unfit", T)]
    assert not any(name in models for path in gains for name in path[1:]) and set(plan.models) == set(models)
    assert any(path[0] in models for path in gains if len(path) == 3)
    probed = made(archive, Known(models=models, zero_shot={"Dataset801_Unfit": 0.9}), scratch_dice=0.4, listed=99)
    rank = [entry.path for entry in probed.candidates].index(("Dataset801_Unfit", T))
    assert rank < [entry.path for entry in plan.candidates].index(("Dataset801_Unfit", T))


def test_a_plan_needs_no_data_of_its_model(archive: Archive) -> None:
    """A plan that begins with a model of an unknown dataset is used; a source to train must be registered."""
    models = {"Dataset800_Fit": ready("Dataset800_Fit")}
    plan = made(archive, Known(models=models), scratch_dice=0.4, must=("Dataset800_Fit",))
    path = plan_file(T, PLANS, CONFIGURATION)
    write_plan(path, plan)
    assert read_plan(path) == plan and plan.path[0] == "Dataset800_Fit"
    require_fitting(plan, path, (T, PLANS, CONFIGURATION), "nnUNetv2_seq_plan")
    with pytest.raises(RecordError, match="Dataset800_Fit, which is not registered"):
        require_fitting(replace(plan, models={}), path, (T, PLANS, CONFIGURATION), "nnUNetv2_seq_plan")


def test_a_model_makes_a_signature_usable_and_yields_to_a_finished_stage(archive: Archive) -> None:
    """What is known by signature alone begins a path; a stage for this target goes first; relatives stay out."""
    plan = made(archive, Known(models={A: ready(A)}), elsewhere=(A,), scratch_dice=0.4)
    assert plan.path == (A, T) and plan.models and not plan.left_out
    history = History(trained={(A,): (250, 250)})
    plan = made(archive, Known(models={A: ready(A)}), history, scratch_dice=0.4)
    assert plan.models == {} and plan.finished == (A,)
    plan = made(archive, Known(models={A: ready(A)}, shared=frozenset({A})), scratch_dice=0.4)
    assert plan.models == {} and [entry.dataset for entry in plan.left_out] == [A]


def test_ready_models_are_in_the_record(archive: Archive) -> None:
    """The plan's file has path and SHA-256 of the model, in format 4; without models it stays format 3."""
    path = plan_file(T, PLANS, CONFIGURATION)
    for models, number in (({A: ready(A)}, 4), ({}, 3)):
        plan = made(archive, Known(models=models), scratch_dice=0.4)
        write_plan(path, plan)
        assert read_plan(path) == plan and json.loads(path.read_text())["format"] == number
