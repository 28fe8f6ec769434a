"""nnUNetv2_seq_cancel: ends the jobs of a run that are in Slurm's queue."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from nnunet_seqtransfer.entry_points.common import SeqArgumentParser, notify, run_command
from nnunet_seqtransfer.slurm.cancelling import cancel_run
from nnunet_seqtransfer.training.run_record import find_run


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Cancels the jobs of a run."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    for line in cancel_run(find_run(options.run), notify, shared=options.shared):
        print(line)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Ends the jobs of a run that nnUNetv2_seq_train -executor slurm has submitted. A training that runs stops "
        "at a checkpoint first. Stages that another run in the queue needs as well go on. The command that "
        "submitted the run submits again what is left.",
        "nnUNetv2_seq_cancel Dataset004_Hippocampus/nnUNetPlans_via21_24_3d_fullres",
    )
    parser.add_argument(
        "run", help="[REQUIRED] TARGET/NAME of the run, as nnUNetv2_seq_status lists it, NAME alone, or its folder"
    )
    parser.add_argument(
        "--shared", action="store_true", help="[OPTIONAL] End stages too that another run in the queue needs"
    )
    return parser.parse(arguments)
