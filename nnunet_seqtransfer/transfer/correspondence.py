"""Match input channels and heads of two networks by name, and channels by what the affinity compared."""

from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_seqtransfer.nnunet.network import Outputs, network_outputs
from nnunet_seqtransfer.tasks.task import Task

Pairs = tuple[tuple[str, str], ...]
"""Names of channels that the affinity compared: (channel of the source, channel of the target)."""
Indices = tuple[int | None, ...]
"""For each new channel (or output) the index of the matching old one, or None."""


@dataclass(frozen=True)
class HeadMatch:
    """Heads that are kept."""

    indices: Indices | None
    "For each new output the old output whose head it keeps, or None; None if all heads are new."
    words: str
    "One line for users: which heads are kept, or why none is."

    @property
    def kept(self) -> dict[int, int]:
        """Return new output -> old output."""
        return {new: old for new, old in enumerate(self.indices or ()) if old is not None}


@dataclass(frozen=True)
class Correspondence:
    """Matching channels and heads in two consecutive stages."""

    channels: Indices | None
    "Matching channels; None if they are the same, or if every new channel reads the mean of the old ones."
    heads: HeadMatch | None
    "Matching heads; None if heads are not to be kept."


def correspond(previous: Task, task: Task, *, keep_heads: bool, compared: Pairs = ()) -> Correspondence:
    """Match a stage on ``task`` with the stage before it on ``previous``.

    ``compared``: pairs from the affinity, used if the tasks share no channel name.
    """
    old, new = previous.channels, task.channels
    channels = match_names(old, new)
    # Compared pairs count only for unknown names: a common name is better evidence.
    if channels is None and not {name.casefold() for name in old} & {name.casefold() for name in new}:
        channels = match_compared(old, new, compared)
    outputs = (network_outputs(previous.dataset_json), network_outputs(task.dataset_json))
    return Correspondence(channels, match_heads(*outputs) if keep_heads else None)


def fed_channels(dataset: Task, network: Task, compared: Pairs = ()) -> Indices | None:
    """Return for each input of a network on ``network`` the channel of ``dataset`` that feeds it, None for zeros.

    Channels are matched as between stages. If nothing matches, a single channel feeds every input, and several feed the
    inputs in their order. The result is None if the channels match one to one.
    """
    matched = correspond(dataset, network, keep_heads=False, compared=compared).channels
    given, inputs = len(dataset.channels), len(network.channels)
    if matched is not None or given == inputs:
        return matched
    return (0,) * inputs if given == 1 else tuple(k if k < given else None for k in range(inputs))


def match_names(old: Sequence[str], new: Sequence[str]) -> Indices | None:
    """Return for each new channel the index of the old one with the same name, ignoring case, or None.

    The result is None if names tell nothing: a single old channel, which all new channels read anyway; no common name;
    the same names in the same order; or a name that occurs twice.
    """
    mine, theirs = [name.casefold() for name in old], [name.casefold() for name in new]
    if len(mine) < 2 or mine == theirs or not set(mine) & set(theirs):
        return None
    if len(set(mine)) < len(mine) or len(set(theirs)) < len(theirs):
        return None
    return tuple(mine.index(name) if name in mine else None for name in theirs)


def match_compared(old: Sequence[str], new: Sequence[str], compared: Pairs) -> Indices | None:
    """Match channels by the pairs that the affinity compared. Return None if that changes nothing."""
    known = {theirs: mine for mine, theirs in compared}
    indices = tuple(old.index(known[name]) if known.get(name) in old else None for name in new)
    if len(old) < 2 or set(indices) == {None} or indices == tuple(range(len(old))):
        return None
    return indices


def match_heads(old: Outputs | None, new: Outputs) -> HeadMatch:
    """Match labels with labels, or regions with regions, by name, ignoring case.

    Background alone is not kept: next to heads that are all new, a trained one would turn everything into background.
    Labels are not matched with regions: labels share one softmax, each region has a sigmoid.
    """
    if old is None:
        return HeadMatch(None, "heads: all new, the model does not say what its outputs are")
    if old.regions != new.regions:
        kinds = ("regions (sigmoid)", "labels (softmax)")
        given, wanted = kinds if old.regions else kinds[::-1]
        return HeadMatch(None, f"heads: all new, the previous ones are for {given} and do not fit {wanted}")
    mine, theirs = ([name.casefold() for name in outputs.names] for outputs in (old, new))
    indices = tuple(mine.index(name) if mine.count(name) == theirs.count(name) == 1 else None for name in theirs)
    kept = [name for name, index in zip(new.names, indices, strict=True) if index is not None]
    if not set(map(str.casefold, kept)) - {"background"}:  # nothing, or background alone
        before, after = (", ".join(n for n in outputs.names if n != "background") for outputs in (old, new))
        return HeadMatch(None, f"heads: all new, no name is in both ({before}; now {after})")
    fresh = [name for name, index in zip(new.names, indices, strict=True) if index is None]
    return HeadMatch(indices, f"heads: kept {', '.join(kept)}; new {', '.join(fresh) or 'none'}")


def channel_words(channels: Indices, old: Sequence[str], new: Sequence[str], otherwise: str = "the mean") -> str:
    """Return a line for users: "channels: T1 reads T1; FLAIR reads the mean"."""
    parts = zip(new, channels, strict=True)
    reads = (f"{name} reads {otherwise if index is None else old[index]}" for name, index in parts)
    return f"channels: {'; '.join(reads)}"
