"""The whole demo: phantoms, affinity, plan, trainings, predictions, and what came of it."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from nnunet_seqtransfer.affinity.descriptors import DescriptorMetric
from nnunet_seqtransfer.affinity.record import Affinity, affinity_path, read_affinity
from nnunet_seqtransfer.demo.children import Children, run_lanes
from nnunet_seqtransfer.demo.datasets import SOURCES, TARGET, write_task
from nnunet_seqtransfer.demo.pictures import draw_trials
from nnunet_seqtransfer.demo.summary import Outcome, Row, path_words, results_table, verdict
from nnunet_seqtransfer.demo.trials import (
    CONFIGURATION,
    FEATURES,
    SOURCE_EPOCHS,
    Trial,
    judge,
    predict,
    recipe_digest,
    train,
)
from nnunet_seqtransfer.demo.workplace import Workplace, nnunet_folders, open_workplace
from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.evaluation.dice import CaseDice, mean_dice
from nnunet_seqtransfer.nnunet.folders import dataset_id
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS, plans_path
from nnunet_seqtransfer.planning.record import SequencePlan, plan_path, read_plan
from nnunet_seqtransfer.report.plan_text import plan_text
from nnunet_seqtransfer.report.tables import affinity_table
from nnunet_seqtransfer.storage import read_json, replacing, write_json
from nnunet_seqtransfer.tasks.task import load_target

METRIC = DescriptorMetric.name
NUMBER = str(dataset_id(TARGET.name))
Found = dict[Trial, tuple[CaseDice, ...]]


@dataclass
class Clock:
    """Prints a line with the time since the demo began."""

    begun: float = field(default_factory=time.monotonic)

    def say(self, line: str) -> None:
        """One line, at once."""
        seconds = int(time.monotonic() - self.begun)
        print(f"[{seconds // 60}:{seconds % 60:02d}] {line}", flush=True)


def run_demo(folder: Path, seeds: int, processes: int) -> None:
    """Runs what is left of the demo in ``folder`` and prints it. Raises SeqTransferError for what a user can mend."""
    clock = Clock()
    place = open_workplace(folder, recipe_digest())
    with nnunet_folders(place):
        children = Children(place, processes)
        _prepare(place, children, clock.say)
        affinity, plan = _choose(children, clock.say)
        print(f"\n{affinity_table(affinity)}\n\n{plan_text(plan)}\n")
        found = _train_all(children, affinity, plan, seeds, clock.say)
        outcome = _outcome(affinity, plan, seeds, found)
        _write_dice(place.root / "dice.csv", found)
        pictures = _pictures(place, outcome, found)
        clock.say("done")
    print(f"\nMean Dice of {TARGET.tests} held-out cases of {TARGET.name}\n\n{results_table(outcome, TARGET.name)}\n")
    print("\n".join(verdict(outcome, TARGET.name)))
    print("\npictures: " + "\n          ".join(str(path) for path in pictures))
    print(f"numbers:  {place.root / 'dice.csv'}\nlogs:     {place.logs}")


def _prepare(place: Workplace, children: Children, say: Callable[[str], None]) -> None:
    say(f"drawing {1 + len(SOURCES)} datasets of phantoms into {place.raw}")
    for task in (TARGET, *SOURCES):
        write_task(place.raw, task)
    try:
        load_target(TARGET.name, DEFAULT_PLANS, CONFIGURATION)
        say(f"{TARGET.name} is planned and preprocessed already")
    except SeqTransferError:
        say(f"nnUNetv2_plan_and_preprocess: {TARGET.name}, {TARGET.cases} labelled cases")
        options = ("-d", NUMBER, "-c", CONFIGURATION, "-np", "1", "-npfp", "1")
        children.run("plan_and_preprocess", "nnUNetv2_plan_and_preprocess", *options)
    _narrow(say)


def _narrow(say: Callable[[str], None]) -> None:
    """The one thing edited in nnU-Net's plans: fewer features, so that a CPU trains the network in seconds."""
    path = plans_path(TARGET.name, DEFAULT_PLANS)
    plans = read_json(path, "the target's plans file", "delete the demo's folder")
    settings = plans["configurations"][CONFIGURATION]["architecture"]["arch_kwargs"]
    if settings["features_per_stage"] == list(FEATURES):
        return
    say(f"for speed on a CPU, features_per_stage of its plans: {settings['features_per_stage']} -> {list(FEATURES)}")
    settings["features_per_stage"] = list(FEATURES)
    write_json(path, plans)


def _choose(children: Children, say: Callable[[str], None]) -> tuple[Affinity, SequencePlan]:
    say(f"nnUNetv2_seq_affinity: {len(SOURCES)} sources")
    common = ("-t", NUMBER, "-c", CONFIGURATION, "-np", str(children.side_by_side))
    children.run("affinity", "nnUNetv2_seq_affinity", *common, "-s", "all")
    say("nnUNetv2_seq_plan")
    children.run("plan", "nnUNetv2_seq_plan", *common)
    affinity = read_affinity(affinity_path(TARGET.name, DEFAULT_PLANS, CONFIGURATION, METRIC))
    return affinity, read_plan(plan_path(TARGET.name, DEFAULT_PLANS, CONFIGURATION))


def _train_all(
    children: Children, affinity: Affinity, plan: SequencePlan, seeds: int, say: Callable[[str], None]
) -> Found:
    """Scratch (also for longer) and every direct transfer, then the sequence: its first stage is trained by then.

    What runs side by side never preprocesses the same source, nor trains the same stage.
    """
    found: Found = {}

    def run(trial: Trial) -> None:
        train(children, trial)
        predict(children, trial)
        found[trial] = judge(children.place, trial)
        row = Row(trial.sources, (mean_dice(found[trial]),), trial.extra_epochs > 0)
        say(f"seed {trial.seed}: {path_words(row, TARGET.name)}: Dice {row.mean:.3f}")

    def lanes(trials: Iterable[Trial]) -> list[list[Callable[[], None]]]:
        return [[partial(run, trial)] for trial in trials]

    directs = [[partial(run, Trial((source,), seed)) for seed in range(seeds)] for source in reversed(ranked(affinity))]
    scratch = lanes(Trial((), seed, extra) for extra in (0, extra_epochs(plan)) for seed in range(seeds))
    say(f"nnUNetv2_seq_train and nnUNetv2_predict: {len(directs)} direct transfers and scratch, {seeds} seeds")
    run_lanes([*directs, *scratch], children.side_by_side)
    sequence = sequence_of(plan)
    if sequence is not None:
        say(f"nnUNetv2_seq_train and nnUNetv2_predict: the sequence, {seeds} seeds")
        run_lanes(lanes(Trial(sequence, seed) for seed in range(seeds)), children.side_by_side)
    return found


def ranked(affinity: Affinity) -> list[str]:
    """Names of the sources, nearest first."""
    return [affinity.names[index] for index in affinity.ranking()]


def sequence_of(plan: SequencePlan) -> tuple[str, ...] | None:
    """The planned sources where they are a sequence, else those of the cheapest sequence among the candidates."""
    if len(plan.sources) > 1:
        return plan.sources
    return next((entry.path[:-1] for entry in plan.candidates if len(entry.path) > 2), None)


def extra_epochs(plan: SequencePlan) -> int:
    """What scratch has to be trained on top to see as many iterations as the longest path does in all its stages."""
    return SOURCE_EPOCHS * len(sequence_of(plan) or ("a direct transfer's source",))


def _outcome(affinity: Affinity, plan: SequencePlan, seeds: int, found: Found) -> Outcome:
    def row(sources: tuple[str, ...], extra: int = 0) -> Row:
        dice = tuple(mean_dice(found[Trial(sources, seed, extra)]) for seed in range(seeds))
        return Row(sources, dice, as_long=extra > 0)

    sequence = sequence_of(plan)
    return Outcome(
        scratch=row(()),
        long_scratch=row((), extra_epochs(plan)),
        directs=tuple(row((source,)) for source in ranked(affinity)),
        sequence=row(sequence) if sequence is not None else None,
        planned=plan.sources,
    )


def _write_dice(path: Path, found: Found) -> None:
    with replacing(path) as aside, aside.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["sources", "seed", "extra_epochs", "case", "label", "dice"])
        for trial, entries in sorted(found.items(), key=lambda item: item[0].name):
            for entry in entries:
                writer.writerow(
                    [" ".join(trial.numbers), trial.seed, trial.extra_epochs, entry.case, entry.label, entry.dice]
                )


def _pictures(place: Workplace, outcome: Outcome, found: Found) -> list[Path]:
    """Copies the pictures that the commands drew, and draws the overlay."""
    made = (
        affinity_path(TARGET.name, DEFAULT_PLANS, CONFIGURATION, METRIC),
        plan_path(TARGET.name, DEFAULT_PLANS, CONFIGURATION),
    )
    paths = []
    for record, name in zip(made, ("distances.png", "paths.png"), strict=True):
        paths.append(place.root / name)
        with replacing(paths[-1]) as aside:
            shutil.copyfile(record.with_suffix(".png"), aside)
    compared = outcome.sequence or outcome.best_direct
    draw_trials(place, Trial((), 0), Trial(compared.sources, 0), found, place.root / "held_out.png")
    return [*paths, place.root / "held_out.png"]
