"""A signature: what a metric needs to know of a task, a few MB and no image, computed once and kept."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.storage import replacing

FORMAT = 1


@dataclass(frozen=True)
class Signature:
    """The profile of one task under one metric."""

    dataset: str
    "Full name of the dataset."
    metric: str
    "Name of the metric that made the profiles."
    digest: str
    "Checksum of everything the profiles depend on: data, preprocessing, sample, metric."
    channels: tuple[str, ...]
    "Names of the input channels."
    labels: tuple[str, ...]
    "Names of the labels or regions, background left out."
    labelled_cases: int
    "How many labelled cases the dataset has."
    cases: tuple[str, ...]
    "Identifiers of the sampled cases."
    spacing: tuple[float, ...]
    "Median spacing of the original images in mm, axes as preprocessed."
    extent: tuple[float, ...]
    "Median size of the images in mm after cropping, axes as preprocessed."
    profiles: tuple[dict[str, NDArray[Any]], ...] = field(repr=False)
    "One dictionary of arrays per sampled case, in the order of `cases`."


def write_signature(path: Path, signature: Signature) -> None:
    """Writes a signature as a compressed NPZ file that needs no pickle to load."""
    arrays: dict[str, Any] = {
        f"{index}/{key}": array for index, profile in enumerate(signature.profiles) for key, array in profile.items()
    }
    header = {
        "kind": "signature",
        "format": FORMAT,
        "arrays": list(arrays),
        **{name: getattr(signature, name) for name in signature.__dataclass_fields__ if name != "profiles"},
    }
    with replacing(path) as aside:
        np.savez_compressed(aside, header=np.asarray(json.dumps(header)), **arrays)


def read_signature(path: Path) -> Signature:
    """Reads a signature. Raises RecordError where the file is truncated, no signature, or of a newer format."""
    remedy = "delete it and run the same command again"
    try:
        with np.load(path, allow_pickle=False) as archive:
            header = json.loads(str(archive["header"]))
            arrays = {key: archive[key] for key in archive.files if key != "header"}
        if header.pop("kind") != "signature":
            raise KeyError("kind")
        found = header.pop("format")
        if found > FORMAT:
            raise RecordError(
                f"the signature has format {found}, this version reads up to {FORMAT}: {path}; "
                "update nnunet-seqtransfer"
            )
        profiles: list[dict[str, NDArray[Any]]] = [{} for _ in header["cases"]]
        for key in header.pop("arrays"):
            index, name = key.split("/", 1)
            profiles[int(index)][name] = arrays[key]
        lists = {name: tuple(value) for name, value in header.items() if isinstance(value, list)}
        return Signature(**{**header, **lists}, profiles=tuple(profiles))
    except RecordError:
        raise
    except Exception as error:  # zip, zlib and NumPy raise all kinds for a damaged file
        raise RecordError(f"the signature is truncated or damaged ({type(error).__name__}): {path}; {remedy}") from None
