"""nnUNetv2_seq_continue: goes on with a recorded run, or with one stage of it; what schedulers call."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from typing import NoReturn

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points.common import (
    SeqArgumentParser,
    add_device,
    add_execution,
    notify,
    positive_int,
    run_command,
)
from nnunet_seqtransfer.entry_points.executor_options import add_executor, chosen_executor, require_consistent
from nnunet_seqtransfer.entry_points.train import print_results
from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.training.chain import Chain, load_chain
from nnunet_seqtransfer.training.dry_run import describe_chain
from nnunet_seqtransfer.training.executors import Executor, run_chain
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.run_record import Run, find_run, read_run
from nnunet_seqtransfer.training.run_stage import prepare_data, run_stage
from nnunet_seqtransfer.training.stages import Stage


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Does what is left of a run."""
    options = _parse(arguments)
    run_command(lambda: _run(options))


def _run(options: argparse.Namespace) -> None:
    run = read_run(find_run(options.run))
    given = {key: value for key, value in (("device", options.device), ("gpus", options.gpus)) if value is not None}
    devices = replace(run.options, **given)
    processes = options.np or run.processes
    executor = chosen_executor(options)
    context = Context(notify, processes)
    chain = _load(run, options, devices, processes, executor)
    if options.dry_run:
        print("\n".join((*executor.describe(chain, devices, context), *describe_chain(chain, devices.device))))
    elif options.prepare_only:
        prepare_data(chain, processes, notify)
    elif options.stage is not None:
        run_stage(chain, _stage(chain, options.stage), devices, processes, notify, wait=options.wait)
    else:
        run_chain(chain, devices, executor, context)
        if executor.waits or chain.is_finished:
            print_results(chain, executor)


def _load(run: Run, options: argparse.Namespace, devices: DeviceOptions, processes: int, executor: Executor) -> Chain:
    trains = not (options.dry_run or options.prepare_only)
    return load_chain(
        run.request,
        processes,
        notify,
        may_extract=not options.dry_run,
        devices=devices,
        before_long=(lambda: executor.check(devices)) if trains else None,
    )


def _stage(chain: Chain, key: str) -> Stage:
    """The stage of that key. Raises StageError, naming all, where there is none."""
    found = [stage for stage in chain.stages if stage.key == key]
    if not found:
        keys = ", ".join(stage.key for stage in chain.stages)
        raise StageError(f"the run has no stage {key!r}; its stages are: {keys}")
    return found[0]


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = SeqArgumentParser(
        "Goes on with a run of nnUNetv2_seq_train from its record, as that command would: it does what is left. With "
        "-stage it does one stage, whose stage before has to be finished: so any scheduler can run a chain.",
        "nnUNetv2_seq_continue Dataset004_Hippocampus/nnUNetPlans_via21_24_3d_fullres",
    )
    parser.add_argument(
        "run", help="[REQUIRED] TARGET/NAME of the run, as nnUNetv2_seq_status lists it, NAME alone, or its folder"
    )
    parser.add_argument(
        "-stage", default=None, metavar="KEY", help="[OPTIONAL] Do this stage: DATASET/PLANS/fold_K. Default: all"
    )
    parser.add_argument(
        "--prepare_only",
        action="store_true",
        help="[OPTIONAL] Preprocess what the sources that are left to train need, and train nothing",
    )
    add_device(parser, recorded=True)
    add_execution(parser)
    add_executor(parser)
    parser.add_argument(
        "--dry_run", action="store_true", help="[OPTIONAL] Print every stage and what it would do; do nothing"
    )
    parser.add_argument(
        "-np", type=positive_int, default=None, metavar="N", help="[OPTIONAL] Worker processes. Default: the run's"
    )
    options = parser.parse(arguments)
    require_consistent(parser, options)
    if options.executor != "local" or options.devices is not None:
        for given, option in ((options.stage, "-stage"), (options.prepare_only or None, "--prepare_only")):
            if given is not None:
                parser.error(f"{option} is done here, by one process; leave out -executor and -devices")
    if options.stage is not None and options.prepare_only:
        parser.error("-stage and --prepare_only exclude each other")
    return options
