"""Names of channels and labels are compared as people in the field read them."""

from __future__ import annotations

import pytest

from nnunet_seqtransfer.affinity.name_match import SYNONYMS, Names, match_names, modality, normalise


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("FLAIR", "T2-FLAIR"),
        ("T1c", "T1CE"),
        ("T1Gd", "T1_post"),
        ("T1w", "t1"),
        ("Hippocampi", "hippocampus"),
        ("lesions", "Lesion"),
        ("kidneys", "kidney"),
        ("whole tumor", "WholeTumor"),
        ("MRI", "MR"),
    ],
)
def test_synonyms_are_one_name(one: str, other: str) -> None:
    """Spellings, synonyms and plurals of one thing have the same normalised name."""
    assert normalise(one).replace("tumor", "tumour") == normalise(other).replace("tumor", "tumour")


@pytest.mark.parametrize(("one", "other"), [("T1", "T1c"), ("T1", "T2"), ("pancreas", "pancrea"), ("FLAIR", "T2")])
def test_different_things_stay_different(one: str, other: str) -> None:
    """Sequences that only look alike, and words that end in s, are kept apart."""
    assert normalise(one) != normalise(other)


def test_synonyms_lead_to_normal_names() -> None:
    """No synonym stands for another synonym, so that one look-up is enough."""
    assert {normalise(name) for name in SYNONYMS.values()} == set(SYNONYMS.values())
    assert not set(SYNONYMS) & set(SYNONYMS.values())


def test_labels_match_in_part() -> None:
    """An equal label counts 1, a part of a compound name 0.5, another label 0; sides do not count."""
    target = Names(["T1"], ["hippocampus", "caudateputamen"])
    assert match_names(Names(["T1"], ["hippocampus"]), target).labels == 0.5
    assert match_names(Names(["T1"], ["left hippocampus", "putamen"]), target).labels == 0.75
    assert match_names(Names(["T1"], ["liver"]), target).labels == 0
    assert match_names(Names(["T1"], []), target).labels == 0


@pytest.mark.parametrize(
    ("source", "target", "expected"),
    [
        (Names([], ["hippocampus"], "Dataset021_Oasis"), Names([], ["Anterior", "Posterior"], "Task_Hippocampi"), 0.5),
        (Names([], ["tumour"], "Dataset003_LiverTumour"), Names([], ["liver", "vessel"], "Dataset008_X"), 0.25),
        (Names([], ["thalamus"], "Dataset022_OasisThalamus"), Names([], ["Anterior"], "Dataset004_Hippocampus"), 0),
        (Names([], ["liver"], "Dataset003_Liver"), Names([], ["liver"], "Dataset010_Liver"), 1),
        (Names([], ["left"], "Dataset003_Left"), Names([], ["x"], "Dataset010_LeftLeft"), 0),
    ],
)
def test_a_label_in_the_name_of_the_other_dataset_is_a_part(source: Names, target: Names, expected: float) -> None:
    """Anterior and Posterior of a hippocampus dataset fit a source with the label hippocampus in part."""
    assert match_names(source, target).labels == expected


def test_a_generic_channel_matches_its_modality_in_part() -> None:
    """ "MR" fits each MR sequence in part and CT not at all; two different sequences do not fit."""
    assert match_names(Names(["MR"], ["x"]), Names(["T1"], ["x"])).channels == 0.5
    assert match_names(Names(["T1"], ["x"]), Names(["T1"], ["x"])).channels == 1
    assert match_names(Names(["T2"], ["x"]), Names(["T1"], ["x"])).channels == 0
    assert match_names(Names(["CT"], ["x"]), Names(["MR"], ["x"])).channels == 0


def test_the_score_is_monotone_and_within_bounds() -> None:
    """Labels weigh twice as much as channels; equal tasks reach 1, unrelated ones 0."""
    equal = match_names(Names(["T1"], ["liver"]), Names(["T1"], ["liver"]))
    label_only, channel_only = (
        match_names(Names(c, k), Names(["T1"], ["liver"])) for c, k in ((["CT"], ["liver"]), (["T1"], ["lung"]))
    )
    assert (equal.score, label_only.score, channel_only.score) == pytest.approx((1, 2 / 3, 1 / 3))
    assert match_names(Names(["CT"], ["lung"]), Names(["T1"], ["liver"])).score == 0


def test_modalities_that_clash_are_named() -> None:
    """CT against MR and RGB against one channel are named; unknown names never clash."""
    assert match_names(Names(["CT"], ["x"]), Names(["T1"], ["x"])).clash == "CT/MR"
    assert match_names(Names(["R", "G", "B"], ["x"]), Names(["fluorescence"], ["x"])).clash == "3 channels/1 channel"
    assert match_names(Names(["something"], ["x"]), Names(["T1"], ["x"])).clash is None
    assert match_names(Names(["T1", "FLAIR"], ["x"]), Names(["T2"], ["x"])).clash is None
    assert [modality(name) for name in ("T1inv", "T2m", "CT", "FLAIR", "texture")] == ["MR", "MR", "CT", "MR", None]
