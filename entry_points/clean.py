"""nnUNetv2_seq_clean: lists what no run needs, and removes what is agreed to."""

import argparse
import sys
from collections.abc import Sequence

from nnunet_seqtransfer.entry_points import common
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.report.status_text import clean_text
from nnunet_seqtransfer.slurm.queue import SLURM_QUEUE
from nnunet_seqtransfer.storage import json_text, size_text
from nnunet_seqtransfer.training.clean import CATEGORIES, Item, clean, find_unneeded
from nnunet_seqtransfer.training.status import Queue


def _run(options: argparse.Namespace, queue: Queue = SLURM_QUEUE) -> None:
    found = find_unneeded(queue)
    for run in found.unreadable:
        common.notify(f"preprocessed data stay: {run.name} may need them, and is unreadable: {run.problem}")
    listed = options.what or CATEGORIES
    items = [pair for pair in found.items if pair[0].category in listed]
    print(json_text([{**vars(item), "bytes": size} for item, size in items]) if options.json else clean_text(items))
    if not items or options.json:
        return
    if options.dry_run or not (options.yes or is_terminal()):
        print("nothing was removed" + ("" if options.dry_run else "; to remove, give --yes and -what"))
        return
    kept = 0
    for category in listed:
        chosen = [pair for pair in items if pair[0].category == category]
        if chosen and (options.yes or _agreed(category, chosen)):
            removed = clean([item for item, _ in chosen], common.notify, queue)
            kept += removed.kept
            print(f"removed {size_text(removed.freed)} of {category}")
    if kept:
        raise SeqTransferError(f"{kept} items were kept, see above; run the same command again")


def is_terminal() -> bool:
    """Return True if someone can be asked."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def _agreed(category: str, items: list[tuple[Item, int]]) -> bool:
    """Ask on the terminal; anything but a yes is a no."""
    size = size_text(sum(size for _, size in items))
    try:
        answer = input(f"remove {size} of {category} ({len(items)} items)? [y/N] ")
    except EOFError:
        return False
    return answer.strip().casefold() in ("y", "yes")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.SeqArgumentParser(
        "Lists what no run needs, the largest first, and asks before it removes a category. Without a terminal it only "
        "lists. It never touches raw data, data that nnU-Net preprocessed, trained models, anything that a running "
        "process uses, or anything behind a link.",
        "nnUNetv2_seq_clean --yes -what leftovers preprocessed",
    )
    common.add(parser, "-what CATEGORY ...", f"Only these: {', '.join(CATEGORIES)}. Default: all", CATEGORIES)
    common.add(parser, "--yes", "Remove what -what names without asking")
    common.add(parser, "--dry_run", "List only, and remove nothing")
    common.add_json(parser)
    options = parser.parse(arguments)
    if options.yes and options.what is None:
        parser.error(f"--yes needs -what: name the categories to remove: {', '.join(CATEGORIES)}")
    return options


main = common.command(_parse, _run)
