"""nnUNetv2_seq_status: shows how far every run is. It writes nothing."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from nnunet_seqtransfer.entry_points.common import SeqArgumentParser, positive_float, run_command
from nnunet_seqtransfer.report.training_text import status_text
from nnunet_seqtransfer.slurm.queue import SLURM_QUEUE
from nnunet_seqtransfer.training.status import Queue, run_status, status_content

WATCH_SECONDS = 10.0
CLEAR = "\x1b[H\x1b[2J"
"""Move the cursor to the first line and clear the screen."""


def main(arguments: Sequence[str] | None = None, queue: Queue = SLURM_QUEUE) -> NoReturn:
    """Print run status."""
    options = _parse(arguments)
    run_command(lambda: _watch(options, queue) if options.watch is not None else _show(options, queue))


def _show(options: argparse.Namespace, queue: Queue) -> None:
    runs = run_status(options.runs, queue)
    if options.json:
        print(json.dumps(status_content(runs), indent=4, allow_nan=False))
    else:
        print(status_text(runs, time.time(), detailed=bool(options.runs)))


def _watch(options: argparse.Namespace, queue: Queue) -> None:
    """Show the status repeatedly until Ctrl-C; on a terminal in the same place."""
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
        "the last error, and the command that continues the run. It writes nothing.",
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
        help=f"[OPTIONAL] Refresh every SECONDS ({WATCH_SECONDS:g} if no number is given) until Ctrl-C",
    )
    options = parser.parse(arguments)
    if options.json and options.watch is not None:
        parser.error("--json and --watch exclude each other")
    return options
