"""The distances between tasks under resampled cases: the joint scatter that planners need, in a file of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nnunet_seqtransfer.affinity.combination import Combination
from nnunet_seqtransfer.affinity.record import Affinity
from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.storage import checksum, replacing

FORMAT = 1


@dataclass(frozen=True, eq=False)
class Resamples:
    """Components of the distances between some of an affinity's tasks, for B resamples of all their cases at once."""

    tasks: tuple[int, ...]
    "Places in the affinity of the m tasks that were resampled with each other, the target last."
    components: Mapping[str, NDArray[np.float32]] = field(repr=False)
    "Each (B, m, m)."

    def distances(self, combination: Combination, tasks: int) -> NDArray[np.float32]:
        """(B, tasks, tasks) distances between all of an affinity's tasks, NaN where a pair was not resampled."""
        some = combination.distances(self.components).astype(np.float32)
        every = np.full((len(some), tasks, tasks), np.nan, dtype=np.float32)
        every[:, np.asarray(self.tasks)[:, None], np.asarray(self.tasks)] = some
        return every


def resamples_path(affinity_path: Path) -> Path:
    """Where the resamples of an affinity are kept: beside it."""
    return affinity_path.with_suffix(".npz")


def write_resamples(affinity_path: Path, affinity: Affinity, resamples: Resamples) -> None:
    """Writes the resamples beside the record of their affinity, NPZ without pickle."""
    with replacing(resamples_path(affinity_path)) as aside:
        content: dict[str, Any] = {f"component/{name}": values for name, values in resamples.components.items()}
        content |= {"format": FORMAT, "belongs_to": _identity(affinity), "tasks": resamples.tasks}
        np.savez_compressed(aside, **content)


def read_resamples(
    affinity_path: Path, affinity: Affinity, combination: Combination | None = None
) -> NDArray[np.float32] | None:
    """(B, n, n) resampled distances of an affinity under its own or another combination of the components.

    Returns None where there are none, as of an affinity whose file alone was copied.

    Raises RecordError where the file is damaged, of a newer format, or belongs to another affinity.
    """
    path = resamples_path(affinity_path)
    if not path.is_file():
        return None
    remedy = "run nnUNetv2_seq_affinity again"
    try:
        with np.load(path, allow_pickle=False) as archive:
            content: dict[str, Any] = {name: archive[name] for name in archive.files}
        _require_format(int(content.pop("format")), path)
        identity = str(content.pop("belongs_to"))
        resamples = _resamples(content, len(affinity.names))
    except RecordError:
        raise
    except Exception as error:  # zip, zlib and NumPy raise all kinds for a damaged file
        raise RecordError(
            f"the resampled distances are truncated or damaged ({type(error).__name__}): {path}; {remedy}"
        ) from None
    if identity != _identity(affinity):
        raise RecordError(f"the resampled distances belong to another affinity than the file beside: {path}; {remedy}")
    return resamples.distances(combination or affinity.combination, len(affinity.names))


def _require_format(found: int, path: Path) -> None:
    if found > FORMAT:
        raise RecordError(
            f"the resampled distances have format {found}, this version reads up to {FORMAT}: {path}; "
            "update nnunet-seqtransfer"
        )


def _resamples(content: dict[str, Any], count: int) -> Resamples:
    """Raises ValueError or KeyError where the entries do not fit each other, or an affinity of ``count`` tasks."""
    tasks = tuple(int(task) for task in content.pop("tasks"))
    components = {name.removeprefix("component/"): values for name, values in content.items()}
    shapes = {values.shape for values in components.values()}
    if len(shapes) != 1 or shapes.pop()[1:] != (len(tasks), len(tasks)) or not set(tasks) <= set(range(count)):
        raise ValueError("the entries do not fit each other")
    return Resamples(tasks, components)


def _identity(affinity: Affinity) -> str:
    """Checksum of what the resamples rest on: the signatures of all tasks, and the seed."""
    parts = [affinity.metric, affinity.seed, [task.signature for task in affinity.tasks]]
    return checksum(parts)[:16]
