"""Stages on several datasets: shares, names, exclusions, preparation, dry runs, records and what clean keeps."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.nnunet.plans import data_folder, plans_path
from nnunet_seqtransfer.nnunet.preprocessing import preprocessed_cases
from nnunet_seqtransfer.planning.record import CandidatePath, SequencePlan, read_plan, write_plan
from nnunet_seqtransfer.report.page_parts import candidates_table
from nnunet_seqtransfer.report.plan_text import headline
from nnunet_seqtransfer.report.status_text import status_text
from nnunet_seqtransfer.storage import read_json, sha256, write_json
from nnunet_seqtransfer.tasks.path_syntax import PLUS, datasets_on
from nnunet_seqtransfer.training import clean
from nnunet_seqtransfer.training.decide import Outlook, decide
from nnunet_seqtransfer.training.job import DeviceOptions
from nnunet_seqtransfer.training.prepare import write_data_plans
from nnunet_seqtransfer.training.recipe import KEY, Recipe, read_block, with_block
from nnunet_seqtransfer.training.run_record import RECORD, read_run
from nnunet_seqtransfer.training.run_stage import mixed_datasets, prepare_data, run_stage
from nnunet_seqtransfer.training.stages import ChainRequest, Exclusions, Stage, chain_stages, is_target_of
from nnunet_seqtransfer.training.status import read_status, status_content
from nnunet_seqtransfer.training.survey import take_survey
from nnunet_seqtransfer.training.train import look_ahead
from nnunet_seqtransfer.transfer.correspondence import fed_channels
from support.bad_inputs import Command
from support.runs import cases, checkpoint, data_name, plans, record
from support.states import block_of, raise_problems, state_of
from support.world import FAR, NEAR, TARGET, TWO_CHANNELS, World

A, B, C, OWN = "Dataset021_A", "Dataset022_B", "Dataset023_C", "Dataset004_Target"
PATHS: tuple[tuple[str, ...], ...] = (
    (), (A,), (A, B), (A, B, C), (B, A), (f"{A}+{B}",), (f"{B}+{A}",), (f"{A}+{B}", C), (A, f"{B}+{C}"),
    (f"{A}+{B}+{C}",), (f"{A}+{B}", B), (f"{OWN}+{A}",), (f"{OWN}+{A}+{B}",), (A, f"{OWN}+{A}"), (A, f"{OWN}+{B}"),
)  # fmt: skip
REPLAYS = (0.0, 0.1, 0.125, 0.25)


def stages(
    sources: tuple[str, ...], replay: float = 0.0, exclusions: Exclusions | None = None, folds: tuple[str, ...] = ("0",)
) -> tuple[Stage, ...]:
    recipe = Recipe(epochs=10)
    request = ChainRequest(OWN, sources, "nnUNetPlans", "3d_fullres", folds, recipe, recipe, 5, replay=replay)
    return chain_stages(request, exclusions)


def test_shares_are_equal_among_joined_and_among_replayed_datasets(folders: Path) -> None:
    """Replay takes its share of every stage with one before it; what is left is divided among those that are joined."""
    for sources, replay in product(PATHS, REPLAYS):
        for stage in stages(sources, replay):
            together = stage.path[-1].split(PLUS)
            earlier = [name for name in datasets_on(stage.path[:-1]) if name not in together] if replay else []
            assert stage.datasets == (*together, *earlier)
            shares = {one.dataset: one.share for one in stage.mixed}
            kept = 1 - replay if earlier else 1.0
            assert all(shares[name] == pytest.approx(kept / len(together)) for name in together[1:])
            assert all(shares[name] == pytest.approx(replay / len(earlier)) for name in earlier)
            assert all(one.until == (0.5 if stage.role == "target" else 1) for one in stage.mixed)


def test_different_mixes_never_share_a_name_and_plain_paths_keep_theirs(folders: Path) -> None:
    """A stage's key tells everything but recipe and tag; nnU-Net's separator is in no name."""
    seen: dict[str, tuple[object, ...]] = {}
    for sources, replay in product(PATHS, REPLAYS):
        for stage in stages(sources, replay):
            assert seen.setdefault(stage.key, (stage.path, stage.mixed)) == (stage.path, stage.mixed)
            assert "__" not in stage.plans_name and len(stage.base.name.split("__")) == 3
            assert is_target_of(stage.plans_name, "nnUNetPlans") == (stage.role == "target")
    assert [stage.plans_name for stage in stages((f"{A}+{B}", C), 0.125)] == [
        "nnUNetPlans_for4_with22",
        "nnUNetPlans_for4_via21+22_replay12p5",
        "nnUNetPlans_via21+22_23_replay12p5",
    ]
    assert stages((f"{OWN}+{A}",))[0].plans_name == "nnUNetPlans_with21"
    assert [stage.plans_name for stage in stages((A, B))] == [
        "nnUNetPlans_for4",
        "nnUNetPlans_for4_via21",
        "nnUNetPlans_via21_22",
    ]
    assert stages((A, B), 0.25)[0] == stages((A,))[0], "a first stage has nothing to replay and is shared"


def test_cases_are_excluded_from_every_dataset_of_a_stage(folders: Path) -> None:
    """For each fold its own: in joined and replayed datasets of the sources, and in those of the target's stage."""
    exclusions = {"0": {A: ("a2", "a1"), B: ("b",)}, "1": {B: ("c",)}}
    first, other, last0, last1 = stages((f"{A}+{B}",), 0.5, exclusions, ("0", "1"))
    assert (first.without, first.excluded, first.mixed[0].excluded) == ("0", ("a1", "a2"), ("b",))
    assert (other.without, other.excluded, other.mixed[0].excluded) == ("1", (), ("c",))
    assert [one.excluded for one in last0.mixed] == [("a1", "a2"), ("b",)]
    assert [one.excluded for one in last1.mixed] == [(), ("c",)]
    assert last0.excluded == () and last0.plans_name == last1.plans_name
    content = with_block(with_block({}, "3d_fullres", block_of(last0)), "3d_fullres", block_of(last1))
    for stage in (last0, last1):
        assert read_block(json.loads(json.dumps(content)), "3d_fullres", stage.fold) == block_of(stage)
    assert content[KEY]["format"] == 5


def test_a_training_on_another_mix_is_not_reused(folders: Path) -> None:
    """Other shares or cases are refused; channels and heads, decided when the stage began, are no difference."""
    stage = stages((f"{A}+{B}",))[0]
    block = block_of(stage)
    begun = replace(block, mixed=(replace(stage.mixed[0], channels=(0, 0), heads="x", heads_sha256="y"),))
    raise_problems([stage], {stage: state_of(stage, final=True, block=begun)})
    for changed in (replace(stage.mixed[0], share=0.25), replace(stage.mixed[0], excluded=("case",))):
        with pytest.raises(StageError, match=r"other shares or cases of further datasets.*-tag NAME"):
            raise_problems([stage], {stage: state_of(stage, final=True, block=replace(block, mixed=(changed,)))})
    own = replace(stages((f"{OWN}+{A}",))[0], without="0")  # a fold with cases of its own is not bound by the others
    raise_problems([own], {own: state_of(own, siblings=True, block=replace(block_of(own), mixed=()))})


def joint(world: World, *sources: str, replay: float = 0.25, target: str = TARGET) -> Outlook:
    recipe = Recipe(4, 2, seed=1)
    request = ChainRequest(target, sources, "nnUNetPlans", "3d_fullres", ("0",), recipe, recipe, 0, replay=replay)
    return look_ahead(request, Context(processes=1))


def test_all_datasets_of_a_stage_are_preprocessed_and_have_plans(world: World) -> None:
    """Before its training, with the target's plans; a first stage writes its block into these plans."""
    chain = joint(world, f"{NEAR}+{TWO_CHANNELS}")
    assert set(chain.to_preprocess) == {NEAR, TWO_CHANNELS}
    run_stage(chain, chain.stages[0], Context(processes=1), train=lambda job: None)
    for name in (NEAR, TWO_CHANNELS):
        assert len(preprocessed_cases(data_folder(name, chain.survey.aligned[name], "3d_fullres"))) == 6
    written = read_json(plans_path(TWO_CHANNELS, "nnUNetPlans_for901"), "", "")
    settings = chain.survey.aligned[TWO_CHANNELS]["configurations"]["3d_fullres"]
    assert written["configurations"]["3d_fullres"] == settings and read_block(written, "3d_fullres") is None
    (one,) = read_block(read_json(chain.stages[0].files.plans, "", ""), "3d_fullres").mixed
    assert (one.dataset, one.plans_name, one.share) == (TWO_CHANNELS, "nnUNetPlans_for901", 0.5)
    assert one.channels == (0,), "the channel of the same name"
    alone = joint(world, TWO_CHANNELS)
    run_stage(alone, alone.stages[0], Context(processes=1), train=lambda job: None)
    assert read_block(read_json(alone.stages[0].files.plans, "", ""), "3d_fullres").path == (TWO_CHANNELS,)


def test_plans_that_a_training_rests_on_are_not_replaced(world: World) -> None:
    """A dataset that was trained on with other plans is not read with new ones under the same name."""
    chain = joint(world, NEAR, FAR)
    stage = chain.stages[1]
    (one,), other = stage.mixed, {**chain.survey.aligned[NEAR], "original_median_spacing_after_transp": [9, 9, 9]}
    write_json(plans_path(NEAR, one.plans_name), {**other, "plans_name": one.plans_name})
    write_data_plans(one, chain.survey.aligned[NEAR], "3d_fullres", lambda line: None)
    write_json(plans_path(NEAR, one.plans_name), {**other, "plans_name": one.plans_name})
    checkpoint(chain.stages[0].output / "checkpoint_best.pth")
    with pytest.raises(StageError, match=r"trained with other plans.*-tag NAME"):
        write_data_plans(one, chain.survey.aligned[NEAR], "3d_fullres", lambda line: None)


def test_a_replayed_dataset_continues_with_the_heads_of_its_stage(world: World) -> None:
    """The final checkpoint of the last stage that was for it, with its checksum; joined ones have none yet."""
    chain = joint(world, NEAR, f"{FAR}+{TWO_CHANNELS}")
    first, second, last = chain.stages
    for stage in (first, second):
        checkpoint(stage.files.final)
    heads = {one.dataset: (one.heads, one.heads_sha256) for one in mixed_datasets(chain, last)}
    for stage in (first, second):
        path = str(stage.files.final.relative_to(world.results))
        assert heads[stage.dataset] == (path, sha256(stage.files.final))
    assert heads[TWO_CHANNELS] == (None, None)
    assert [one.dataset for one in mixed_datasets(chain, second)] == [TWO_CHANNELS, NEAR]


def test_every_input_of_a_network_knows_its_channel(world: World) -> None:
    """Equal names first; one channel feeds all inputs, several feed them in their order, and the rest are zeros."""
    one, two = (joint(world, NEAR, TWO_CHANNELS).survey.tasks[name] for name in (NEAR, TWO_CHANNELS))

    def named(*names: str) -> object:
        return replace(one, dataset_json={**one.dataset_json, "channel_names": dict(enumerate(names))})

    assert fed_channels(one, one) is None and fed_channels(named("x", "y"), two) is None
    assert fed_channels(one, two) == (0, 0)
    assert fed_channels(named("T2", "T1", "x"), two) == (1, 0)
    assert fed_channels(named("x", "y"), named("a", "b", "c")) == (0, 1, None)
    assert fed_channels(named("x", "y", "z"), two) == (0, 1)
    assert fed_channels(named("x", "y"), two, (("y", "T1"), ("x", "T2"))) == (1, 0)


def test_data_that_later_stages_replay_are_made_again(world: World) -> None:
    """Deleted cases of a finished source are preprocessed if an unfinished stage reads them, not otherwise."""
    chain = joint(world, NEAR, FAR)
    prepare_data(chain, Context(processes=1))
    assert not any(joint(world, NEAR, FAR).to_preprocess.values())
    (data_folder(NEAR, chain.survey.aligned[NEAR], "3d_fullres") / "case0.pkl").unlink()
    checkpoint(chain.stages[0].files.final)

    def to_preprocess(*sources: str, replay: float = 0) -> dict[str, tuple[str, ...]]:
        request = replace(chain.request, sources=sources, replay=replay)
        survey = take_survey(request, DeviceOptions(), Context(processes=1)).with_stages({})
        return decide(survey).to_preprocess

    assert to_preprocess(NEAR, FAR, replay=0.25) == {NEAR: ("case0",), FAR: ()}
    assert to_preprocess(NEAR, FAR) == {FAR: ()}
    assert to_preprocess(f"{TARGET}+{NEAR}") == {NEAR: ("case0",)}


def test_a_dry_run_shows_every_dataset_of_a_stage(world: World, command: Command) -> None:
    """Folders, shares, for how long, and the channels; nothing is written."""
    before = world.snapshot(caches=False)
    arguments = ("train", "901", "3d_fullres", "all", "-device", "cpu", "-np", "1", "--dry_run", "-replay", "0.2")
    outcome = command(*arguments, "-s", "902+904", "903")
    assert outcome.status == 0, outcome.err
    assert world.snapshot(caches=False) == before
    text = outcome.out
    assert f"stage 1 of 3: {NEAR}+{TWO_CHANNELS} fold all" in text
    assert text.count(": 50 % of the batches\n") == 1 and text.count(": 10 % of the batches\n") == 2
    assert text.count("% of the batches in the first 50 % of the epochs") == 3
    assert "channels: T1 reads T1" in text and "nnUNetPlans_via902+904_903_replay20" in text


def test_status_shows_mixed_stages_and_clean_keeps_their_data(folders: Path, tmp_path: Path) -> None:
    """Unfinished stages keep the preprocessed cases of all their datasets; older records have none of this."""
    made = record((A, B), replay=0.25)
    first, second, _ = made.stages
    status = read_status(made.folder, 0.0)
    (run,) = status_content([status])["runs"]
    assert [stage["mixed"] for stage in run["stages"]] == [{}, {A: 0.25}, {A: 0.125, B: 0.125}]
    assert f"{B} + 25 % 21 all" in status_text([status], 0.0)
    plans(first)
    checkpoint(first.files.final)
    data = cases(first)
    assert not [item for item, _ in clean.find_unneeded().items if item.path == data], "the second stage replays it"
    plans(second)
    checkpoint(second.files.final)
    assert not [item for item, _ in clean.find_unneeded().items if item.path == data], "and so does the target's"


def test_a_begun_stage_without_a_record_keeps_the_data_that_it_replays(folders: Path) -> None:
    """Its block names the datasets and the plans that say which folder."""
    made = record((A, B), replay=0.25)
    first, second, _ = made.stages
    plans(first)
    plans(second, mixed=second.mixed)
    checkpoint(second.output / "checkpoint_best.pth")
    data = cases(first)
    (made.folder / RECORD).unlink()
    assert data.name == data_name(first)
    assert data not in [item.path for item, _ in clean.find_unneeded().items]
    (second.output / "checkpoint_best.pth").unlink()
    assert data in [item.path for item, _ in clean.find_unneeded().items]


def test_a_plan_holds_and_prints_a_path_with_joined_datasets(tmp_path: Path) -> None:
    """Written, read back, in the headline and among the candidates."""
    path = (f"{A}+{B}", C, OWN)
    candidates = (CandidatePath(path, 0.1, 0.05, 0.2, 0.1, 750, 9), CandidatePath((OWN,), 0, 0, 0, 0, 250, 3))
    plan = SequencePlan(OWN, "nnUNetPlans", "3d_fullres", path[:-1], "gain", "descriptors", "a.json", candidates)
    write_plan(tmp_path / "plan.json", plan)
    plan = read_plan(tmp_path / "plan.json")
    assert plan.path == path and plan.chosen == candidates[0]
    assert f"{A}+{B} -> {C}" in headline(plan)
    assert candidates_table(plan, path).rows[0][0].text == "21+22 \N{RIGHTWARDS ARROW} 23 \N{RIGHTWARDS ARROW} 4"


def test_a_run_record_has_a_new_format_only_if_a_stage_is_mixed(folders: Path) -> None:
    """It is read back as it was written; records of before ask for no replay and keep what they say about heads."""
    mixed, plain = record((A, B), replay=0.25), record((A,))
    assert [json.loads((made.folder / RECORD).read_text())["format"] for made in (mixed, plain)] == [4, 3]
    assert read_run(mixed.folder) == mixed.run and mixed.run.stages[1].mixed == mixed.stages[1].mixed
    assert read_run(plain.folder).request.replay == 0
