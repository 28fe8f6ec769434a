"""Which channels and which heads of two networks go together: by their names, and by the affinity's comparison."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.nnunet.network import Outputs, network_outputs
from nnunet_seqtransfer.tasks.task import Task

Pairs = tuple[tuple[str, str], ...]
"""Channels of a source and the target's that each was compared with, by their names."""
Places = tuple[int | None, ...]
"""For each channel (or output) of the new network the place of the old one that it is like, or None."""


@dataclass(frozen=True)
class HeadMatch:
    """Which heads of a network are kept."""

    places: Places | None
    "For each output of the new network the old one whose head it keeps, or None; None where all heads are new."
    words: str
    "What is kept, or why nothing is: a line for users."

    @property
    def kept(self) -> dict[int, int]:
        """New output -> old output."""
        return {new: old for new, old in enumerate(self.places or ()) if old is not None}


@dataclass(frozen=True)
class Correspondence:
    """What goes together in two stages of a chain that follow each other."""

    channels: Places | None
    "None where the channels are the same, or every channel reads the mean of the old ones."
    heads: HeadMatch | None
    "None where heads are not to be kept."


def correspond(previous: Task, task: Task, *, keep_heads: bool, compared: Pairs = ()) -> Correspondence:
    """What goes together in a stage on ``task`` that follows one on ``previous``.

    ``compared``: the channels that the affinity compared, which count where the names tell nothing.
    """
    old, new = previous.channels, task.channels
    channels = match_names(old, new)
    if channels is None and not {name.casefold() for name in old} & {name.casefold() for name in new}:
        channels = match_compared(old, new, compared)
    outputs = (network_outputs(previous.dataset_json), network_outputs(task.dataset_json))
    return Correspondence(channels, match_heads(*outputs) if keep_heads else None)


def match_names(old: Sequence[str], new: Sequence[str]) -> Places | None:
    """For each new channel the place of the old one of the same name, whatever the case; None for those without.

    None where names tell nothing: there is one old channel, which all new ones read anyway; no name is in both; all
    are alike in the same order; or one occurs twice.
    """
    mine, theirs = [name.casefold() for name in old], [name.casefold() for name in new]
    if len(mine) < 2 or mine == theirs or not set(mine) & set(theirs):
        return None
    if len(set(mine)) < len(mine) or len(set(theirs)) < len(theirs):
        return None
    return tuple(mine.index(name) if name in mine else None for name in theirs)


def match_compared(old: Sequence[str], new: Sequence[str], compared: Pairs) -> Places | None:
    """The same by the channels that were compared; None where these are unknown, or it would change nothing."""
    known = {theirs: mine for mine, theirs in compared}
    places = tuple(old.index(known[name]) if known.get(name) in old else None for name in new)
    if len(old) < 2 or set(places) == {None} or places == tuple(range(len(old))):
        return None
    return places


def compared_channels(affinity: Affinity, source: str) -> Pairs:
    """The channels of a source and those of the target that the affinity compared them with.

    Empty where the metric compares no channels, or a name occurs twice. The record holds words, "T1 -> MRI", first for
    the channels and then for the labels: what does not read as a pair of the two tasks' channels is no such pair.
    """
    place = affinity.names.index(source)
    mine, theirs = affinity.tasks[place].channels, affinity.tasks[-1].channels
    readings = {f"{a} -> {b}": (a, b) for a in mine for b in theirs}
    words = affinity.matches[place][: min(len(mine), len(theirs))]
    if len(readings) < len(mine) * len(theirs) or not all(word in readings for word in words):
        return ()
    return tuple(readings[word] for word in words)


def match_heads(old: Outputs | None, new: Outputs) -> HeadMatch:
    """Heads of labels, or of regions, of the same name in both, whatever the case; background goes with background.

    Background alone is not kept: beside heads that are all new, a trained one would only make everything background.
    Labels and regions are not mixed: outputs of the first are made for one softmax, of the second for a sigmoid each.
    """
    if old is None:
        return HeadMatch(None, "heads: all new, the model does not say what its outputs are")
    if old.regions != new.regions:
        kinds = ("regions (sigmoid)", "labels (softmax)")
        given, wanted = kinds if old.regions else kinds[::-1]
        return HeadMatch(None, f"heads: all new, those before are of {given} and do not fit {wanted}")
    mine, theirs = ([name.casefold() for name in outputs.names] for outputs in (old, new))
    places = tuple(mine.index(name) if mine.count(name) == theirs.count(name) == 1 else None for name in theirs)
    kept = [name for name, place in zip(new.names, places, strict=True) if place is not None]
    if not set(map(str.casefold, kept)) - {"background"}:
        before, after = (", ".join(n for n in outputs.names if n != "background") for outputs in (old, new))
        return HeadMatch(None, f"heads: all new, no name is in both ({before}; now {after})")
    fresh = [name for name, place in zip(new.names, places, strict=True) if place is None]
    return HeadMatch(places, f"heads: kept {', '.join(kept)}; new {', '.join(fresh) or 'none'}")


def channel_words(channels: Places, old: Sequence[str], new: Sequence[str]) -> str:
    """A line for users: "channels: T1 reads T1; FLAIR reads the mean"."""
    parts = zip(new, channels, strict=True)
    reads = (f"{name} reads {'the mean' if place is None else old[place]}" for name, place in parts)
    return f"channels: {'; '.join(reads)}"
