"""Which sketches of two datasets agree, and in what: a join of sorted hashes, no loop over all pairs of cases.

What counts as evidence, and why chance does not reach it:

- Images: `LEAST_COMMON` equal patterns, and at least `LEAST_SHARE` of those that one would find had the smaller image
  been a part of the other. A pattern is the order of 25 or 27 values. Unrelated scans practically never have one in
  common (docs/how-to/shared-patients.md counts), four of them less often still. What does recur is what was written
  into many images (a scale bar, a frame): patterns that lie in more than `MOST_IMAGES` channels of a task are left out,
  and the least share keeps small insets from counting.
- Labels: equal masks with a surface of some hundred voxels, each drawn by hand or by a network on that very image. An
  atlas or a phantom gives many cases the same mask: masks of more than `MOST_CASES` cases of a task are left out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.overlap.cache import SketchedDataset, sketch_dataset
from nnunet_seqtransfer.overlap.sketch import ChannelSketch

LEAST_COMMON = 4
"""Common patterns that make evidence."""
LEAST_SHARE = 0.01
"""Their least part of the patterns of the smaller image."""
MOST_IMAGES = 64
"""A pattern of more channels of one task is a mark on the images, not their content."""
MOST_CASES = 8
"""A mask of more cases of one task is an atlas's or a phantom's."""
ALIKE = 0.9
"""From this share on images are called equal, or one a crop of the other; re-saving costs a few patterns."""
Pair = tuple[str, str]
"""Case of the source, case of the target."""


@dataclass(frozen=True)
class ChannelMatch:
    """Two channels with patterns in common. Shares are estimated from the sketches."""

    source_channel: str
    "Name of the channel of the source."
    target_channel: str
    "Name of the channel of the target."
    common: int
    "Patterns that both sketches hold."
    share_of_source: float
    "The part of the source's patterns that the target has."
    share_of_target: float
    "The part of the target's patterns that the source has."
    inverted: bool
    "Whether maxima of one are minima of the other."

    @property
    def share(self) -> float:
        """The part of the smaller image that lies in the other."""
        return max(self.share_of_source, self.share_of_target)

    @property
    def words(self) -> str:
        """The match as people read it."""
        names = f"{self.source_channel} = {self.target_channel}" + (" (contrast inverted)" if self.inverted else "")
        if min(self.share_of_source, self.share_of_target) >= ALIKE:
            return f"same image, {names}"
        if self.share_of_source >= ALIKE:
            return f"the source's image is a crop of the target's, {names}"
        if self.share_of_target >= ALIKE:
            return f"the target's image is a crop of the source's, {names}"
        return f"images share {self.share:.0%} of their patterns, {names}"


@dataclass(frozen=True, eq=False)
class _Index:
    """All patterns of a dataset, each with the channel it comes from."""

    owners: list[tuple[str, str, ChannelSketch]]
    "Case, name and sketch of every channel."
    keys: NDArray[np.uint64]
    "The patterns without their lowest bit, ascending."
    minimum: NDArray[np.bool_]
    "That bit: whether the pattern lies around a minimum."
    owner: NDArray[np.int64]
    "Place in `owners` of the channel that each comes from."


def _index(dataset: SketchedDataset) -> _Index:
    """The patterns of all channels in ascending order, those of more than MOST_IMAGES channels left out."""
    owners = list(dataset.images)
    hashes = np.concatenate([np.empty(0, dtype=np.uint64), *(channel.patterns for _, _, channel in owners)])
    owner = np.repeat(np.arange(len(owners)), [len(channel.patterns) for _, _, channel in owners])
    order = np.argsort(hashes, kind="stable")
    keys = hashes[order] >> np.uint64(1)
    _, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
    kept = counts[place] <= MOST_IMAGES
    return _Index(owners, keys[kept], (hashes[order] & np.uint64(1)).astype(bool)[kept], owner[order][kept])


def image_matches(target: SketchedDataset, source: SketchedDataset) -> dict[Pair, list[ChannelMatch]]:
    """Pairs of cases with enough patterns in common: a join of two sorted lists, its cost that of what they share."""
    ours, theirs = _index(target), _index(source)
    begin = np.searchsorted(ours.keys, theirs.keys, side="left")
    count = np.searchsorted(ours.keys, theirs.keys, side="right") - begin
    in_source = np.repeat(np.arange(len(theirs.keys)), count)
    step = np.arange(len(in_source)) - np.repeat(np.cumsum(count) - count, count)
    in_target = np.repeat(begin, count) + step
    code = theirs.owner[in_source] * max(1, len(ours.owners)) + ours.owner[in_target]
    pairs, place, common = np.unique(code, return_inverse=True, return_counts=True)
    opposite = np.bincount(place, theirs.minimum[in_source] != ours.minimum[in_target], minlength=len(pairs))
    matches: dict[Pair, list[ChannelMatch]] = defaultdict(list)
    for pair in np.flatnonzero(common >= LEAST_COMMON):
        case, name, channel = theirs.owners[int(pairs[pair]) // len(ours.owners)]
        other_case, other_name, other = ours.owners[int(pairs[pair]) % len(ours.owners)]
        shares = _shares(int(common[pair]), channel, other)
        inverted = bool(2 * opposite[pair] > common[pair])
        if max(shares) >= LEAST_SHARE:
            matches[case, other_case].append(ChannelMatch(name, other_name, int(common[pair]), *shares, inverted))
    return _add_wholes(matches, target, source)


def _shares(common: int, channel: ChannelSketch, other: ChannelSketch) -> tuple[float, float]:
    """The common patterns among those of each sketch that the other could hold: its hashes up to both limits."""
    limit = np.uint64(min(channel.limit, other.limit))
    return (
        common / int(np.searchsorted(channel.patterns, limit, side="right")),
        common / int(np.searchsorted(other.patterns, limit, side="right")),
    )


def _add_wholes(
    matches: dict[Pair, list[ChannelMatch]], target: SketchedDataset, source: SketchedDataset
) -> dict[Pair, list[ChannelMatch]]:
    """With pairs of images of few patterns that are equal as a whole."""
    ours, theirs = (
        _holders((channel.whole, (case, name)) for case, name, channel in dataset.images)
        for dataset in (target, source)
    )
    for whole in theirs.keys() & ours.keys():
        for case, name in theirs[whole]:
            for other_case, other_name in ours[whole]:
                if not matches.get((case, other_case)):
                    matches[case, other_case].append(ChannelMatch(name, other_name, 0, 1.0, 1.0, inverted=False))
    return matches


def label_matches(target: SketchedDataset, source: SketchedDataset) -> dict[Pair, list[tuple[str, str]]]:
    """Pairs of cases with equal masks: which label of the source equals which of the target."""
    ours, theirs = (
        _holders(
            (digest, (case, name)) for case, sketch in dataset.sketches.items() for name, digest in sketch.masks.items()
        )
        for dataset in (target, source)
    )
    matches: dict[Pair, list[tuple[str, str]]] = defaultdict(list)
    for digest in theirs.keys() & ours.keys():
        for case, name in theirs[digest]:
            for other_case, other_name in ours[digest]:
                matches[case, other_case].append((name, other_name))
    return {pair: sorted(names) for pair, names in matches.items()}


def _holders(digests: Iterable[tuple[int, Pair]]) -> dict[int, list[Pair]]:
    """Digest -> (case, name) of all that have it; those of more than MOST_CASES cases left out, and 0."""
    holders: dict[int, list[Pair]] = defaultdict(list)
    for digest, pair in digests:
        if digest:
            holders[digest].append(pair)
    return {digest: pairs for digest, pairs in holders.items() if len({case for case, _ in pairs}) <= MOST_CASES}


@dataclass(frozen=True)
class SharedCase:
    """Two cases that hold the same image or labels, in whole or in part."""

    source: str
    "Full name of the source dataset."
    source_case: str
    "Identifier of the case there."
    target_case: str
    "Identifier of the case in the target."
    evidence: str
    'In words: "same image, T1inv = T1 (contrast inverted); labels equal: hippocampus = hippocampus".'
    share: float
    "The part of the smaller image's patterns that the other has, at most over the channels; 0 where only labels agree."


def find_overlaps(
    target: str, sources: Sequence[str], processes: int, notify: Callable[[str], None], *, write: bool = True
) -> tuple[SharedCase, ...]:
    """The cases that a target shares with its sources, by source and then by case.

    Args:
        target: full name of the target dataset.
        sources: full names of the source datasets.
        processes: worker processes for the cases that are not sketched yet.
        notify: called with one line for each dataset that cannot be compared, or only in part.
        write: whether sketches are kept for the next time.

    Raises DatasetError or RecordError where a dataset cannot be read.
    """
    of_target = announced_sketches(target, processes, notify, write=write)
    if not of_target.sketches:
        return ()
    found: list[SharedCase] = []
    for source in sources:
        found += match_datasets(of_target, announced_sketches(source, processes, notify, write=write))
    return tuple(found)


def announced_sketches(
    dataset: str, processes: int, notify: Callable[[str], None], *, write: bool = True
) -> SketchedDataset:
    """The sketches of a dataset, see `sketch_dataset`; says in a line where there are none, or of resampled images."""
    sketched = sketch_dataset(dataset, processes, write=write)
    if not sketched.sketches:
        notify(f"{dataset} has neither raw nor preprocessed images here: its cases cannot be compared with others")
    elif sketched.resampled:
        notify(f"{dataset} has no raw images here: of its cases only copies at the preprocessed spacing can be found")
    return sketched


def match_datasets(target: SketchedDataset, source: SketchedDataset) -> list[SharedCase]:
    """All pairs of cases with evidence, by case of the source."""
    images = image_matches(target, source)
    labels = label_matches(target, source)
    shared = []
    for pair in sorted({*images, *labels}):
        matches = sorted(images.get(pair, ()), key=lambda match: -match.share)
        words = [match.words for match in _one_to_one(matches)]
        if pair in labels:
            words.append("labels equal: " + ", ".join(f"{own} = {other}" for own, other in labels[pair]))
        share = matches[0].share if matches else 0.0
        shared.append(SharedCase(source.dataset, *pair, "; ".join(words), share))
    return shared


def _one_to_one(matches: Iterable[ChannelMatch]) -> list[ChannelMatch]:
    """The best matches that name no channel twice (the channels of a grey picture stored in colour are alike)."""
    kept: list[ChannelMatch] = []
    for match in matches:
        if all(
            match.source_channel != other.source_channel and match.target_channel != other.target_channel
            for other in kept
        ):
            kept.append(match)
    return kept
