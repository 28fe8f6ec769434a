"""What is left to do, decided for every combination of files on disk, obeys a few laws; problems come all at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from nnunet_seqtransfer.errors import RecordError, StageError
from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.nnunet.training_log import Epoch, TrainingLog
from nnunet_seqtransfer.storage import write_json
from nnunet_seqtransfer.training.actions import Action
from nnunet_seqtransfer.training.decide import decide, weights_fit
from nnunet_seqtransfer.training.on_disk import StageOnDisk, read_stage
from nnunet_seqtransfer.training.recipe import KEY, Recipe, with_block
from nnunet_seqtransfer.training.stage_files import FINAL, LATEST
from nnunet_seqtransfer.training.stages import ChainRequest, Stage, chain_stages
from support.states import actions_of, block_of, outlook_of, raise_problems, state_of

TARGET, SOURCES = "Dataset010_Target", ("Dataset011_A", "Dataset012_B")
DONE = (Action.NOTHING, Action.NOT_NEEDED)
Case = tuple[tuple[Stage, ...], dict[Stage, StageOnDisk]]
pytestmark = pytest.mark.usefixtures("folders")


def stages_of(sources: int, folds: tuple[str, ...] = ("0",), epochs: int = 100) -> tuple[Stage, ...]:
    recipe = Recipe(epochs=epochs)
    plans, configuration = "nnUNetPlans", "3d_fullres"
    return chain_stages(ChainRequest(TARGET, SOURCES[:sources], plans, configuration, folds, recipe, recipe, 5))


def nothing(stage: Stage) -> StageOnDisk:
    return StageOnDisk(stage.files)


def possible_states(stage: Stage) -> Iterator[StageOnDisk]:
    """All combinations; the first stage of a chain is handed no weights."""
    for final, unfinished, validated in itertools.product([False, True], repeat=3):
        for weights in (False, True) if len(stage.path) > 1 else (False,):
            yield state_of(stage, final=final, unfinished=unfinished, weights=weights, validated=validated)


def every_case() -> Iterator[Case]:
    """Every combination of states for scratch, one source, two sources, and two folds behind one source."""
    for sources, folds in [(0, ("0",)), (1, ("0",)), (2, ("0",)), (1, ("0", "1")), (0, ("0", "all"))]:
        stages = stages_of(sources, folds)
        for states in itertools.product(*(tuple(possible_states(stage)) for stage in stages)):
            yield stages, dict(zip(stages, states, strict=True))


def read(stage: Stage) -> StageOnDisk:
    return read_stage(stage.files, details=True, checksums=True)


def before(stages: tuple[Stage, ...], stage: Stage) -> Stage | None:
    return next((other for other in stages if other.path == stage.path[:-1]), None)


def test_all_decisions_obey_the_laws() -> None:
    """For all combinations: one action a stage by the states alone, with what it needs on disk, and none too many."""
    cases = list(every_case())
    assert len(cases) == 8 + 8 * 16 + 2 * 8 * 16**2 + 8 * 8, "all combinations are looked at"
    for stages, states in cases:
        actions = actions_of(stages, states)
        assert tuple(actions) == stages and actions == actions_of(stages, dict(reversed(states.items())))
        for stage, action in actions.items():
            state, previous = states[stage], before(stages, stage)
            assert not (state.has_begun and action is Action.START), (stage, state)
            if action is Action.RESUME:
                assert state.unfinished and not state.final
            if action is Action.VALIDATE:
                assert state.final and not state.validated and stage.role == "target"
            if action is Action.NOTHING:
                assert state.final and (stage.role == "source" or state.validated)
            if action is Action.START and previous is not None and not weights_fit(stage, state):
                assert actions[previous] in (Action.NOTHING, Action.START, Action.RESUME)
            if stage.role == "source" and action in (Action.START, Action.RESUME):
                assert any(actions[other] is Action.START for other in stages if before(stages, other) == stage)
        targets = [stage for stage in stages if stage.role == "target"]
        assert all(actions[stage] is not Action.NOT_NEEDED for stage in targets)
        if all(states[stage].final and states[stage].validated for stage in targets):
            assert all(action in DONE for action in actions.values())


def done(states: dict[Stage, StageOnDisk], stage: Stage) -> dict[Stage, StageOnDisk]:
    """The states after a stage's action ended well."""
    weights = len(stage.path) > 1
    return {**states, stage: state_of(stage, final=True, unfinished=True, weights=weights, validated=True)}


def test_interrupted_after_any_stage_the_rest_is_left() -> None:
    """After the first k actions, a new decision is the old one less what was done, and nothing is left at the end."""
    for stages, states in every_case():
        actions = actions_of(stages, states)
        todo = [stage for stage, action in actions.items() if action not in DONE]
        now = states
        for stage in todo:
            now = done(now, stage)
            again = actions_of(stages, now)
            assert again[stage] in DONE
            left = [other for other, action in again.items() if action not in DONE]
            assert left == todo[todo.index(stage) + 1 :]
        assert all(action in DONE for action in actions_of(stages, now).values())


def test_killed_in_a_stage_it_goes_on() -> None:
    """A stage killed after its first checkpoint is resumed, and what came before it is not repeated."""
    for stages, states in every_case():
        actions = actions_of(stages, states)
        for stage in [stage for stage, action in actions.items() if action is Action.START]:
            killed = dict(states)
            for earlier in stages[: stages.index(stage)]:
                if actions[earlier] not in DONE:
                    killed = done(killed, earlier)
            killed[stage] = replace(states[stage], whole=(LATEST,), weights_sha256="d" if len(stage.path) > 1 else None)
            again = actions_of(stages, killed)
            assert again[stage] is Action.RESUME or again[stage] is Action.NOT_NEEDED
            assert all(again[earlier] in DONE for earlier in stages[: stages.index(stage)])
            if stage.role == "target":
                assert again[stage] is Action.RESUME


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("what", [FINAL, LATEST])
def test_another_recipe_is_refused(place: int, what: str) -> None:
    """A training that was made with another recipe is neither reused nor overwritten: the error names both."""
    stages = stages_of(2)
    states = {stage: nothing(stage) for stage in stages}
    stage = stages[place]
    other = replace(block_of(stage), recipe=replace(stage.recipe, epochs=7, initial_lr=0.5))
    states[stage] = replace(states[stage], block=other, whole=(what,))
    with pytest.raises(StageError) as raised:
        raise_problems(stages, states)
    message = str(raised.value)
    for words in (
        "epochs: 7 on disk, 100 requested",
        "initial_lr: 0.5 on disk, 0.01 requested",
        str(stage.base),
        "-tag",
    ):
        assert words in message


def test_a_recipe_without_training_is_no_conflict() -> None:
    """Plans written with another recipe, but nothing trained under them, are simply replaced."""
    stages = stages_of(1)
    states = {stage: nothing(stage) for stage in stages}
    states[stages[0]] = replace(states[stages[0]], block=replace(block_of(stages[0]), recipe=Recipe(epochs=7)))
    assert set(outlook_of(stages, states).actions.values()) == {Action.START}
    assert not outlook_of(stages, states).problems


def test_another_path_is_refused() -> None:
    """A training of the same name along another path is refused, naming that path."""
    stages = stages_of(1)
    states = {stage: nothing(stage) for stage in stages}
    other = replace(block_of(stages[1]), path=("Dataset099_Other", TARGET))
    states[stages[1]] = replace(states[stages[1]], block=other, whole=(FINAL,))
    with pytest.raises(StageError, match="Dataset099_Other -> Dataset010_Target"):
        raise_problems(stages, states)


def test_a_training_without_plans_is_refused() -> None:
    """A training whose plans are gone cannot be told from another: it is not touched."""
    stages = stages_of(0)
    with pytest.raises(StageError, match="are gone"):
        raise_problems(stages, {stages[0]: replace(nothing(stages[0]), whole=(FINAL,))})


def test_nothing_on_disk_is_seen_as_nothing() -> None:
    """In empty folders no stage has begun, and every stage starts."""
    stages = stages_of(2)
    states = {stage: read(stage) for stage in stages}
    assert states == {stage: nothing(stage) for stage in stages}
    assert set(actions_of(stages, states).values()) == {Action.START}


@pytest.mark.parametrize("name", ["checkpoint_final.pth", "checkpoint_latest.pth", "checkpoint_best.pth"])
def test_a_truncated_checkpoint_counts_as_damaged(name: str) -> None:
    """A checkpoint cut off anywhere is none: it is listed as damaged, whatever its name."""
    import torch

    (stage,) = stages_of(0)
    stage.output.mkdir(parents=True)
    path: Path = stage.output / name
    torch.save({"network_weights": {"a": torch.arange(100)}}, path)
    assert read(stage).has_begun
    whole = path.read_bytes()
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        state = read(stage)
        assert state.damaged == (path.name,)
        assert not state.has_begun


def test_a_checkpoint_with_a_damaged_end_counts_as_damaged() -> None:
    """Whatever byte of its end is changed, a checkpoint is whole or damaged, never an error."""
    import torch

    (stage,) = stages_of(0)
    stage.output.mkdir(parents=True)
    path = stage.output / "checkpoint_final.pth"
    torch.save({"network_weights": {}}, path)
    whole = path.read_bytes()
    for place in range(len(whole) - 120, len(whole)):
        for bits in (0xFF, 0x01):
            changed = bytearray(whole)
            changed[place] ^= bits
            path.write_bytes(changed)
            state = read(stage)
            assert state.final != bool(state.damaged)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda block: [block], "damaged"),
        (lambda block: "text", "damaged"),
        (lambda block: {**block, "format": 99, "configurations": []}, "format 99, this version reads up to 5"),
        (lambda block: {**block, "format": "1"}, "damaged"),
        (lambda block: {key: value for key, value in block.items() if key != "path"}, "damaged"),
        (lambda block: {**block, "configurations": {"3d_fullres": {"recipe": {"epoch": 1}, "init": None}}}, "damaged"),
        (lambda block: {**block, "configurations": {"3d_fullres": None}}, "damaged"),
    ],
)
def test_a_damaged_block_is_refused(change: Callable[[Any], Any], words: str) -> None:
    """A seq_transfer block that was edited, or is of a newer version, is refused in one line that names the plans."""
    (stage,) = stages_of(0)
    plans = with_block({"plans_name": stage.plans_name}, stage.configuration, block_of(stage))
    path = plans_path(stage.dataset, stage.plans_name)
    write_json(path, plans)
    assert read(stage).block == block_of(stage)
    write_json(path, {**plans, KEY: change(plans[KEY])})
    with pytest.raises(RecordError, match=words) as raised:
        read(stage)
    assert stage.plans_name in str(raised.value)


def test_plans_without_a_block_or_for_another_configuration_have_none() -> None:
    """Plans of nnU-Net's own, and blocks of other configurations, are no block of this stage."""
    (stage,) = stages_of(0)
    path = plans_path(stage.dataset, stage.plans_name)
    for plans in ({}, with_block({}, "2d", block_of(stage))):
        write_json(path, plans)
        assert read(stage).block is None


def test_weights_of_a_source_that_was_deleted_are_not_trusted() -> None:
    """Handed-over weights count while their source is there, or while another fold has trained from them."""
    source, target = stages_of(1)
    for siblings in (False, True):
        waiting = replace(state_of(target, weights=True), has_siblings=siblings)
        actions = actions_of((source, target), {source: nothing(source), target: waiting})
        assert actions[source] is (Action.NOT_NEEDED if siblings else Action.START)
        assert actions[target] is Action.START


def test_folds_never_start_from_differently_trained_sources() -> None:
    """If a fold has trained, and both its starting weights and their source are gone, nothing is trained again."""
    source, target = stages_of(1)
    waiting = replace(state_of(target), has_siblings=True)
    for left in (nothing(source), state_of(source, unfinished=True)):
        with pytest.raises(StageError, match="that other folds began from are gone"):
            raise_problems((source, target), {source: left, target: waiting})
    there = state_of(source, final=True)
    outlook = outlook_of((source, target), {source: there, target: waiting})
    assert outlook.actions[target] is Action.START and not outlook.problems


def test_a_fold_binds_its_siblings_to_its_recipe() -> None:
    """A second fold with another recipe would rewrite the plans that the first one rests on: refused."""
    (target,), (other,) = stages_of(0), stages_of(0, epochs=101)
    state = replace(nothing(target), block=block_of(other), has_siblings=True)
    with pytest.raises(StageError, match="was trained with a different recipe"):
        raise_problems((target,), {target: state})


def test_softmax_outputs_asked_for_later_are_made_up_for() -> None:
    """A fold validated without --npz is validated again only if it is asked for; a source never is."""
    source, target = stages_of(1)
    for there in (False, True):
        states = {
            stage: replace(
                state_of(stage, final=True, unfinished=True, weights=stage is target, validated=True),
                has_probabilities=there,
            )
            for stage in (source, target)
        }
        assert set(actions_of((source, target), states).values()) == {Action.NOTHING}
        asked = actions_of((source, target), states, probabilities=True)
        assert asked[source] is Action.NOTHING
        assert asked[target] is (Action.NOTHING if there else Action.VALIDATE)


def test_problems_of_all_stages_and_of_the_request_come_together() -> None:
    """Two stages with other recipes and too many GPUs are three problems of one outlook."""
    stages = stages_of(1)
    states = {
        stage: replace(nothing(stage), whole=(LATEST,), block=replace(block_of(stage), recipe=Recipe(epochs=7)))
        for stage in stages
    }
    problems = [str(error) for error in outlook_of(stages, states, gpus=4).problems]
    assert len(problems) == 3
    assert "-num_gpus 4 exceeds the batch size of 2" in problems[0]
    assert [str(stage.base) in text for stage, text in zip(stages, problems[1:], strict=True)] == [True, True]


def test_the_estimate_uses_measured_epochs() -> None:
    """Stages with logged epochs give their pace to those with as many iterations; what is done costs nothing."""
    stages = stages_of(1)
    source, target = stages
    states = {source: state_of(source, final=True), target: nothing(target)}
    guessed = outlook_of(stages, states).seconds
    clock = outlook_of(stages, states).survey.clock
    assert guessed == {source: 0.0, target: clock.stage(target.recipe, 100, clock.held_out("0"))}
    measured = clock.with_log(TrainingLog((Epoch(5, seconds=10.0),)), source.recipe)
    outlook = decide(replace(outlook_of(stages, states).survey, clock=measured))
    validation = measured.stage(target.recipe, 0, measured.held_out("0"))
    assert outlook.seconds[target] == pytest.approx(validation + 100 * 10.0)


def test_the_time_left_shrinks_with_what_is_logged() -> None:
    """Epochs, iterations and validated cases of the running stage count, and the later stage at the measured pace."""
    stages = stages_of(1)
    source, target = stages
    outlook = outlook_of(stages, {stage: nothing(stage) for stage in stages})
    logs = [
        TrainingLog(),
        TrainingLog((Epoch(0, seconds=10.0), Epoch(1, seconds=10.0)), running=2),
        TrainingLog((Epoch(0, seconds=10.0), Epoch(1, seconds=10.0)), running=2, iteration=(125, 250)),
    ]
    left = [outlook.seconds_left(source, log) for log in logs]
    assert left[1] - left[2] == pytest.approx(5.0) and left[0] > left[1]
    whole = tuple(Epoch(number, seconds=10.0) for number in range(100))
    assert left[1] - outlook.seconds_left(source, TrainingLog(whole)) == pytest.approx(98 * 10.0)
    begun, done = TrainingLog(whole, predicted=1), TrainingLog(whole, predicted=1, validation_seconds=9.0)
    assert outlook.seconds_left(target, begun) > outlook.seconds_left(target, done) == 0


def test_softmax_outputs_count_where_every_case_has_them() -> None:
    """A validation that --npz was interrupted in has some of them only."""
    (stage,) = stages_of(0)
    folder = stage.output / "validation"
    write_json(folder / "summary.json", {"metric_per_case": [{}, {}]})
    for number, complete in enumerate((False, False, True)):
        assert read(stage).validated and read(stage).has_probabilities is complete
        (folder / f"case{number}.npz").touch()
