"""The plan command on an archive of datasets: what it decides, says, writes and refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunet_seqtransfer import Context, PlanOptions, PlanRequest, plan_path
from nnunet_seqtransfer.affinity.record import read_affinity
from nnunet_seqtransfer.planning.measured import MeasuredTable, write_table
from nnunet_seqtransfer.planning.record import plan_file, read_plan
from nnunet_seqtransfer.report.pages import write_choice
from nnunet_seqtransfer.storage import write_record
from nnunet_seqtransfer.tasks.derive import RECORD_FORMAT, RECORD_KIND, RECORD_NAME
from nnunet_seqtransfer.training.history import find_scratch_dice
from nnunet_seqtransfer.training.plan import own_table_file
from nnunet_seqtransfer.training.recipe import Recipe
from support.archives import CONFIGURATION, PLANS, Archive, make_archive, write_checkpoint
from support.bad_inputs import Command
from support.calibration_cases import measured_rows

A, B, C, T = "Dataset021_A", "Dataset024_B", "Dataset025_C", "Dataset004_T"
PLACES = {A: (0.3, 0.0), B: (0.9, 0.0), C: (0.0, 2.0), T: (0.0, 0.0)}
COUNTS = {A: 20, B: 400, C: 90, T: 80}


@pytest.fixture(autouse=True)
def no_pictures(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pictures take seconds and have tests of their own; one test here draws them."""
    if request.function is not test_everything_for_people_is_in_one_folder:
        monkeypatch.setattr("nnunet_seqtransfer.report.pages.write_choice", lambda *_: None)


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """A is nearest to T, B is larger, C is far; distances hardly scatter."""
    made = make_archive(tmp_path / "archive", monkeypatch)
    made.add_affinity(PLACES, COUNTS)
    return made


def read() -> object:
    return read_plan(plan_file(T, PLANS, CONFIGURATION))


def add_scratch(archive: Archive, name: str, dice: dict[str, float | None]) -> None:
    """A validated model of the target, its Dice by fold."""
    for fold, value in dice.items():
        folder = archive.root / "results" / T / f"{name}__{CONFIGURATION}" / f"fold_{fold}"
        (folder / "validation").mkdir(parents=True)
        write_checkpoint(folder / "checkpoint_final.pth")
        (folder / "validation" / "summary.json").write_text(json.dumps({"foreground_mean": {"Dice": value}}))


def test_the_whole_text(archive: Archive, command: Command) -> None:
    """The verdict, what is left to gain, the rival of equal length, hours, evidence, and a table: under 25 lines."""
    outcome = command("plan", "-t", "4", "-scratch_dice", "0.5")
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    assert len(lines) < 25 and max(map(len, lines[: lines.index("")])) < 140
    assert lines[0] == f"{T}: train {A} first; expected gain +0.18 Dice"
    assert lines[1].startswith("Against scratch of equal target epochs: Dice +0.18 (-0.")
    assert lines[1].endswith("%.") and "chance of harm" in lines[1]
    assert "Scratch has a Dice of 0.50, so 0.50 is left to gain." in lines
    assert any(line.startswith("To train: 500 epochs, about 6.3 h at 45 s an epoch (a guess") for line in lines)
    assert any(line.startswith(f">  {A}") for line in lines)
    assert read().sources == (A,)


def test_everything_for_people_is_in_one_folder(archive: Archive, command: Command) -> None:
    """A page, which says if there is no plan, with figures as SVG and PDF; it is drawn again only if it was cut."""
    outcome = command("plan", "-t", "4")
    record, page = (Path(line.split()[-1]) for line in outcome.out.splitlines()[-2:])
    assert record == plan_file(T, PLANS, CONFIGURATION)
    figures = {f"{name}.{ending}" for name in ("gains", "graph", "heat_map", "ranking") for ending in ("svg", "pdf")}
    assert {path.name for path in page.parent.iterdir()} == figures | {"index.html"}
    assert "21 → 4" in page.read_text() and 'id="distances"' in page.read_text()
    drawn, whole = page.stat().st_mtime_ns, page.read_text()
    command("plan", "-t", "4")
    assert page.stat().st_mtime_ns == drawn
    page.write_text(whole[:1000])
    command("plan", "-t", "4")
    assert page.read_text()[-50:] == whole[-50:]
    record.unlink()
    affinity = page.parent.with_suffix(".json")
    assert "nnUNetv2_seq_plan -t 4 -c 3d_fullres" in write_choice(read_affinity(affinity), affinity).read_text()


def test_a_plan_says_which_one_it_replaces(archive: Archive, command: Command) -> None:
    """Only if it is another one."""
    assert "replaces" not in command("plan", "-t", "4").err + command("plan", "-t", "4").err
    assert f"this replaces the plan {A} -> {T} (by descriptors)" in command("plan", "-t", "4", "-avoid", "21").err


@pytest.mark.parametrize(
    ("given", "sources", "options"),
    [
        ("-must 25 -max_sources 1", (C,), {"must": (C,), "max_sources": 1}),
        ("-max_sources 0", (), {"max_sources": 0}),
        ("-avoid 21", (B,), {"avoid": (A,)}),
        (f"-avoid {A} 24 -scratch_dice 0.9", (), {"avoid": (A, B)}),
        ("-min_landmark_cases 21", (B,), {"landmark_cases": 21}),
        ("-budget_epochs 300", (), {"budget": 300, "budget_unit": "epochs"}),
        ("-budget_gpu_hours 7", (A,), {"budget": 7.0}),
        ("-budget_gpu_hours 5", (), {"budget": 5.0}),
        ("-budget_gpu_hours 3 -epoch_time 20", (A,), {"budget": 3.0}),
        ("-budget_epochs 900 -n_folds 3", (), {"budget": 900}),
        ("-strategy published -communities 1", (B, A), {"strategy": "published", "communities": 1}),
        ("-strategy published -communities 1 -max_sources 1", (B,), {"max_sources": 1}),
    ],
)
def test_options(
    archive: Archive, command: Command, given: str, sources: tuple[str, ...], options: dict[str, object]
) -> None:
    """Each of them changes the plan, which records what was asked."""
    outcome = command("plan", "-t", "4", *given.split())
    assert outcome.status == 0, outcome.err
    assert read().sources == sources and read().options != PlanOptions()
    assert {name: getattr(read().options, name) for name in options} == options


def test_the_number_of_candidates(archive: Archive, command: Command) -> None:
    """The best are listed, and always scratch and the best direct path."""
    command("plan", "-t", "4", "-list", "1")
    few = {entry.path for entry in read().candidates}
    command("plan", "-t", "4", "-list", "99")
    assert {(T,), (A, T)} == few < {entry.path for entry in read().candidates}


def test_finished_stages_cost_nothing(archive: Archive, command: Command) -> None:
    """A stage of the same recipe is free, one of another recipe is named."""
    archive.add_stage((A,), T, f"{PLANS}_for4", Recipe())
    assert command("plan", "-t", "4", "-budget_epochs", "250").status == 0
    assert read().sources == read().finished == (A,)
    command("plan", "-t", "4", "-source_epochs", "100")
    assert read().other_recipes == {A: (250, 250)} and read().finished == ()


def test_the_dice_of_scratch_is_found(archive: Archive, command: Command) -> None:
    """That of a chain without sources comes before nnU-Net's own trainer; means over folds; fold all does not count."""
    assert find_scratch_dice(T, PLANS, CONFIGURATION) is None
    add_scratch(archive, f"nnUNetTrainer__{PLANS}", {"0": 0.3, "1": 0.5, "all": 0.99})
    assert find_scratch_dice(T, PLANS, CONFIGURATION) == pytest.approx(0.4)
    add_scratch(archive, f"nnUNetTrainerSeqTransfer__{PLANS}_scratch", {"0": None, "2": 0.9})
    assert find_scratch_dice(T, PLANS, CONFIGURATION) == pytest.approx(0.9)
    command("plan", "-t", "4")
    assert read().scratch_dice == pytest.approx(0.9)


def test_a_source_derived_from_the_same_cases_is_left_out(archive: Archive, command: Command) -> None:
    """One line names it; --allow_overlap brings it back. The nearest source is no advice if it holds the test."""
    content = {"origin": T, "cases": ["a", "b"]}
    write_record(archive.root / "raw" / A / RECORD_NAME, RECORD_KIND, RECORD_FORMAT, content)
    outcome = command("plan", "-t", "4")
    assert f"Left out: {A}, which holds cases of the target" in outcome.out and read().sources == (B,)
    assert command("plan", "-t", "4", "--allow_overlap").status == 0 and read().sources == (A,)


def test_own_measurements_are_used(archive: Archive, command: Command, tmp_path: Path) -> None:
    """Those in nnUNet_results by themselves, another file if it is given."""
    table = MeasuredTable("mine", tuple(measured_rows(own=True)))
    write_table(tmp_path / "mine.json", table)
    command("plan", "-t", "4", "-calibration", str(tmp_path / "mine.json"))
    assert read().calibration == "mine"
    command("plan", "-t", "4")
    assert read().calibration is None
    write_table(own_table_file(), table)
    assert "among them those of mine" in command("plan", "-t", "4").out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("-must", "99"), "unknown dataset '99'"),
        (("-must", "4"), "is not among the sources|must names Dataset004_T, which is the target"),
        (("-must", "21", "-avoid", "21"), "must and avoid both name Dataset021_A"),
        (("-must", "30"), "Dataset030_Other must be on the path, but is not among the sources"),
        (("-budget_epochs", "100"), "below the 250 that the stage on Dataset004_T costs"),
        (("-must", "21", "-budget_epochs", "400"), "the budget of 400 is too small"),
        (("-calibration", "/no/such/file"), "is missing: /no/such/file"),
    ],
)
def test_impossible_requests(archive: Archive, command: Command, given: tuple[str, ...], words: str) -> None:
    """One line that says which, and nothing is written."""
    archive.register("Dataset030_Other")
    before = archive.files()
    outcome = command("plan", "-t", "4", *given)
    assert outcome.status == 2 and len(outcome.err.strip().splitlines()) == 1
    assert any(part in outcome.err for part in words.split("|")), outcome.err
    assert archive.files() == before


def test_the_verb_writes_the_plan(archive: Archive) -> None:
    """From Python: the record is returned and written, and no picture is drawn."""
    plan = plan_path(PlanRequest(T), PlanOptions(max_sources=1), Context())
    assert read() == plan and plan.sources == (A,)


def test_an_affinity_kept_elsewhere(archive: Archive, command: Command, tmp_path: Path) -> None:
    """-a names it; its metric is its own, so that -m does not go with it."""
    file = archive.add_affinity(PLACES, COUNTS)
    for path in (file, file.with_suffix(".npz")):
        path.rename(tmp_path / path.name)
    assert command("plan", "-t", "4", "-a", str(tmp_path / file.name)).status == 0
    assert read().affinity_file == file.name
    assert command("plan", "-t", "4", "-a", "x", "-m", "published").status == 2
