"""What no run needs any more, for the terminal: categories and their things, the largest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from nnunet_seqtransfer.nnunet.folders import preprocessed_folder, results_folder
from nnunet_seqtransfer.report.tables import text_table
from nnunet_seqtransfer.runs.items import Item
from nnunet_seqtransfer.runs.unneeded import Category
from nnunet_seqtransfer.storage import size_text

_MOST = 20
Sized = Sequence[tuple[Item, int]]


def clean_text(items: Mapping[Category, Sized]) -> str:
    """A table of the categories, then what is in each; ``items``: with sizes in bytes, the largest first."""
    ordered = sorted(items, key=lambda category: -_total(items[category]))
    there = [category for category in ordered if items[category]]
    if not there:
        return "there is nothing to remove"
    rows = [
        [size_text(_total(items[category])), str(len(items[category])), category.name, _meaning(category)]
        for category in there
    ]
    lines = [text_table(["size", "things", "category", "what it is"], rows)]
    for category in there:
        lines += ["", f"{category.name}:", *_things(items[category])]
    return "\n".join(lines)


def _meaning(category: Category) -> str:
    return category.meaning + (f" (only with -what {category.name})" if category.only_by_name else "")


def _things(things: Sized) -> list[str]:
    shown = [f"  {size_text(size).rjust(8)}  {_short(item.path)}  {item.why}" for item, size in things[:_MOST]]
    rest = things[_MOST:]
    return [*shown, f"  {size_text(_total(rest)).rjust(8)}  in {len(rest)} more"] if rest else shown


def _short(path: Path) -> str:
    for folder, name in ((results_folder(), "nnUNet_results"), (preprocessed_folder(), "nnUNet_preprocessed")):
        if path.is_relative_to(folder):
            return str(name / path.relative_to(folder))
    return str(path)


def _total(things: Sized) -> int:
    return sum(size for _, size in things)
