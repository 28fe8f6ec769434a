"""nnUNetv2_seq_report: what a run decided, did and reached, as one page to mail."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.entry_points.common import SeqArgumentParser, add_run, run_command, run_words
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.training.run_record import REPORT, find_run


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Write the report of a run."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    from nnunet_seqtransfer.report.page import write_report

    folder = find_run(*options.run)
    path = options.o if options.o is not None else folder / REPORT
    if path.is_dir():
        raise SeqTransferError(f"-o {path} is a folder; give a file, such as {path / REPORT}")
    found = write_report(folder, path)
    for note in found.notes:
        print(f"note: {note}")
    print(f"written: {path} ({path.stat().st_size / 1e6:.1f} MB)")


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Writes the report of a run as one HTML file that needs no network: the decision, its reasons and "
        "alternatives, distances, curves, validated cases, comparisons, and the origin of everything. An unfinished "
        "run gets a report too.",
        "nnUNetv2_seq_report 4 3d_fullres",
        "[TARGET [CONFIGURATION [FOLD]] | RUN] ",
    )
    add_run(parser)
    parser.add_argument(
        "-o",
        type=Path,
        default=None,
        metavar="FILE",
        help=f"File to write. Default: {REPORT} in the run's folder",
    )
    options = parser.parse(arguments)
    options.run = run_words(parser, options)
    return options
