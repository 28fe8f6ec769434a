"""Chains on a real Slurm, disturbed on purpose: calls until they are finished, and epochs trained twice.

    python benchmarks/slurm_scenarios.py                    # all, on the Slurm on this machine
    python benchmarks/slurm_scenarios.py requeue node_down  # some of them

Needs a Slurm with this machine as a node and, for node_down, permission to end and start slurmd. Creates small datasets
in folders with hostile names and trains small networks on the CPU. Prints one line per scenario.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.world import FAR, NEAR, QUICK_FINGERPRINTS, SCRIPTS, TARGET, World, make_dataset, shrink_network

HOSTILE = 'a\'; echo foo\nand "$HOME" %j'
"""Part of every folder path."""
SMALL = ("-device", "cpu", "-iterations", "2", "-seed", "0", "-np", "1")
COMMENT = f"scenarios {os.getpid()}"
"""Comment that marks the jobs of this process."""
SITE = ("-executor", "slurm", "-slurm", f"comment={COMMENT}")
TRAINER = "nnUNetTrainerSeqTransfer"
PATIENCE = 1200.0
LIMITED_EPOCHS = int(os.environ.get("LIMITED_EPOCHS", "120"))
"""Epochs that take longer than two minutes: 1 to 2 s each on two idle cores."""


@dataclass(frozen=True)
class Outcome:
    """Result of a scenario."""

    calls: int
    "Number of calls of the command."
    finished: bool
    "Whether all targets are trained and validated."
    repeated: int
    "Epochs that started more than once, over all stages."
    detail: str
    "Other observations."


def make_world(root: Path) -> World:
    """Create a planned and preprocessed target and two sources."""
    world = World(root / HOSTILE)
    for folder in (world.raw, world.preprocessed, world.results):
        folder.mkdir(parents=True)
    make_dataset(world.raw, TARGET, ("MRI",), ("front", "back"), 60)
    make_dataset(world.raw, NEAR, ("T1",), ("organ",), 60)
    make_dataset(world.raw, FAR, ("T1",), ("organ",), -60)
    os.environ |= world.environment | {"nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
    call([sys.executable, "-c", QUICK_FINGERPRINTS, TARGET, NEAR, FAR])
    call([str(SCRIPTS / "nnUNetv2_plan_and_preprocess"), "-d", "901", "-c", "3d_fullres", "-np", "2"])
    os.environ["nnUNet_n_proc_DA"] = "0"  # not before: nnU-Net cannot plan with it
    shrink_network(world.preprocessed / TARGET / "nnUNetPlans.json")
    return world


def call(command: Sequence[str], expect: int | None = 0) -> str:
    """Run a command and return the output of both streams."""
    finished = subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    if expect is not None and finished.returncode != expect:
        raise SystemExit(f"{list(command)} ended with {finished.returncode}:\n{finished.stdout}")
    return finished.stdout


def train(*arguments: str) -> str:
    """Call nnUNetv2_seq_train for the target."""
    return call([str(SCRIPTS / "nnUNetv2_seq_train"), "901", "3d_fullres", *arguments, *SMALL])


def jobs() -> list[tuple[str, str, str, str]]:
    """Return number, name, state and reason of our jobs, in the order of submission."""
    listed = call(["squeue", "--noheader", "--sort=i", "--format=%i|%j|%T|%k|%r"])
    rows = [line.split("|", 4) for line in listed.splitlines()]
    return [(number, name, state, reason) for number, name, state, comment, reason in rows if comment == COMMENT]


def wait_until(ready: Callable[[], bool], what: str) -> None:
    """Wait, and let requeued jobs start at once instead of after Slurm's two minutes."""
    deadline = time.monotonic() + PATIENCE
    while not ready():
        if time.monotonic() > deadline:
            raise SystemExit(f"{what}: not within {PATIENCE:g} s\n{call(['squeue'])}")
        time.sleep(4)
        for number, _, state, reason in jobs():
            if state == "PENDING" and reason == "BeginTime":
                call(["scontrol", "update", f"JobId={number}", "StartTime=now"], expect=None)


def running() -> str:
    """Return the number of the first running job."""
    return next((number for number, _, state, _ in jobs() if state == "RUNNING"), "")


def stage_folder(world: World, dataset: str, plans: str, fold: str) -> Path:
    """Return the results folder of a stage."""
    return world.results / dataset / f"{TRAINER}__{plans}__3d_fullres" / f"fold_{fold}"


def epochs(folder: Path) -> Counter[int]:
    """Return how often each epoch of a stage started."""
    text = "".join(path.read_text() for path in folder.glob("training_log_*.txt"))
    return Counter(int(number) for number in re.findall(r"Epoch (\d+) *$", text, re.MULTILINE))


def repeated(world: World) -> int:
    """Return the number of epochs that started more than once, over all stages."""
    folders = world.results.glob("Dataset*/nnUNetTrainer*/fold_*")
    return sum(count - 1 for folder in folders for count in epochs(folder).values())


def is_validated(folder: Path) -> bool:
    """Return whether a stage of the target is finished."""
    return (folder / "validation" / "summary.json").is_file()


def disturbed(
    world: World, tag: str, disturb: Callable[[], None], *site: str, source_epochs: int = 4, again: bool = False
) -> Outcome:
    """A chain of one source and the target, disturbed in the source's third epoch; ``again``: then called at once.

    Without it the command is called again only if the chain is not finished when the queue is empty.
    """
    before = repeated(world)
    chain = ("0", "-s", "902", "-tag", tag, "-source_epochs", str(source_epochs), "-epochs", "1", *SITE, *site)
    source = stage_folder(world, NEAR, f"nnUNetPlans_for901_{tag}", "all")
    target = stage_folder(world, TARGET, f"nnUNetPlans_via902_{tag}", "0")
    train(*chain)
    wait_until(lambda: 2 in epochs(source), "the source's third epoch")
    disturb()
    calls = 1
    if again:
        train(*chain)
        calls = 2
    wait_until(lambda: not jobs(), "the end of all jobs")
    if not is_validated(target):
        train(*chain)
        calls += 1
        wait_until(lambda: not jobs(), "the end of all jobs")
    log = next((world.results / TARGET / "seqtransfer").glob(f"*_{tag}_3d_fullres/logs/seq-{NEAR}*.log"))
    starts = len(re.findall(r"^job \d+, start", log.read_text(errors="replace"), re.MULTILINE))
    return Outcome(
        calls, is_validated(target), repeated(world) - before, f"the source's stage was started {starts} times"
    )


def requeue(world: World) -> Outcome:
    """Requeue the running job, as an administrator does."""
    return disturbed(world, "requeue", lambda: void(["scontrol", "requeue", running()]))


def scancel(world: World) -> Outcome:
    """Cancel the running job, and call the command again before the dependent jobs have left the queue."""

    def cancel() -> None:
        number = running()
        void(["scancel", number])
        wait_until(lambda: number not in [job[0] for job in jobs()], "the end of the cancelled job")

    return disturbed(world, "scancel", cancel, again=True)


def time_limit(world: World) -> Outcome:
    """Give two minutes to a stage that takes longer; after the warning it resumes in a requeued job."""
    return disturbed(world, "limit", lambda: None, "-slurm", "time=2", "warning=20", source_epochs=LIMITED_EPOCHS)


def node_down(world: World) -> Outcome:
    """End slurmd, let Slurm give up the node, and start slurmd again."""

    def down() -> None:
        node = call(["hostname", "-s"]).strip()
        os.kill(int(Path(setting("SlurmdPidFile")).read_text()), signal.SIGTERM)
        void(["scontrol", "update", f"NodeName={node}", "State=DOWN", "Reason=scenario"])
        time.sleep(5)
        void(["slurmd"])
        time.sleep(3)
        void(["scontrol", "update", f"NodeName={node}", "State=RESUME"])

    return disturbed(world, "down", down)


def setting(name: str) -> str:
    """Return one setting from Slurm's configuration."""
    (found,) = re.findall(rf"^{name} += (.*\S)", call(["scontrol", "show", "config"]), re.MULTILINE)
    return str(found)


def void(command: list[str]) -> None:
    """Run a command and ignore the output."""
    call(command, expect=None)


def shared(world: World) -> Outcome:
    """Compare two chains with a common source and two folds each with the same chains trained by this process."""
    chains = (("0", "1", "-s", "902", "903"), ("0", "1", "-s", "902"))
    recipe = ("-source_epochs", "1", "-epochs", "1", "-tag", "shared")
    before = repeated(world)
    for chain in chains:
        train(*chain, *recipe, *SITE)
    wait_until(lambda: not jobs(), "the end of all jobs")
    plans = ("nnUNetPlans_via902_903_shared", "nnUNetPlans_via902_shared")
    targets = [stage_folder(world, TARGET, name, fold) for name in plans for fold in ("0", "1")]
    finished, times = all(is_validated(folder) for folder in targets), repeated(world) - before
    slurms = tree(world)
    aside = world.results.with_name("results of Slurm")
    world.results.rename(aside)
    world.results.mkdir()
    for chain in chains:
        train(*chain, *recipe)
    same = "the same files as" if tree(world) == slurms else f"other files than ({tree(world) ^ slurms})"
    shutil.rmtree(world.results)
    aside.rename(world.results)
    source = stage_folder(world, NEAR, "nnUNetPlans_for901_shared", "all")
    begun = len(list(source.glob("training_log_*.txt")))
    return Outcome(2, finished, times, f"the shared source was begun {begun} time(s); {same} without Slurm")


def tree(world: World) -> set[str]:
    """Return the result files by relative path, without records and logs, which hold times."""
    paths = {str(path.relative_to(world.results)) for path in world.results.rglob("*") if path.is_file()}
    logs = re.compile(r"training_log_|/logs/|slurm\.json$|\.lock$|\.tmp")
    return {path for path in paths if "_shared" in path and not logs.search(path)}


def many(world: World) -> Outcome:
    """Submit 300 stages (ten sources, 290 folds) for tomorrow, show them, and cancel them."""
    import json  # noqa: PLC0415

    from nnunet_seqtransfer.slurm.queue import queue_states  # noqa: PLC0415

    for number in range(1001, 1009):
        for folder in (world.raw, world.preprocessed):
            if not (folder / f"Dataset{number}_Copy").exists():
                shutil.copytree(folder / NEAR, folder / f"Dataset{number}_Copy")
    splits = world.preprocessed / TARGET / "splits_final.json"
    kept = splits.read_text() if splits.is_file() else None
    cases = [f"case{case}" for case in range(6)]
    splits.write_text(json.dumps([{"train": cases[:5], "val": cases[5:]}] * 290))
    folds, sources = [str(fold) for fold in range(290)], ["902", "903", *(str(n) for n in range(1001, 1009))]
    chain = (*folds, "-s", *sources, "-tag", "many", "--allow_overlap", *SITE, "-slurm", "begin=now+1day")
    begun = time.monotonic()
    train(*chain)
    submitted = time.monotonic() - begun
    (run,) = (world.results / TARGET / "seqtransfer").glob("*_many_3d_fullres")
    begun = time.monotonic()
    states = queue_states(run)
    looked = time.monotonic() - begun
    whole = ""
    if (SCRIPTS / "nnUNetv2_seq_status").is_file():
        begun = time.monotonic()
        call([str(SCRIPTS / "nnUNetv2_seq_status"), run.name], expect=None)
        whole = f", nnUNetv2_seq_status {time.monotonic() - begun:.1f} s"
    call([str(SCRIPTS / "nnUNetv2_seq_cancel"), run.name])
    wait_until(lambda: not jobs(), "the end of all jobs")
    if kept is None:
        splits.unlink()
    else:
        splits.write_text(kept)
    detail = f"submitted in {submitted:.1f} s, states of {len(states)} stages in {looked:.2f} s{whole}"
    return Outcome(1, len(states) == 300, 0, detail)


SCENARIOS = {scenario.__name__: scenario for scenario in (shared, requeue, scancel, time_limit, node_down, many)}


def main() -> None:
    """Run the named scenarios, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", help=f"some of: {', '.join(SCENARIOS)}. Default: all")
    names = parser.parse_args().scenarios or list(SCENARIOS)
    if set(names) - set(SCENARIOS):
        parser.error(f"scenarios are: {', '.join(SCENARIOS)}")
    root = Path(tempfile.mkdtemp(prefix="slurm_scenarios_"))
    try:
        world = make_world(root)
        print("scenario    calls  finished  epochs begun again  seconds  detail")
        for name in names:
            begun = time.monotonic()
            outcome = SCENARIOS[name](world)
            seconds = time.monotonic() - begun
            print(
                f"{name:<10}  {outcome.calls:>5}  {'yes' if outcome.finished else 'NO':>8}  {outcome.repeated:>18}  "
                f"{seconds:>7.0f}  {outcome.detail}",
                flush=True,
            )
    finally:
        shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    main()
