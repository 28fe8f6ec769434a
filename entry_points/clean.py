"""nnUNetv2_seq_clean: lists what no run needs any more, and removes what is agreed to."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from functools import partial
from typing import NoReturn

from nnunet_seqtransfer.entry_points.common import SeqArgumentParser, notify, run_command
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.report.clean_text import clean_text
from nnunet_seqtransfer.runs.found import find
from nnunet_seqtransfer.runs.items import Item, size_of
from nnunet_seqtransfer.runs.overview import QueueStates
from nnunet_seqtransfer.runs.removal import remove_all
from nnunet_seqtransfer.runs.unneeded import CATEGORIES, Category, unreadable
from nnunet_seqtransfer.slurm.queue import queue_states
from nnunet_seqtransfer.storage import size_text


def main(arguments: Sequence[str] | None = None, queue: QueueStates = queue_states) -> NoReturn:
    """Lists, asks and removes."""
    options = _parse(arguments)
    run_command(lambda: _run(options, queue))


def _run(options: argparse.Namespace, queue: QueueStates) -> None:
    found = find(queue)
    for run in unreadable(found):
        notify(f"all but leftovers stays: {run.name} may need it, and is unreadable: {run.problem}")
    listed = [category for category in CATEGORIES if options.what is None or category.name in options.what]
    items = {category: sized(list(category.items(found))) for category in listed}
    print(clean_text(items))
    if not any(items.values()):
        return
    if options.dry_run or not (options.yes or is_terminal()):
        print("nothing was removed" + ("" if options.dry_run else "; to remove, give --yes and -what"))
        return
    failed = 0
    for category in listed:
        chosen = items[category]
        if not chosen or (category.only_by_name and options.what is None):
            continue
        if options.yes or _agreed(category, chosen):
            freed, kept = remove_all(category, [item for item, _ in chosen], notify, partial(find, queue))
            failed += kept
            print(f"removed {size_text(freed)} of {category.name}")
    if failed:
        raise SeqTransferError(f"{failed} of the things to remove were kept, see above; run the same command again")


def is_terminal() -> bool:
    """Whether somebody can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def sized(items: list[Item]) -> list[tuple[Item, int]]:
    """Items with their sizes in bytes, the largest first."""
    return sorted(((item, size_of(item.path)) for item in items), key=lambda pair: (-pair[1], str(pair[0].path)))


def _agreed(category: Category, items: list[tuple[Item, int]]) -> bool:
    """Asks on the terminal; anything but a yes is a no."""
    size = size_text(sum(size for _, size in items))
    try:
        answer = input(f"remove {size} of {category.name} ({len(items)})? [y/N] ")
    except EOFError:
        return False
    return answer.strip().casefold() in ("y", "yes")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Lists what no run needs any more, the largest first, and asks before it removes a category. Without a "
        "terminal it only lists. It touches nothing that is not this project's: no raw data, no data that nnU-Net "
        "preprocessed, no results of a target, nothing that a running process is at, nothing behind a link.",
        "nnUNetv2_seq_clean --yes -what leftovers preprocessed",
    )
    names = [category.name for category in CATEGORIES]
    parser.add_argument(
        "-what",
        nargs="+",
        choices=names,
        default=None,
        metavar="CATEGORY",
        help=f"[OPTIONAL] Only these: {', '.join(names)}. Default: all are listed, and all but those that hold trained "
        "models (unused, sources) are asked about",
    )
    parser.add_argument("--yes", action="store_true", help="[OPTIONAL] Remove what -what names without asking")
    parser.add_argument("--dry_run", action="store_true", help="[OPTIONAL] List only, and remove nothing")
    options = parser.parse(arguments)
    if options.yes and options.what is None:
        parser.error(f"--yes needs -what: name the categories to remove: {', '.join(names)}")
    return options
