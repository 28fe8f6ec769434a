"""Recipes: what a command asks for reaches the right stages, is written so that older blocks count, and is shown."""

from __future__ import annotations

import argparse
import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_seqtransfer.entry_points.common import SeqArgumentParser
from nnunet_seqtransfer.entry_points.recipe_options import add_recipe, source_recipes, target_recipe, training_to_plan
from nnunet_seqtransfer.errors import SequenceError
from nnunet_seqtransfer.training.actions import Action, action_of
from nnunet_seqtransfer.training.on_disk import StageOnDisk
from nnunet_seqtransfer.training.recipe import (
    ADDED,
    FORMAT,
    KEY,
    MixedDataset,
    Recipe,
    StageBlock,
    read_block,
    with_block,
)
from nnunet_seqtransfer.training.stages import ChainRequest, Stage, chain_stages
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel
from support.bad_inputs import TRAIN, Command, assert_refused
from support.world import FAR, NEAR, TARGET, World

CONFIGURATION = "3d_fullres"
TUNED = Recipe(heads_first_epochs=3, frozen_encoder_epochs=7, layer_decay=0.75, patience=50)
OLD = {"epochs": 250, "iterations": 250, "initial_lr": 0.01, "warmup_epochs": 5, "seed": None}
"""A recipe as it was written before there was more to it."""


def options(*words: str) -> argparse.Namespace:
    parser = SeqArgumentParser("", "")
    add_recipe(parser)
    parsed = parser.parse(words)
    parsed.f = ["0", "1"]
    return parsed


def stages(*sources: str, pretrained: PretrainedModel | None = None, **recipes: Any) -> tuple[Stage, ...]:
    settings = {"source_recipe": Recipe(), "target_recipe": Recipe(), "warmup_epochs": 5, **recipes}
    return chain_stages(
        ChainRequest(TARGET, sources, "nnUNetPlans", CONFIGURATION, ("0",), pretrained=pretrained, **settings)
    )


def block(recipe: Recipe) -> StageBlock:
    return StageBlock(TARGET, (TARGET,), "target", recipe, None)


def written(recipe: Recipe, plans: dict[str, Any] | None = None, configuration: str = CONFIGURATION) -> dict[str, Any]:
    return json.loads(json.dumps(with_block(plans or {"plans_name": "p"}, configuration, block(recipe))))


def test_what_is_not_asked_for_is_written_as_before() -> None:
    """A recipe of defaults gives the block of format 2, without the new parts, which older versions read."""
    plans = written(Recipe(warmup_epochs=5))
    assert plans[KEY]["format"] == 2 and plans[KEY]["configurations"][CONFIGURATION]["recipe"] == OLD
    assert {field.name for field in fields(Recipe)} - OLD.keys() == set(ADDED)


@pytest.mark.parametrize(
    "change", [{"heads_first_epochs": 1}, {"frozen_encoder_epochs": 2}, {"layer_decay": 0.9}, {"patience": 10}]
)
def test_what_is_asked_for_raises_the_format(change: dict[str, Any]) -> None:
    """Older versions refuse such a block by its format; only what differs from the default is in it."""
    recipe = replace(Recipe(warmup_epochs=5), **change)
    plans = written(recipe)
    assert plans[KEY]["format"] == 3 < FORMAT
    assert plans[KEY]["configurations"][CONFIGURATION]["recipe"] == {**OLD, **change}
    assert read_block(plans, CONFIGURATION) == block(recipe)
    both = written(Recipe(), plans, "2d")
    assert both[KEY]["format"] == 3, "as long as one configuration has it"
    assert written(Recipe(), both)[KEY]["format"] == 2


def test_blocks_written_before_are_the_same_recipe(folders: Path) -> None:
    """A finished stage with such a block is finished: nothing differs from a recipe of defaults."""
    (stage,) = stages()
    plans = written(stage.recipe)
    plans[KEY] = {**plans[KEY], "format": 2}
    plans[KEY]["configurations"][CONFIGURATION]["recipe"] = {**OLD, "warmup_epochs": 0}
    found = read_block(plans, CONFIGURATION)
    assert found is not None and found.recipe == stage.recipe == Recipe()
    state = StageOnDisk(stage.files, whole=("checkpoint_final.pth",), validated=True, block=found)
    assert action_of(state, stage.role) is Action.NOTHING


def test_every_part_of_a_recipe_is_compared(folders: Path) -> None:
    """Differences hold both values."""
    (stage,) = stages(target_recipe=Recipe(patience=50))
    other = replace(stage.recipe, heads_first_epochs=3, frozen_encoder_epochs=7, layer_decay=0.75, patience=None)
    assert stage.recipe.differences(other) == {
        "heads_first_epochs": (0, 3),
        "frozen_encoder_epochs": (0, 7),
        "layer_decay": (1.0, 0.75),
        "patience": (50, None),
    }


def test_only_stages_that_start_from_weights_are_fine_tuned(folders: Path) -> None:
    """The first stage has none of it, later ones and those behind a model have; patience is for all."""
    first, second, target = stages(NEAR, FAR, source_recipe=TUNED, target_recipe=TUNED)
    assert first.recipe == Recipe(patience=50)
    assert second.recipe == target.recipe == replace(TUNED, warmup_epochs=5)
    behind = stages(
        NEAR, pretrained=PretrainedModel(Path("x"), None, "a" * 64), source_recipe=TUNED, target_recipe=TUNED
    )
    assert [stage.recipe for stage in behind] == [replace(TUNED, warmup_epochs=5)] * 2


def test_each_source_gets_its_own(folders: Path) -> None:
    """Values in the order of the sources; the target has its own; chains with a common beginning still share it."""
    wanted = options("-source_epochs", "100", "50", "-source_iterations", "20", "-epochs", "30", "-initial_lr", "0.1")
    recipes = source_recipes(wanted, 2)
    made = stages(NEAR, FAR, source_recipes=recipes, target_recipe=target_recipe(wanted))
    assert [(each.recipe.epochs, each.recipe.iterations, each.recipe.initial_lr) for each in made] == [
        (100, 20, 0.1),
        (50, 20, 0.1),
        (30, 250, 0.1),
    ]
    assert [each.recipe.warmup_epochs for each in made] == [0, 5, 3]
    short = stages(NEAR, source_recipes=source_recipes(options("-source_epochs", "100", "-initial_lr", "0.1"), 1))
    assert short[0].recipe == replace(made[0].recipe, iterations=250)


def test_sources_follow_the_target_where_nothing_else_is_said() -> None:
    """Iterations and learning rate of the sources are -iterations and -initial_lr; their epochs are 250, as before."""
    given = options("-iterations", "7", "-initial_lr", "0.5", "-epochs", "3", "-seed", "4", "-layer_decay", "0.9")
    assert source_recipes(given, 2) == (Recipe(250, 7, 0.5, 0, 4, layer_decay=0.9),) * 2
    assert target_recipe(given) == Recipe(3, 7, 0.5, 0, 4, layer_decay=0.9)
    assert target_recipe(options()) == Recipe() and source_recipes(options(), 0) == ()


@pytest.mark.parametrize("option", ["-source_epochs", "-source_iterations", "-source_initial_lr"])
def test_a_wrong_number_of_values_is_one_line(world: World, command: Command, option: str) -> None:
    """Two values for one source, or for none."""
    assert_refused(world, command, (*TRAIN, option, "1", "2"), f"{option} has 2 values for 1 source; give one value")
    scratch = (*TRAIN[:4], "-s", "none", option, "1", "2")
    assert_refused(world, command, scratch, f"{option} has 2 values for 0 sources")
    with pytest.raises(SequenceError, match=f"{option} has a value for each source, but there is no plan yet"):
        training_to_plan(options(option, "1", "2"))


def test_a_plan_is_priced_with_what_will_be_trained() -> None:
    """Where training makes the plan itself."""
    training = training_to_plan(options("-source_epochs", "10", "-source_iterations", "50", "-epochs", "20"))
    assert (training.of_source, training.epochs, training.iterations, training.folds) == ((10, 50), 20, 250, 2)
    assert training_to_plan(options("-iterations", "9")).of_source == (250, 9)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (("-layer_decay", "0"), "'0' is not a number above 0 and up to 1"),
        (("-layer_decay", "1.1"), "'1.1' is not a number above 0 and up to 1"),
        (("-layer_decay", "nan"), "'nan' is not a number above 0 and up to 1"),
        (("-patience", "9"), "'9' is not a whole number from 10 on"),
        (("-heads_first_epochs", "-1"), "'-1' is not a whole number from 0 on"),
        (("-frozen_encoder_epochs", "1.5"), "'1.5' is not a whole number from 0 on"),
        (("-source_initial_lr", "0"), "'0' is not a number above 0"),
        (("-source_iterations", "0"), "'0' is not a whole number above 0"),
        (("-tr", "nnUNetTrainerNoMiror"), "'nnUNetTrainerNoMiror' is no trainer of nnU-Net or in nnUNet_extTrainer"),
        (
            ("-source_tr", "DA5"),
            "'DA5' is no trainer of nnU-Net or in nnUNet_extTrainer; the nearest: nnUNetTrainerDA5",
        ),
    ],
)
def test_wrong_values_are_one_line(world: World, command: Command, given: tuple[str, ...], words: str) -> None:
    """Each with the value and what is allowed."""
    assert_refused(world, command, (*TRAIN, *given), f"argument {given[0]}: {words}")


def test_the_pretrained_model_of_old_blocks_is_read() -> None:
    """Up to format 3 the block called it landmark; now it raises the format."""
    plans = written(Recipe())
    assert read_block({**plans, KEY: {**plans[KEY], "landmark": "ab"}}, CONFIGURATION).pretrained == "ab"
    new = with_block({}, CONFIGURATION, replace(block(Recipe()), pretrained="cd"))
    assert new[KEY]["format"] == 4 and "landmark" not in new[KEY]
    assert read_block(new, CONFIGURATION).pretrained == "cd"


def test_a_mixed_stage_raises_the_format_and_is_read_back() -> None:
    """Further datasets are in the block only if there are any; other configurations keep theirs."""
    mixed = (
        MixedDataset(NEAR, "nnUNetPlans_for901", 0.25, (0, None, 0), ("case1",), 0.5, "x/checkpoint_final.pth", "ab"),
        MixedDataset(FAR, "nnUNetPlans_for901", 0.5),
    )
    plans = json.loads(json.dumps(with_block({"plans_name": "p"}, CONFIGURATION, replace(block(TUNED), mixed=mixed))))
    assert plans[KEY]["format"] == FORMAT == 5
    assert read_block(plans, CONFIGURATION) == replace(block(TUNED), mixed=mixed)
    both = written(Recipe(), plans, "2d")
    assert both[KEY]["format"] == 5 and read_block(both, CONFIGURATION) == replace(block(TUNED), mixed=mixed)
    assert "mixed" not in both[KEY]["configurations"]["2d"]


def test_another_trainer_is_recorded_and_can_be_the_targets_alone(folders: Path) -> None:
    """-tr is for all stages, -source_tr for the sources; older versions refuse such a block."""
    both, alone = options("-tr", "nnUNetTrainerDA5"), options("-tr", "nnUNetTrainerDA5", "-source_tr", "nnUNetTrainer")
    assert [recipe.trainer for recipe in source_recipes(both, 2)] == ["nnUNetTrainerDA5"] * 2
    assert source_recipes(alone, 1)[0].trainer == "nnUNetTrainer" != target_recipe(alone).trainer
    plans = written(target_recipe(both))
    assert plans[KEY]["format"] == 5 and read_block(plans, CONFIGURATION) == block(target_recipe(both))


def test_a_dry_run_shows_each_stages_recipe(world: World, command: Command) -> None:
    """Fine-tuning only where weights are handed over, patience everywhere, each source's own length; nothing else."""
    dry = ("train", "901", CONFIGURATION, "0", "-s", "902", "903", "-np", "1", "-device", "cpu", "--dry_run")
    before = world.snapshot(caches=False)
    tuned = ("-heads_first_epochs", "2", "-layer_decay", "0.8", "-patience", "20", "-source_epochs", "40", "30")
    outcome = command(*dry, *tuned)
    assert outcome.status == 0, outcome.err
    first, second, target = outcome.out.split("\nstage ")[-3:]
    fine = "heads_first_epochs 2, layer_decay 0.8, patience 20"
    assert "40 epochs of 250" in first and fine not in first and "patience 20" in first
    assert "30 epochs of 250" in second and fine in second
    assert "250 epochs of 250" in target and fine in target
    plain = command(*dry)
    assert plain.status == 0 and "layer_decay" not in plain.out and "patience" not in plain.out
    assert world.snapshot(caches=False) == before


def test_networks_without_known_parts_are_refused_before_anything_is_written(world: World, command: Command) -> None:
    """A U-Net with residual blocks in its decoder: its levels cannot be told, its heads and encoder can."""
    plans_file = world.preprocessed / TARGET / "nnUNetPlans.json"
    plans = json.loads(plans_file.read_text())
    settings = plans["configurations"][CONFIGURATION]["architecture"]
    settings["network_class_name"] = settings["network_class_name"].replace("PlainConvUNet", "ResidualUNet")
    settings["arch_kwargs"]["n_blocks_per_stage"] = settings["arch_kwargs"].pop("n_conv_per_stage")
    plans_file.write_text(json.dumps(plans))
    dry = (*TRAIN, "--dry_run")
    words = ("-layer_decay needs one of nnU-Net's own U-Nets", "decoder.stages.0.blocks", "leave it out")
    assert_refused(world, command, (*dry, "-layer_decay", "0.5"), *words, alone=False)
    outcome = command(*dry, "-heads_first_epochs", "1", "-frozen_encoder_epochs", "2")
    assert outcome.status == 0, outcome.err
