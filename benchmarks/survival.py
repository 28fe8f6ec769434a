"""What chains survive: kills at random moments, a full disk at every write, damaged files, two starts at once.

    python benchmarks/survival.py -what kills -kills 200 -o FOLDER
    python benchmarks/survival.py -what full tmpfs damage twice -o FOLDER

Runs the installed commands on small phantoms, on the CPU (two sources, one fold, 2 epochs of 5 iterations a stage, a
checkpoint every second). Kills are SIGKILL: to all processes, to the driving command alone, to the training alone; at
random times, in the middle of a file that is being written, before and after a rename, and inside of nnU-Net's own
writing of JSON, where it is not written aside. After each the same command is called again. Every iteration that is
trained and every checkpoint leaves a line in a trace (faults/sitecustomize.py), from which the figures are made, not
from our logs. Results are kept in FOLDER/results_SEED.jsonl. ``tmpfs`` needs root.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent / "tests"))
from nnunet_seqtransfer.transfer.checkpoints import body_digest, load_checkpoint  # noqa: E402
from support.world import (  # noqa: E402 - the small world of the tests
    FAR,
    NEAR,
    PYTHON,
    QUICK_FINGERPRINTS,
    TARGET,
    World,
    descendants,
    make_dataset,
    run,
    shrink_network,
)

SCRIPTS = Path(sysconfig.get_path("scripts"))
EPOCHS, ITERATIONS = 2, 5
STEPS = EPOCHS * ITERATIONS
TRAIN = ["901", "3d_fullres", "0", "-s", "902", "903", "-device", "cpu", "-epochs", str(EPOCHS), "-np", "1"]
TRAIN += ["-source_epochs", str(EPOCHS), "-iterations", str(ITERATIONS), "-checkpoint_minutes", "0.016"]
CHAIN = [str(SCRIPTS / "nnUNetv2_seq_train"), *TRAIN]
STAGES = {
    "first": (NEAR, "nnUNetPlans_for901", "fold_all"),
    "second": (FAR, "nnUNetPlans_for901_via902", "fold_all"),
    "target": (TARGET, "nnUNetPlans_via902_903", "fold_0"),
}
PATIENCE = 300
NNUNET_COMMAND = re.compile(r"nnUNetv2_(?!seq_)[a-z_]+(?: -\w+ [\w.]+)+")
"""A command of nnU-Net that a message tells the user to run."""


@dataclass(frozen=True)
class Fault:
    """What is done to one call of the command."""

    kind: str
    "time, torn, before, after or json."
    whom: str
    "all, driver or self: who is killed (self: the process in which it happens; for a time: the training)."
    number: int = 0
    "At the how-many-th event."
    share: float = 0.5
    "Where the file is cut off."
    seconds: float = 0.0
    "When, for a kill at a time."


def random_fault(rng: random.Random, longest: float) -> Fault:
    """One of all kinds; half of the kills are at a random time."""
    kind = rng.choice(["time", "time", "time", "torn", "before", "after", "json"])
    whom = rng.choice(["all", "all", "self", "driver"] if kind == "time" else ["all", "self"])
    number = rng.randint(1, 5) if kind == "json" else rng.randint(1, 30)
    return Fault(kind, whom, number, rng.random(), rng.uniform(1, longest))


def output(world: World, stage: str) -> Path:
    """nnU-Net's results folder of a stage's fold."""
    dataset, plans, fold = STAGES[stage]
    return world.results / dataset / f"nnUNetTrainerSeqTransfer__{plans}__3d_fullres" / fold


def environment(world: World, **more: str) -> dict[str, str]:
    """Of a child: the world's folders, one thread, and what makes faults and the trace."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("SURVIVAL")}
    own |= {**world.environment, "nnUNet_n_proc_DA": "0", "nnUNet_def_n_proc": "1", "OMP_NUM_THREADS": "1"}
    own |= {"PYTHONPATH": str(HERE / "faults"), "SURVIVAL_TRACE": str(world.root / "trace"), "MPLBACKEND": "agg"}
    own |= {"SURVIVAL_WORLD": str(world.root), "PYTHON_CPU_COUNT": "1"}
    return own | more


def make_world(root: Path) -> World:
    """Three datasets of phantoms, the target planned and preprocessed, its network narrow."""
    world = World(root)
    for folder in (world.raw, world.preprocessed, world.results):
        folder.mkdir(parents=True)
    make_dataset(world.raw, TARGET, ("MRI",), ("front", "back"), 60)
    make_dataset(world.raw, NEAR, ("T1",), ("organ",), 60)
    make_dataset(world.raw, FAR, ("T1",), ("organ",), -60)
    own = {**os.environ, **world.environment}
    run([PYTHON, "-c", QUICK_FINGERPRINTS, TARGET, NEAR, FAR], own)
    run([str(SCRIPTS / "nnUNetv2_plan_and_preprocess"), "-d", "901", "-c", "3d_fullres", "-np", "2"], own)
    shrink_network(world.preprocessed / TARGET / "nnUNetPlans.json")
    return world


def copy_of(template: World, root: Path) -> World:
    """A fresh copy in ``root``."""
    shutil.rmtree(root, ignore_errors=True)
    shutil.copytree(template.root, root)
    return World(root)


def trainings(pids: list[int]) -> list[int]:
    """Those of the processes that are nnUNetv2_train."""
    return [pid for pid in pids if "nnUNetv2_train\0" in _command(pid)]


def _command(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text()
    return ""


def _kill(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def call(world: World, fault: Fault) -> tuple[int, bool, str]:
    """Calls the command once, with a fault: exit status, whether somebody was killed, last line of stderr."""
    seen = world.root / "seen"
    for path in world.root.glob("seen.*"):
        path.unlink()
    more = {"SURVIVAL_SEEN": str(seen)}
    if fault.kind != "time":
        more["SURVIVAL_FAULT"] = json.dumps(asdict(fault))
    errors = world.root / "stderr"
    with errors.open("w") as stderr:
        child = subprocess.Popen(
            CHAIN, env=environment(world, **more), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=stderr
        )
        killed = _watch(child, fault, seen)
        status = child.wait(PATIENCE)
    last = (errors.read_text(errors="replace").strip().splitlines() or [""])[-1]
    return status, killed or (fault.whom == "self" and _died(world)), last


def _watch(child: subprocess.Popen[bytes], fault: Fault, seen: Path) -> bool:
    """Kills whom the fault says, when it says; returns whether it did."""
    began = time.monotonic()
    while child.poll() is None and time.monotonic() - began < PATIENCE:
        if fault.kind == "time" and time.monotonic() - began > fault.seconds:
            pids = descendants(child.pid)
            victims = {"all": pids, "driver": pids[:1], "self": trainings(pids)}[fault.whom]
            _kill(victims)
            return bool(victims)
        if Path(f"{seen}.kill").exists():
            _kill(descendants(child.pid))
            return True
        time.sleep(0.02)
    return False


def _died(world: World) -> bool:
    """Whether an injected kill of a single process has happened: the counter has reached its event."""
    return any(world.root.glob("seen.*"))


@dataclass
class Trace:
    """What the trace says about one stage."""

    steps: int = 0
    "Iterations that were done, repeated ones too."
    lost: int = 0
    "Those after the last checkpoint of a process that did not reach the end."
    unsaved: int = 0
    "Those of the present process since its last checkpoint."


def read_trace(world: World) -> dict[str, Trace]:
    """Iterations done and lost, per stage."""
    stages = {name: Trace() for name in STAGES}
    places = {str(output(world, name)): stages[name] for name in STAGES}
    owner: dict[str, str] = {}
    path = world.root / "trace"
    for line in path.read_text().splitlines() if path.exists() else ():
        pid, what, *rest = line.split(" ")
        folder = rest[0] if what == "step" else str(Path(rest[0]).parent)
        trace = places[folder]
        if owner.get(folder) != pid:
            trace.lost, trace.unsaved, owner[folder] = trace.lost + trace.unsaved, 0, pid
        if what == "step":
            trace.steps, trace.unsaved = trace.steps + 1, trace.unsaved + 1
        elif not rest[0].endswith("checkpoint_best.pth"):
            trace.unsaved = 0
    return stages


def failures(world: World) -> list[str]:
    """What is wrong with a chain that says it is finished; empty where nothing is."""
    found = []
    for name, trace in read_trace(world).items():
        useful = trace.steps - trace.lost - trace.unsaved
        if useful != STEPS:
            found.append(f"{name}: {trace.steps} iterations, {trace.lost} lost, so {useful} and not {STEPS}")
        checkpoint = load_checkpoint(output(world, name) / "checkpoint_final.pth")
        if checkpoint["current_epoch"] != EPOCHS or len(checkpoint["logging"]["train_losses"]) != EPOCHS:
            found.append(f"{name}: the final checkpoint is of epoch {checkpoint['current_epoch']}")
    if "foreground_mean" not in json.loads((output(world, "target") / "validation" / "summary.json").read_text()):
        found.append("the final validation is not complete")
    for before, after in (("first", "second"), ("second", "target")):
        expected = body_digest(load_checkpoint(output(world, before) / "checkpoint_final.pth")["network_weights"])
        missing = [log for log in _begun(world, after) if expected not in log]
        found += [f"{after}: began without the weights of {before}"] * len(missing)
    return found


def _begun(world: World, stage: str) -> Iterator[str]:
    """Yield the logs of all trainings of a stage that started at its first epoch."""
    for path in output(world, stage).glob("training_log_*.txt"):
        before, epoch, _ = path.read_text().partition("Epoch 0 ")
        if epoch:
            yield before


def kills(template: World, folder: Path, wanted: int, seed: int, write: Callable[[dict[str, object]], None]) -> None:
    """Chains that are killed again and again until they are finished."""
    longest = 40.0
    done, number = 0, 0
    while done < wanted:
        rng = random.Random(seed * 1000 + number)
        world = copy_of(template, folder / f"kills_{seed}")
        hits: Counter[str] = Counter()
        calls, errors, began = 0, [], time.monotonic()
        status = 1
        while status != 0:
            calls += 1
            none = calls > 40 or rng.random() < 0.1
            fault = Fault("time", "all", seconds=1e9) if none else random_fault(rng, longest)
            status, killed, last = call(world, fault)
            if killed:
                hits[f"{fault.kind} {fault.whom}"] += 1
            elif status != 0:
                errors.append(last)
            if calls > 80:
                break
        _let_orphans_end(world)
        wrong = failures(world) if status == 0 else [f"not finished after {calls} calls: {last}"]
        traces = {name: asdict(trace) for name, trace in read_trace(world).items()}
        seconds = round(time.monotonic() - began)
        write(
            {"what": "kills", "seed": seed, "chain": number, "kills": dict(hits), "calls": calls, "wrong": wrong}
            | {"errors": errors, "traces": traces, "seconds": seconds}
        )
        done += sum(hits.values())
        number += 1


def _let_orphans_end(world: World) -> None:
    """Waits for trainings whose command was killed."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        left = [
            pid
            for pid in (int(path.name) for path in Path("/proc").glob("[0-9]*"))
            if f"nnUNet_results={world.results}\0" in _environ(pid)
        ]
        if not left:
            return
        time.sleep(0.5)


def _environ(pid: int) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/environ").read_text(errors="replace") + "\0"
    return ""


def full(template: World, folder: Path, write: Callable[[dict[str, object]], None]) -> None:
    """The first write of every file fails, once: no space is left."""
    world = copy_of(template, folder / "full")
    seen = world.root / "seen"
    more = {"SURVIVAL_SEEN": str(seen), "SURVIVAL_FAULT": json.dumps({"kind": "full"})}
    calls, lines, status = 0, [], 1
    while status != 0 and calls < 120:
        finished = subprocess.run(CHAIN, env=environment(world, **more), capture_output=True, text=True, check=False)
        status, calls = finished.returncode, calls + 1
        if status != 0:
            lines.append((finished.stderr.strip().splitlines() or [""])[-1][:300])
    paths = (world.root / "seen.paths").read_text().splitlines()
    write(
        {"what": "full", "files": len(paths), "calls": calls, "status": status, "lines": lines}
        | {"wrong": failures(world) if status == 0 else ["not finished"], "tracebacks": _unclear(lines)}
    )


def tmpfs(template: World, folder: Path, write: Callable[[dict[str, object]], None], points: int = 12) -> None:
    """A real full disk: the chain on a small tmpfs with so many bytes free; then they are freed, and it goes on."""
    mount = folder / "tmpfs"
    mount.mkdir(exist_ok=True)
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=400m", "tmpfs", str(mount)], check=True)
    try:
        world = copy_of(template, mount / "world")
        before = shutil.disk_usage(mount).used
        run(CHAIN, environment(world))
        needed = shutil.disk_usage(mount).used - before
        for point in range(points):
            world = copy_of(template, mount / "world")
            filler = mount / "filler"
            free = shutil.disk_usage(mount).free
            room = int(needed * (point + 0.5) / points)
            with filler.open("wb") as stream:
                stream.truncate(0)
                os.posix_fallocate(stream.fileno(), 0, max(1, free - room))
            finished = subprocess.run(CHAIN, env=environment(world), capture_output=True, text=True, check=False)
            line = (finished.stderr.strip().splitlines() or [""])[-1][:300]
            filler.unlink()
            again = subprocess.run(CHAIN, env=environment(world), capture_output=True, text=True, check=False)
            write(
                {"what": "tmpfs", "room": room, "status": finished.returncode, "line": line, "again": again.returncode}
                | {"wrong": failures(world) if again.returncode == 0 else [again.stderr.strip().splitlines()[-1][:300]]}
            )
    finally:
        subprocess.run(["/bin/umount", "-l", str(mount)], check=False)


def _unclear(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("error: ")]


def kinds_of_files(world: World) -> dict[str, Path]:
    """One file of every kind that a chain leaves, by a name in which numbers and names of cases do not matter."""
    found: dict[str, Path] = {}
    for root in (world.preprocessed, world.results):
        for path in sorted(root.rglob("*")):
            if path.is_file() and path.stat().st_size > 1:
                stage = "target" if TARGET in str(path) else "source"
                name = path.name.replace("case", "CASE").rstrip("0123456789")
                name = "".join("N" if character.isdigit() else character for character in name)
                found.setdefault(f"{root.name} {stage} {path.parent.name[:20]} {name}", path)
    return found


def damage(template: World, folder: Path, write: Callable[[dict[str, object]], None]) -> None:
    """Every kind of file is cut in half, one at a time, in the middle of the second stage; further kinds at the end.

    Kinds that the results in the folder have already are left out.
    """
    known = [json.loads(line) for path in sorted(folder.glob("results_*.jsonl")) for line in path.open()]
    done = {result.get("kind") for result in known}
    for moment in ("midway", "finished"):
        state = copy_of(template, folder / f"damage_{moment}")
        if moment == "midway":
            _stop_in_second_stage(state)
        else:
            run(CHAIN, environment(state))
        for kind, path in kinds_of_files(state).items():
            if kind in done:
                continue
            done.add(kind)
            world = copy_of(state, folder / "damage_copy")
            damaged = world.root / path.relative_to(state.root)
            damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
            # paths inside of the records are relative, so that a copy is a world of its own
            (world.root / "trace").unlink(missing_ok=True)
            result = _until_finished(world, damaged)
            write({"what": "damage", "moment": moment, "kind": kind, **result})


def _until_finished(world: World, damaged: Path) -> dict[str, object]:
    """Calls the command; does what its one line says (delete the file, run a command of nnU-Net), calls again."""
    lines: list[str] = []
    for _ in range(5):
        finished = subprocess.run(CHAIN, env=environment(world), capture_output=True, text=True, check=False)
        if finished.returncode == 0:
            break
        line = (finished.stderr.strip().splitlines() or [""])[-1][:400]
        lines.append(line)
        command = NNUNET_COMMAND.search(line)
        if finished.returncode != 2 or line in lines[:-1]:
            break
        if damaged.name in line and "delete" in line and damaged.exists():
            damaged.unlink()
        if command is not None:
            _as_told(world, command.group().split())
    wrong = _wrong_results(world) if finished.returncode == 0 else ["not finished"]
    return {"status": finished.returncode, "lines": lines, "calls": len(lines) + 1, "wrong": wrong}


def _as_told(world: World, words: list[str]) -> None:
    """Runs a command of nnU-Net as a message says; the network is narrow again afterwards, as in all these worlds."""
    own = environment(world, nnUNet_n_proc_DA="1")  # nnU-Net's planning does not take 0
    if words[0] in ("nnUNetv2_extract_fingerprint", "nnUNetv2_plan_and_preprocess"):
        number = words[words.index("-d") + 1]
        (dataset,) = [path.name for path in world.raw.glob(f"Dataset{number}_*")]
        run([PYTHON, "-c", QUICK_FINGERPRINTS, dataset], own)  # as they were made; in full it takes minutes
    if words[0] != "nnUNetv2_extract_fingerprint":
        run([str(SCRIPTS / words[0]), *words[1:], "-np", "2"], own)
        shrink_network(world.preprocessed / TARGET / "nnUNetPlans.json")


def _wrong_results(world: World) -> list[str]:
    """What is wrong with the models of a finished chain whose trace is not known from the beginning.

    A source's checkpoint that was damaged and deleted is not trained again where the stage behind it was further.
    """
    found = []
    for name in STAGES:
        path = output(world, name) / "checkpoint_final.pth"
        if name != "target" and not path.exists():
            continue
        checkpoint = load_checkpoint(path)
        if checkpoint["current_epoch"] != EPOCHS or len(checkpoint["logging"]["train_losses"]) != EPOCHS:
            found.append(f"{name}: the final checkpoint is of epoch {checkpoint['current_epoch']}")
    if "foreground_mean" not in json.loads((output(world, "target") / "validation" / "summary.json").read_text()):
        found.append("the final validation is not complete")
    return found


def _stop_in_second_stage(world: World) -> None:
    child = subprocess.Popen(CHAIN, env=environment(world), stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    while read_trace(world)["second"].steps < ITERATIONS + 2 and child.poll() is None:
        time.sleep(0.05)
    child.terminate()
    child.wait(PATIENCE)


def twice(template: World, folder: Path, write: Callable[[dict[str, object]], None], repeats: int = 5) -> None:
    """The same command started twice, up to some seconds apart: one trains, the other says so."""
    for number in range(repeats):
        rng = random.Random(number)
        world = copy_of(template, folder / "twice")
        first = _start(world)
        time.sleep(rng.uniform(0, 4) * (number > 0))
        both = (first, _start(world))
        ended = [(process.communicate()[1].strip().splitlines()[-1][:300], process.returncode) for process in both]
        statuses = sorted(status for _, status in ended)
        said = [line for line, status in ended if status == 2]
        wrong = failures(world) if statuses == [0, 2] else [f"ended with {statuses}"]
        write({"what": "twice", "statuses": statuses, "line": said[0] if said else "", "wrong": wrong})


def _start(world: World) -> subprocess.Popen[str]:
    return subprocess.Popen(CHAIN, env=environment(world), stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def main() -> None:
    """Does what was asked for and prints a summary of all results in the folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-what", nargs="+", default=["kills"], choices=["kills", "full", "tmpfs", "damage", "twice"])
    parser.add_argument("-kills", type=int, default=200)
    parser.add_argument("-seed", type=int, default=0)
    parser.add_argument("-o", type=Path, required=True)
    options = parser.parse_args()
    options.o.mkdir(parents=True, exist_ok=True)
    results = options.o / f"results_{options.seed}.jsonl"

    def write(result: dict[str, object]) -> None:
        with results.open("a") as stream:
            print(json.dumps(result), file=stream)
        print(json.dumps(result)[:300], flush=True)

    template = World(options.o / f"template_{options.seed}")
    if not (template.root / "whole").is_file():
        shutil.rmtree(template.root, ignore_errors=True)
        make_world(template.root)
        (template.root / "whole").touch()
    works = {"full": full, "tmpfs": tmpfs, "damage": damage, "twice": twice}
    for what in options.what:
        if what == "kills":
            kills(template, options.o, options.kills, options.seed, write)
        else:
            works[what](template, options.o, write)
    summarise([json.loads(line) for path in sorted(options.o.glob("results_*.jsonl")) for line in path.open()])


def summarise(results: list[dict[str, object]]) -> None:
    """A table: how often, and what went wrong."""
    for what in dict.fromkeys(str(result["what"]) for result in results):
        own = [result for result in results if result["what"] == what]
        wrong = [problem for result in own for problem in result.get("wrong", [])]  # type: ignore[attr-defined]
        print(f"\n{what}: {len(own)} results, {len(wrong)} problems")
        if what == "kills":
            hits: Counter[str] = Counter()
            for result in own:
                hits.update(result["kills"])  # type: ignore[arg-type]
            lost = [trace["lost"] for result in own for trace in result["traces"].values()]  # type: ignore[attr-defined]
            print(f"{sum(hits.values())} kills in {len(own)} chains: {dict(hits)}; iterations repeated: {sum(lost)}")
        for problem in wrong[:20]:
            print(f"  {problem}")


if __name__ == "__main__":
    main()
