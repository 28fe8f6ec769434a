"""Shared cases: which cases of one dataset hold the image or the labels of a case of another, under any name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from nnunet_seqtransfer.overlap.cache import SketchedDataset, sketch_dataset
from nnunet_seqtransfer.overlap.matching import ChannelMatch, image_matches, label_matches


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
