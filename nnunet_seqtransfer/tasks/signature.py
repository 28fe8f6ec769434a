"""Store signatures: what a metric needs from a task, without images, computed once and cached (a few MB)."""

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
"""Foreground statistics per channel, named as in nnU-Net's fingerprint."""

_ARRAYS = ("geometry", "intensities")
_OPAQUE = "#"
"""First character in a hashed identifier."""


@dataclass(frozen=True, eq=False)
class Signature:
    """Everything that one metric needs from one task. Equal digests mean equal profiles and equal data."""

    dataset: str
    "Full dataset name."
    metric: str
    "Metric that made the profiles."
    version: int
    "Profile version, see `Profiler`."
    digest: str
    "Checksum over everything that the profiles depend on: data, preprocessing, sample, metric."
    base: str
    "Checksum without the sample and the case files: if it is equal, unchanged cases keep their profile."
    preprocessing: str
    "Text from `profiling.preprocessing_for`; only signatures with equal texts are comparable."
    channels: tuple[str, ...]
    "Input channel names."
    labels: tuple[str, ...]
    "Label or region names, without background."
    labelled_cases: int
    "Labelled cases in the dataset."
    cases: tuple[str, ...]
    "Sampled case identifiers, hashed in an anonymous signature."
    stamps: tuple[str, ...]
    "Per sampled case: checksum over file names, sizes and times; empty in an anonymous signature."
    labelled: tuple[bool, ...]
    "Per sampled case: True if any voxel is labelled."
    geometry: NDArray[np.float64]
    "Shape (cases, 2, axes): original spacing and cropped extent in mm, axes as preprocessed."
    intensities: NDArray[np.float64]
    "Shape (channels, 7): `INTENSITY_PROPERTIES` from the fingerprint, intensities as stored."
    profiles: tuple[dict[str, NDArray[Any]], ...] = field(repr=False)
    "Arrays by name per sampled case, ordered as `cases`."

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Return the hashed identifiers; anonymous signatures give the same ones.

        16 hexadecimal digits of SHA-256: a name cannot be read from the hash, but a guessed name can be confirmed.
        """
        # an identifier that is hashed already stays
        return tuple(
            case if case.startswith(_OPAQUE) else _OPAQUE + hashlib.sha256(case.encode()).hexdigest()[:16]
            for case in self.cases
        )

    @property
    def is_planar(self) -> bool:
        """Return True for 2-D images: every case has one slice along the first axis."""
        return bool(np.isclose(self.geometry[:, 0, 0], self.geometry[:, 1, 0]).all())


def anonymous(signature: Signature) -> Signature:
    """Return a signature to share: identifiers hashed, file names, sizes and times removed."""
    return replace(signature, cases=signature.keys, stamps=("",) * len(signature.cases))


def write_signature(path: Path, signature: Signature) -> None:
    """Write a signature as a compressed NPZ file without pickle.

    Arrays with the same shape in every case are stacked into one.
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
        # a text array can be loaded without pickle
        np.savez_compressed(aside, header=np.asarray(json.dumps(header)), **arrays)


def read_signature(path: Path) -> Signature:
    """Read a signature. Raises RecordError if the file is missing or truncated, or has another kind or format."""
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
            "command again, or ask for it again"
        ) from None


def _require_format(found: int, path: Path) -> None:
    if found != FORMAT:
        remedy = "update nnunet-seqtransfer" if found > FORMAT else "make it again with nnUNetv2_seq_signature"
        age = "the newer" if found > FORMAT else "the old"
        raise RecordError(f"the signature has {age} format {found}, this version reads {FORMAT}: {path}; {remedy}")


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
    # a header and arrays from different files would otherwise pass
    if counts | {len(arrays[f"all/{name}"]) for name in stacked} != {len(profiles)} or not profiles:
        raise ValueError("the entries have different numbers of cases")
    return signature
