"""The sketches of all cases of a dataset, kept beside its preprocessed data: only new and changed cases are read."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nnunet_seqtransfer.nnunet.datasets import RawCase, channel_names, foreground_labels, raw_cases, read_dataset_json
from nnunet_seqtransfer.nnunet.folders import cache_folder, preprocessed_folder
from nnunet_seqtransfer.nnunet.plans import reader_writer
from nnunet_seqtransfer.nnunet.preprocessing import load_preprocessed_case, preprocessed_cases, read_raw_case
from nnunet_seqtransfer.overlap import patterns, sketch
from nnunet_seqtransfer.overlap.sketch import ChannelSketch, Sketch, sketch_case
from nnunet_seqtransfer.parallel import run_in_processes
from nnunet_seqtransfer.storage import checksum, replacing

FORMAT = 1
Labels = dict[str, tuple[int, ...]]
Known = dict[str, tuple[str, Sketch]]
"""Case -> checksum of the files it was made from, and its sketch."""


@dataclass(frozen=True)
class SketchedDataset:
    """The sketches of one dataset."""

    dataset: str
    "Full name."
    channels: tuple[str, ...]
    "Names of its channels."
    sketches: dict[str, Sketch]
    "Case -> its sketch; empty where the dataset has neither raw nor preprocessed images."
    resampled: bool = False
    "Whether there are no raw images, and the sketches are of preprocessed ones, which may have another spacing."

    @property
    def images(self) -> Iterator[tuple[str, str, ChannelSketch]]:
        """Case, name of the channel, and sketch of every channel."""
        for case, one in self.sketches.items():
            named = len(self.channels) == len(one.channels)
            for number, channel in enumerate(one.channels):
                yield case, self.channels[number] if named else f"channel {number}", channel


@dataclass(frozen=True)
class _Origin:
    """Where the voxels of one case come from."""

    case: str
    raw: RawCase | None
    reader: str
    folder: Path
    labels: Labels

    def stamp(self) -> str:
        """Checksum of name, size and time of the case's files and of its labels: anything changed is sketched anew."""
        if self.raw is not None:
            files: list[Path] = [*self.raw.images, self.raw.label]
        else:
            files = sorted(self.folder.glob(f"{self.case}[._]*"))
        stamps = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]
        return checksum([stamps, self.labels])


def sketch_dataset(dataset: str, processes: int, *, write: bool = True) -> SketchedDataset:
    """The sketches of a dataset's labelled cases, from the cache where they are there; kept unless ``write`` is False.

    Raises DatasetError or RecordError where the dataset or one of its cases cannot be read.
    """
    dataset_json = read_dataset_json(dataset)
    origins = _origins(dataset, dataset_json)
    path = _path(dataset)
    known = _read(path) if path.is_file() else {}
    stamps = {origin.case: origin.stamp() for origin in origins}
    missing = [origin for origin in origins if known.get(origin.case, ("",))[0] != stamps[origin.case]]
    made = run_in_processes(_sketch_one, missing, processes, f"Sketching {dataset}")
    sketches = {origin.case: one for origin, one in zip(missing, made, strict=True)}
    current = {case: (stamp, sketches.get(case) or known[case][1]) for case, stamp in stamps.items()}
    if write and (missing or set(known) != set(current)):
        _write(path, current)
    resampled = any(origin.raw is None for origin in origins)
    channels = channel_names(dataset_json)
    return SketchedDataset(dataset, channels, {case: one for case, (_, one) in current.items()}, resampled)


def sketch_cases(
    name: str, cases: Mapping[str, RawCase], dataset_json: Mapping[str, Any], processes: int
) -> SketchedDataset:
    """The sketches of raw cases outside of imagesTr, called ``name``; not kept. Raises as `sketch_dataset`."""
    labels = foreground_labels(dict(dataset_json))
    reader = reader_writer(dict(dataset_json), next(iter(cases.values())).images[0])
    origins = [_Origin(case, files, reader, files.label.parent, labels) for case, files in cases.items()]
    made = run_in_processes(_sketch_one, origins, processes, f"Sketching {name}")
    return SketchedDataset(name, channel_names(dict(dataset_json)), dict(zip(cases, made, strict=True)))


def _origins(dataset: str, dataset_json: Mapping[str, Any]) -> list[_Origin]:
    """Raw cases where there are any, else those of the folder of preprocessed data that holds most."""
    labels = foreground_labels(dict(dataset_json))
    raw = raw_cases(dataset, dict(dataset_json))
    if raw:
        first = next(iter(raw.values()))
        reader = reader_writer(dict(dataset_json), first.images[0])
        return [_Origin(case, files, reader, files.label.parent, labels) for case, files in raw.items()]
    base = preprocessed_folder() / dataset
    folders = sorted(entry for entry in base.iterdir() if entry.is_dir()) if base.is_dir() else []
    cases = {folder: preprocessed_cases(folder) for folder in folders}
    fullest = max(folders, key=lambda folder: len(cases[folder]), default=None)
    return [] if fullest is None else [_Origin(case, None, "", fullest, labels) for case in cases[fullest]]


def _sketch_one(origin: _Origin) -> Sketch:
    """Runs in a worker process."""
    if origin.raw is not None:
        return sketch_case(read_raw_case(origin.case, origin.raw, origin.reader), origin.labels)
    return sketch_case(load_preprocessed_case(origin.folder, origin.case), origin.labels)


def _path(dataset: str) -> Path:
    """The name carries what the sketches depend on beside the files, so that other versions keep files of their own."""
    made_by = {
        name: repr(getattr(module, name)) for module in (patterns, sketch) for name in vars(module) if name.isupper()
    }
    return cache_folder(dataset) / f"sketches_{checksum([FORMAT, made_by])[:16]}.npz"


def _write(path: Path, known: Known) -> None:
    channels = [channel for _, one in known.values() for channel in one.channels]
    header = {
        "kind": "sketches",
        "format": FORMAT,
        "cases": [
            {"case": case, "stamp": stamp, "channels": len(one.channels), "masks": one.masks}
            for case, (stamp, one) in known.items()
        ],
    }
    with replacing(path) as aside:
        np.savez(
            aside,
            header=np.asarray(json.dumps(header)),
            counts=np.asarray([len(channel.patterns) for channel in channels], dtype=np.int64),
            limits=np.asarray([channel.limit for channel in channels], dtype=np.uint64),
            wholes=np.asarray([channel.whole for channel in channels], dtype=np.uint64),
            patterns=np.concatenate([np.empty(0, dtype=np.uint64), *(channel.patterns for channel in channels)]),
        )


def _read(path: Path) -> Known:
    """The sketches in a file; none where it is damaged: they are made again."""
    try:
        with np.load(path, allow_pickle=False) as archive:
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
