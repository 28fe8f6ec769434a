"""nnUNetv2_seq_status: shows how far every run is; reads a little and writes nothing."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.entry_points.common import SeqArgumentParser, positive_float, run_command
from nnunet_seqtransfer.report.status_text import status_text
from nnunet_seqtransfer.runs.content import status_content
from nnunet_seqtransfer.runs.overview import QueueStates, read_all
from nnunet_seqtransfer.slurm.queue import queue_states
from nnunet_seqtransfer.training.run_record import find_run

WATCH_SECONDS = 10.0
CLEAR = "\x1b[H\x1b[2J"
"""Cursor to the first line, screen emptied."""


def main(arguments: Sequence[str] | None = None, queue: QueueStates = queue_states) -> NoReturn:
    """Prints the status of runs."""
    options = _parse(arguments)
    run_command(lambda: _watch(options, queue) if options.watch is not None else _show(options, queue))


def _show(options: argparse.Namespace, queue: QueueStates) -> None:
    folders: list[Path] | None = [find_run(name) for name in options.runs] or None
    runs = read_all(folders, queue)
    if options.json:
        print(json.dumps(status_content(runs), indent=4, allow_nan=False))
    else:
        print(status_text(runs, time.time(), detailed=folders is not None))


def _watch(options: argparse.Namespace, queue: QueueStates) -> None:
    """Shows it again and again until Ctrl-C; on a terminal in the same place."""
    try:
        while True:
            print(CLEAR if sys.stdout.isatty() else "", end="")
            _show(options, queue)
            print(f"\n{time.strftime('%H:%M:%S')}, again every {options.watch:g} s until Ctrl-C", flush=True)
            time.sleep(options.watch)
    except KeyboardInterrupt:
        print()


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Shows the runs of nnUNetv2_seq_train, the newest first: what became of every stage, epochs, Dice, time left, "
        "the last error, and the command that goes on. It writes nothing.",
        "nnUNetv2_seq_status nnUNetPlans_via21_24_3d_fullres --watch",
    )
    parser.add_argument(
        "runs",
        nargs="*",
        default=[],
        metavar="run",
        help="[OPTIONAL] TARGET/NAME of runs, NAME alone, or their folders, shown in detail. Default: all, in short",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="[OPTIONAL] Print JSON for machines; docs/reference/files.md names its fields",
    )
    parser.add_argument(
        "--watch",
        nargs="?",
        type=positive_float,
        const=WATCH_SECONDS,
        default=None,
        metavar="SECONDS",
        help=f"[OPTIONAL] Show it again every so many seconds ({WATCH_SECONDS:g} where none are given) until Ctrl-C",
    )
    options = parser.parse(arguments)
    if options.json and options.watch is not None:
        parser.error("--json and --watch exclude each other")
    return options
