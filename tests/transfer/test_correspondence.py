"""Channels and heads are matched by name; channels with unknown names by what the affinity compared."""

from __future__ import annotations

import pytest

from nnunet_seqtransfer.nnunet.network import Outputs
from nnunet_seqtransfer.transfer.correspondence import channel_words, match_compared, match_heads, match_names


def test_heads_go_together_by_name() -> None:
    """Equal names whatever the case, background with background; the rest of the new network's heads is new."""
    match = match_heads(Outputs(("background", "CA1", "Edema"), False), Outputs(("background", "edema", "new"), False))
    assert match.indices == (0, 2, None) and match.kept == {0: 0, 1: 2}
    assert match.words == "heads: kept background, edema; new new"
    regions = match_heads(Outputs(("whole", "core"), True), Outputs(("CORE", "whole"), True))
    assert regions.kept == {0: 1, 1: 0} and regions.words == "heads: kept CORE, whole; new none"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (Outputs(("background", "a"), False), Outputs(("background", "b"), False), "no name is in both (a; now b)"),
        (Outputs(("whole",), True), Outputs(("background", "whole"), False), "regions (sigmoid) and do not fit labels"),
        (Outputs(("background", "a"), False), Outputs(("a",), True), "labels (softmax) and do not fit regions"),
        (None, Outputs(("background", "a"), False), "does not say what its outputs are"),
        (Outputs(("a", "A", "x"), True), Outputs(("a",), True), "no name is in both"),
    ],
)
def test_where_nothing_matches_it_is_said(old: Outputs | None, new: Outputs, words: str) -> None:
    """No common name but background's, another kind of outputs, unknown or ambiguous names: all heads are new."""
    match = match_heads(old, new)
    assert match.indices is None and match.kept == {} and words in match.words


def test_channels_are_matched_by_name() -> None:
    """Equal names go together whatever their case; where names tell nothing there is no match."""
    assert match_names(("T1", "FLAIR"), ("flair", "t1", "T2")) == (1, 0, None)
    assert match_names(("T1", "FLAIR"), ("T1",)) == (0,)
    for old, new in (
        (("T1",), ("T1",)),
        (("T1",), ("CT",)),
        ((), ("CT",)),
        (("a", "a", "b"), ("b",)),
        (("R",), ("R", "R")),
    ):
        assert match_names(old, new) is None


def test_channels_go_together_by_what_was_compared() -> None:
    """Where names are all different, the affinity's pairs count; a mere identity, or a single old channel, does not."""
    pairs = (("FLAIR", "b"), ("T1", "a"))
    assert match_compared(("FLAIR", "T1"), ("a", "b"), pairs) == (1, 0)
    assert match_compared(("FLAIR", "T1"), ("b",), pairs) == (0,)
    assert match_compared(("FLAIR", "T1"), ("a", "x", "b"), pairs) == (1, None, 0)
    assert match_compared(("FLAIR", "T1"), ("b", "a"), pairs) is None, "already so"
    assert match_compared(("T1",), ("a", "c"), pairs) is None and match_compared(("X", "Y"), ("a", "b"), pairs) is None
    assert match_names(("T1",), ("T1", "T2")) is None, "every new channel reads the only old one"
    assert channel_words((1, None), ("FLAIR", "T1"), ("a", "b")) == "channels: a reads T1; b reads the mean"
