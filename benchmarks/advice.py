"""Score the advice against measured transfers: rankings of sources, planned paths, and the stated chance of harm.

    python benchmarks/advice.py RAW_FOLDER MEASURED.csv [-zero_shot ZERO_SHOT.csv] [-work FOLDER]

RAW_FOLDER holds datasets in nnU-Net raw format. MEASURED.csv has one trained path per row: target, sources (joined by
">"; empty for scratch), first_source_iterations, second_source_iterations, target_iterations, seed, dice. Targets and
sources are named like the datasets without "DatasetXXX_". The admissible sources of a target are those in the table.
ZERO_SHOT.csv (default: zero_shot.csv next to MEASURED.csv, if it exists) has columns target, source and the Dice of the
source's network on the target's labelled cases.

Every target is left out of all that its advice is fitted on: the shipped measurements and the track records. Distances
are measured from the raw data; -work keeps them, so that a second call takes seconds.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from scipy.stats import weightedtau

from nnunet_seqtransfer import AffinityRequest, Context, measure_affinity
from nnunet_seqtransfer.affinity.record import Affinity, affinity_path, read_affinity
from nnunet_seqtransfer.nnunet.folders import installed_command
from nnunet_seqtransfer.planning.decide import Known, problem_of
from nnunet_seqtransfer.planning.gain import GainModel
from nnunet_seqtransfer.planning.measured import Evidence, MeasuredTransfer, shipped_table, track_records
from nnunet_seqtransfer.planning.paths import GainStrategy, Request
from nnunet_seqtransfer.planning.problem import SequenceProblem
from nnunet_seqtransfer.planning.published import PublishedStrategy

METRICS = ("descriptors", "published")
TOLERANCE = 0.02
"""Dice below scratch that counts as harm of a planned path."""
BINS = (0, 0.2, 0.4, 0.6, 0.8, 1)
"""Bins of the predicted probability of harm."""
PLANS = "nnUNetPlans"


@dataclass(frozen=True)
class Target:
    """What was measured for one target."""

    name: str
    "Name without DatasetXXX_."
    scratch: float
    "Mean Dice over seeds of scratch with the fewest iterations on the target."
    longest: float | None
    "Dice of scratch with the most iterations on the target; None if it was trained in one length only."
    paths: dict[tuple[str, ...], float]
    "Sources in training order -> mean Dice, with as many iterations on the target as scratch."

    @property
    def singles(self) -> dict[str, float]:
        """Source -> Dice of every single source."""
        return {path[0]: dice for path, dice in self.paths.items() if len(path) == 1}


@dataclass(frozen=True)
class Quality:
    """How well one ranking orders the single sources of all targets; means over targets."""

    tau: float
    "Weighted tau of scores and Dice."
    regret: float
    "Dice of the best source minus that of the first choice; tied first choices count with their mean."
    regret_3: float
    "Dice of the best source minus that of the best among the first three."
    below: int
    "Targets whose first choice ends below scratch."
    first: float
    "Dice of the first choice."


def read_targets(path: Path) -> tuple[list[Target], float]:
    """Return the targets of a table, and the standard deviation over seeds, pooled over all repeated paths."""
    runs: dict[str, dict[tuple[tuple[str, ...], int], list[float]]] = defaultdict(lambda: defaultdict(list))
    with path.open(newline="") as stream:
        for row in csv.DictReader(stream):
            sources = tuple(name for name in row["sources"].split(">") if name)
            runs[row["target"]][sources, int(row["target_iterations"])].append(float(row["dice"]))
    targets = []
    for name, found in runs.items():
        lengths = sorted(length for sources, length in found if not sources)
        short = {sources: float(np.mean(dice)) for (sources, length), dice in found.items() if length == lengths[0]}
        longest = float(np.mean(found[(), lengths[-1]])) if len(lengths) > 1 else None
        targets.append(Target(name, short.pop(()), longest, short))
    repeated = [values for found in runs.values() for values in found.values() if len(values) > 1]
    spread = float(np.sqrt(np.mean([np.var(values, ddof=1) for values in repeated]))) if repeated else 0.0
    return targets, spread


def read_zero_shot(path: Path) -> dict[str, dict[str, float]]:
    """Return target -> source -> zero-shot Dice; empty if there is no such file."""
    table: dict[str, dict[str, float]] = defaultdict(dict)
    if path.is_file():
        with path.open(newline="") as stream:
            for target, source, dice in list(csv.reader(stream))[1:]:
                table[target][source] = float(dice)
    return table


def measure(target: Target, datasets: dict[str, str], metric: str, configuration: str, processes: int) -> Affinity:
    """Return the affinity of a target over its admissible sources, measured once and kept in the work folder."""
    full = datasets[target.name]
    sources = sorted(datasets[name] for name in {name for path in target.paths for name in path})
    path = affinity_path(full, PLANS, configuration, metric)
    if path.is_file():
        affinity = read_affinity(path)
        if sorted(affinity.sources) == sources:
            return affinity
    request = AffinityRequest(full, tuple(sources), PLANS, configuration, metric)
    return measure_affinity(request, Context(print_aside, processes)).affinity


def prepare(targets: Iterable[Target], datasets: dict[str, str], configuration: str, processes: int) -> None:
    """Let nnU-Net plan and preprocess every target that has no plans yet."""
    folder = Path(os.environ["nnUNet_preprocessed"])
    missing = [datasets[t.name] for t in targets if not (folder / datasets[t.name] / f"{PLANS}.json").is_file()]
    if missing:
        command = [installed_command("nnUNetv2_plan_and_preprocess"), "-d", *(name[7:10] for name in missing)]
        subprocess.run([*command, "-c", configuration, "-np", str(processes)], check=True, stdout=subprocess.DEVNULL)


@dataclass(frozen=True)
class Advice:
    """What the package knows of one target, and a gain model that has not seen it."""

    target: Target
    "The measurements."
    problem: SequenceProblem
    "Tasks with their evidence, track records included."
    model: GainModel
    "Fitted without this target."
    distances: dict[str, float]
    "Source -> distance to the target."

    def evidence(self, terms: str) -> dict[str, Evidence]:
        """Return source -> evidence, with the terms that are named in ``terms`` only (c, n, z, t)."""
        found = {}
        for name, entry in zip(self.problem.names, self.problem.evidence, strict=True):
            short = bare(name)
            if short in self.target.singles:
                found[short] = replace(
                    entry,
                    components=entry.components if "c" in terms else {},
                    distance=entry.distance if "c" in terms else None,
                    label_match=entry.label_match if "n" in terms else None,
                    channel_match=entry.channel_match if "n" in terms else None,
                    zero_shot=entry.zero_shot if "z" in terms else None,
                    track_record=entry.track_record if "t" in terms else None,
                    track_targets=entry.track_targets if "t" in terms else 0,
                )
        return found


def advise(target: Target, affinity: Affinity, zero_shot: dict[str, float], others: list[MeasuredTransfer]) -> Advice:
    """Return the evidence and the model for one target; ``others`` are measurements of the other targets."""
    full = {bare(name): name for name in affinity.names}
    known = Known(zero_shot={full[name]: dice for name, dice in zero_shot.items() if name in full})
    problem = problem_of(affinity, (), known)
    records = track_records(tuple(others), target.name)
    entries = [
        replace(entry, track_record=records[bare(name)][0], track_targets=records[bare(name)][1])
        if bare(name) in records
        else entry
        for name, entry in zip(problem.names, problem.evidence, strict=True)
    ]
    problem = replace(problem, evidence=tuple(entries))
    rows = [row for row in shipped_table().rows if row.target not in (target.name, full[target.name])]
    distances = {bare(name): affinity.distances[i][-1] for i, name in enumerate(affinity.sources)}
    return Advice(target, problem, GainModel(rows, affinity.metric), distances)


def quality(targets: list[Target], score: Callable[[Target], dict[str, float]]) -> Quality:
    """Return how well a score, higher is better, orders the single sources of each target."""
    rows = []
    for target in targets:
        scores, dice = score(target), target.singles
        names = sorted(dice)
        values, reached = np.array([scores[name] for name in names]), np.array([dice[name] for name in names])
        order = np.argsort(-values, kind="stable")
        first = float(reached[values == values.max()].mean())
        tau = weightedtau(values, reached).statistic if len(set(values)) > 1 else 0.0
        best = float(reached.max())
        rows.append((tau, best - first, best - float(reached[order[:3]].max()), first < target.scratch, first))
    tau, regret, regret_3, below, first = np.array(rows, dtype=float).T
    return Quality(
        float(tau.mean()), float(regret.mean()), float(regret_3.mean()), int(below.sum()), float(first.mean())
    )


def ceiling(targets: list[Target], spread: float, repeats: int = 200) -> float:
    """Return the mean weighted tau of the measured Dice with itself plus the noise of another seed."""
    rng = np.random.default_rng(0)
    taus = []
    for target in targets:
        dice = np.array(list(target.singles.values()))
        taus += [weightedtau(dice + rng.normal(0, spread, len(dice)), dice).statistic for _ in range(repeats)]
    return float(np.mean(taus))


def random_quality(targets: list[Target], repeats: int = 200) -> Quality:
    """Return the mean quality of random orders."""
    rng = np.random.default_rng(0)
    found = [
        quality(targets, lambda t: dict(zip(t.singles, rng.random(len(t.singles)), strict=True)))
        for _ in range(repeats)
    ]
    columns = np.array([(q.tau, q.regret, q.regret_3, q.below, q.first) for q in found]).mean(axis=0)
    return Quality(*columns[:3].tolist(), round(columns[3]), columns[4])


def planned(advice: Advice, terms: str, *, knows_scratch: bool) -> tuple[float, float]:
    """Return the measured Dice of the planned path and its stated probability of harm."""
    kept = advice.evidence(terms)
    entries = tuple(
        kept.get(bare(name), entry) for name, entry in zip(advice.problem.names, advice.problem.evidence, strict=True)
    )
    problem = replace(advice.problem, evidence=entries)
    scratch = advice.target.scratch if knows_scratch else None
    request = Request(problem, advice.model, listed=len(kept) ** 2 + 1, scratch_dice=scratch)
    decision = GainStrategy().plan(request)
    ordered = [decision.chosen, *(path for path in decision.candidates if path != decision.chosen)]
    for candidate in ordered:  # a pair that was never trained gives way to the next best path
        path = tuple(bare(problem.names[task]) for task in candidate.path[:-1])
        if not path:
            return advice.target.scratch, candidate.prediction.harm
        if path in advice.target.paths:
            return advice.target.paths[path], candidate.prediction.harm
    raise SystemExit(f"no path to {advice.target.name} was measured")


def published_path(advice: Advice) -> float:
    """Return the measured Dice of the published strategy's first path that was measured."""
    decision = PublishedStrategy().plan(Request(advice.problem, advice.model, listed=10**6))
    for candidate in (decision.chosen, *decision.candidates):
        path = tuple(bare(advice.problem.names[task]) for task in candidate.path[:-1])
        if path in advice.target.paths:
            return advice.target.paths[path]
    return advice.target.scratch


def harm_table(advices: list[Advice], terms: str, *, knows_scratch: bool) -> list[tuple[float, float, int]]:
    """Return for each bin of the predicted probability of harm: its mean, the share that was harmed, and the number."""
    predicted, seen = [], []
    for advice in advices:
        scratch = advice.target.scratch if knows_scratch else None
        for name, entry in advice.evidence(terms).items():
            predicted.append(advice.model.predict([entry], scratch).harm)
            seen.append(advice.target.singles[name] < advice.target.scratch)
    places, harmed, stated = np.digitize(predicted, BINS[1:-1]), np.array(seen), np.array(predicted)
    return [
        (float(stated[places == k].mean()), float(harmed[places == k].mean()), int((places == k).sum()))
        for k in range(len(BINS) - 1)
        if (places == k).any()
    ]


def bare(name: str) -> str:
    """Return a dataset's name without DatasetXXX_."""
    return name[len("Dataset000_") :]


def print_aside(line: str) -> None:
    """Print progress to standard error."""
    print(line, file=sys.stderr)


def row(name: str, q: Quality, count: int) -> str:
    """Return one row of the scoreboard."""
    return f"| {name} | {q.tau:.2f} | {q.regret:.3f} | {q.regret_3:.3f} | {q.below} of {count} | {q.first:.3f} |"


def scoreboard(targets: list[Target], spread: float, advices: dict[str, list[Advice]], sizes: dict[str, int]) -> str:
    """Return the scoreboard as Markdown."""
    count = len(targets)
    by_name = {metric: {a.target.name: a for a in found} for metric, found in advices.items()}
    default = by_name[METRICS[0]]
    has_zero_shot = all(e.zero_shot is not None for a in default.values() for e in a.evidence("z").values())
    lines = [
        f"{count} targets, {sum(len(t.singles) for t in targets)} single sources. Spread over seeds {spread:.3f} Dice; "
        f"noise ceiling of weighted tau {ceiling(targets, spread):.2f}.",
        "",
        "| ranking | weighted tau | regret of the first | best of three | first below scratch | Dice of the first |",
        "| --- | --- | --- | --- | --- | --- |",
        row("random", random_quality(targets), count),
        row("largest", quality(targets, lambda t: {name: sizes[name] for name in t.singles}), count),
    ]

    def gains(metric: str, terms: str, *, knows_scratch: bool = False) -> Callable[[Target], dict[str, float]]:
        def score(target: Target) -> dict[str, float]:
            advice = by_name[metric][target.name]
            found = advice.evidence(terms)
            scratch = target.scratch if knows_scratch else None
            return dict(zip(found, advice.model.gains(list(found.values()), scratch).tolist(), strict=True))

        return score

    lines.append(row("names", quality(targets, gains(METRICS[0], "n")), count))
    for metric in advices:
        nearest = quality(
            targets, lambda t, m=metric: {n: -d for n, d in by_name[m][t.name].distances.items() if n in t.singles}
        )
        lines.append(row(f"distance, {metric}", nearest, count))
    if has_zero_shot:
        lines.append(row("zero-shot", quality(targets, gains(METRICS[0], "z")), count))
    lines.append(row("track record", quality(targets, gains(METRICS[0], "t")), count))
    chosen = ["c", "cn", "cnt", *(["cnz", "cnzt"] if has_zero_shot else [])]
    titles = {"c": "closeness", "n": "names", "z": "zero-shot", "t": "track record"}
    for metric in advices:
        for terms in chosen:
            title = " + ".join(titles[letter] for letter in terms)
            lines.append(row(f"gain, {metric}: {title}", quality(targets, gains(metric, terms)), count))
    lines += [
        "",
        "| planned path | mean Dice | below scratch | more than 0.02 below, chance of harm stated |",
        "| --- | --- | --- | --- |",
    ]
    scratch = np.array([t.scratch for t in targets])
    for terms in chosen:
        for knows in (False, True):
            found = [planned(default[t.name], terms, knows_scratch=knows) for t in targets]
            dice = np.array([value for value, _ in found])
            harmed = [f"{harm:.2f}" for (value, harm), s in zip(found, scratch, strict=True) if value < s - TOLERANCE]
            title = " + ".join(titles[letter] for letter in terms)
            known = "scratch known" if knows else "scratch unknown"
            lines.append(
                f"| {title}, {known} | {dice.mean():.3f} | {(dice < scratch).sum()} | {', '.join(harmed) or 'none'} |"
            )
    best_single = [max(t.singles.values()) for t in targets]
    nearest = [t.singles[min((n for n in t.singles), key=default[t.name].distances.__getitem__)] for t in targets]
    others = {
        "scratch": [t.scratch for t in targets],
        "nearest": nearest,
        "published strategy": [published_path(by_name["published"][t.name]) for t in targets],
        "largest": [t.singles[max(t.singles, key=sizes.__getitem__)] for t in targets],
        "best single source, known afterwards": best_single,
        "best path, known afterwards": [max(t.paths.values()) for t in targets],
    }
    longest = [t.longest for t in targets if t.longest is not None]
    if len(longest) == count:
        others["scratch, longest"] = longest
    for name, values in others.items():
        lines.append(f"| {name} | {np.mean(values):.3f} | {(np.array(values) < scratch).sum()} | |")
    terms = chosen[-2] if has_zero_shot else "cn"
    lines += ["", "| predicted chance of harm | seen | sources | scratch |", "| --- | --- | --- | --- |"]
    for knows in (True, False):
        for stated, seen, number in harm_table(list(default.values()), terms, knows_scratch=knows):
            lines.append(f"| {stated:.2f} | {seen:.2f} | {number} | {'known' if knows else 'unknown'} |")
    return "\n".join(lines)


def main() -> None:
    """Measure, score and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("raw", type=Path, help="folder of datasets in nnU-Net raw format")
    parser.add_argument("measured", type=Path, help="table of measured transfers")
    parser.add_argument("-zero_shot", type=Path, help="table of zero-shot Dice")
    parser.add_argument("-work", type=Path, help="folder to keep preprocessed data and distances in")
    parser.add_argument("-c", default="3d_fullres", help="nnU-Net configuration (default: 3d_fullres)")
    parser.add_argument("-np", type=int, default=2, help="processes (default: 2)")
    options = parser.parse_args()
    targets, spread = read_targets(options.measured)
    zero_shot = read_zero_shot(options.zero_shot or options.measured.with_name("zero_shot.csv"))
    with tempfile.TemporaryDirectory() as temporary:
        work = options.work or Path(temporary)
        for name in ("preprocessed", "results"):
            (work / name).mkdir(parents=True, exist_ok=True)
            os.environ[f"nnUNet_{name}"] = str(work / name)
        os.environ["nnUNet_raw"] = str(options.raw)
        datasets = {bare(path.name): path.name for path in sorted(options.raw.glob("Dataset*_*"))}
        prepare(targets, datasets, options.c, options.np)
        others = [MeasuredTransfer(t.name, (s,), (), t.scratch, d) for t in targets for s, d in t.singles.items()]
        advices = {
            metric: [
                advise(t, measure(t, datasets, metric, options.c, options.np), zero_shot[t.name], others)
                for t in targets
            ]
            for metric in METRICS
        }
        sizes = {
            name: entry.cases or 0
            for found in advices.values()
            for a in found
            for name, entry in a.evidence("").items()
        }
        print(scoreboard(targets, spread, advices, sizes))


if __name__ == "__main__":
    main()
