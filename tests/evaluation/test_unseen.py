"""No case that any stage was trained on enters the evaluation: the rule, and the look at real datasets."""

from __future__ import annotations

import json
import shutil

import pytest

from nnunet_seqtransfer.errors import DatasetError, StageError
from nnunet_seqtransfer.evaluation.guard import check_unseen
from nnunet_seqtransfer.evaluation.held_out import load_held_out
from nnunet_seqtransfer.evaluation.unseen import Evaluated, Trained, require_unseen, seen_cases, trained_cases
from nnunet_seqtransfer.nnunet.datasets import split_cases
from nnunet_seqtransfer.overlap.matching import SharedCase
from nnunet_seqtransfer.tasks.derive import DeriveRequest, derive_task
from nnunet_seqtransfer.training.chain import Chain, load_chain
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.training.stages import ChainRequest
from support.world import FAR, NEAR, TARGET, World

EVALUATED = Evaluated("Dataset004_T", frozenset({"a", "b"}))


@pytest.mark.parametrize(
    ("trained", "shared", "expected"),
    [
        (Trained("t", "Dataset004_T", frozenset({"c", "d"})), (), []),
        (Trained("t", "Dataset004_T", frozenset({"b", "c"})), (), [("b", "b", "the same case")]),
        (Trained("s", "Dataset021_S", frozenset({"a", "b"})), (), []),
        (
            Trained("s", "Dataset021_S", frozenset({"x"})),
            (SharedCase("Dataset021_S", "x", "a", "same image", 1.0),),
            [("a", "x", "same image")],
        ),
        (
            Trained("s", "Dataset021_S", frozenset({"y"})),
            (SharedCase("Dataset021_S", "x", "a", "same image", 1.0),),
            [],
        ),
        (
            Trained("s", "Dataset021_S", frozenset({"x"})),
            (SharedCase("Dataset022_R", "x", "a", "same image", 1.0), SharedCase("Dataset021_S", "x", "z", "", 1.0)),
            [],
        ),
        (
            Trained("t", "Dataset004_T", frozenset({"c"})),
            (SharedCase("Dataset004_T", "c", "a", "labels equal", 0.0),),
            [("a", "c", "labels equal")],
        ),
    ],
    ids=["apart", "same case", "same name elsewhere", "shared", "left out", "other pairs", "twice in the target"],
)
def test_what_counts_as_seen(trained, shared, expected):
    """A case of the evaluated dataset itself, or one anywhere that shares image or labels with an evaluated one."""
    found = seen_cases(EVALUATED, [trained], shared)
    assert [(one.case, one.trained_case, one.evidence) for one in found] == expected
    assert all(one.stage == trained.stage for one in found)
    if expected:
        with pytest.raises(StageError, match=f"{expected[0][0]}, which is .* of {trained.stage}.*; do this"):
            require_unseen(EVALUATED, [trained], shared, "do this")
    else:
        require_unseen(EVALUATED, [trained], shared, "do this")


def chain_of(*sources: str, folds: tuple[str, ...] = ("0",), overlap: str = "refuse") -> Chain:
    recipe = Recipe(1, 2)
    request = ChainRequest(
        TARGET, sources, "nnUNetPlans", "3d_fullres", folds, recipe, recipe, 0, overlap=overlap
    )  # fmt: skip
    return load_chain(request, 1, print)


def guard(chain: Chain, test: str | None = None) -> None:
    splits = split_cases(TARGET, chain.tasks[TARGET].cases)
    held_out = None if test is None else load_held_out(test, chain.tasks[TARGET])
    check_unseen([chain], splits, held_out, 1, print, write=True)


def share(world: World, source: str, own: str, case: str) -> None:
    """A source gets the image of a case of the target under a name of its own, with a label of its own."""
    shutil.copy(world.raw / TARGET / f"imagesTr/{case}_0000.nii.gz", world.raw / source / f"imagesTr/{own}_0000.nii.gz")


def test_the_cases_of_every_stage_are_known(world):
    """Sources with all their cases but excluded ones, the target's fold with those it trains on."""
    chain = chain_of(NEAR, FAR, folds=("0", "1"))
    splits = split_cases(TARGET, chain.tasks[TARGET].cases)
    for fold in ("0", "1"):
        last = next(stage for stage in chain.stages if stage.fold == fold)
        found = trained_cases(chain, last, splits)
        assert [one.dataset for one in found] == [TARGET, FAR, NEAR]
        assert found[0].cases == set(splits[fold]["train"]) and len(found[1].cases) == len(found[2].cases) == 6
        assert not found[0].cases & set(splits[fold]["val"])


def test_a_source_with_a_case_that_a_fold_holds_out_is_refused(world):
    """Also where the chain itself was told to allow it: a comparison has no such switch."""
    held_out = split_cases(TARGET, [f"case{number}" for number in range(6)])["0"]["val"][0]
    share(world, NEAR, "case3", held_out)
    chain = chain_of(NEAR, overlap="allow")
    with pytest.raises(StageError, match=rf"such as {held_out}, which is case3 of {NEAR}/.*same image"):
        guard(chain)
    guard(chain_of(NEAR, overlap="exclude"))


def test_splits_that_overlap_are_refused(world):
    """splits_final.json can put a case on both sides; then it is not evaluated."""
    cases = [f"case{number}" for number in range(6)]
    (world.preprocessed / TARGET / "splits_final.json").write_text(json.dumps([{"train": cases[:4], "val": cases[3:]}]))
    with pytest.raises(StageError, match=r"trained on 1 of the cases .* such as case3, which is case3"):
        guard(chain_of())


def test_a_patient_that_is_in_the_target_twice_is_refused(world):
    """The same image under two names, one on each side of the fold."""
    split = split_cases(TARGET, [f"case{number}" for number in range(6)])["0"]
    share(world, TARGET, split["train"][0], split["val"][0])
    with pytest.raises(StageError, match=f"such as {split['val'][0]}, which is {split['train'][0]} of {TARGET}"):
        guard(chain_of())


def test_fold_all_has_nothing_to_evaluate_but_a_test_set(world):
    """Its validation is on the training cases; with a test set it is welcome."""
    with pytest.raises(StageError, match="fold all holds no case out"):
        guard(chain_of(folds=("all",)))
    make_test_images(world, "new", case="case0", noise=True)
    guard(chain_of(NEAR, folds=("all",)), TARGET)


def test_a_test_case_that_the_target_was_trained_on_is_refused(world):
    """imagesTs with a copy of a training image; a derived dataset that references a training file."""
    make_test_images(world, "new", case="case2", noise=False)
    with pytest.raises(StageError, match=rf"such as new, which is case2 of {TARGET}/.*same image.*leave that dataset"):
        guard(chain_of(folds=("all",)), TARGET)
    derive_task(DeriveRequest(TARGET, 950, "Test", cases=("case4",)), print)
    with pytest.raises(StageError, match=r"such as case4, which is case4 .*same file"):
        guard(chain_of(folds=("all",)), "Dataset950_Test")


def test_a_test_set_has_to_fit_the_target(world):
    """Other labels or channels cannot be evaluated; where imagesTs is missing the error says so."""
    chain = chain_of()
    with pytest.raises(DatasetError, match="has other channels and labels than"):
        load_held_out(NEAR, chain.tasks[TARGET])
    with pytest.raises(DatasetError, match="has no labelled test cases: there are none in"):
        load_held_out(TARGET, chain.tasks[TARGET])


def make_test_images(world: World, name: str = "new", case: str = "case0", noise: bool = True) -> None:
    """Makes imagesTs and labelsTs of the target from a training case, its image changed beyond recognition or not."""
    import numpy as np
    import SimpleITK as sitk

    folder = world.raw / TARGET
    for part in ("imagesTs", "labelsTs"):
        (folder / part).mkdir(exist_ok=True)
    image = sitk.ReadImage(str(folder / f"imagesTr/{case}_0000.nii.gz"))
    label = sitk.ReadImage(str(folder / f"labelsTr/{case}.nii.gz"))
    if noise:
        rng = np.random.default_rng(5)
        shape = sitk.GetArrayFromImage(image).shape
        image = sitk.GetImageFromArray(rng.normal(100, 20, shape).astype(np.float32))
        label = sitk.GetImageFromArray(
            (rng.uniform(size=shape) > 0.8).astype(np.uint8) * rng.integers(1, 3, shape, np.uint8)
        )
    sitk.WriteImage(image, str(folder / f"imagesTs/{name}_0000.nii.gz"))
    sitk.WriteImage(label, str(folder / f"labelsTs/{name}.nii.gz"))
