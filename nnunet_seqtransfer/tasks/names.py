"""Finding what a user means among a dataset's names: as written, or else whatever the spelling."""

from __future__ import annotations

from collections.abc import Sequence

from nnunet_seqtransfer.errors import DatasetError


def find_name(wanted: str, names: Sequence[str], what: str) -> int:
    """The place of ``wanted`` among ``names``: the one that is equal, else the one equal but for case and punctuation.

    Raises DatasetError, listing the names, where none or more than one of them is meant. ``what`` says what is named,
    such as "channel of Dataset051_BraTS6".
    """
    exact = [place for place, name in enumerate(names) if name == wanted]
    loose = [place for place, name in enumerate(names) if _letters(wanted) and _letters(name) == _letters(wanted)]
    found = exact or loose
    if len(found) > 1:
        matches = ", ".join(names[place] for place in found)
        raise DatasetError(f"{wanted!r} fits more than one {what}: {matches}; write it exactly, or rename one of them")
    if not found:
        raise DatasetError(f"{wanted!r} is no {what}; choose from: {', '.join(names)}")
    return found[0]


def _letters(name: str) -> str:
    """A name without case, punctuation and spaces: "T1-Gd" and "t1 gd" are the same."""
    return "".join(character for character in name.casefold() if character.isalnum())
