"""What a first look with -m fingerprint costs for each dataset, the first time and afterwards, and where it goes.

    python benchmarks/first_look.py -t 4 -s 21 22 23 24 25 26

Needs nnU-Net's variables, a preprocessed target and the sources' fingerprints. The fingerprint metric's signatures of
these datasets are deleted before. Everything runs in this process; imports, which are the same for one dataset and for
hundreds, are not counted. Prints the mean milliseconds of a dataset.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Iterator

from nnunet_seqtransfer.affinity.bootstrap import resample_to_target
from nnunet_seqtransfer.affinity.fingerprint import FingerprintMetric
from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.nnunet.folders import cache_folder, dataset_name
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.profiling import profile_tasks, request_profile
from nnunet_seqtransfer.tasks.signature import Signature
from nnunet_seqtransfer.tasks.task import Task, load_sampled, load_target

METRIC = FingerprintMetric()
STEPS = ("dataset.json, fingerprint", "plans", "signature", "distance", "its interval")


@contextlib.contextmanager
def counted(spent: dict[str, float], step: str) -> Iterator[None]:
    """Adds the seconds of its block."""
    start = time.perf_counter()
    yield
    spent[step] = spent.get(step, 0.0) + time.perf_counter() - start


def look(options: argparse.Namespace) -> dict[str, float]:
    """Seconds of each step, of all sources together."""
    spent: dict[str, float] = {}
    target, plans = load_target(dataset_name(options.t), "nnUNetPlans", options.c)
    own = request_profile(target, plans, options.c, options.n_cases, 0)
    with contextlib.redirect_stderr(io.StringIO()):  # progress bars, and readers that nnU-Net tries
        (last,) = profile_tasks([own], METRIC, 1)
        with counted(spent, STEPS[0]):
            names = [dataset_name(name) for name in options.s]
            loaded = load_sampled(names, target, options.n_cases, 0, Context())
            tasks = [task for task in loaded if isinstance(task, Task)]
        with counted(spent, STEPS[1]):
            requests = [
                request_profile(task, align_plans(plans, target, task), options.c, options.n_cases, 0) for task in tasks
            ]
        with counted(spent, STEPS[2]):
            found = profile_tasks(requests, METRIC, 1)
        signatures = [signature for signature in (*found, last) if isinstance(signature, Signature)]
        with counted(spent, STEPS[3]):
            METRIC.compare_many(signatures[-1], signatures[:-1])
        with counted(spent, STEPS[4]):
            resample_to_target(METRIC, signatures, 0)
    return spent


def main() -> None:
    """Prints a line for each time."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-t", required=True, help="target")
    parser.add_argument("-s", nargs="+", required=True, help="sources")
    parser.add_argument("-c", default="3d_fullres", help="configuration")
    parser.add_argument("-n_cases", type=int, default=10, help="cases to look at per task")
    options = parser.parse_args()
    for name in (options.t, *options.s):
        for path in cache_folder(dataset_name(name)).glob("signature_fingerprint_*.npz"):
            path.unlink()
    print(f"{'ms a dataset':16}", *(f"{step:>26}" for step in (*STEPS, "sum")))
    for when in ("the first time", "the second time"):
        spent = look(options)
        values = [*(spent[step] for step in STEPS), sum(spent.values())]
        print(f"{when:16}", *(f"{value / len(options.s) * 1e3:26.2f}" for value in values))


if __name__ == "__main__":
    main()
