"""Command lines that are wrong in themselves: refused in one line, before anything is read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nnunet_seqtransfer.entry_points import train
from support.bad_inputs import AFFINITY, PLAN, TRAIN, Command, assert_refused, error_line
from support.world import World

GOOD = {"affinity": AFFINITY, "plan": PLAN, "train": TRAIN, "env": ("env",)}
HELPED = [*GOOD, "demo"]
NO_COUNTS = ("x", "0", "-1", "1.5", "")
NO_NUMBERS = ("x", "0", "-2", "nan", "inf")
NO_NAMES = ("a__b", "../x", "a b", "", "_a", "a_", "\u00e4", "a/b", "a\nb")
NUMBERS = ("7", "via902", "902_903", "via902_x", "without0", "disjoint", "disjoint_2")


@pytest.mark.parametrize("name", HELPED)
def test_help_is_a_screen_with_an_example(command: Command, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """-h shows an example in about a screen; --help_all adds every other option."""
    monkeypatch.setenv("COLUMNS", "100")
    short, whole = command(name, "-h"), command(name, "--help_all")
    assert (short.status, whole.status, short.err, whole.err) == (0, 0, "", "")
    assert "Example:\n  " in short.out and f"nnUNetv2_seq_{name}" in short.out
    assert len(short.out.splitlines()) <= 43
    listed = {line.split()[0] for line in short.out.splitlines() if line.startswith("  -")}
    assert listed <= {line.split()[0] for line in whole.out.splitlines() if line.startswith("  -")}


@pytest.mark.parametrize("typed", ["train 90", "train -d 90", "train 901 3d_fullres 0 -s 90", "affinity 90"])
def test_tab_completes_numbers_of_datasets(world: World, tmp_path: Path, typed: str) -> None:
    """Wherever a dataset is named, the shell is offered what is registered; without the folders, nothing."""
    line, found = f"nnUNetv2_seq_{typed}", tmp_path / "found"
    asked = {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_STDOUT_FILENAME": str(found), "_ARGCOMPLETE_IFS": " "}
    asked |= {"COMP_TYPE": "9", "COMP_LINE": line, "COMP_POINT": str(len(line))}
    for folders, numbers in (({}, {"901", "902", "903", "904"}), ({"nnUNet_raw": "/nowhere"}, set())):
        found.write_text("")
        code = f"from nnunet_seqtransfer.entry_points.{typed.split(maxsplit=1)[0]} import main; main()"
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **asked, **folders},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (ended.returncode, ended.stderr) == (0, "") and set(found.read_text().split()) == numbers


@pytest.mark.parametrize("name", GOOD)
def test_version(command: Command, name: str) -> None:
    """--version prints the version alone."""
    outcome = command(name, "--version")
    assert (outcome.status, outcome.err) == (0, "") and outcome.out[0].isdigit()


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        ("affinity", ("-case", "3"), ("unknown option -case", "did you mean -n_cases?")),
        ("affinity", ("-source", "902"), ("unknown option -source",)),
        ("affinity", ("--cases", "3"), ("unknown option --cases", "did you mean -n_cases?")),
        ("plan", ("-max_source", "1"), ("unknown option -max_source", "did you mean -max_sources?")),
        ("plan", ("-strategie=exact",), ("unknown option -strategie", "did you mean -strategy?")),
        ("train", ("-source_epoch", "3"), ("unknown option -source_epoch", "did you mean -source_epochs?")),
        ("train", ("-source_epochz", "3"), ("unknown option -source_epochz", "did you mean -source_epochs?")),
        ("train", ("-dry_run",), ("unknown option -dry_run", "did you mean --dry_run?")),
        ("train", ("-plans_name", "x"), ("unknown option -plans_name",)),
        ("train", ("--c",), ("unknown option --c",)),
        ("env", ("-version",), ("unknown option -version", "did you mean --version?")),
        ("env", ("now",), ("unrecognized arguments: now",)),
    ],
)
def test_misspelt_options(
    command: Command, world: World, name: str, given: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """A misspelt or abbreviated option is refused with the one that was meant, and never taken for another."""
    assert_refused(world, command, (*GOOD[name], *given), *words, "-h")


@pytest.mark.parametrize(
    ("name", "given", "words"),
    [
        *(("affinity", ("-n_cases", value), ("argument -n_cases", value)) for value in NO_COUNTS),
        *(("affinity", ("-np", value), ("argument -np", value)) for value in NO_COUNTS),
        ("affinity", ("-seed", "-1"), ("argument -seed", "'-1' is not a whole number from 0")),
        ("affinity", ("-seed", "4294967296"), ("argument -seed", "to 2147483647")),
        ("affinity", ("-m", "cosine"), ("no metric 'cosine'", "descriptors, published")),
        ("affinity", ("-t",), ("argument -d/-t: expected one argument",)),
        ("plan", ("-m", "cosine"), ("no metric 'cosine'", "descriptors, published")),
        ("plan", ("-strategy", "best"), ("argument -strategy", "'best'", "'gain', 'published'")),
        ("plan", ("-communities", "3"), ("-communities is for -strategy published",)),
        *(("plan", ("-communities", value), ("argument -communities", value)) for value in NO_COUNTS),
        *(("plan", ("-list", value), ("argument -list", value)) for value in NO_COUNTS),
        *(("plan", ("-budget_epochs", value), (f"'{value}' is not a number above 0",)) for value in NO_NUMBERS),
        *(("plan", ("-epoch_time", value), (f"'{value}' is not a number above 0",)) for value in NO_NUMBERS),
        ("plan", ("-budget_epochs", "9", "-budget_gpu_hours", "9"), ("-budget_gpu_hours: not allowed with",)),
        ("plan", ("-min_landmark_cases", "-1"), ("argument -min_landmark_cases", "'-1'")),
        ("plan", ("-must",), ("argument -must: expected at least one argument",)),
        ("plan", ("-n_folds", "0"), ("argument -n_folds", "'0'")),
        ("plan", ("-tag", "a__b"), ("argument -tag", "becomes part of folder names")),
        ("plan", ("-max_sources", "two"), ("argument -max_sources", "'two'")),
        ("plan", ("-max_sources", "-1"), ("argument -max_sources", "choose from 0, 1, 2")),
        ("train", ("-epochs", "many"), ("argument -epochs", "'many' is not a whole number above 0")),
        ("train", ("-epochs", "0"), ("argument -epochs", "'0'")),
        ("train", ("-initial_lr", "0"), ("argument -initial_lr", "'0' is not a number above 0")),
        ("train", ("-initial_lr", "1,5"), ("argument -initial_lr", "'1,5' is not a number above 0")),
        ("train", ("-warmup_epochs", "-1"), ("argument -warmup_epochs", "'-1'")),
        ("train", ("-seed", "x"), ("argument -seed", "'x' is not a whole number")),
        ("train", ("-device", "tpu"), ("argument -device", "'tpu'", "'cuda', 'cpu', 'mps'")),
        ("train", ("-num_gpus", "0"), ("argument -num_gpus", "'0'")),
        ("train", ("-m", "published"), ("unknown option -m",)),
        ("plan", ("-m", "published", "-a", "file"), ("-m and -a exclude each other",)),
        *(("train", ("-tag", tag), ("argument -tag", f"{tag!r} becomes part of folder names")) for tag in NO_NAMES),
        *(("train", ("-tag", tag), ("argument -tag", f"{tag!r} reads like a part of the path")) for tag in NUMBERS),
    ],
)
def test_wrong_values(
    command: Command, world: World, name: str, given: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """A value of the wrong type, out of range or unknown is refused with the option, the value, and the choice."""
    assert_refused(world, command, (*GOOD[name], *given), *words, "-h")


@pytest.mark.parametrize("arguments", [("affinity",), ("plan", "-max_sources", "1"), ("train",), ("train", "901")])
def test_missing_arguments(command: Command, arguments: tuple[str, ...]) -> None:
    """A missing target, or configuration and fold of a training, is one line with an example."""
    line = error_line(command(*arguments))
    assert "name the target" in line and f"nnUNetv2_seq_{arguments[0]}" in line


def test_words_and_options_name_the_same(tmp_path: Path) -> None:
    """The target, configuration and folds may be words or options; a recipe file stands for options."""
    recipe = tmp_path / "recipe.txt"
    recipe.write_text("# of the lab\nlayer_decay = 0.7\nsource_epochs = 3 4\nepochs = 9\n")
    lines = ("4 3d_fullres 0 1", "-d 4 -c 3d_fullres -f 0 1", "-t 4 3d_fullres 0 1", "-epochs 7 4 0 3d_fullres 1")
    for line in lines:
        options = train._parse([*line.split(), "-recipe", str(recipe)])
        assert (options.d, options.c, options.f) == ("4", "3d_fullres", ["0", "1"])
        assert (options.layer_decay, options.source_epochs) == (0.7, [3, 4])
        assert options.epochs == (7 if "-epochs" in line else 9)


def test_tags_that_are_fine(command: Command, world: World) -> None:
    """Words, digits inside, hyphens and single underscores make a tag."""
    for tag in ("long", "lr1e-3", "a_2", "2x", "via"):
        outcome = command(*TRAIN, "--dry_run", "-tag", tag)
        assert outcome.status == 0 and f"_{tag}.json" in outcome.out


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("-num_gpus", "2"), ("-num_gpus 2 needs -device cuda, not cpu",)),
        (("-device", "cuda"), ("1 CUDA GPU(s) requested, 0 visible", "-device cpu")),
    ],
)
def test_missing_devices(
    command: Command, world: World, monkeypatch: pytest.MonkeyPatch, given: tuple[str, ...], words: tuple[str, ...]
) -> None:
    """A device that the machine does not have is noticed before anything is preprocessed."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    assert_refused(world, command, (*TRAIN, *given), *words)


@pytest.mark.parametrize("name", ["affinity", "plan", "train", "compare", "status", "calibrate", "cancel", "report"])
def test_help_needs_no_torch(name: str) -> None:
    """Options are parsed before torch and matplotlib are imported, which takes seconds; status needs no NumPy."""
    heavy = {"torch", "matplotlib"} | ({"numpy"} if name == "status" else set())
    code = f"import sys, nnunet_seqtransfer.entry_points.{name}; print({heavy} & set(sys.modules))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
