"""The trained paths of a comparison as the table of measurements that nnUNetv2_seq_calibrate takes."""

from __future__ import annotations

import csv
from pathlib import Path

from nnunet_seqtransfer.evaluation.comparison import Comparison
from nnunet_seqtransfer.evaluation.differences import case_values, seed_means
from nnunet_seqtransfer.nnunet.folders import dataset_id
from nnunet_seqtransfer.storage import replacing


def write_measurements(path: Path, comparison: Comparison) -> None:
    """Writes a row for each path and seed that is finished for all folds; scratch trained as long as a path is none."""
    values = case_values(comparison.scores, "dice")
    with replacing(path) as aside, aside.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["path", "target", "dice", "seed"])
        for arm in (arm for arm in comparison.arms if not arm.extra_epochs):
            runs = values.get(arm.name, {})
            sources = " -> ".join(str(dataset_id(source)) for source in arm.sources) or "scratch"
            for seed, dice in seed_means(runs).items():
                if all((fold, seed) in runs for fold in comparison.folds):
                    writer.writerow([sources, comparison.target, f"{dice:.6f}", seed])
