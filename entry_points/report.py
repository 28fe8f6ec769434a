"""nnUNetv2_seq_report: what a run decided, did and reached, as one page to mail."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_seqtransfer.entry_points import common
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.training.run_record import REPORT, find_run


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
    parser = common.SeqArgumentParser(
        "Writes the report of a run as one HTML file that needs no network: the decision, its reasons and "
        "alternatives, distances, curves, validated cases, comparisons, and the origin of everything. An unfinished "
        "run gets a report too.",
        "nnUNetv2_seq_report 4 3d_fullres",
        "[TARGET [CONFIGURATION [FOLD]] | RUN] ",
    )
    common.add_run(parser)
    common.add(parser, "-o FILE", f"File to write. Default: {REPORT} in the run's folder", Path)
    options = parser.parse(arguments)
    options.run = common.run_words(parser, options)
    return options


main = common.command(_parse, _run)
