"""One trial: a path to the target trained with one seed, predicted by a stock nnU-Net, and judged on held-out cases."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from nnunet_seqtransfer.demo.children import Children
from nnunet_seqtransfer.demo.datasets import ENDING, SOURCES, TARGET, label_image, label_values
from nnunet_seqtransfer.demo.phantoms import STRUCTURES, draw_phantom
from nnunet_seqtransfer.demo.workplace import Workplace
from nnunet_seqtransfer.evaluation.dice import CaseDice, folder_dice
from nnunet_seqtransfer.nnunet.folders import dataset_id
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS
from nnunet_seqtransfer.storage import checksum
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import TRAINER, ChainRequest, chain_stages

CONFIGURATION = "2d"
FOLD = "all"
ITERATIONS = 100
SOURCE_EPOCHS, TARGET_EPOCHS = 3, 3
FEATURES = (8, 16, 32, 64, 64)
"""Features of the network's stages, nnU-Net's plan being 32 to 512."""


@dataclass(frozen=True)
class Trial:
    """A path with one seed."""

    sources: tuple[str, ...]
    "Full names in their order; none is from scratch."
    seed: int
    "Of the trainings."
    extra_epochs: int = 0
    "Epochs of the target on top of its usual ones."

    @property
    def numbers(self) -> tuple[str, ...]:
        """The sources' numbers, as the commands take them."""
        return tuple(str(dataset_id(name)) for name in self.sources)

    @property
    def name(self) -> str:
        """For logs and folders: "via201_202_seed0"."""
        return f"{'via' + '_'.join(self.numbers) if self.sources else 'scratch'}_{self.tag}"

    @property
    def tag(self) -> str:
        """What keeps seeds and lengths apart in nnU-Net's folders."""
        return f"long_seed{self.seed}" if self.extra_epochs else f"seed{self.seed}"


def recipe_digest() -> str:
    """Checksum of everything the demo's results are made from: another one needs another folder."""
    tasks = [asdict(task) for task in (TARGET, *SOURCES)]
    drawn = draw_phantom(np.random.default_rng(0), TARGET.scanner)
    example = [drawn.image.tobytes().hex(), label_image(drawn, STRUCTURES).tobytes().hex()]
    return checksum([tasks, example, CONFIGURATION, FOLD, ITERATIONS, SOURCE_EPOCHS, TARGET_EPOCHS, FEATURES])


def train(children: Children, trial: Trial) -> None:
    """Trains what is left of the trial's chain."""
    children.run(
        f"train_{trial.name}",
        "nnUNetv2_seq_train",
        *(str(dataset_id(TARGET.name)), CONFIGURATION, FOLD, "-s", *(trial.numbers or ("none",))),
        *(
            "-source_epochs",
            str(SOURCE_EPOCHS),
            "-epochs",
            str(TARGET_EPOCHS + trial.extra_epochs),
            "-iterations",
            str(ITERATIONS),
        ),
        *("-seed", str(trial.seed), "-tag", trial.tag, "-device", "cpu", "-np", "1"),
        trains=True,
    )


def predict(children: Children, trial: Trial) -> None:
    """Predicts the held-out cases with nnUNetv2_predict; a folder of the final name holds all of them."""
    place = children.place
    final = place.predictions / trial.name
    if final.is_dir():
        return
    aside = place.predictions / f".{trial.name}.tmp"
    shutil.rmtree(aside, ignore_errors=True)
    children.run(
        f"predict_{trial.name}",
        "nnUNetv2_predict",
        *("-d", str(dataset_id(TARGET.name)), "-i", str(test_images(place)), "-o", str(aside)),
        *("-tr", TRAINER, "-p", plans_name(trial), "-c", CONFIGURATION, "-f", FOLD),
        *("-device", "cpu", "--disable_tta", "-npp", "0", "-nps", "0"),
    )
    aside.replace(final)


def judge(place: Workplace, trial: Trial) -> tuple[CaseDice, ...]:
    """Dice of the held-out cases."""
    labels = {name: (value,) for name, value in label_values(TARGET).items()}
    return folder_dice(test_labels(place), place.predictions / trial.name, labels, ENDING)


def plans_name(trial: Trial) -> str:
    """The plans under which the trial's last stage was trained, from the project's own naming."""
    recipe = Recipe()
    request = ChainRequest(
        *(TARGET.name, trial.sources, DEFAULT_PLANS, CONFIGURATION, (FOLD,), recipe, recipe, 0, trial.tag)
    )
    return chain_stages(request)[-1].plans_name


def test_images(place: Workplace) -> Path:
    """The held-out images."""
    return place.raw / TARGET.name / "imagesTs"


def test_labels(place: Workplace) -> Path:
    """Their reference segmentations."""
    return place.raw / TARGET.name / "labelsTs"
