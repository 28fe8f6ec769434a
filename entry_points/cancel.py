"""nnUNetv2_seq_cancel: cancel the jobs of a run in Slurm's queue."""

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nnunet_seqtransfer.entry_points import common
from nnunet_seqtransfer.training.run_record import find_run, run_name

if TYPE_CHECKING:
    from nnunet_seqtransfer.slurm.executor import Cancelled


def _run(options: argparse.Namespace) -> None:
    from nnunet_seqtransfer.slurm.executor import cancel_run

    folder = find_run(*options.run)
    cancelled = cancel_run(folder, common.notify, shared=options.shared)
    for one in cancelled:
        print(_line(one))
    if not cancelled:
        print(f"{run_name(folder)} has no jobs in the queue")


def _line(one: "Cancelled") -> str:
    if one.needed_by is not None:
        return f"{one.key}: job {one.job.id} is kept, {run_name(one.needed_by)} needs it"
    done = "stops at a checkpoint" if one.job.state == "RUNNING" else "cancelled"
    return f"{one.key}: job {one.job.id} {done}, was {one.job}"


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.SeqArgumentParser(
        "Cancel the jobs that nnUNetv2_seq_train -executor slurm has submitted. A running training stops at a "
        "checkpoint first. Stages that another queued run needs are kept. To submit the rest again, repeat the command "
        "that submitted the run.",
        "nnUNetv2_seq_cancel 4 3d_fullres",
        "[TARGET [CONFIGURATION [FOLD]] | RUN] ",
    )
    common.add_run(parser)
    common.add(parser, "--shared", "Cancel also stages that another queued run needs")
    options = parser.parse(arguments)
    options.run = common.run_words(parser, options)
    return options


main = common.command(_parse, _run)
