"""How much of the sources' preprocessing costs no wall time, since it is done while the source before trains.

    python benchmarks/hidden_preprocessing.py 4 3d_fullres 0 -s 21 22 23 -iterations 20 -repeats 3

Needs nnU-Net's variables and a preprocessed target. Each repeat trains the chain three times, its preprocessed
sources and results deleted before: with everything preprocessed already, with preprocessing between the stages
(-np_ahead 0), and with preprocessing ahead. What preprocessing costs is the difference to the first; hidden is the
share that preprocessing ahead saves of what the sources after the first one cost. The first source's cannot be
hidden: nothing trains yet. What is not saved is told apart: epochs that took longer beside it, by nnU-Net's logs, and
the rest, such as what was not ready when its stage was to begin.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.nnunet.folders import dataset_name, scripts_folder
from nnunet_seqtransfer.nnunet.plans import data_folder, plans_path
from nnunet_seqtransfer.nnunet.training_log import read_log
from nnunet_seqtransfer.training.prepare import preprocess_missing
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import ChainRequest
from nnunet_seqtransfer.training.train import look_ahead


def request_of(options: argparse.Namespace) -> ChainRequest:
    """What the command below asks for."""
    recipe = Recipe(options.epochs, options.iterations, 1e-2, 0, 0)
    sources = tuple(dataset_name(source) for source in options.s)
    folds = (options.fold,)
    target = dataset_name(options.dataset)
    return ChainRequest(target, sources, options.p, options.configuration, folds, recipe, recipe, 0, "hidden")


def source_folders(options: argparse.Namespace) -> list[Path]:
    """The folders of the sources' preprocessed cases."""
    chain = look_ahead(request_of(options), Context(print, options.np))
    sources = [stage for stage in chain.stages if stage.role == "source"]
    return [data_folder(stage.dataset, chain.survey.plans[stage], stage.configuration) for stage in sources]


def prepare(options: argparse.Namespace, most: int) -> float:
    """Preprocesses the first ``most`` sources; seconds of all but the first."""
    chain = look_ahead(request_of(options), Context(print, options.np))
    seconds = []
    for stage in chain.stages[:most]:
        began = time.perf_counter()
        preprocess_missing(
            chain.survey.tasks[stage.dataset], chain.survey.plans[stage], stage.configuration, options.np
        )
        seconds.append(time.perf_counter() - began)
    return sum(seconds[1:])


def chain_seconds(options: argparse.Namespace, *more: str) -> tuple[float, float]:
    """Wall seconds of the whole chain, in a results folder of its own, and those that its epochs took of it."""
    command = [str(scripts_folder() / "nnUNetv2_seq_train"), options.dataset, options.configuration, options.fold]
    command += ["-s", *options.s, "-p", options.p, "-device", options.device, "-epochs", str(options.epochs)]
    command += ["-source_epochs", str(options.epochs), "-iterations", str(options.iterations), "-seed", "0"]
    command += ["-warmup_epochs", "0", "-tag", "hidden", "-np", str(options.np), *more]
    with tempfile.TemporaryDirectory() as results:
        os.environ["nnUNet_results"] = results
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        seconds = time.perf_counter() - began
        logs = Path(results).rglob("training_log_*.txt")
        epochs = sum(epoch.seconds for log in logs for epoch in read_log(log).epochs)
        for stage in look_ahead(request_of(options), Context(print, options.np)).stages:
            plans_path(stage.dataset, stage.plans_name).unlink(missing_ok=True)
    return seconds, epochs


def repeat(options: argparse.Namespace, folders: list[Path]) -> dict[str, float]:
    """Figures of one repeat, in seconds."""
    figures, epochs = {}, {}
    for name, more, most in (
        ("preprocessed before", ("-np_ahead", "0"), len(folders)),
        ("preprocessed between the stages", ("-np_ahead", "0"), 1),
        ("preprocessed ahead", (), 1),
    ):
        for folder in folders:
            shutil.rmtree(folder, ignore_errors=True)
        with tempfile.TemporaryDirectory() as results:
            os.environ["nnUNet_results"] = results
            alone = prepare(options, most)
        if most > 1:
            figures["preprocessing of all but the first, alone"] = alone
        figures[name], epochs[name] = chain_seconds(options, *more)
    costs = figures["preprocessed between the stages"] - figures["preprocessed before"]
    saved = figures["preprocessed between the stages"] - figures["preprocessed ahead"]
    return {
        **figures,
        "cost of preprocessing between": costs,
        "saved by preprocessing ahead": saved,
        "share": saved / costs,
        "lost by slower epochs": epochs["preprocessed ahead"] - epochs["preprocessed before"],
    }


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
    parser.add_argument("-iterations", type=int, default=20)
    parser.add_argument("-repeats", type=int, default=3)
    parser.add_argument("-np", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as results:
        os.environ["nnUNet_results"] = results
        folders = source_folders(options)
    runs = [repeat(options, folders) for _ in range(options.repeats)]
    for name in runs[0]:
        values = sorted(run[name] for run in runs)
        print(f"{name:45} median {statistics.median(values):8.2f}   min {values[0]:8.2f}   max {values[-1]:8.2f}")


if __name__ == "__main__":
    main()
