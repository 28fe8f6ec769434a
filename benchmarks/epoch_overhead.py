"""Time of an epoch: a stage by nnUNetTrainer, and a mixed stage by a plain one; same data and iterations, in turns.

    python benchmarks/epoch_overhead.py 4 3d_fullres -pairs 20 -iterations 20

Needs nnU-Net's variables and a preprocessed dataset. The mixed stage takes every second batch from the same dataset a
second time, with other heads, so that all batches cost the same. All trainers live in one process and train an epoch
each, in random order within a round, so that other load on the machine affects all. An epoch is everything from
nnU-Net's on_epoch_start to its on_epoch_end: training, validation, log, picture, checkpoints. Prints the ratio of the
wall times and of the processor times as median over the rounds with its 95 % bootstrap interval.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import statistics
import tempfile
import time
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.run.run_training import get_trainer_from_args

from nnunet_seqtransfer.nnunet.folders import dataset_name, external_trainers
from nnunet_seqtransfer.training.recipe import MixedDataset, Recipe, StageBlock
from nnunet_seqtransfer.training.stages import TRAINER

STOCK, MIXED = "nnUNetTrainer", "mixed"
RATIOS = ((TRAINER, STOCK), (MIXED, TRAINER))


def prepared(options: argparse.Namespace, name: str) -> Any:
    """Return a trainer that is ready for the first epoch."""
    trainer = get_trainer_from_args(
        options.dataset,
        options.configuration,
        options.fold,
        TRAINER if name == MIXED else name,
        options.p,
        device=torch.device(options.device),
    )
    if name == MIXED:
        again = MixedDataset(options.dataset, options.p, 0.5)
        trainer.seq_transfer = StageBlock(options.dataset, (options.dataset,), "target", Recipe(), None, mixed=(again,))
    trainer.num_epochs = 2 * options.pairs + 2
    trainer.num_iterations_per_epoch = options.iterations
    trainer.num_val_iterations_per_epoch = max(1, options.iterations // 5)
    trainer.on_train_start()
    return trainer


def epoch(trainer: Any) -> tuple[float, float]:
    """Run one epoch as nnU-Net's run_training does; return wall and processor seconds."""
    wall, processor = time.perf_counter(), time.process_time()
    trainer.on_epoch_start()
    trainer.on_train_epoch_start()
    outputs = [trainer.train_step(next(trainer.dataloader_train)) for _ in range(trainer.num_iterations_per_epoch)]
    trainer.on_train_epoch_end(outputs)
    with torch.no_grad():
        trainer.on_validation_epoch_start()
        steps = range(trainer.num_val_iterations_per_epoch)
        trainer.on_validation_epoch_end([trainer.validation_step(next(trainer.dataloader_val)) for _ in steps])
    trainer.on_epoch_end()
    return time.perf_counter() - wall, time.process_time() - processor


def interval(values: list[float]) -> tuple[float, float]:
    """Return the 95 % percentile bootstrap interval of the median."""
    drawn = np.random.default_rng(0).choice(values, (2000, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return float(low), float(high)


def main() -> None:
    """Print all ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset")
    parser.add_argument("configuration")
    parser.add_argument("-fold", type=int, default=0)
    parser.add_argument("-p", default="nnUNetPlans")
    parser.add_argument("-device", default="cpu")
    parser.add_argument("-pairs", type=int, default=20)
    parser.add_argument("-iterations", type=int, default=20)
    options = parser.parse_args()
    options.dataset = dataset_name(options.dataset)
    os.environ["nnUNet_extTrainer"] = external_trainers()
    os.environ.setdefault("nnUNet_n_proc_DA", "0")
    random.seed(0)
    with tempfile.TemporaryDirectory() as results:
        os.environ["nnUNet_results"] = results
        with contextlib.redirect_stdout(io.StringIO()):
            trainers = {name: prepared(options, name) for name in (STOCK, TRAINER, MIXED)}
            for trainer in trainers.values():
                epoch(trainer)  # the first one warms up
            seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in trainers}
            for _ in range(options.pairs):
                for name in random.sample(list(trainers), 3):
                    seconds[name].append(epoch(trainers[name]))
        weight = sum(path.stat().st_size for path in Path(results).rglob("checkpoint_best.pth"))
    for (ours, theirs), (place, what) in product(RATIOS, enumerate(("wall", "processor"))):
        ratios = [one[place] / other[place] for one, other in zip(seconds[ours], seconds[theirs], strict=True)]
        low, high = interval(ratios)
        mean = statistics.mean(other[place] for other in seconds[theirs])
        print(
            f"{what} time, {ours} by {theirs}: median {statistics.median(ratios):.4f} ({low:.4f} to {high:.4f}), "
            f"{options.pairs} rounds of epochs of {options.iterations} iterations, {mean:.2f} s each"
        )
    print(f"checkpoints of {weight / 2e6:.0f} MB")


if __name__ == "__main__":
    main()
