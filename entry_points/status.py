"""nnUNetv2_seq_status: shows how far every run is. It writes nothing."""

import argparse
import sys
import time
from collections.abc import Sequence

from nnunet_seqtransfer.entry_points import common
from nnunet_seqtransfer.report.status_text import status_text
from nnunet_seqtransfer.slurm.queue import SLURM_QUEUE
from nnunet_seqtransfer.storage import json_text
from nnunet_seqtransfer.training.status import Queue, run_status, status_content

WATCH_SECONDS = 10.0
CLEAR = "\x1b[H\x1b[2J"
"""Move the cursor to the first line and clear the screen."""


def _run(options: argparse.Namespace, queue: Queue = SLURM_QUEUE) -> None:
    if options.watch is not None:
        _watch(options, queue)
    else:
        _show(options, queue)


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
    parser = common.SeqArgumentParser(
        "Shows the runs of nnUNetv2_seq_train, the newest first: what became of every stage, epochs, Dice, time left, "
        "the last error, and the command that continues the run. It writes nothing.",
        "nnUNetv2_seq_status 4 3d_fullres --watch",
        "[TARGET [CONFIGURATION [FOLD]] | RUN ...] ",
    )
    common.add_run(parser)
    common.add_json(parser)
    text = f"Refresh every SECONDS ({WATCH_SECONDS:g} if no number is given) until Ctrl-C"
    common.add(parser, "--watch SECONDS", text, common.positive_float, nargs="?", const=WATCH_SECONDS)
    options = parser.parse(arguments)
    options.runs = common.run_words(parser, options, required=False)
    if options.json and options.watch is not None:
        parser.error("--json and --watch exclude each other")
    return options


main = common.command(_parse, _run)
