"""Wall time and memory of nnUNetv2_seq_affinity the first and the second time, beside a bare import.

    python benchmarks/affinity_time_and_memory.py -t 4 -s 21 22 23 24 25 26 [--raw]

Needs nnU-Net's variables and a preprocessed target. Signatures are deleted before the first run; with --raw also the
sources' fingerprints, as on a machine where the sources were only copied to nnUNet_raw. Memory is the sum of the
proportional set sizes of the command and all its workers, sampled every 50 ms (Linux).
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

from nnunet_seqtransfer.nnunet.folders import cache_folder, dataset_name, preprocessed_folder, scripts_folder


def descendants(pid: int) -> list[int]:
    """A process and everything below it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(inner for child in children for inner in descendants(int(child)))]


def proportional_set_size(pid: int) -> int:
    """Bytes of memory of one process, shared pages divided by the number of their users."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def watched(command: list[str]) -> tuple[float, float]:
    """Wall seconds and peak memory in GB of a command that must succeed."""
    start = time.perf_counter()
    peak = 0
    # From "/", since python -c would import the package from a checkout that is the working folder.
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/") as child:
        while child.poll() is None:
            peak = max(peak, sum(proportional_set_size(pid) for pid in descendants(child.pid)))
            time.sleep(0.05)
    if child.returncode:
        raise SystemExit(f"{command} ended with {child.returncode}")
    return time.perf_counter() - start, peak / 1e9


def main() -> None:
    """Prints a line for each run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-t", required=True)
    parser.add_argument("-s", nargs="+", required=True)
    parser.add_argument("-m", default="descriptors")
    parser.add_argument("-np", default="2")
    parser.add_argument("--raw", action="store_true")
    options = parser.parse_args()
    for name in map(dataset_name, [options.t, *options.s]):
        for signature in cache_folder(name).glob("signature_*.npz"):
            signature.unlink()
        if options.raw and name != dataset_name(options.t):
            (preprocessed_folder() / name / "dataset_fingerprint.json").unlink(missing_ok=True)
    affinity = [str(scripts_folder() / "nnUNetv2_seq_affinity"), "-t", options.t, "-s", *options.s, "-m", options.m]
    affinity += ["-np", options.np]
    bare = [sys.executable, "-c", "import nnunet_seqtransfer.entry_points.affinity, matplotlib.pyplot"]
    for name, command in (("first", affinity), ("second", affinity), ("imports alone", bare)):
        seconds, memory = watched(command)
        print(f"{name:14} {seconds:6.2f} s  {memory:5.2f} GB")


if __name__ == "__main__":
    main()
