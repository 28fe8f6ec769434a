"""Whether two registered datasets are, by their records of derivation, of the same cases; no image is looked at."""

from __future__ import annotations

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.nnunet.folders import raw_folder
from nnunet_seqtransfer.storage import read_record
from nnunet_seqtransfer.tasks.derive import RECORD_FORMAT, RECORD_KIND, RECORD_NAME


def share_origin(one: str, other: str) -> bool:
    """Whether both are one dataset, or were derived from one and hold a case of it in common."""
    (root, cases), (root_of_other, cases_of_other) = _origin(one), _origin(other)
    if root != root_of_other:
        return False
    return cases is None or cases_of_other is None or not cases.isdisjoint(cases_of_other)


def _origin(dataset: str) -> tuple[str, frozenset[str] | None]:
    """The dataset that this one was, perhaps in several steps, derived from, and the cases taken; None: all of them."""
    cases: frozenset[str] | None = None
    passed = {dataset}
    while (record := raw_folder() / dataset / RECORD_NAME).is_file():
        try:
            content = read_record(record, RECORD_KIND, RECORD_FORMAT, "derive it again")
            origin, chosen = str(content["origin"]), frozenset(map(str, content["cases"]))
        except (RecordError, KeyError, TypeError):
            break  # unreadable: taken for a dataset of its own
        cases = chosen if cases is None else cases  # identifiers stay, and each step only leaves some out
        if origin in passed:
            break
        passed.add(origin)
        dataset = origin
    return dataset, cases
