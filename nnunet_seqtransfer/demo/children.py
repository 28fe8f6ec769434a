"""Running the installed commands as child processes, some side by side, their output in logs."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

from nnunet_seqtransfer.demo.workplace import Workplace
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.nnunet.folders import installed_command

CORE_COUNT = '''"""PYTHON_CPU_COUNT of Python 3.13 for older ones; written by nnUNetv2_seq_demo for its children."""

import os

os.cpu_count = lambda: int(os.environ["PYTHON_CPU_COUNT"])
'''


@dataclass(frozen=True)
class Children:
    """How child processes are run."""

    place: Workplace
    "Where the folders and logs are."
    side_by_side: int
    "How many at once."

    def run(self, log: str, command: str, *arguments: str, trains: bool = False) -> None:
        """Runs an installed command to its end, its output appended to ``logs/<log>.log``.

        Raises SeqTransferError, naming the log, where the command is not installed or fails.
        """
        executable = installed_command(command)
        path = self.place.logs / f"{log}.log"
        with path.open("a") as stream:
            print(f"$ {command} {' '.join(arguments)}", file=stream, flush=True)
            finished = subprocess.run(
                [executable, *arguments],
                env=self.environment(trains),
                stdin=subprocess.DEVNULL,
                stdout=stream,
                stderr=subprocess.STDOUT,
                check=False,
            )
        if finished.returncode:
            raise SeqTransferError(
                f"{command} ended with exit status {finished.returncode}; its output is in {path}; "
                "run the demo again to go on from there"
            )

    def environment(self, trains: bool) -> dict[str, str]:
        """The variables of a child: the demo's folders, one worker, one thread.

        nnU-Net starts as many threads as there are cores, whatever OMP_NUM_THREADS says. For images this small they
        wait for each other more than they compute (measured: four times the time), hence PYTHON_CPU_COUNT.
        """
        own = {name: value for name, value in os.environ.items() if name not in ("nnUNet_extTrainer", "nnUNet_compile")}
        own |= self.place.environment
        own |= {"nnUNet_def_n_proc": "1", "PYTHON_CPU_COUNT": "1", "OMP_NUM_THREADS": "1"}
        # With no worker of its own a training augments in its one process; planning would crash on it
        own.pop("nnUNet_n_proc_DA", None)
        if trains:
            own["nnUNet_n_proc_DA"] = "0"
        if sys.version_info < (3, 13):
            folder = self.place.root / "python"
            folder.mkdir(exist_ok=True)
            (folder / "sitecustomize.py").write_text(CORE_COUNT)
            own["PYTHONPATH"] = os.pathsep.join([str(folder), *filter(None, [own.get("PYTHONPATH")])])
        return own


def run_lanes(lanes: Sequence[Sequence[Callable[[], object]]], side_by_side: int) -> None:
    """Runs every lane's steps one after the other, ``side_by_side`` lanes at once; the first error ends it all."""
    stopped = threading.Event()

    def run(lane: Sequence[Callable[[], object]]) -> None:
        try:
            for step in lane:
                if stopped.is_set():
                    return
                step()
        except BaseException:
            stopped.set()
            raise

    with ThreadPoolExecutor(side_by_side) as pool:
        futures = [pool.submit(run, lane) for lane in lanes]
        try:
            for future in as_completed(futures):
                future.result()
        finally:
            # after an error or Ctrl-C the children that run are waited for, and no further one is started
            stopped.set()
