"""Options that choose who runs the stages: this process, several devices side by side, Slurm, or another scheduler."""

import argparse
import sys
from pathlib import Path

from nnunet_seqtransfer.entry_points import common
from nnunet_seqtransfer.nnunet.folders import cache_folder, results_folder
from nnunet_seqtransfer.training.executors import (
    LOCAL,
    SLURM,
    Executor,
    ExecutorOptions,
    RecordExecutor,
    executors,
    make_executor,
)
from nnunet_seqtransfer.training.run_record import REPORT, Run
from nnunet_seqtransfer.training.stage_files import FINAL, SUMMARY
from nnunet_seqtransfer.training.status import State, run_status


def add_executor(parser: common.SeqArgumentParser) -> None:
    """Add the options -executor, -slurm, -slurm_config and -devices."""
    text = "local: train here; slurm: submit one job per stage; record: print the commands of the stages for another "
    common.add(parser.expert, "-executor", text + "scheduler", tuple(executors()), LOCAL)
    text = "Options of sbatch for your site: partition=gpu gres=gpu:1 time=24:00:00 account=..., and warning=SECONDS "
    text += "before the time limit at which a stage stops at a checkpoint and is requeued. Default: none"
    common.add(parser.expert, "-slurm NAME=VALUE ...", text, default=[], action="extend")
    text = "File with such options as NAME = VALUE below [slurm]; -slurm takes precedence. "
    text += "Default: ~/.config/nnunet_seqtransfer/slurm.ini, if it exists"
    common.add(parser.expert, "-slurm_config FILE", text, Path)
    text = "Train independent stages side by side, one on each of these GPUs (numbers as for CUDA_VISIBLE_DEVICES); "
    text += "with -device cpu, that many at once. Default: one stage after the other"
    common.add(parser.expert, "-devices 0,1,...", text, device_list)


def device_list(text: str) -> tuple[str, ...]:
    """Return the device names in a list divided by commas (an argparse type)."""
    names = tuple(name.strip() for name in text.split(","))
    if "" in names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list of different devices such as 0,1,2,3")
    return names


def require_consistent(parser: common.SeqArgumentParser, options: argparse.Namespace) -> None:
    """Exit with an error if options of one executor are given to another."""
    if options.executor != SLURM and (options.slurm or options.slurm_config is not None):
        parser.error("-slurm and -slurm_config need -executor slurm")
    if options.executor != LOCAL and options.devices is not None:
        parser.error("-devices is for this machine; a scheduler gives each stage its device")


def chosen_executor(options: argparse.Namespace) -> Executor:
    """Return the executor that the options choose. Raises SeqTransferError if it refuses them."""
    given = ExecutorOptions(
        wait=options.wait,
        prefetch=options.np_ahead,
        devices=options.devices,
        slurm=tuple(options.slurm),
        slurm_config=options.slurm_config,
    )
    return make_executor(options.executor, given)


def print_results(run: Run, executor: Executor, *, report: bool = True) -> None:
    """Write the report, and print the Dice and how to predict, if all of the run is finished.

    A report that is newer than the results is kept. The text goes to standard error if standard output is a list of
    commands.
    """
    path = run.folder / REPORT
    if not executor.waits and run_status([str(run.folder)])[0].state is not State.FINISHED:
        return
    from nnunet_seqtransfer.report.findings import Findings, read_findings
    from nnunet_seqtransfer.report.page import write_report
    from nnunet_seqtransfer.report.run_text import results_text

    found: Findings | None = None
    try:
        # a page is also old if a training from scratch, a comparison or a plan is newer
        is_new = path.is_file() and path.stat().st_mtime > _newest(run)
        found = read_findings(run.folder)
        if report and not is_new:
            found = write_report(run.folder)
    except Exception as error:  # whatever it is, the training is finished
        common.notify(f"no report was written: {error or type(error).__name__}; nnUNetv2_seq_report tries again")
        report = False
    text = results_text(run, found, path if report else None)
    print(text, file=sys.stderr if isinstance(executor, RecordExecutor) else sys.stdout)


def _newest(run: Run) -> float:
    """Return when anything of the target that a report shows was last written, in seconds since 1970."""
    results, plans = results_folder() / run.request.target, cache_folder(run.request.target)
    found = [folder / name for folder in results.glob("*_scratch*/fold_*") for name in (FINAL, SUMMARY)]
    found += [folder / name for folder in (entry.files.output for entry in run.stages) for name in (FINAL, SUMMARY)]
    found += [*results.glob("seqtransfer/*/comparison.json"), *plans.glob("affinity_*.json")]
    found = [path for path in (*found, *plans.glob("sequence_*.json")) if path.is_file()]
    return max((path.stat().st_mtime for path in found), default=0.0)
