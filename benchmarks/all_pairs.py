"""Time and memory of all pairs of made-up signatures, from ten tasks to a thousand, and how they grow.

    python benchmarks/all_pairs.py -tasks 10 100 1000

Signatures are of 10 cases, filled at random by a seed: most tasks have one channel and one label, every fifth two to
four channels, every third up to five labels, every tenth shares cases with the one before it. Each size runs in a
process of its own. Seconds are those of all_pairs, from signatures of which nothing is remembered; memory is the peak
of the process, signatures and what Python and NumPy take included (before: when the signatures were there).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from nnunet_seqtransfer.affinity.base import AffinityMetric
from nnunet_seqtransfer.affinity.bootstrap import all_pairs
from nnunet_seqtransfer.affinity.metrics import find_metric
from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.tasks.signature import INTENSITY_PROPERTIES, Signature

CASES = 10
SHAPE = (24, 24, 24)


@dataclass(frozen=True)
class Measured:
    """What one size cost."""

    metric: str
    tasks: int
    seconds: float
    cpu_seconds: float
    megabytes: float
    "Peak of the process."
    megabytes_before: float
    "The same before anything was compared."
    checksum: float
    "Mean of all distances: that something was computed."


def made_case(metric: AffinityMetric, rng: np.random.Generator, channels: int, labels: int) -> dict[str, Any]:
    """A profile of a random case: one object after the other along the first axis, of random extent."""
    segmentation = np.zeros(SHAPE, dtype=np.int16)
    step = SHAPE[0] // labels
    for label in range(labels):
        low, high = rng.integers(0, 10, 2), rng.integers(11, 24, 2)
        segmentation[label * step : label * step + step - 1, low[0] : high[0], low[1] : high[1]] = label + 1
    images = rng.normal(size=(channels, *SHAPE)).astype(np.float32)
    return metric.profile(CaseData(images, segmentation), tuple((label + 1,) for label in range(labels)))


def made_signatures(metric: AffinityMetric, count: int, seed: int) -> list[Signature]:
    """Signatures of ``count`` tasks.

    Profiles are drawn from a few random cases with some noise added, since profiling is not what is measured.
    """
    rng = np.random.default_rng(seed)
    stock: dict[tuple[int, int], list[dict[str, Any]]] = {}
    made: list[Signature] = []
    for index in range(count):
        channels = int(rng.integers(2, 5)) if index % 5 == 4 else 1
        labels = int(rng.integers(2, 6)) if index % 3 == 2 else 1
        if (channels, labels) not in stock:
            stock[channels, labels] = [made_case(metric, rng, channels, labels) for _ in range(CASES)]
        shared = made[-1].cases[:3] if index % 10 == 9 else ()
        spacing = rng.uniform(0.5, 3, (CASES, 3))
        made.append(
            Signature(
                dataset=f"Dataset{index:04d}_Made",
                metric=metric.name,
                version=metric.version,
                digest=str(index),
                base=str(index),
                preprocessing="",
                channels=tuple(f"channel {channel}" for channel in range(channels)),
                labels=tuple(f"label {label}" for label in range(labels)),
                labelled_cases=CASES,
                cases=(*shared, *(f"{index}_{case}" for case in range(CASES - len(shared)))),
                stamps=("",) * CASES,
                labelled=(True,) * CASES,
                geometry=np.stack([spacing, spacing * rng.integers(40, 400, (CASES, 3))], axis=1),
                intensities=np.sort(rng.normal(size=(channels, len(INTENSITY_PROPERTIES)))) + 3,
                profiles=tuple(
                    {
                        name: (values + rng.normal(0, 0.1, values.shape)).astype(values.dtype)
                        for name, values in case.items()
                    }
                    for case in stock[channels, labels]
                ),
            )
        )
    return made


def measure(name: str, count: int, seed: int) -> Measured:
    """All pairs of ``count`` signatures in this process."""
    metric = find_metric(name)
    signatures = made_signatures(metric, count, seed)
    before = peak_megabytes()
    start, cpu_start = time.perf_counter(), time.process_time()
    components = all_pairs(metric, signatures)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    mean = float(metric.combination.distances(components).mean())
    return Measured(name, count, seconds, cpu_seconds, peak_megabytes(), before, mean)


def peak_megabytes() -> float:
    """Largest resident set of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1e6 if sys.platform == "darwin" else 1e3)


def measured_apart(name: str, count: int, seed: int) -> Measured:
    """`measure` in a process of its own."""
    command = [sys.executable, __file__, "-m", name, "-tasks", str(count), "-seed", str(seed), "--here"]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    return Measured(**json.loads(found.stdout))


def main() -> None:
    """Prints a line for each metric and size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-tasks", nargs="+", type=int, default=[10, 100, 1000])
    parser.add_argument("-m", nargs="+", default=["descriptors"])
    parser.add_argument("-seed", type=int, default=0)
    parser.add_argument(
        "--here", action="store_true", help="one size in this process; prints JSON (used by the script)"
    )
    options = parser.parse_args()
    if options.here:
        print(json.dumps(asdict(measure(options.m[0], options.tasks[0], options.seed))))
        return
    columns = ("tasks", "pairs", "seconds", "CPU s", "us/pair", "peak MB", "before")
    print(f"{'metric':12}", *(f"{column:>8}" for column in columns), " growth")
    for name in options.m:
        last = None
        for count in options.tasks:
            found = measured_apart(name, count, options.seed)
            pairs = count * (count - 1) // 2
            growth = (
                "" if last is None else f"{found.seconds / last.seconds:.1f} x time for {count / last.tasks:g} x tasks"
            )
            each = found.seconds / pairs * 1e6
            print(
                f"{name:12} {count:8} {pairs:8} {found.seconds:8.2f} {found.cpu_seconds:8.2f} {each:8.1f} "
                f"{found.megabytes:8.0f} {found.megabytes_before:8.0f}  {growth}",
                flush=True,
            )
            last = found


if __name__ == "__main__":
    main()
