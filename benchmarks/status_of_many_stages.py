"""Time of nnUNetv2_seq_status over 300 recorded stages, the start of Python included."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
RUNS, EPOCHS, REPEATS = 100, 250, 3


def main() -> None:
    """100 runs of three stages with logs of 250 epochs, in a folder of its own."""
    with tempfile.TemporaryDirectory() as root:
        for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
            (Path(root) / name).mkdir()
            os.environ[name] = str(Path(root) / name)
        from support.runs import checkpoint, epoch_lines, finish, record, training_log  # noqa: PLC0415 - see sys.path

        for number in range(RUNS):
            chain = record(tag=f"t{number}")
            for stage in chain.stages:
                finish(chain, stage)
                training_log(stage, epoch_lines(range(EPOCHS)))
            last = chain.stages[-1].output
            (last / "checkpoint_final.pth").rename(last / "checkpoint_best.pth")
            cases = {f"case{case}": {"Dice": 0.5} for case in range(300)}
            (last / "validation" / "summary.json").write_text(
                json.dumps({"foreground_mean": {"Dice": 0.8}, "metric_per_case": cases})
            )
            checkpoint(last / "checkpoint_latest.pth")
        command = [str(Path(sysconfig.get_path("scripts")) / "nnUNetv2_seq_status"), "--json"]
        seconds, before = [], os.times()
        for _ in range(REPEATS):
            start = time.perf_counter()
            finished = subprocess.run(command, capture_output=True, check=True)
            seconds.append(time.perf_counter() - start)
        used = (sum(os.times()[2:4]) - sum(before[2:4])) / REPEATS
        stages = sum(len(run["stages"]) for run in json.loads(finished.stdout)["runs"])
        print(
            f"{stages} stages of {RUNS} runs: median {statistics.median(seconds):.2f} s "
            f"({min(seconds):.2f} to {max(seconds):.2f} s, {REPEATS} times), {used:.2f} s of CPU time each"
        )


if __name__ == "__main__":
    main()
