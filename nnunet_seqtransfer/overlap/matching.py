"""Find shared cases: case pairs with equal images or labels, under any name.

The search joins sorted hashes, so it does not loop over case pairs. The evidence is safe from chance:

- Images need `LEAST_COMMON` equal patterns, and at least the part `LEAST_SHARE` that a crop would keep. A pattern
  is an order among 25 or 27 values. Unrelated scans practically never have one in common (counts are in
  docs/how-to/shared-patients.md). Marks written into many images (a scale bar, a frame) do recur: patterns
  in more than `MOST_IMAGES` channels per task are ignored, and the minimum share rules out small insets.
- Labels need equal masks with some hundred surface voxels, each chosen by an annotator or a network on that image. An
  atlas or a phantom gives many cases the same mask: masks in more than `MOST_CASES` cases per task are ignored.
"""

import itertools
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import DatasetError, RecordError, SeqTransferError
from nnunet_seqtransfer.nnunet.folders import raw_folder, registered_datasets
from nnunet_seqtransfer.overlap.cache import SketchedDataset, cached_sketches, sketch_dataset
from nnunet_seqtransfer.overlap.sketch import ChannelSketch
from nnunet_seqtransfer.parallel import one_pool
from nnunet_seqtransfer.storage import read_record
from nnunet_seqtransfer.tasks.derive import RECORD_FORMAT, RECORD_KIND, RECORD_NAME

LEAST_COMMON = 4
"""Minimum common patterns."""
LEAST_SHARE = 0.01
"""Minimum share among the smaller image's patterns."""
MOST_IMAGES = 64
"""Channels per task that may hold a pattern; beyond this it is a mark on the images."""
MOST_CASES = 8
"""Cases per task that may have the same mask; beyond this it comes from an atlas or a phantom."""
ALIKE = 0.9
"""Share from which images are called equal or cropped; saving an image again loses few patterns."""
Pair = tuple[str, str]
"""Source case, target case."""


@dataclass(frozen=True)
class ChannelMatch:
    """Two channels with common patterns. Shares are estimated from the sketches."""

    source_channel: str
    "Source channel."
    target_channel: str
    "Target channel."
    common: int
    "Pattern count in both sketches."
    share_of_source: float
    "Share among the source's patterns that the target has."
    share_of_target: float
    "Share among the target's patterns that the source has."
    inverted: bool
    "True if maxima in one image are minima in the other."

    @property
    def share(self) -> float:
        """Return the share for the smaller image."""
        return max(self.share_of_source, self.share_of_target)

    @property
    def words(self) -> str:
        """Return the match in words."""
        names = f"{self.source_channel} = {self.target_channel}" + (" (contrast inverted)" if self.inverted else "")
        if min(self.share_of_source, self.share_of_target) >= ALIKE:
            return f"same image, {names}"
        if self.share_of_source >= ALIKE:
            return f"the source's image is a crop of the target's, {names}"
        if self.share_of_target >= ALIKE:
            return f"the target's image is a crop of the source's, {names}"
        return f"images share {self.share:.0%} of their patterns, {names}"


@dataclass(frozen=True)
class SharedCase:
    """Two cases that hold the same image or labels, in whole or in part."""

    source: str
    "Full source dataset name."
    source_case: str
    "Source case."
    target_case: str
    "Target case."
    images: tuple[ChannelMatch, ...] = ()
    "Matching channels, best first; no channel occurs twice."
    labels: tuple[tuple[str, str], ...] = ()
    "Labels with equal masks: name in the source, name in the target."
    same: Literal["", "case", "file"] = ""
    "Evidence by name: both are the same case, or read the same image file; empty if contents were compared."

    @property
    def share(self) -> float:
        """Return the best channel's share; 0 if only labels agree."""
        return 1.0 if self.same else max((match.share for match in self.images), default=0.0)

    @property
    def evidence(self) -> str:
        """Return the evidence in words: "same image, T1inv = T1; labels equal: hippocampus = hippocampus"."""
        words = [f"the same {self.same}"] if self.same else []
        words += [match.words for match in self.images]
        if self.labels:
            words.append("labels equal: " + ", ".join(f"{name} = {other}" for name, other in self.labels))
        return "; ".join(words)


@dataclass(frozen=True)
class SourceOverlap:
    """The cases that one source shares with the target."""

    source: str
    "Full source dataset name."
    shared: tuple[SharedCase, ...]
    "Shared cases, sorted by source case; empty if there are none."


@one_pool()
def find_overlap(target: str, sources: Sequence[str] | None, context: Context) -> tuple[SourceOverlap, ...]:
    """Return the cases that a target shares with each source, all by full names.

    None for ``sources`` compares all other registered datasets and skips unreadable ones with a progress line.

    Raises DatasetError or RecordError if a named dataset cannot be read, or if the target has no images.
    """
    target_sketches = announced_sketches(target, context)
    if not target_sketches.sketches:
        raise DatasetError(f"{target} has no images to compare with; copy it to nnUNet_raw")
    overlaps = []
    for source in _everything_but(target) if sources is None else sources:
        try:
            shared = match_datasets(target_sketches, announced_sketches(source, context))
        except SeqTransferError as error:
            if sources is not None:
                raise
            context.notify(f"{source} is skipped: {error}")
        else:
            overlaps.append(SourceOverlap(source, shared))
    return tuple(overlaps)


def _everything_but(target: str) -> tuple[str, ...]:
    others = tuple(name for name in registered_datasets() if name != target)
    if not others:
        raise DatasetError(f"no dataset but {target} is registered; copy others to nnUNet_raw")
    return others


def announced_sketches(dataset: str, context: Context) -> SketchedDataset:
    """Return a dataset's sketches, see `sketch_dataset`; report if there are no images, or only resampled ones."""
    sketched = sketch_dataset(dataset, context.processes)
    if not sketched.sketches:
        context.notify(f"{dataset} has neither raw nor preprocessed images here: its cases cannot be compared")
    elif sketched.resampled:
        context.notify(f"{dataset} has no raw images here: only copies at the preprocessed spacing can be found")
    return sketched


def match_datasets(target: SketchedDataset, source: SketchedDataset) -> tuple[SharedCase, ...]:
    """Return all case pairs with evidence, sorted by source case."""
    images = image_matches(target, source)
    labels = label_matches(target, source)
    return tuple(
        SharedCase(source.dataset, *pair, _one_to_one(images.get(pair, ())), tuple(labels.get(pair, ())))
        for pair in sorted({*images, *labels})
    )


def _one_to_one(matches: Iterable[ChannelMatch]) -> tuple[ChannelMatch, ...]:
    """Return the best matches that use each channel once (a grey picture in colour has three equal channels)."""
    kept: list[ChannelMatch] = []
    for match in sorted(matches, key=lambda match: -match.share):
        if all(
            match.source_channel != other.source_channel and match.target_channel != other.target_channel
            for other in kept
        ):
            kept.append(match)
    return tuple(kept)


@dataclass(frozen=True, eq=False)
class _Index:
    """All patterns in a dataset with their channel."""

    owners: list[tuple[str, str, ChannelSketch]]
    "Case, channel name and sketch for every channel."
    keys: NDArray[np.uint64]
    "Patterns without their lowest bit, ascending."
    minimum: NDArray[np.bool_]
    "Lowest bit: True if the pattern lies around a minimum."
    owner: NDArray[np.int64]
    "Index in `owners` per pattern."


def _index(dataset: SketchedDataset) -> _Index:
    owners = list(dataset.images)
    hashes = np.concatenate([np.empty(0, dtype=np.uint64), *(channel.patterns for _, _, channel in owners)])
    owner = np.repeat(np.arange(len(owners)), [len(channel.patterns) for _, _, channel in owners])
    order = np.argsort(hashes, kind="stable")
    keys = hashes[order] >> np.uint64(1)
    _, place, counts = np.unique(keys, return_inverse=True, return_counts=True)
    # marks on many images are no evidence
    kept = counts[place] <= MOST_IMAGES
    return _Index(owners, keys[kept], (hashes[order] & np.uint64(1)).astype(bool)[kept], owner[order][kept])


def image_matches(target: SketchedDataset, source: SketchedDataset) -> dict[Pair, list[ChannelMatch]]:
    """Return case pairs with enough common patterns. Time grows with the common patterns."""
    ours, theirs = _index(target), _index(source)
    # join of two sorted lists: every occurrence in the source meets every equal one in the target
    begin = np.searchsorted(ours.keys, theirs.keys, side="left")
    count = np.searchsorted(ours.keys, theirs.keys, side="right") - begin
    in_source = np.repeat(np.arange(len(theirs.keys)), count)
    step = np.arange(len(in_source)) - np.repeat(np.cumsum(count) - count, count)
    in_target = np.repeat(begin, count) + step
    # one number per pair of channels
    code = theirs.owner[in_source] * max(1, len(ours.owners)) + ours.owner[in_target]
    pairs, place, common = np.unique(code, return_inverse=True, return_counts=True)
    opposite = np.bincount(place, theirs.minimum[in_source] != ours.minimum[in_target], minlength=len(pairs))
    matches: dict[Pair, list[ChannelMatch]] = defaultdict(list)
    for pair in np.flatnonzero(common >= LEAST_COMMON):
        case, name, channel = theirs.owners[int(pairs[pair]) // len(ours.owners)]
        other_case, other_name, other = ours.owners[int(pairs[pair]) % len(ours.owners)]
        shares = _shares(int(common[pair]), channel, other)
        # most maxima of one image are minima of the other
        inverted = bool(2 * opposite[pair] > common[pair])
        if max(shares) >= LEAST_SHARE:
            matches[case, other_case].append(ChannelMatch(name, other_name, int(common[pair]), *shares, inverted))
    return _add_wholes(matches, target, source)


def _shares(common: int, channel: ChannelSketch, other: ChannelSketch) -> tuple[float, float]:
    """Divide the common patterns by those in each sketch that the other sketch could hold: up to both limits."""
    limit = np.uint64(min(channel.limit, other.limit))
    return (
        common / int(np.searchsorted(channel.patterns, limit, side="right")),
        common / int(np.searchsorted(other.patterns, limit, side="right")),
    )


def _add_wholes(
    matches: dict[Pair, list[ChannelMatch]], target: SketchedDataset, source: SketchedDataset
) -> dict[Pair, list[ChannelMatch]]:
    """Add pairs whose whole images are equal, for images with too few patterns to compare."""
    wholes = [[(channel.whole, case, name) for case, name, channel in one.images] for one in (target, source)]
    for pair, name, target_name in _equal_digests(*wholes):
        if not matches.get(pair):
            matches[pair].append(ChannelMatch(name, target_name, 0, 1.0, 1.0, inverted=False))
    return matches


def label_matches(target: SketchedDataset, source: SketchedDataset) -> dict[Pair, list[tuple[str, str]]]:
    """Return case pairs with equal masks, and the label names in source and target."""
    masks = [
        [(digest, case, name) for case, sketch in one.sketches.items() for name, digest in sketch.masks.items()]
        for one in (target, source)
    ]
    matches: dict[Pair, list[tuple[str, str]]] = defaultdict(list)
    for pair, name, target_name in _equal_digests(*masks):
        matches[pair].append((name, target_name))
    return {pair: sorted(names) for pair, names in matches.items()}


def _equal_digests(
    target: Iterable[tuple[int, str, str]], source: Iterable[tuple[int, str, str]]
) -> Iterator[tuple[Pair, str, str]]:
    """Yield case pair, source name and target name for equal digests, given as (digest, case, name)."""
    ours, theirs = _holders(target), _holders(source)
    for digest in theirs.keys() & ours.keys():
        for (case, name), (target_case, target_name) in itertools.product(theirs[digest], ours[digest]):
            yield (case, target_case), name, target_name


def _holders(digests: Iterable[tuple[int, str, str]]) -> dict[int, list[tuple[str, str]]]:
    """Return digest -> (case, name) pairs, without 0 and digests in more than MOST_CASES cases."""
    holders: dict[int, list[tuple[str, str]]] = defaultdict(list)
    for digest, case, name in digests:
        if digest:
            holders[digest].append((case, name))
    return {digest: pairs for digest, pairs in holders.items() if len({case for case, _ in pairs}) <= MOST_CASES}


def sharing_sources(target: str, sources: Sequence[str]) -> tuple[str, ...]:
    """Return the sources that are known to share a case with the target. No image is read.

    derived.json tells if two datasets come from one dataset and keep a common case. Sketches that `find_overlap` has
    cached for both tell if images or labels agree. A missing source may still share cases: nothing is known about it.
    """
    of_target = _sketches(target)
    return tuple(
        source
        for source in sources
        if share_origin(target, source) or (of_target.sketches and match_datasets(of_target, _sketches(source)))
    )


def _sketches(dataset: str) -> SketchedDataset:
    try:
        return cached_sketches(dataset)
    except SeqTransferError:  # whoever loads the dataset reports that it is broken
        return SketchedDataset(dataset, (), {})


def share_origin(one: str, other: str) -> bool:
    """Return True if both are the same dataset, or were derived from one dataset and keep a common case."""
    (root, cases), (other_root, other_cases) = _origin(one), _origin(other)
    # datasets with different roots may still share patients; the records cannot tell
    if root != other_root:
        return False
    return cases is None or other_cases is None or not cases.isdisjoint(other_cases)


def _origin(dataset: str) -> tuple[str, frozenset[str] | None]:
    """Return the dataset that this one was derived from, perhaps in several steps, and the kept cases (None: all)."""
    cases: frozenset[str] | None = None
    passed = {dataset}
    while (record := raw_folder() / dataset / RECORD_NAME).is_file():
        try:
            content = read_record(record, RECORD_KIND, RECORD_FORMAT, "derive it again")
            origin, chosen = str(content["origin"]), frozenset(map(str, content["cases"]))
        except (RecordError, KeyError, TypeError):
            break  # an unreadable record: treated as a dataset of its own
        cases = chosen if cases is None else cases  # identifiers stay, and each step only leaves cases out
        if origin in passed:
            break
        passed.add(origin)
        dataset = origin
    return dataset, cases
