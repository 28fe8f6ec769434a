"""nnUNetv2_seq_demo: the whole way on phantoms, without your own data and without a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from nnunet_seqtransfer.entry_points.common import SeqArgumentParser, add_processes, positive_int, run_command

DEFAULT_FOLDER = "nnunet_seqtransfer_demo"


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run or resume the demo."""
    parser = SeqArgumentParser(
        "Draws phantoms, plans a path, trains scratch, scratch as long, each source alone and the planned path, "
        "compares them on held-out cases, and writes the report. Needs no data and no GPU. Run it again after any "
        "interruption.",
        "nnUNetv2_seq_demo -o demo",
    )
    parser.add_argument(
        "-o",
        type=Path,
        default=Path(DEFAULT_FOLDER),
        metavar="FOLDER",
        help=f"New folder, or one with a demo to resume. Default: {DEFAULT_FOLDER}",
    )
    parser.add_argument("-seeds", type=positive_int, default=3, metavar="N", help="Trainings of every path. Default: 3")
    add_processes(parser)
    options = parser.parse(arguments)
    run_command(lambda: _run(options.o, options.seeds, options.np))


def _run(folder: Path, seeds: int, processes: int) -> None:
    from nnunet_seqtransfer.demo.demo import run_demo

    run_demo(folder, seeds, processes)
