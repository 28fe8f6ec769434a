"""What no run needs, for the terminal: categories and their items, the largest first."""

from __future__ import annotations

from nnunet_seqtransfer.report.tables import text_table
from nnunet_seqtransfer.report.words import without_folders
from nnunet_seqtransfer.storage import size_text
from nnunet_seqtransfer.training.clean import CATEGORIES, Item

MAX_ITEMS = 20
"""Items listed per category; the rest is summed up."""
MEANINGS = {
    "leftovers": "half-written files, damaged and superseded checkpoints, locks of ended processes",
    "preprocessed": "sources preprocessed for a target, read by no unfinished run",
}
Sized = list[tuple[Item, int]]


def clean_text(items: Sized) -> str:
    """Return a category table, then their items; ``items`` come with sizes in bytes, the largest first."""
    groups = {name: [pair for pair in items if pair[0].category == name] for name in CATEGORIES}
    shown = sorted((name for name in groups if groups[name]), key=lambda name: -_total(groups[name]))
    if not shown:
        return "there is nothing to remove"
    rows = [[size_text(_total(groups[name])), str(len(groups[name])), name, MEANINGS[name]] for name in shown]
    lines = [text_table(["size", "items", "category", "content"], rows)]
    for name in shown:
        lines += ["", f"{name}:", *_listed(groups[name])]
    return "\n".join(lines)


def _listed(items: Sized) -> list[str]:
    lines = [
        f"  {size_text(size).rjust(8)}  {without_folders(str(item.path))}  {item.reason}"
        for item, size in items[:MAX_ITEMS]
    ]
    rest = items[MAX_ITEMS:]
    return [*lines, f"  {size_text(_total(rest)).rjust(8)}  in {len(rest)} more"] if rest else lines


def _total(items: Sized) -> int:
    return sum(size for _, size in items)
