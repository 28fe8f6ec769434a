"""nnUNetv2_seq_overlap: which cases a target shares with other datasets."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from nnunet_seqtransfer.entry_points.common import SeqArgumentParser, add_processes, notify, run_command
from nnunet_seqtransfer.errors import DatasetError, SeqTransferError
from nnunet_seqtransfer.nnunet.folders import dataset_name, registered_datasets
from nnunet_seqtransfer.overlap.matching import SharedCase, announced_sketches, match_datasets
from nnunet_seqtransfer.tasks.task import named_sources

ALL = "all"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Prints the shared cases."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    target = dataset_name(options.t)
    sources = _everything_but(target) if options.s == [ALL] else named_sources(target, options.s)
    of_target = announced_sketches(target, options.np, notify)
    if not of_target.sketches:
        raise DatasetError(f"{target} has no images to compare with; copy it to nnUNet_raw")
    for source in sources:
        try:
            shared = match_datasets(of_target, announced_sketches(source, options.np, notify))
        except SeqTransferError as error:
            if options.s != [ALL]:
                raise
            notify(f"{source} is left out: {error}")
        else:
            print("\n".join(describe(target, source, shared)), flush=True)


def _everything_but(target: str) -> tuple[str, ...]:
    others = tuple(name for name in registered_datasets() if name != target)
    if not others:
        raise DatasetError(f"no dataset but {target} is registered; copy others to nnUNet_raw")
    return others


def describe(target: str, source: str, shared: Sequence[SharedCase]) -> list[str]:
    """A line for each pair of cases, and one that says how many cases are concerned."""
    cases, others = {one.source_case for one in shared}, {one.target_case for one in shared}
    lines = [f"{one.source_case} and {one.target_case}: {one.evidence}" for one in shared]
    return [f"{source}: {len(cases)} of its cases share image or labels with {len(others)} of {target}", *lines]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Lists the cases that occur in a target dataset and in others: the same image or labels, also under another "
        "name, as a crop, rescaled or with inverted contrast. Reads each dataset once; nothing need be preprocessed.",
        "nnUNetv2_seq_overlap -t 4 -s 21 22",
    )
    parser.add_argument("-t", required=True, metavar="TARGET", help="[REQUIRED] Name or number of the target dataset")
    parser.add_argument(
        "-s",
        nargs="+",
        default=[ALL],
        metavar="SOURCE",
        help=f"[OPTIONAL] Names or numbers of the other datasets, or {ALL}. Default: {ALL}",
    )
    add_processes(parser)
    return parser.parse(arguments)
