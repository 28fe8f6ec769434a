"""The overlay of the demo: the worst, the median and the best held-out case of a path, beside scratch."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from nnunet_seqtransfer.demo.datasets import ENDING, TARGET, label_values
from nnunet_seqtransfer.demo.summary import Row, path_words
from nnunet_seqtransfer.demo.trials import Trial, test_images, test_labels
from nnunet_seqtransfer.demo.workplace import Workplace
from nnunet_seqtransfer.evaluation.dice import CaseDice, case_means, read_segmentation
from nnunet_seqtransfer.report.overlay import OverlayRow, draw_overlay


def draw_trials(
    place: Workplace, scratch: Trial, trial: Trial, found: Mapping[Trial, tuple[CaseDice, ...]], path: Path
) -> None:
    """Draws the cases picked by ``trial``'s Dice with the predictions of both trials."""
    rows = [
        _row(place, f"{rank} case ({case})", case, (scratch, trial), found)
        for rank, case in picked(case_means(found[trial])).items()
    ]
    words = path_words(Row(trial.sources, ()), TARGET.name)
    title = f"Held-out cases of {TARGET.name}: scratch and {words}, seed {trial.seed}"
    draw_overlay(rows, list(label_values(TARGET).items()), title, path)


def picked(means: Mapping[str, float]) -> dict[str, str]:
    """The worst, median and best case by their Dice; equal ones by name."""
    ordered = sorted(means, key=lambda case: (means[case], case))
    return {"worst": ordered[0], "median": ordered[(len(ordered) - 1) // 2], "best": ordered[-1]}


def _row(
    place: Workplace, title: str, case: str, trials: tuple[Trial, ...], found: Mapping[Trial, tuple[CaseDice, ...]]
) -> OverlayRow:
    captions = [
        f"{path_words(Row(trial.sources, ()), TARGET.name)}: Dice {case_means(found[trial])[case]:.2f}"
        for trial in trials
    ]
    return OverlayRow(
        title=title,
        image=read_segmentation(test_images(place) / f"{case}_0000{ENDING}")[0],
        reference=read_segmentation(test_labels(place) / f"{case}{ENDING}")[0],
        predictions=tuple(read_segmentation(place.predictions / trial.name / f"{case}{ENDING}")[0] for trial in trials),
        captions=tuple(captions),
    )
