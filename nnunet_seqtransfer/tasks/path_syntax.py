"""Paths: elements in training order. An element is a dataset, or several joined by "+" that train together."""

import re
from collections.abc import Iterable, Sequence

from nnunet_seqtransfer.errors import DatasetError, SeqTransferError, collecting, raise_collected
from nnunet_seqtransfer.nnunet.folders import dataset_id, dataset_name, registered_datasets

PLUS = "+"
_FULL_NAMES = re.compile(r"\+(?=Dataset\d{3,}_)")
"""Pattern for a plus between two full names. One inside a dataset's name is left alone."""


def members(element: str) -> tuple[str, ...]:
    """Return the datasets of a path's element by full names. The first is the stage's own."""
    return tuple(_FULL_NAMES.split(element))


def given_members(text: str) -> tuple[str, ...]:
    """Return the datasets of an element that a user wrote in full names or in numbers."""
    return tuple(text.split(PLUS)) if text.replace(PLUS, "").isdecimal() else members(text)


def datasets_on(path: Iterable[str]) -> tuple[str, ...]:
    """Return every dataset on a path once, in order."""
    return tuple(dict.fromkeys(name for element in path for name in members(element)))


def whole_path(sources: Sequence[str], target: str) -> tuple[str, ...]:
    """Return a path with the target's element last: the target, or already the last one if others train with it."""
    return tuple(sources) if sources and members(sources[-1])[0] == target else (*sources, target)


def numbers(element: str) -> str:
    """Return an element by dataset numbers, such as "21+22", as users write it."""
    return PLUS.join(str(dataset_id(name)) for name in members(element))


def named_path(target: str, elements: Sequence[str], *, joined: bool = True) -> tuple[str, ...]:
    """Return the elements that users write before a target, such as "21", "21+22", or "21+4" last, by full names.

    Datasets that join the target in the last element train together with it; the target's name comes first there.
    Unless elements can be ``joined``, each is one dataset.

    Raises a SeqTransferError with every problem: an unknown dataset, an element or member that is given twice, the
    target alone or before the end.
    """
    path: list[str] = []
    errors: list[SeqTransferError] = []
    for place, text in enumerate(elements, start=1):
        with collecting(errors):
            parts = given_members(text) if joined and text not in registered_datasets() else (text,)
            names = [dataset_name(part) for part in parts]
            if target in names and (len(names) == 1 or place < len(elements)):
                hint = f" (others may join it in the last element: 21{PLUS}{dataset_id(target)})" if joined else ""
                raise DatasetError(f"the target {target} is among its sources; leave it out of -s{hint}")
            element = PLUS.join(sorted(names, key=lambda name: name != target))
            repeated = [name for name in names if names.count(name) > 1] or [element] * (element in path)
            if repeated:
                raise DatasetError(f"{repeated[0]} is named more than once among the sources; name it once")
            path.append(element)
    raise_collected(errors)
    return tuple(path)
