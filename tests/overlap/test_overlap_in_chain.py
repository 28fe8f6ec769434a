"""Shared cases in a chain: refused before anything is trained, allowed, or left out, for each fold its own."""

from __future__ import annotations

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import nnunetv2.run.run_training as nnunet_run
import pytest
import torch

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.errors import StageError
from nnunet_seqtransfer.nnunet.datasets import validation_cases
from nnunet_seqtransfer.nnunet.folders import external_trainers
from nnunet_seqtransfer.nnunet.network import network_tensors
from nnunet_seqtransfer.overlap.matching import SharedCase
from nnunet_seqtransfer.training.actions import Action
from nnunet_seqtransfer.training.decide import Outlook
from nnunet_seqtransfer.training.executors import LocalExecutor, run_chain
from nnunet_seqtransfer.training.job import DeviceOptions, Job
from nnunet_seqtransfer.training.on_disk import StageOnDisk
from nnunet_seqtransfer.training.overlap_guard import exclusions_of
from nnunet_seqtransfer.training.recipe import Init, Recipe, StageBlock, read_block, with_block
from nnunet_seqtransfer.training.run_record import run_name
from nnunet_seqtransfer.training.stage_files import FINAL
from nnunet_seqtransfer.training.stages import TRAINER, ChainRequest, Exclusions, Stage, chain_stages, previous_stage
from nnunet_seqtransfer.training.train import look_ahead
from support.bad_inputs import Command, error_line
from support.states import actions_of, raise_problems, state_of
from support.world import FAR, NEAR, TARGET, Outcome, World

SMALL = ("-device", "cpu", "-epochs", "1", "-source_epochs", "1", "-iterations", "1", "-seed", "0", "-np", "1")
CASES = tuple(f"case{number}" for number in range(6))
pytestmark = pytest.mark.usefixtures("folders")  # paths of stages appear in messages; a world brings its own


def request(
    *sources: str, folds: tuple[str, ...] = ("0",), tag: str | None = None, overlap: Any = "exclude"
) -> ChainRequest:
    recipe = Recipe(epochs=1, iterations=1)
    return ChainRequest(TARGET, sources, "nnUNetPlans", "3d_fullres", folds, recipe, recipe, 0, tag, overlap)


def names(exclusions: Exclusions, *sources: str, folds: tuple[str, ...]) -> list[tuple[str, str, tuple[str, ...]]]:
    stages = chain_stages(request(*sources, folds=folds), exclusions)
    return [(stage.plans_name, stage.fold, stage.excluded) for stage in stages]


def test_only_folds_with_shared_cases_have_sources_of_their_own() -> None:
    """The first source is common to folds 1 and 2; from the first exclusion on, fold 0 has its own, and so has 2."""
    exclusions = {"0": {NEAR: ("b", "a")}, "2": {FAR: ("c",)}}
    assert names(exclusions, NEAR, FAR, folds=("0", "1", "2", "all")) == [
        ("nnUNetPlans_for901_without0", "all", ("a", "b")),
        ("nnUNetPlans_for901", "all", ()),
        ("nnUNetPlans_for901_via902_without0", "all", ()),
        ("nnUNetPlans_for901_via902", "all", ()),
        ("nnUNetPlans_for901_via902_without2", "all", ("c",)),
        ("nnUNetPlans_via902_903_disjoint", "0", ()),
        ("nnUNetPlans_via902_903_disjoint", "1", ()),
        ("nnUNetPlans_via902_903_disjoint", "2", ()),
        ("nnUNetPlans_via902_903", "all", ()),
    ]


def test_names_do_not_depend_on_which_folds_are_asked_for_together() -> None:
    """Folds trained one by one have the stages that they have together; a tag comes last."""
    exclusions = {"0": {NEAR: ("a",)}, "2": {FAR: ("c",)}}
    together = set(names(exclusions, NEAR, FAR, folds=("0", "1", "2", "all")))
    one_by_one = [names(exclusions, NEAR, FAR, folds=(fold,)) for fold in ("0", "1", "2", "all")]
    assert set(itertools.chain(*one_by_one)) == together
    tagged = chain_stages(request(NEAR, tag="long"), exclusions)
    assert [stage.plans_name for stage in tagged] == [
        "nnUNetPlans_for901_without0_long",
        "nnUNetPlans_via902_disjoint_long",
    ]


def test_without_exclusions_nothing_is_named_otherwise() -> None:
    """No shared cases: the stages are those of a chain that never looked for any."""
    plain = chain_stages(request(NEAR, FAR, folds=("0", "1")))
    assert chain_stages(request(NEAR, FAR, folds=("0", "1")), {}) == plain
    assert all(stage.without is None and stage.excluded == () and not stage.has_own_weights for stage in plain)


def test_each_stage_follows_the_one_trained_without_the_same_cases() -> None:
    """Down the path of every fold, no stage before has seen a case that the fold holds out."""
    exclusions = {"0": {NEAR: ("a",)}, "2": {FAR: ("c",)}}
    stages = chain_stages(request(NEAR, FAR, folds=("0", "1", "2", "all")), exclusions)
    for target in (stage for stage in stages if stage.role == "target"):
        path, stage = [], previous_stage(stages, target)
        while stage is not None:
            path.append(stage)
            stage = previous_stage(stages, stage)
        assert [stage.dataset for stage in path] == [FAR, NEAR]
        for stage in path:
            assert set(exclusions.get(target.fold, {}).get(stage.dataset, ())) == set(stage.excluded)


def test_each_disjoint_fold_has_starting_weights_of_its_own() -> None:
    """The folds lie in one of nnU-Net's folders, as ensembles want them, but start from different files."""
    stages = chain_stages(request(NEAR, folds=("0", "1")), {"0": {NEAR: ("a",)}})
    targets = [stage for stage in stages if stage.role == "target"]
    assert len({stage.base for stage in targets}) == 1 and len({stage.weights for stage in targets}) == 2


def test_the_block_keeps_the_weights_of_every_fold() -> None:
    """Blocks of two folds in one plans file: each reads its own back, and a third has none yet."""
    init = {fold: Init(fold, "1", "2", "3") for fold in ("0", "1")}
    plans: dict[str, Any] = {"plans_name": "x"}
    for fold in ("0", "1"):
        block = StageBlock(TARGET, (NEAR, TARGET), "target", Recipe(), init[fold], (), fold)
        plans = with_block(plans, "3d_fullres", block)
        assert read_block(plans, "3d_fullres", fold) == block
    assert [(read_block(plans, "3d_fullres", fold) or block).init for fold in ("0", 1, "2")] == [*init.values(), None]
    source = StageBlock(TARGET, (NEAR,), "source", Recipe(), None, ("a", "b"))
    assert read_block(with_block({}, "2d", source), "2d", "all") == source


def all_states(stage: Stage) -> list[StageOnDisk]:
    first = len(stage.path) == 1
    flags = itertools.product([False, True], [False, True], [False] if first else [False, True], [False, True])
    return [
        state_of(stage, final=final, unfinished=unfinished, weights=weights, validated=True, siblings=siblings)
        for final, unfinished, weights, siblings in flags
    ]


def test_whatever_is_on_disk_a_fold_never_starts_without_its_own_source() -> None:
    """For all combinations of files of two folds: who starts without weights has a finished or training source."""
    stages = chain_stages(request(NEAR, folds=("0", "1")), {"0": {NEAR: ("a",)}})
    looked_at = 0
    for combination in itertools.product(*(all_states(stage) for stage in stages)):
        states = dict(zip(stages, combination, strict=True))
        actions = actions_of(stages, states)
        for stage, action in actions.items():
            previous = previous_stage(stages, stage)
            if action is Action.START and previous is not None:
                trusted = states[stage].weights_sha256 and states[previous].final
                assert trusted or actions[previous] in (Action.NOTHING, Action.START, Action.RESUME)
            if stage.role == "source" and action in (Action.START, Action.RESUME):
                assert any(actions[other] is Action.START for other in stages if previous_stage(stages, other) == stage)
        looked_at += 1
    assert looked_at == 8 * 8 * 16 * 16


def test_a_source_trained_without_other_cases_is_refused() -> None:
    """When the splits have changed since, the stage is neither reused nor overwritten; the error names both."""
    (stage, _) = chain_stages(request(NEAR), {"0": {NEAR: ("a", "b")}})
    block = StageBlock(stage.target, stage.path, stage.role, stage.recipe, None, ("c",))
    with pytest.raises(StageError, match=r"without the case c, but 2 cases \(a \.\.\.\) would be excluded") as raised:
        raise_problems((stage,), {stage: state_of(stage, final=True, block=block)})
    assert str(stage.base) in str(raised.value)


def test_each_fold_excludes_what_shares_something_with_its_own_cases() -> None:
    """The union over folds is every shared case, each in the folds that hold its partners out."""
    shared = [SharedCase(*pair) for pair in (("S", "x", "a"), ("S", "y", "b"), ("S", "x", "c"), ("T", "z", "b"))]
    held_out = {"0": ("a",), "1": ("b",), "2": ("c", "d"), "3": ("e",)}
    assert exclusions_of(shared, held_out) == {"0": {"S": ("x",)}, "1": {"S": ("y",), "T": ("z",)}, "2": {"S": ("x",)}}


@pytest.fixture
def held_out(world: World) -> dict[str, tuple[str, ...]]:
    """Fold -> validation cases of the target; the first of folds 0 and 2 are planted in NEAR as case1 and case4."""
    folds = validation_cases(TARGET, CASES)
    for case, fold in (("case1", "0"), ("case4", "2")):
        plant(world, folds[fold][0], case)
    return folds


def plant(world: World, case: str, name: str) -> None:
    for part, ending in (("imagesTr", "_0000.nii.gz"), ("labelsTr", ".nii.gz")):
        shutil.copy(world.raw / TARGET / part / f"{case}{ending}", world.raw / NEAR / part / f"{name}{ending}")
    relabel(world.raw / NEAR / "labelsTr" / f"{name}.nii.gz")


def relabel(path: Path) -> None:
    """The source has one label only."""
    import SimpleITK as sitk

    sitk.WriteImage(sitk.Cast(sitk.ReadImage(str(path)) > 0, sitk.sitkUInt8), str(path))


def train(command: Command, *arguments: str) -> Outcome:
    return command("train", "901", "3d_fullres", *arguments, *SMALL)


def without_caches(world) -> set[str]:
    return {path for path in world.snapshot() if "sketches_" not in path and "check.json" not in path}


def test_shared_cases_are_refused_before_anything_is_written(world, command, held_out) -> None:
    """Exit status 2 and one line: the number of cases, the first of them, both switches. Only caches are kept."""
    before = world.snapshot()
    dry = train(command, "0", "-s", "902", "903", "--dry_run")
    assert without_caches(world) == set(before), "a dry run says the same"
    wet = train(command, "0", "-s", "902", "903")
    for outcome in (dry, wet):
        assert outcome.status == 2
        line = error_line(outcome)
        for words in (f"1 case of {NEAR}", f"case1 with {held_out['0'][0]}", "--exclude_overlap", "--allow_overlap"):
            assert words in line
    assert without_caches(world) == set(before)


def test_folds_that_hold_other_cases_out_are_trained_as_ever(world, command, held_out) -> None:
    """Fold 1 holds no planted case out; fold all holds nothing out, and it is said that nothing was looked for."""
    for fold in ("1", "all"):
        outcome = train(command, fold, "-s", "902", "--dry_run")
        assert outcome.status == 0, outcome.err
        assert "nnUNetPlans_for901.json" in outcome.out and "without" not in outcome.out
        assert ("fold all holds no case out" in outcome.err) == (fold == "all")


def test_shared_cases_can_be_allowed(world, command, held_out) -> None:
    """With --allow_overlap the line is printed, and the stages are the ordinary ones."""
    outcome = train(command, "0", "-s", "902", "--dry_run", "--allow_overlap")
    assert outcome.status == 0, outcome.err
    assert f"1 case of {NEAR} share" in outcome.err and "--allow_overlap" in outcome.err
    assert "nnUNetPlans_for901.json" in outcome.out and "nnUNetPlans_via902.json" in outcome.out


def test_shared_cases_can_be_left_out_and_a_dry_run_says_which(world, command, held_out) -> None:
    """With --exclude_overlap the source of fold 0 is a stage of its own, whose line names the case."""
    before = world.snapshot()
    outcome = train(command, "0", "1", "-s", "902", "--dry_run", "--exclude_overlap")
    assert outcome.status == 0, outcome.err
    for words in (
        f"stage 1 of 4: {NEAR} fold all without 1 of its cases starts",
        "without  case1: fold 0 of the target validates on them",
        "nnUNetPlans_for901_without0.json",
        "nnUNetPlans_for901.json",
        "nnUNetPlans_via902_disjoint.json",
    ):
        assert words in outcome.out
    assert without_caches(world) == set(before)


@pytest.mark.parametrize(
    ("path", "stages"), [(("903+902",), 1), (("902+901",), 1), (("902", "903", "-replay", "0.2"), 3)]
)
def test_cases_are_left_out_of_every_dataset_that_a_stage_trains_on(world, command, held_out, path, stages) -> None:
    """Joined, together with the target, or replayed: refused first, then left out in each stage that reads them."""
    refused = train(command, "0", "-s", *path, "--dry_run")
    assert refused.status == 2 and f"1 case of {NEAR}" in error_line(refused)
    outcome = train(command, "0", "-s", *path, "--dry_run", "--exclude_overlap")
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("without  case1: fold 0 of the target validates on them") == stages


def test_the_block_of_a_fold_names_the_cases_left_out_of_further_datasets(world, held_out) -> None:
    """Two folds share plans and starting names, but each has its own list."""
    chain = trained(NEAR, f"{TARGET}+{NEAR}", folds=("0", "1"))
    for stage in (stage for stage in chain.stages if stage.role == "target"):
        block = read_block(json.loads(stage.files.plans.read_text()), "3d_fullres", stage.fold)
        assert block is not None
        (mixed,) = block.mixed
        assert mixed.excluded == (("case1",) if stage.fold == "0" else ())
        assert ("without0" in str(mixed.heads)) == (stage.fold == "0")


def test_the_two_switches_exclude_each_other(world, command) -> None:
    """Allowing and leaving out at once is a wrong option."""
    outcome = train(command, "0", "-s", "902", "--allow_overlap", "--exclude_overlap")
    assert outcome.status == 2 and "not allowed with" in outcome.err


def test_a_source_of_which_nothing_would_be_left_is_refused(world, command, held_out) -> None:
    """Where every case of a source is shared with the fold, one line says so."""
    for case in CASES:
        plant(world, held_out["0"][0], case)
    outcome = train(command, "0", "-s", "902", "--dry_run", "--exclude_overlap")
    assert outcome.status == 2 and f"every case of {NEAR}" in error_line(outcome)


class Untrained:
    """Trainings that end at once, with a final checkpoint of zeros."""

    def __init__(self, chain: Outlook) -> None:
        self.waiting = [stage for stage in chain.stages if chain.actions[stage] is Action.START]
        self.chain = chain

    def __call__(self, job: Job) -> None:
        stage = self.waiting.pop(0)
        survey, value = self.chain.survey, float(len(self.waiting))
        described = survey.tasks[stage.dataset].dataset_json
        shapes = network_tensors(survey.plans[stage], stage.configuration, described)
        weights = {name: torch.full(tensor.shape, value) for name, tensor in shapes.items()}
        stage.output.mkdir(parents=True)
        torch.save({"network_weights": weights}, stage.output / FINAL)
        if stage.role == "target":
            (stage.output / "validation").mkdir()
            (stage.output / "validation" / "summary.json").write_text("{}")


def trained(*sources: str, folds: tuple[str, ...], overlap: Any = "exclude") -> Outlook:
    chain = look_ahead(request(*sources, folds=folds, overlap=overlap))
    run_chain(chain, DeviceOptions("cpu"), LocalExecutor(train=Untrained(chain), prefetch=0), Context())
    return chain


def trainer_of(stage: Stage) -> Any:
    fold = stage.fold if stage.fold == "all" else int(stage.fold)
    return nnunet_run.get_trainer_from_args(
        stage.dataset, stage.configuration, fold, TRAINER, stage.plans_name, device=torch.device("cpu")
    )


@pytest.mark.parametrize("overlap", ["exclude", "allow"])
@pytest.mark.parametrize("executor", [(), ("-executor", "slurm"), ("-devices", "0,1")])
def test_a_finished_chain_is_shown_without_gpu_and_slurm(world, held_out, command, monkeypatch, overlap, executor):
    """Where nothing is left to train nothing is asked of the machine, by either command; where something is, it is."""
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    chain = trained(NEAR, folds=("0",), overlap=overlap)
    recipe = ("-epochs", "1", "-source_epochs", "1", "-iterations", "1", "-warmup_epochs", "0", "-np", "1", *executor)
    asked = ("901", "3d_fullres", "-s", "902", f"--{overlap}_overlap", *recipe)
    for outcome in (
        command("train", *asked[:2], "0", *asked[2:]),
        command("train", *asked[:2], "0", *asked[2:], "--dry_run"),
        command("continue_run", run_name(chain.folder), "-device", "cuda", *executor),
    ):
        assert outcome.status == 0 and "finished" in outcome.err + outcome.out, outcome.err
    outcome = command("train", *asked[:2], "0", "1", *asked[2:])
    assert outcome.status == 2 and ("visible" in outcome.err or "Slurm" in outcome.err or "can be used" in outcome.err)


def test_excluded_cases_never_reach_the_data_loaders(world, held_out, monkeypatch) -> None:
    """nnU-Net's own trainer of each source gets every case but the excluded, in training and in validation."""
    monkeypatch.setenv("nnUNet_extTrainer", external_trainers())
    chain = trained(NEAR, FAR, folds=("0", "1"))
    sources = [stage for stage in chain.stages if stage.role == "source"]
    assert [stage.excluded for stage in sources] == [("case1",), (), (), ()]
    for stage in sources:
        for dataset in trainer_of(stage).get_tr_and_val_datasets():
            assert sorted(dataset.identifiers) == sorted(set(CASES) - set(stage.excluded))


def test_each_fold_starts_from_the_source_that_has_not_seen_its_cases(world, held_out, monkeypatch) -> None:
    """Checkpoints and weights on record are those of the fold's own source, and the trainer reads the fold's own."""
    monkeypatch.setenv("nnUNet_extTrainer", external_trainers())
    chain = trained(NEAR, folds=("0", "1"))
    for fold, plans in (("0", "nnUNetPlans_for901_without0"), ("1", "nnUNetPlans_for901")):
        stage = next(stage for stage in chain.stages if stage.role == "target" and stage.fold == fold)
        init = trainer_of(stage).seq_transfer.init
        assert init.checkpoint == f"{NEAR}/{TRAINER}__{plans}__3d_fullres/fold_all/checkpoint_final.pth"
        assert world.results / init.weights == stage.weights and stage.weights.is_file()
        assert sorted(trainer_of(stage).do_split()[1]) == sorted(held_out[fold]), "the target's own split is whole"


def test_a_second_run_does_what_is_left(world, held_out) -> None:
    """Folds trained one by one share what they can, what is finished stays, and a lost fold is trained again."""
    first = trained(NEAR, folds=("0", "1"))
    assert set(look_ahead(request(NEAR, folds=("0", "1"))).actions.values()) == {Action.NOTHING}
    before = world.snapshot()
    more = trained(NEAR, folds=("1", "2"))
    started = [stage.plans_name for stage, action in more.actions.items() if action is Action.START]
    assert started == ["nnUNetPlans_for901_without2", "nnUNetPlans_via902_disjoint"]
    after = world.snapshot()
    changed = {Path(path).name for path in before if after.get(path) != before[path]}
    assert changed == {"nnUNetPlans_via902_disjoint.json", "run.json"}
    assert set(look_ahead(request(NEAR, folds=("0", "1", "2"))).actions.values()) == {Action.NOTHING}
    (target,) = [stage for stage in first.stages if stage.role == "target" and stage.fold == "0"]
    shutil.rmtree(target.output)
    again = look_ahead(request(NEAR, folds=("0",)))
    assert list(again.actions.values()) == [Action.NOTHING, Action.START]


def test_a_source_trained_again_makes_new_weights_for_its_fold_alone(world, held_out) -> None:
    """Deleting fold 0's source and target trains both again, and fold 1 keeps what it started from."""
    chain = trained(NEAR, folds=("0", "1"))
    source, other = (stage for stage in chain.stages if stage.role == "source")
    target = next(stage for stage in chain.stages if stage.role == "target" and stage.fold == "0")
    shutil.rmtree(source.base)
    shutil.rmtree(target.output)
    actions = look_ahead(request(NEAR, folds=("0", "1"))).actions
    assert actions[source] is Action.START and actions[target] is Action.START
    assert list(actions.values()).count(Action.NOTHING) == 2 and actions[other] is Action.NOTHING


@pytest.mark.chain
def test_a_chain_that_leaves_shared_cases_out_trains_to_its_end(world, command, held_out) -> None:
    """A real training: the source's log says what was left out, the fold is validated, and another run does nothing."""
    outcome = train(command, "0", "-s", "902", "--exclude_overlap")
    assert outcome.status == 0, outcome.err
    source = world.results / NEAR / f"{TRAINER}__nnUNetPlans_for901_without0__3d_fullres" / "fold_all"
    log = "".join(path.read_text() for path in source.glob("training_log_*.txt"))
    assert "seq_transfer: 1 cases left out, 5 to train on" in log
    target = world.results / TARGET / f"{TRAINER}__nnUNetPlans_via902_disjoint__3d_fullres" / "fold_0"
    assert (target / "checkpoint_final.pth").is_file() and (target / "validation" / "summary.json").is_file()
    again = train(command, "0", "-s", "902", "--exclude_overlap")
    assert again.status == 0 and again.err.count("finished") == 2
    record = json.loads(next((world.results / TARGET / "seqtransfer").glob("*/run.json")).read_text())
    assert record["request"]["overlap"] == "exclude" and record["stages"][0]["excluded"] == ["case1"]
