"""What the page says of a run: decision, result, the comparison with scratch, commands that repeat it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from nnunet_seqtransfer.affinity.record import Affinity, read_affinity
from nnunet_seqtransfer.entry_points.executor_options import print_results
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.report.findings import Findings, read_findings
from nnunet_seqtransfer.report.page import render
from nnunet_seqtransfer.report.run_text import (
    against_scratch,
    commands,
    decision,
    gain_origin,
    reasons,
    result,
    results_text,
)
from nnunet_seqtransfer.training.executors import LocalExecutor
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel
from support import made_run
from support.made_run import FAR, NEAR, SMALL, TARGET


def made(folders: Path, sources: Sequence[str] = (NEAR,), folds: Sequence[str] = ("0",), begun: int = 2) -> Findings:
    """A run on few cases, without plan and distances."""
    made_run.write_world(folders / "raw", cases=3)
    return read_findings(made_run.write_made_run(sources, folds, begun=begun))


def planned(folders: Path) -> Findings:
    """A run that follows its plan."""
    made_run.write_world(folders / "raw", cases=1)
    made_run.write_made_plan(made_run.write_made_affinity())
    return read_findings(made_run.write_made_run(begun=0))


def with_request(found: Findings, **changes: object) -> Findings:
    return replace(found, run=replace(found.run, request=replace(found.run.request, **changes)))  # type: ignore[arg-type]


def test_the_decision_says_what_is_trained_and_why(folders: Path) -> None:
    """The golden sentence: expected gain and chance of harm if the run follows the plan."""
    found = planned(folders)
    assert decision(found) == (
        f"{TARGET} is trained after {NEAR}: expected gain over scratch +0.120 (-0.050 to +0.310) Dice, chance of harm "
        "14 %."
    )
    other = with_request(found, sources=(FAR,))
    assert decision(other).endswith("the plan proposes 902 \N{RIGHTWARDS ARROW} 901.")
    assert decision(replace(found, plan=None)).endswith("there is no plan for this target.")
    assert decision(with_request(found, sources=())).startswith(f"{TARGET} is trained from scratch, as requested")
    assert reasons(replace(found, plan=None)) == []
    assert not [line for line in reasons(found) if line.startswith("To train")]


def test_a_model_that_a_chain_starts_from_is_named_without_its_folder(folders: Path) -> None:
    """The sentence and the command name the file."""
    model = PretrainedModel(Path("/home/someone/model.zip"), "fold_0/checkpoint_final.pth", "ab" * 32)
    found = with_request(made(folders, (), begun=0), pretrained=model)
    assert decision(found).startswith(f"{TARGET} is trained alone, starting from the weights of model.zip, as")
    text = render(found)
    assert "-init model.zip" in text and "/home/someone" not in text


def test_results_count_stages_and_cases(folders: Path) -> None:
    """Progress without a validation, Dice with one, and a warning on few cases."""
    assert result(made(folders, begun=0)) == "0 of 2 stages finished; no fold of the target has been validated yet."
    found = read_findings(made_run.write_made_run(folds=("1",), tag="more"))
    assert "in the validation of fold 1 (3 cases); 2 of 2 stages finished. With so few" in result(found)
    assert "some of which sources may hold" in result(with_request(found, overlap="allow"))


def test_fold_all_is_left_out_next_to_other_folds(folders: Path) -> None:
    """With folds 0 and all the cases of fold 0 count once."""
    found = made(folders, (), ("0", "all"), begun=2)
    assert [stage.disk.validated for stage in found.stages] == [True, True]
    assert {case.fold for case in found.cases} == {"0"} and len(found.cases) == 3
    assert not found.trained_on_cases


def test_the_comparison_with_scratch(folders: Path) -> None:
    """From a comparison if there is one of this path, otherwise as a command that trains scratch alike."""
    found = made(folders)
    words, command = against_scratch(found)
    assert "unknown" in words and command.startswith("nnUNetv2_seq_train 901 3d_fullres 0 -s none -epochs 12")
    made_run.write_made_comparison()
    compared = read_findings(found.run.folder)
    assert against_scratch(compared) == ("Dice +0.060 (+0.020 to +0.100) against scratch, over 8 cases.", "")
    assert against_scratch(with_request(compared, sources=(FAR,)))[1]
    assert against_scratch(with_request(compared, sources=())) == ("", "")


def test_a_finished_scratch_training_is_compared_case_by_case(folders: Path) -> None:
    """With an equal recipe on the same fold; another recipe or fold says nothing."""
    found = made(folders)
    made_run.write_made_run((), ("1",), begun=1)
    assert read_findings(found.run.folder).scratch == ()
    made_run.write_made_run((), epochs=13, begun=1, tag="other")
    made_run.write_made_run((), begun=1)
    compared = read_findings(found.run.folder)
    assert {case.case for case in compared.scratch} == {case.case for case in compared.cases}
    assert against_scratch(compared) == ("Dice +0.000 against scratch, over 3 cases, one training each.", "")
    lines = results_text(compared.run, compared, None).splitlines()
    assert [line.split(":")[0] for line in lines] == [
        "done",
        "Dice 0.810 in the validation of fold 0 (3 cases)",
        "Dice +0.000 against scratch, over 3 cases, one training each.",
        "predict with",
    ]


def test_the_end_of_a_training_without_a_comparison(folders: Path) -> None:
    """It names the report and the command that measures scratch; fold all has no Dice."""
    found = made(folders)
    lines = dict(line.split(": ", 1) for line in results_text(found.run, found, Path("/report.html")).splitlines())
    assert lines["report"] == "/report.html" and " -s none " in lines["compare with scratch"]
    every = read_findings(made_run.write_made_run((), ("all",), begun=1))
    assert "no Dice: fold all holds no case out" in results_text(every.run, every, None).splitlines()


@pytest.mark.parametrize("error", [PermissionError("no"), ValueError("odd"), RecordError("cut")])
def test_a_training_is_finished_even_if_its_report_fails(
    folders: Path, error: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Folder and predict command are printed all the same; the error is one line."""

    def failing(_: Path) -> Findings:
        raise error

    run = made(folders).run
    for name in ("page.write_report", "findings.read_findings"):
        with monkeypatch.context() as patch:
            patch.setattr(f"nnunet_seqtransfer.report.{name}", failing)
            print_results(run, LocalExecutor())
        printed = capsys.readouterr()
        assert [line.split(":")[0] for line in printed.out.splitlines() if line[:4] in ("done", "pred", "repo")] == [
            "done",
            "predict with",
        ]
        assert str(error) in printed.err and len(printed.err.splitlines()) == 1


def test_the_predict_command_names_finished_folds(folders: Path) -> None:
    """A fold without a final checkpoint would stop nnU-Net."""
    found = made(folders, folds=("0", "1"))
    (line,) = [line for line in results_text(found.run, None, None).splitlines() if line.startswith("predict")]
    assert line.split(" -f ")[1].split(" -")[0] == "0"


@pytest.mark.parametrize(
    ("of_run", "of_comparison", "is_shown"),
    [
        (None, None, True),
        ("seed1", None, True),
        ("long50_seed1", None, True),
        ("short_long50_seed1", "short", True),
        ("short", "short", True),
        ("short_seed1", None, False),
        (None, "short", False),
    ],
)
def test_a_comparison_belongs_to_the_runs_that_it_trained(
    folders: Path, of_run: str | None, of_comparison: str | None, is_shown: bool
) -> None:
    """Runs with its tag, and those that it trained, which have seeds behind it; not those of another recipe."""
    made_run.write_world(folders / "raw", cases=1)
    made_run.write_made_comparison(tag=of_comparison)
    assert bool(read_findings(made_run.write_made_run((), begun=0, tag=of_run)).comparisons) == is_shown


def test_a_tag_that_reads_like_a_test_set_is_a_tag(folders: Path) -> None:
    """compare_..._test903 may have the tag test903, on the folds, or no tag, on dataset 903."""
    made_run.write_world(folders / "raw", cases=1)
    made_run.write_made_comparison(tag="test903")
    plain, tagged = (made_run.write_made_run((), begun=0, tag=tag) for tag in (None, "test903"))
    assert read_findings(plain).comparisons == () and len(read_findings(tagged).comparisons) == 1
    made_run.write_made_comparison(test=FAR)
    assert len(read_findings(plain).comparisons) == 1 and read_findings(tagged).comparisons == ()


def test_what_gains_were_fitted_on(folders: Path) -> None:
    """The measured transfers, and the user's own among them by name."""
    plan = planned(folders).plan
    assert plan is not None
    assert gain_origin(plan) == "515 measured transfers to 12 targets"
    assert gain_origin(replace(plan, calibration="ours")).endswith(", among them those of ours")


def test_the_commands_repeat_the_affinity_and_the_plan(folders: Path) -> None:
    """Number of cases, metric, seed, calibration, and the files of datasets that are not registered here."""
    found = planned(folders)
    assert found.affinity_file is not None and found.plan is not None
    affinity = read_affinity(found.affinity_file)
    told = dict(commands(found))
    assert list(dict(commands(replace(found, affinity=None, plan=None)))) == ["Train", "Continue this run", "Predict"]
    sources = "-t 901 -c 3d_fullres -s 902 905 903 -m descriptors"
    assert told["Measure the distances"] == f"nnUNetv2_seq_affinity {sources} -n_cases 2 -seed 3"
    assert told["Plan (with the options in the record)"] == "nnUNetv2_seq_plan -t 901 -c 3d_fullres -m descriptors"
    assert told["Predict"].endswith("-f 0 -device cpu")
    tasks = tuple(replace(task, registered=task.dataset != SMALL) for task in affinity.tasks)
    elsewhere: Affinity = replace(affinity, cases=0, tasks=tasks)
    told = dict(commands(replace(found, affinity=elsewhere, plan=replace(found.plan, calibration="ours"))))
    what = f"Measure the distances (with the signature file of {SMALL})"
    assert told[what] == (
        f"nnUNetv2_seq_affinity -t 901 -c 3d_fullres -s 902 903 {SMALL}.npz -m descriptors -n_cases auto -seed 3"
    )
    assert told["Plan (with the options in the record and the file of the calibration ours)"].endswith("ours.json")
