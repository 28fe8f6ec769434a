"""Time to profile preprocessed cases beside the time to read them, and the memory of the process that does it.

    python benchmarks/signature_time_and_memory.py
    python benchmarks/signature_time_and_memory.py -shapes 512x512x300 -repeats 5

Makes cases of the given shapes with nnU-Net's own writer in a temporary folder (blosc2, noise with two labelled boxes,
one a tenth of the volume), reads each as nnU-Net does, and reads and profiles it as a signature does, in turns, each
measurement in a process of its own. The file system's cache is warm for both. Memory is the largest resident set of
the process, libraries included.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CHILD = """
import json, resource, sys, time
from pathlib import Path
from nnunet_seqtransfer.affinity.metrics import find_metric
from nnunet_seqtransfer.nnunet.preprocessing import load_preprocessed_case
folder, metric_name, cases = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
metric = find_metric(metric_name)
load_preprocessed_case(folder, "small")  # imports
metric.profile(load_preprocessed_case(folder, "small"), ((1,), (2,)))
start = time.perf_counter()
case = None
for _ in range(cases):
    case = None  # as in a run over many cases, one is gone before the next is read
    case = load_preprocessed_case(folder, "case")
read = time.perf_counter() - start
start = time.perf_counter()
for _ in range(cases):
    case = None
    case = load_preprocessed_case(folder, "case")
    assert all(__import__("numpy").isfinite(image).all() for image in case.images)
    metric.profile(case, ((1,), (2,)))
both = time.perf_counter() - start
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
print(json.dumps([read / cases, both / cases, peak]))
"""


def write_case(folder: Path, name: str, shape: tuple[int, ...]) -> None:
    """One case of noise and two boxes, as nnU-Net's preprocessor writes it."""
    import numpy as np  # noqa: PLC0415 - only the process that makes the cases needs them
    from nnunetv2.training.dataloading.nnunet_dataset import (  # noqa: PLC0415
        comp_blosc2_params,
        nnUNetDatasetBlosc2,
    )

    rng = np.random.default_rng(0)
    image = rng.standard_normal((1, *shape), dtype=np.float32)
    segmentation = np.zeros((1, *shape), dtype=np.int8)
    segmentation[(0, *(slice(int(n * 0.25), int(n * 0.25 + n * 0.46) + 1) for n in shape))] = 1
    segmentation[(0, *(slice(int(n * 0.8), int(n * 0.8) + max(1, n // 20)) for n in shape))] = 2
    patch = [min(length, 128) for length in shape]
    blocks, chunks = comp_blosc2_params(image.shape, patch, image.itemsize)
    seg_blocks, seg_chunks = comp_blosc2_params(segmentation.shape, patch, segmentation.itemsize)
    nnUNetDatasetBlosc2.save_case(image, segmentation, {}, str(folder / name), chunks, blocks, seg_chunks, seg_blocks)


def main() -> None:
    """Prints a line for each shape."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-shapes", nargs="+", default=["48x48x48", "155x240x240", "300x512x512", "512x512x300"])
    parser.add_argument("-m", default="descriptors", help="metric")
    parser.add_argument("-repeats", type=int, default=3, help="processes for each shape")
    options = parser.parse_args()
    print(f"{'shape':>14} {'read s':>18} {'read and profile s':>20} {'ratio':>6} {'peak GB':>8}   (median, min - max)")
    for text in options.shapes:
        shape = tuple(int(length) for length in text.split("x"))
        with tempfile.TemporaryDirectory() as name:
            write_case(Path(name), "case", shape)
            write_case(Path(name), "small", (16, 16, 16))
            cases = max(2, min(200, 20_000_000 // (shape[0] * shape[1] * shape[2])))
            command = [sys.executable, "-c", CHILD, name, options.m, str(cases)]
            # From "/", since python -c would import the package from a checkout that is the working folder.
            runs = [
                json.loads(subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout)
                for _ in range(options.repeats)
            ]
        read, both, peak = zip(*runs, strict=True)
        ratio = statistics.median(b / r for r, b in zip(read, both, strict=True))
        print(f"{text:>14} {spread(read):>18} {spread(both):>20} {ratio:6.2f} {max(peak) / 1e9:8.2f}")


def spread(seconds: tuple[float, ...]) -> str:
    """Median, minimum and maximum."""
    return f"{statistics.median(seconds):.3f} ({min(seconds):.3f} - {max(seconds):.3f})"


if __name__ == "__main__":
    main()
