"""Tell quickly whether two datasets are known to share cases: from derivation records and cached sketches."""

from collections.abc import Sequence

from nnunet_seqtransfer.errors import RecordError, SeqTransferError
from nnunet_seqtransfer.nnunet.folders import raw_folder
from nnunet_seqtransfer.overlap.cache import SketchedDataset, cached_sketches
from nnunet_seqtransfer.overlap.matching import match_datasets
from nnunet_seqtransfer.storage import read_record
from nnunet_seqtransfer.tasks.derive import RECORD_FORMAT, RECORD_KIND, RECORD_NAME


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
