"""nnUNetv2_seq_demo: the whole way on phantoms, without your own data and without a GPU."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from nnunet_seqtransfer.entry_points import common


def _run(options: argparse.Namespace) -> None:
    from nnunet_seqtransfer.demo.demo import run_demo

    run_demo(Path(options.o), options.seeds, options.np)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.SeqArgumentParser(
        "Draws phantoms, plans a path, trains scratch, scratch as long, each source alone and the planned path, "
        "compares them on held-out cases, and writes the report. Needs no data and no GPU. Run it again after any "
        "interruption.",
        "nnUNetv2_seq_demo -o demo",
    )
    text = "New folder, or one with a demo to resume"
    common.add(parser, "-o FOLDER", text, default="nnunet_seqtransfer_demo")
    common.add(parser, "-seeds N", "Trainings of every path", common.positive_int, 3)
    common.add_processes(parser)
    return parser.parse(arguments)


main = common.command(_parse, _run)
