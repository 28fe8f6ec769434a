"""A signature: what a metric needs to know of a task, a few MB and no image, computed once and kept."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.storage import replacing

FORMAT = 2

INTENSITY_PROPERTIES = ("mean", "median", "std", "min", "max", "percentile_00_5", "percentile_99_5")
"""Of the foreground, per channel, as nnU-Net's fingerprint has them."""

_ARRAYS = ("geometry", "intensities")
_OPAQUE = "#"
"""Begins an identifier that was replaced by its hash."""


@dataclass(frozen=True, eq=False)
class Signature:
    """The profile of one task under one metric. Equal digests: the same profile of the same data."""

    dataset: str
    "Full name of the dataset."
    metric: str
    "Name of the metric that made the profiles."
    version: int
    "Version of that metric's profiles."
    digest: str
    "Checksum of everything the profiles depend on: data, preprocessing, sample, metric."
    base: str
    "The same without the sample and its files: with an equal base, profiles of single cases can be taken over."
    preprocessing: str
    "Checksum of what the target's plans decide about its voxels; only signatures with equal ones can be compared."
    channels: tuple[str, ...]
    "Names of the input channels."
    labels: tuple[str, ...]
    "Names of the labels or regions, background left out."
    labelled_cases: int
    "How many labelled cases the dataset has."
    cases: tuple[str, ...]
    "Identifiers of the sampled cases; in a signature that travels, their hashes."
    stamps: tuple[str, ...]
    "For each of them a checksum of the names, sizes and times of its files."
    labelled: tuple[bool, ...]
    "For each of them whether any voxel has one of the labels."
    geometry: NDArray[np.float64]
    "(cases, 2, axes): spacing in mm, and extent in mm after cropping, of the original images; axes as preprocessed."
    intensities: NDArray[np.float64]
    "(channels, 7): `INTENSITY_PROPERTIES` of the dataset's fingerprint, intensities as stored."
    profiles: tuple[dict[str, NDArray[Any]], ...] = field(repr=False)
    "One dictionary of arrays per sampled case, in the order of `cases`."

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """The hashed identifiers of the cases: equal for equal identifiers, whether the signature has travelled or not.

        SHA-256, 16 hexadecimal digits: a name cannot be read from it, but one that is guessed can be recognised.
        """
        return tuple(_key(case) for case in self.cases)

    @property
    def spacing(self) -> tuple[float, ...]:
        """Median spacing of the sampled cases' original images in mm, axes as preprocessed."""
        return tuple(float(value) for value in np.median(self.geometry[:, 0], axis=0))

    @property
    def extent(self) -> tuple[float, ...]:
        """Median size of the sampled cases' images in mm after cropping, axes as preprocessed."""
        return tuple(float(value) for value in np.median(self.geometry[:, 1], axis=0))

    @property
    def is_planar(self) -> bool:
        """Whether its images are 2-D: every case has one slice along the first axis."""
        return bool(np.isclose(self.geometry[:, 0, 0], self.geometry[:, 1, 0]).all())


def anonymous(signature: Signature) -> Signature:
    """The signature as it may travel: identifiers hashed, nothing left of the files' names, sizes and times."""
    return replace(signature, cases=signature.keys, stamps=("",) * len(signature.cases))


def _key(case: str) -> str:
    return case if case.startswith(_OPAQUE) else _OPAQUE + hashlib.sha256(case.encode()).hexdigest()[:16]


def write_signature(path: Path, signature: Signature) -> None:
    """Writes a signature as a compressed NPZ file that needs no pickle to load.

    Arrays that have the same shape in every case are stored as one.
    """
    arrays: dict[str, Any] = {name: getattr(signature, name) for name in _ARRAYS}
    stacked, single = [], []
    for name in signature.profiles[0]:
        values = [profile[name] for profile in signature.profiles]
        if len({value.shape for value in values}) == 1:
            stacked.append(name)
            arrays[f"all/{name}"] = np.stack(values)
        else:
            single.append(name)
            arrays |= {f"{index}/{name}": value for index, value in enumerate(values)}
    texts = [name for name in signature.__dataclass_fields__ if name not in (*_ARRAYS, "profiles")]
    header = {
        "kind": "signature",
        "format": FORMAT,
        "stacked": stacked,
        "single": single,
        **{name: getattr(signature, name) for name in texts},
    }
    with replacing(path) as aside:
        np.savez_compressed(aside, header=np.asarray(json.dumps(header)), **arrays)


def read_signature(path: Path) -> Signature:
    """Reads a signature. Raises RecordError where the file is truncated, no signature, or of another format."""
    try:
        with np.load(path, allow_pickle=False) as archive:
            header = json.loads(str(archive["header"]))
            if header.pop("kind") != "signature":
                raise KeyError("kind")
            _require_format(header.pop("format"), path)
            return _signature(header, {key: archive[key] for key in archive.files if key != "header"})
    except RecordError:
        raise
    except FileNotFoundError:
        raise RecordError(f"the signature is missing: {path}; check the path") from None
    except Exception as error:  # zip, zlib and NumPy raise all kinds for a damaged file
        raise RecordError(
            f"the signature is truncated or damaged ({type(error).__name__}): {path}; delete it and run the same "
            "command again, or have it sent again"
        ) from None


def _require_format(found: int, path: Path) -> None:
    if found > FORMAT:
        raise RecordError(
            f"the signature has format {found}, this version reads {FORMAT}: {path}; update nnunet-seqtransfer"
        )
    if found < FORMAT:
        raise RecordError(
            f"the signature has the old format {found}, this version reads {FORMAT}: {path}; "
            "make it again with nnUNetv2_seq_signature"
        )


def _signature(header: dict[str, Any], arrays: dict[str, NDArray[Any]]) -> Signature:
    stacked, single = header.pop("stacked"), header.pop("single")
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in header.items()
    }
    profiles = tuple(
        {
            **{name: arrays[f"all/{name}"][index] for name in stacked},
            **{name: arrays[f"{index}/{name}"] for name in single},
        }
        for index in range(len(header["cases"]))
    )
    fields |= {name: arrays[name] for name in _ARRAYS}
    signature = Signature(**fields, profiles=profiles)
    counts = {len(signature.stamps), len(signature.labelled), len(signature.geometry)}
    if counts | {len(arrays[f"all/{name}"]) for name in stacked} != {len(profiles)} or not profiles:
        raise ValueError("the entries are not of the same number of cases")
    return signature
