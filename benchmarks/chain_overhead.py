"""What nnUNetv2_seq_train costs beyond the nnUNetv2_train calls it makes, side by side, and where it goes.

    python benchmarks/chain_overhead.py 4 3d_fullres 0 -s 21 24 -repeats 3

Needs nnU-Net's variables and a preprocessed target. Each repeat trains the chain once through nnUNetv2_seq_train and
then the same stages by hand, by the very commands that the chain ran, from the same handed-over weights, into a
results folder of its own. Sources are preprocessed once, before anything is timed. Prints seconds and their spread.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.nnunet.folders import dataset_name, scripts_folder
from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.training.actions import Action
from nnunet_seqtransfer.training.decide import Outlook
from nnunet_seqtransfer.training.job import DeviceOptions, stage_job
from nnunet_seqtransfer.training.prepare import preprocess_missing
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.run_stage import write_initial
from nnunet_seqtransfer.training.stages import ChainRequest
from nnunet_seqtransfer.training.train import look_ahead
from nnunet_seqtransfer.transfer.handoff import from_stage


def timed(command: list[str], **environment: str) -> float:
    """Wall seconds of a command that must succeed."""
    start = time.perf_counter()
    subprocess.run(command, env={**os.environ, **environment}, check=True, capture_output=True)
    return time.perf_counter() - start


def chain_of(options: argparse.Namespace) -> Outlook:
    """The chain as nnUNetv2_seq_train sees it at this moment."""
    recipe = Recipe(options.epochs, options.iterations, 1e-2, 0, 0)
    request = ChainRequest(
        dataset_name(options.dataset),
        tuple(dataset_name(source) for source in options.s),
        options.p,
        options.configuration,
        (options.fold,),
        recipe,
        recipe,
        0,
        "overhead",
    )
    return look_ahead(request, Context(print, options.np))


def by_hand(chain: Outlook, options: argparse.Namespace) -> float:
    """Wall seconds of the same stages, each from the weights that the chain handed over."""
    seconds = 0.0
    for stage in chain.stages:
        shutil.rmtree(stage.output)
        job = stage_job(stage, Action.START, DeviceOptions(options.device), chain.title(stage), chain.log(stage))
        seconds += timed(list(job.command), **job.environment)
    return seconds


def hand_offs(chain: Outlook) -> float:
    """Return the wall seconds of all hand-offs of the chain."""
    start = time.perf_counter()
    for stage in chain.stages[1:]:
        previous = chain.previous(stage)
        if previous is not None:
            task = chain.survey.tasks[previous.dataset]
            made = from_stage(previous.files.final, task, chain.network(stage), chain.match(stage))
            write_initial(made, stage)
    return time.perf_counter() - start


def measure(options: argparse.Namespace) -> dict[str, float]:
    """One repeat, in a results folder of its own."""
    with tempfile.TemporaryDirectory() as results:
        os.environ["nnUNet_results"] = results
        command = [str(scripts_folder() / "nnUNetv2_seq_train"), options.dataset, options.configuration, options.fold]
        command += ["-s", *options.s, "-p", options.p, "-device", options.device, "-epochs", str(options.epochs)]
        command += ["-source_epochs", str(options.epochs), "-iterations", str(options.iterations), "-seed", "0"]
        command += ["-warmup_epochs", "0", "-tag", "overhead", "-np", str(options.np)]
        figures = {"chain": timed(command)}
        figures["started again when finished"] = timed(command)
        chain = chain_of(options)
        figures["hand-offs"] = hand_offs(chain)
        figures["by hand"] = by_hand(chain, options)
        figures["chain minus by hand"] = figures["chain"] - figures["by hand"]
        for stage in chain.stages:
            plans_path(stage.dataset, stage.plans_name).unlink()
        return figures


def main() -> None:
    """Prints the figures of all repeats."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("fold")
    parser.add_argument("-s", nargs="+", required=True)
    parser.add_argument("-p", default="nnUNetPlans")
    parser.add_argument("-device", default="cpu")
    parser.add_argument("-epochs", type=int, default=2)
    parser.add_argument("-iterations", type=int, default=5)
    parser.add_argument("-repeats", type=int, default=3)
    parser.add_argument("-np", type=int, default=2)
    options = parser.parse_args()
    chain = chain_of(options)
    for stage in chain.stages[:-1]:
        survey = chain.survey
        preprocess_missing(survey.tasks[stage.dataset], survey.plans[stage], stage.configuration, options.np)
    runs = [measure(options) for _ in range(options.repeats)]
    print(f"{len(chain.stages)} stages, {options.repeats} repeats, {options.device}, Python {sys.version.split()[0]}")
    for name in runs[0]:
        values = sorted(run[name] for run in runs)
        print(f"{name:30} median {statistics.median(values):7.2f} s   min {values[0]:7.2f}   max {values[-1]:7.2f}")


if __name__ == "__main__":
    main()
