"""nnUNetv2_seq_continue: continues a recorded run, or one stage; schedulers call this command."""

import argparse
from collections.abc import Sequence
from dataclasses import replace

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.entry_points import common, executor_options
from nnunet_seqtransfer.training.run_record import find_run, read_run


def _run(options: argparse.Namespace) -> None:
    from nnunet_seqtransfer.report.chain_text import chain_text
    from nnunet_seqtransfer.training.train import continue_run, look_ahead, prepare_run

    run = read_run(find_run(*options.run))
    given = {key: value for key, value in (("device", options.device), ("gpus", options.gpus)) if value is not None}
    run = replace(run, options=replace(run.options, **given))
    executor, context = executor_options.chosen_executor(options), Context(common.notify, options.np or run.processes)
    if options.dry_run:
        outlook = look_ahead(run.request, context, options=run.options)
        print("\n".join((*executor.describe(outlook, run.options, context), chain_text(outlook))))
    elif options.prepare_only:
        prepare_run(run, context)
    else:
        run = continue_run(run, context, executor=executor, stage=options.stage)
        if options.stage is None:
            executor_options.print_results(run, executor, report=not options.no_report)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = common.SeqArgumentParser(
        "Continues a run of nnUNetv2_seq_train from its record: it does what is left, as that command would. With "
        "-stage it does one stage, if the previous stage is finished, so that any scheduler can run a chain.",
        "nnUNetv2_seq_continue 4 3d_fullres",
        "[TARGET [CONFIGURATION [FOLD]] | RUN] ",
    )
    common.add_run(parser)
    common.add(parser, "-stage KEY", "Do this stage: DATASET/PLANS/fold_K. Default: all")
    common.add(parser, "--prepare_only", "Preprocess what the sources that are left to train need, and train nothing")
    common.add_device(parser, recorded=True)
    common.add_execution(parser)
    executor_options.add_executor(parser)
    common.add(parser, "--dry_run", "Print every stage and what it would do; do nothing")
    common.add(parser, "--no_report", "Write no report at the end")
    common.add(parser, "-np N", "Worker processes. Default: the run's", common.positive_int)
    options = parser.parse(arguments)
    options.run = common.run_words(parser, options)
    executor_options.require_consistent(parser, options)
    if options.executor != "local" or options.devices is not None:
        for given, option in ((options.stage, "-stage"), (options.prepare_only or None, "--prepare_only")):
            if given is not None:
                parser.error(f"{option} is done here, by one process; leave out -executor and -devices")
    if options.stage is not None and options.prepare_only:
        parser.error("-stage and --prepare_only exclude each other")
    return options


main = common.command(_parse, _run)
