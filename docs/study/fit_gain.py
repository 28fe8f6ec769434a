"""Make the table of measured transfers that gains are predicted from, and print how well it predicts.

    python docs/study/fit_gain.py

The four tables next to this script are measurements: 12 targets, 29 sources, short trainings of a small 3-D U-Net (800
iterations on the first source, 400 on the second, 200 on the target; 1400 for scratch trained as long as a chain).
`zoo_transfers.csv` holds the Dice on test cases, `zoo_zero_shot.csv` that of the sources' networks on the targets'
labelled cases, `zoo_distances.csv` the distances with their components, `zoo_tasks.csv` names and cases.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np

from nnunet_seqtransfer.affinity.name_match import Names, match_names
from nnunet_seqtransfer.planning.gain import GainModel
from nnunet_seqtransfer.planning.measured import (
    SHIPPED,
    MeasuredSource,
    MeasuredTable,
    MeasuredTransfer,
    write_table,
)

HERE = Path(__file__).parent
COMPONENTS = {
    "descriptors": ("image", "contrast", "label"),
    "published": ("wasserstein", "dissimilarity"),
}
"""Components by metric, in the order of the columns. Geometry, which nnU-Net resamples away, is left out."""
SHORT, LONG = 200, 1400
"""Iterations on the target, and of scratch trained as long as a chain of two sources."""


def rows_of(name: str) -> list[dict[str, str]]:
    """Return the rows of one of the tables."""
    with (HERE / name).open(newline="") as stream:
        return list(csv.DictReader(stream))


def measured_table() -> MeasuredTable:
    """Return all single sources, pairs and long trainings from scratch, each with its evidence."""
    tasks = {row["task"]: row for row in rows_of("zoo_tasks.csv")}
    dice: dict[tuple[str, tuple[str, ...], int], list[float]] = {}
    for row in rows_of("zoo_transfers.csv"):
        sources = tuple(name for name in row["sources"].split(">") if name)
        dice.setdefault((row["target"], sources, int(row["target_iterations"])), []).append(float(row["dice"]))
    mean = {key: round(float(np.mean(values)), 4) for key, values in dice.items()}
    lengths: dict[tuple[str, str], dict[str, dict[str, float]]] = {}
    for row in rows_of("zoo_distances.csv"):
        parts = {
            name: float(row[f"component_{place}"]) for place, name in enumerate(COMPONENTS[row["metric"]], start=1)
        }
        lengths.setdefault((row["source"], row["target"]), {})[row["metric"]] = parts
    zero_shot = {
        (row["source"], row["target"]): float(row["dice_on_the_training_cases_before_any_training"])
        for row in rows_of("zoo_zero_shot.csv")
    }

    def source(name: str, target: str) -> MeasuredSource:
        one, other = tasks[name], tasks[target]
        names = match_names(Names([one["channel"]], [one["label"]]), Names([other["channel"]], [other["label"]]))
        return MeasuredSource(
            components=lengths[name, target],
            label_match=names.labels,
            channel_match=names.channels,
            zero_shot=zero_shot.get((name, target)),
            cases=int(one["labelled_cases"]),
        )

    found = []
    for (target, sources, iterations), value in sorted(mean.items()):
        if (sources and iterations == SHORT) or (not sources and iterations == LONG):
            evidence = tuple(source(name, target) for name in sources)
            scratch = mean[target, (), SHORT]
            length = 1.0 if sources else iterations / SHORT
            found.append(MeasuredTransfer(target, sources, evidence, scratch, value, SHORT, length))
    return MeasuredTable("shipped", tuple(found))


def main() -> None:
    """Write the table and print the constants and errors of the fits."""
    table = measured_table()
    write_table(SHIPPED, table)
    print(f"{len(table.rows)} rows -> {SHIPPED}")
    print("| metric | terms | scratch | a | b | c | mean absolute error | pairs: last, first, constant, margin |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for metric in COMPONENTS:
        model = GainModel(table.rows, metric)
        for terms in (("closeness",), ("closeness", "names"), ("closeness", "names", "zero_shot")):
            for knows in (False, True):
                fit = model.fit(terms, knows_scratch=knows)
                error = float(np.average(np.abs(fit.errors.values), weights=fit.errors.weights))
                constants = " | ".join(f"{constant:.3f}" for constant in fit.constants)
                pairs = f"{fit.pairs.last:.2f}, {fit.pairs.first:.2f}, {fit.pairs.constant:.3f}, {fit.pairs.margin:.3f}"
                known = "known" if knows else "unknown"
                print(f"| {metric} | {', '.join(terms)} | {known} | {constants} | {error:.3f} | {pairs} |")


if __name__ == "__main__":
    main()
