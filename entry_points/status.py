"""nnUNetv2_seq_status: shows how far every run is. It writes nothing."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from typing import NoReturn

from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_json,
    add_run,
    positive_float,
    run_command,
    run_words,
)
from nnunet_seqtransfer.report.status_text import status_text
from nnunet_seqtransfer.slurm.queue import SLURM_QUEUE
from nnunet_seqtransfer.storage import json_text
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
        print(json_text(status_content(runs)))
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
        "nnUNetv2_seq_status 4 3d_fullres --watch",
        "[TARGET [CONFIGURATION [FOLD]] | RUN ...] ",
    )
    add_run(parser)
    add_json(parser)
    parser.add_argument(
        "--watch",
        nargs="?",
        type=positive_float,
        const=WATCH_SECONDS,
        default=None,
        metavar="SECONDS",
        help=f"Refresh every SECONDS ({WATCH_SECONDS:g} if no number is given) until Ctrl-C",
    )
    options = parser.parse(arguments)
    options.runs = run_words(parser, options, required=False)
    if options.json and options.watch is not None:
        parser.error("--json and --watch exclude each other")
    return options
