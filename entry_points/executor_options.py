"""The options that say who runs the stages: this process, several devices side by side, or Slurm."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.entry_points.common import SeqArgumentParser
from nnunet_seqtransfer.slurm.executor import SlurmExecutor
from nnunet_seqtransfer.slurm.site import SiteOptions, Work, site_options
from nnunet_seqtransfer.slurm.submission import stage_jobs
from nnunet_seqtransfer.training.chain import Chain
from nnunet_seqtransfer.training.devices import DevicesExecutor
from nnunet_seqtransfer.training.executors import Executor, LocalExecutor
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.run_stage import Notify

LOCAL, SLURM, RECORD = "local", "slurm", "record"


@dataclass(frozen=True)
class RecordExecutor:
    """Trains nothing: prints what is left to do, for a scheduler that this project does not know."""

    @property
    def waits(self) -> bool:
        """See Executor."""
        return False

    def describe(self, chain: Chain, options: DeviceOptions, processes: int) -> tuple[str, ...]:
        """See Executor: a line for each stage, its key, its command, and the key of the stage to wait for."""
        jobs = stage_jobs(chain, processes)
        return tuple("\t".join((job.key, shlex.join(job.command), job.after or "")) for job in jobs)

    def check(self, options: DeviceOptions) -> None:
        """See Executor. Devices are looked at by the stages."""

    def run(self, chain: Chain, options: DeviceOptions, processes: int, notify: Notify) -> None:
        """See Executor. The run has been recorded before."""
        for line in self.describe(chain, options, processes):
            print(line)


def add_executor(parser: argparse.ArgumentParser, *, of_stages: bool = True) -> None:
    """The options -executor, -slurm and -slurm_config; ``of_stages``: the work is a chain."""
    recording = ", or only record the run and print its stages' commands for another scheduler" if of_stages else ""
    parser.add_argument(
        "-executor",
        choices=[LOCAL, SLURM, RECORD] if of_stages else [LOCAL, SLURM],
        default=LOCAL,
        help=f"[OPTIONAL] Do the work here, or submit it to Slurm and end{recording}. Default: {LOCAL}",
    )
    parser.add_argument(
        "-slurm",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME=VALUE",
        help="[OPTIONAL] Options of sbatch for your site, as partition=gpu gres=gpu:1 time=24:00:00 account=..., and "
        "warning=SECONDS before the time limit at which a stage writes a checkpoint and is requeued. Default: none",
    )
    parser.add_argument(
        "-slurm_config",
        type=Path,
        default=None,
        metavar="FILE",
        help="[OPTIONAL] File with such options, NAME = VALUE in lines below [slurm]; -slurm takes precedence. "
        "Default: nnunet_seqtransfer/slurm.ini in ~/.config, if it is there",
    )


def add_devices(parser: argparse.ArgumentParser) -> None:
    """The option -devices."""
    parser.add_argument(
        "-devices",
        type=device_list,
        default=None,
        metavar="0,1,...",
        help="[OPTIONAL] Train independent stages side by side, one on each of these GPUs of this machine, by the "
        "numbers that CUDA_VISIBLE_DEVICES takes; with -device cpu so many at once. Default: one stage after the other",
    )


def device_list(text: str) -> tuple[str, ...]:
    """An argparse type: names of devices, divided by commas."""
    names = tuple(name.strip() for name in text.split(","))
    if "" in names or len(set(names)) < len(names):
        raise argparse.ArgumentTypeError(f"{text!r} is no list of different devices such as 0,1,2,3")
    return names


def require_consistent(parser: SeqArgumentParser, options: argparse.Namespace) -> None:
    """Ends the command where options of one executor are given to another."""
    if options.executor != SLURM and (options.slurm or options.slurm_config is not None):
        parser.error("-slurm and -slurm_config need -executor slurm")
    if options.executor != LOCAL and getattr(options, "devices", None) is not None:
        parser.error("-devices is for this machine; elsewhere the scheduler gives each stage its device")


def site_of(options: argparse.Namespace, work: Work) -> SiteOptions:
    """The options for Slurm. Raises SeqTransferError, naming the valid ones, for a wrong one."""
    return site_options(options.slurm, options.slurm_config, work)


def make_executor(options: argparse.Namespace) -> Executor:
    """Who runs the stages. Raises SeqTransferError for options that Slurm does not have."""
    if options.executor == SLURM:
        return SlurmExecutor(site_of(options, "train"))
    if options.executor == RECORD:
        return RecordExecutor()
    if options.devices is not None:
        return DevicesExecutor(options.devices, wait=options.wait, processes_ahead=options.np_ahead)
    return LocalExecutor(wait=options.wait, processes_ahead=options.np_ahead)
