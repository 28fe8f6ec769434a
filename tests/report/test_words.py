"""Names, numbers, counts and paths as text."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.report import words

TARGET = "Dataset901_Target"


def test_names_numbers_and_counts() -> None:
    """Datasets by name and number, numbers with fixed digits, counts with their plural."""
    assert words.short("Dataset023_Oasis_Caudate") == "023 Oasis_Caudate" and words.short("Dataset") == "Dataset"
    assert words.number("Dataset023_Oasis") == "23" and words.number("other") == "other"
    assert words.path_words(("Dataset023_A", TARGET), " -> ") == "23 -> 901"
    assert words.path_words((TARGET,)) == "scratch"
    assert [words.decimals(value) for value in (0.5, 12345.6, math.inf, None)] == [
        "0.500",
        "1.235e+04",
        words.MISSING,
        words.MISSING,
    ]
    shares = {0.0: "0 %", 0.001: "under 1 %", 0.5: "50 %", 0.999: "over 99 %", 1.0: "100 %"}
    assert {share: words.percent(share) for share in shares} == shares
    assert words.interval(0.1, 0.0, 0.2, "+") == "+0.100 (+0.000 to +0.200)"
    assert words.interval(0.1, None, None) == words.interval(0.1, math.nan, 0.2) == "0.100"
    assert words.counted(1, "case") == "1 case" and words.counted(2, "hop") == "2 hops"
    assert [words.listed(names) for names in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert [words.hours(value) for value in (0.004, 6.25, 31.4)] == ["0.004", "6.2", "31"]
    assert words.sentence("a  line\nof text") == "A line of text."


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("damaged: /home/some one/data/x.json; make it again", "damaged: x.json; make it again"),
        ("cannot read /a/b.png and '/c/d e/f.png'", "cannot read b.png and 'f.png'"),
        (r"cannot read C:\Users\me\x.nii.gz", "cannot read x.nii.gz"),
        ("the folder /home/me/secret", "the folder secret"),
        ("Dataset901_Target/nnUNetPlans has 3/4 and/or https://example.org/page", None),
        ("1 / 2, a - b", None),
    ],
)
def test_texts_name_no_folders(folders: Path, text: str, shown: str | None) -> None:
    """Absolute paths become their last part; names of runs, shares and addresses stay."""
    assert words.without_folders(text) == (text if shown is None else shown)


def test_nnunets_folders_become_their_variables(folders: Path) -> None:
    """Below nnU-Net's folders the path stays, to be found again; a folder whose name only begins alike is another."""
    root = results_folder()
    shown = words.without_folders(f"broken: {root}/{TARGET}/x.json; run")
    assert shown == f"broken: nnUNet_results/{TARGET}/x.json; run"
    assert words.without_folders(f"broken: {root}_old/x.json") == "broken: x.json"
