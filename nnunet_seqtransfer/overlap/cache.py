"""Cache case sketches next to preprocessed data; only changed cases are read."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_seqtransfer.nnunet.datasets import RawCase, channel_names, foreground_labels, raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import cache_folder, preprocessed_folder
from nnunet_seqtransfer.nnunet.image_formats import reader_writer
from nnunet_seqtransfer.nnunet.preprocessing import fullest_folder, load_preprocessed_case, read_raw_case
from nnunet_seqtransfer.overlap import patterns, sketch
from nnunet_seqtransfer.overlap.sketch import ChannelSketch, Sketch, sketch_case
from nnunet_seqtransfer.parallel import run_in_processes
from nnunet_seqtransfer.storage import checksum, file_stats, replacing

FORMAT = 1
Known = dict[str, tuple[str, Sketch]]
"""Case -> checksum over the sketched files, and the sketch."""


@dataclass(frozen=True)
class SketchedDataset:
    """Case sketches in one dataset."""

    dataset: str
    "Full name."
    channels: tuple[str, ...]
    "Channel names."
    sketches: dict[str, Sketch]
    "Case -> sketch; empty if the dataset has neither raw nor preprocessed images."
    resampled: bool = False
    "True if there are no raw images: preprocessed images were sketched, perhaps at another spacing."

    @property
    def images(self) -> Iterator[tuple[str, str, ChannelSketch]]:
        """Yield case, channel name and sketch for every channel."""
        for case, one in self.sketches.items():
            named = len(self.channels) == len(one.channels)
            for number, channel in enumerate(one.channels):
                yield case, self.channels[number] if named else f"channel {number}", channel


@dataclass(frozen=True)
class _CaseSource:
    """Files that a case is read from."""

    case: str
    raw: RawCase | None
    folder: Path
    labels: dict[str, tuple[int, ...]]
    reader: str = ""

    def stamp(self) -> str:
        """Return a checksum over labels, file names, sizes and times; a changed case is sketched again."""
        files = self.raw.files if self.raw is not None else sorted(self.folder.glob(f"{self.case}[._]*"))
        return checksum([file_stats(files), self.labels])


def sketch_dataset(dataset: str, processes: int) -> SketchedDataset:
    """Return sketches for a dataset's labelled cases; read only cases that the cache lacks, and cache them.

    Raises DatasetError or RecordError if the dataset or a case cannot be read.
    """
    dataset_json = read_dataset_json(dataset)
    sources = _case_sources(dataset, dataset_json)
    cached = _read(dataset)
    known, missing = _split(sources, cached)
    made = _sketch(_with_reader(missing, dataset_json), processes, dataset)
    known |= {source.case: (source.stamp(), one) for source, one in zip(missing, made, strict=True)}
    # drop deleted cases, keep the order of the dataset
    known = {source.case: known[source.case] for source in sources}
    if missing or set(cached) != set(known):
        _write(dataset, known)
    return _sketched(dataset, dataset_json, sources, known)


def cached_sketches(dataset: str) -> SketchedDataset:
    """Return the cached sketches that still match the case files. No image is read."""
    cached = _read(dataset)
    if not cached:  # before anything else is read
        return SketchedDataset(dataset, (), {})
    dataset_json = read_dataset_json(dataset)
    sources = _case_sources(dataset, dataset_json)
    return _sketched(dataset, dataset_json, sources, _split(sources, cached)[0])


def sketch_cases(
    name: str, cases: Mapping[str, RawCase], dataset_json: dict[str, Any], processes: int
) -> SketchedDataset:
    """Sketch raw cases outside imagesTr without caching; ``name`` is shown to users. Raises as `sketch_dataset`."""
    sources = _with_reader(_raw_sources(cases, dataset_json), dataset_json)
    made = _sketch(sources, processes, name)
    return SketchedDataset(name, channel_names(dataset_json), dict(zip(cases, made, strict=True)))


def _sketch(sources: list[_CaseSource], processes: int, name: str) -> list[Sketch]:
    size = sum(source.raw.size for source in sources if source.raw is not None)
    return run_in_processes(_sketch_one, sources, processes, f"Sketching {name}", size)


def _sketched(dataset: str, dataset_json: dict[str, Any], sources: list[_CaseSource], known: Known) -> SketchedDataset:
    resampled = any(source.raw is None for source in sources)
    sketches = {case: one for case, (_, one) in known.items()}
    return SketchedDataset(dataset, channel_names(dataset_json), sketches, resampled)


def _split(sources: list[_CaseSource], cached: Known) -> tuple[Known, list[_CaseSource]]:
    """Return cached sketches for unchanged cases, and the other cases."""
    known: Known = {}
    missing: list[_CaseSource] = []
    for source in sources:
        entry = cached.get(source.case)
        if entry is not None and entry[0] == source.stamp():
            known[source.case] = entry
        else:
            missing.append(source)
    return known, missing


def _case_sources(dataset: str, dataset_json: dict[str, Any]) -> list[_CaseSource]:
    """Return the raw cases, otherwise those in the fullest preprocessed folder."""
    raw = raw_cases(dataset, dataset_json)
    if raw:
        return _raw_sources(raw, dataset_json)
    folder, cases = fullest_folder(preprocessed_folder() / dataset)
    labels = foreground_labels(dataset_json)
    return [_CaseSource(case, None, folder, labels) for case in cases]


def _raw_sources(cases: Mapping[str, RawCase], dataset_json: dict[str, Any]) -> list[_CaseSource]:
    labels = foreground_labels(dataset_json)
    return [_CaseSource(case, files, files.label.parent, labels) for case, files in cases.items()]


def _with_reader(sources: list[_CaseSource], dataset_json: dict[str, Any]) -> list[_CaseSource]:
    """Add nnU-Net's reader to raw cases. It opens an image to find out, so this waits until a case must be read."""
    example = next((source.raw.images[0] for source in sources if source.raw is not None), None)
    if example is None:
        return sources
    reader = reader_writer(dataset_json, example)
    return [replace(source, reader=reader) for source in sources]


def _sketch_one(source: _CaseSource) -> Sketch:
    """Sketch one case in a worker process."""
    if source.raw is not None:
        return sketch_case(read_raw_case(source.case, source.raw, source.reader), source.labels)
    return sketch_case(load_preprocessed_case(source.folder, source.case), source.labels)


def _path(dataset: str) -> Path:
    # Sketches depend on the constants of both modules: the name keeps files of other versions apart.
    made_by = {
        name: repr(getattr(module, name)) for module in (patterns, sketch) for name in vars(module) if name.isupper()
    }
    return cache_folder(dataset) / f"sketches_{checksum([FORMAT, made_by])[:16]}.npz"


def _write(dataset: str, known: Known) -> None:
    channels = [channel for _, one in known.values() for channel in one.channels]
    header = {
        "kind": "sketches",
        "format": FORMAT,
        "cases": [
            {"case": case, "stamp": stamp, "channels": len(one.channels), "masks": one.masks}
            for case, (stamp, one) in known.items()
        ],
    }
    with replacing(_path(dataset)) as aside:
        np.savez(
            aside,
            header=np.asarray(json.dumps(header)),
            counts=np.asarray([len(channel.patterns) for channel in channels], dtype=np.int64),
            limits=np.asarray([channel.limit for channel in channels], dtype=np.uint64),
            wholes=np.asarray([channel.whole for channel in channels], dtype=np.uint64),
            patterns=np.concatenate([np.empty(0, dtype=np.uint64), *(channel.patterns for channel in channels)]),
        )


def _read(dataset: str) -> Known:
    """Read the cache; return nothing if it is missing or damaged."""
    try:
        with np.load(_path(dataset), allow_pickle=False) as archive:
            header = json.loads(str(archive["header"]))
            counts, limits, wholes = (archive[name] for name in ("counts", "limits", "wholes"))
            hashes = np.split(archive["patterns"], np.cumsum(counts)[:-1])
        channels = iter(
            ChannelSketch(part, int(limit), int(whole))
            for part, limit, whole in zip(hashes, limits, wholes, strict=True)
        )
        return {
            entry["case"]: (
                entry["stamp"],
                Sketch(tuple(next(channels) for _ in range(entry["channels"])), entry["masks"]),
            )
            for entry in header["cases"]
        }
    except Exception:  # zip, zlib, JSON and NumPy raise all kinds for a damaged file
        return {}
