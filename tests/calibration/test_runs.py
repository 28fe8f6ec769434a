"""Finished runs as measurements: tables that users write, and chains in the results folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from nnunet_seqtransfer.calibration.calibrate import join
from nnunet_seqtransfer.calibration.runs import read_measurements, read_trained, split_path
from nnunet_seqtransfer.nnunet.folders import output_base
from nnunet_seqtransfer.training.recipe import Recipe, StageBlock, with_block
from nnunet_seqtransfer.training.stages import is_target_of
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel
from support.archives import CONFIGURATION, PLANS, write_checkpoint
from support.calibration_cases import SOURCES, TARGET, measured_world, target_affinity
from support.world import World


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A world with the affinity of one target."""
    return measured_world(tmp_path, monkeypatch)


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("23 -> 21", ("23", "21")),
        ("23->21->4", ("23", "21", "4")),
        ("Dataset023_X Dataset021_Y", ("Dataset023_X", "Dataset021_Y")),
        ("23 \N{RIGHTWARDS ARROW} 21", ("23", "21")),
        ("23, 21", ("23", "21")),
        ("21", ("21",)),
        ("", ()),
        (" Scratch ", ()),
        ("none", ()),
    ],
)
def test_paths_in_words(text: str, path: tuple[str, ...]) -> None:
    """Arrows, commas and blanks separate the tasks of a path; scratch has none."""
    assert split_path(text) == path


def test_names_and_numbers_are_the_same(tmp_path: Path) -> None:
    """A path by numbers, by names, or ending with its target is one path; columns may come in any order and case."""
    rows = [
        "0.5,900,100 -> 103,x",
        '0.6,Dataset900_Target,"Dataset100_Source, Dataset103_Source",',
        "0.7,900,100 103 900,",
    ]
    table = tmp_path / "m.csv"
    text = "\ufeffDice,target,Path,remark\r\n" + "\r\n".join([*rows, "", "0.4,0900,,"])
    table.write_text(text, encoding="utf-8")
    (joined,) = join(read_measurements(table), {TARGET: target_affinity()}, pytest.fail)
    assert joined.sources == (SOURCES[0], SOURCES[3])
    assert (joined.scratch, joined.dice) == (pytest.approx(0.4), pytest.approx(0.6))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("P_scratch", True),
        ("P_scratch_seed0", True),
        ("P_via21_24_tag", True),
        ("P_init0123abcd", True),
        ("P_40G_scratch", False),
        ("P_viaduct", False),
        ("P", False),
    ],
)
def test_plans_with_a_longer_name_are_other_plans(name: str, expected: bool) -> None:
    """nnUNetResEncUNetPlans_40G are not nnUNetResEncUNetPlans: their networks differ."""
    assert is_target_of(name, "P") is expected


@pytest.mark.usefixtures("world")
def test_finished_chains_are_averaged_over_folds() -> None:
    """One run for each chain, with the iterations on its target."""
    make_chain((), {"0": 0.49, "2": 0.51})
    make_chain((SOURCES[0],), {"0": 0.69, "2": 0.71})
    runs = {run.sources: run for run in read_trained(PLANS, CONFIGURATION, pytest.fail)}
    assert {path: run.dice for path, run in runs.items()} == {(): pytest.approx(0.5), (SOURCES[0],): pytest.approx(0.7)}
    assert all(run.iterations == 62_500 for run in runs.values())


@pytest.mark.usefixtures("world")
def test_chains_that_cannot_be_compared_are_left_out() -> None:
    """Another recipe or fine-tuning, a missing fold, and fold all are left out."""
    make_chain((), {"0": 0.5, "all": 0.999})
    for source in SOURCES[:4]:
        make_chain((source,), {"0": 0.6, "all": 0.999})
    make_chain((SOURCES[0],), {"0": 0.01}, tag="longer", recipe=Recipe(epochs=1000))
    make_chain((SOURCES[0],), {"0": 0.01}, tag="decay", recipe=Recipe(layer_decay=0.5))
    make_chain((SOURCES[1],), {"3": 0.02}, tag="fold3")
    unfinished = make_chain((SOURCES[3],), {"0": 0.04}, tag="unfinished")
    (unfinished / "fold_0" / "checkpoint_final.pth").unlink()
    lines: list[str] = []
    runs = read_trained(PLANS, CONFIGURATION, lines.append)
    assert {run.sources: run.dice for run in runs} == {(): 0.5, **{(source,): 0.6 for source in SOURCES[:4]}}
    assert len(lines) == 3 and all(line.startswith("left out: ") for line in lines), lines
    for words in ("another recipe (1000 x 250", "fine-tuned in another way", "has not finished fold 0"):
        assert any(words in line for line in lines), words


@pytest.mark.usefixtures("world")
def test_chains_from_models_are_paths_if_their_dataset_is_known() -> None:
    """A given model that names its dataset stands for a source; chains from other models do not count."""
    make_chain((), {"0": 0.5})
    make_chain((), {"0": 0.7}, tag="initaaaaaaaa", pretrained="a" * 64)
    make_chain((), {"0": 0.9}, tag="initbbbbbbbb", pretrained="b" * 64)
    model = PretrainedModel(Path("m.pth"), None, "a" * 64, SOURCES[0])
    runs = read_trained(PLANS, CONFIGURATION, pytest.fail, [model])
    assert {run.sources: run.dice for run in runs} == {(): 0.5, (SOURCES[0],): 0.7}
    assert {run.sources: run.dice for run in read_trained(PLANS, CONFIGURATION, pytest.fail)} == {(): 0.5}


def make_chain(
    sources: tuple[str, ...], folds: dict[str, float], tag: str = "", recipe: Recipe | None = None,
    pretrained: str | None = None,
) -> Path:  # fmt: skip
    """The folder of a finished chain as nnU-Net leaves it, for all that calibration reads."""
    via = "_via" + "_".join(name[7:10] for name in sources) if sources else "_scratch"
    base = output_base(TARGET, "nnUNetTrainerSeqTransfer", f"{PLANS}{via}{f'_{tag}' if tag else ''}", CONFIGURATION)
    block = StageBlock(TARGET, (*sources, TARGET), "target", recipe or Recipe(), None, pretrained=pretrained)
    base.mkdir(parents=True)
    (base / "plans.json").write_text(
        json.dumps(with_block({"plans_name": base.name.split("__")[1]}, CONFIGURATION, block))
    )
    for fold, dice in folds.items():
        (base / f"fold_{fold}" / "validation").mkdir(parents=True)
        write_checkpoint(base / f"fold_{fold}" / "checkpoint_final.pth")
        summary = {"foreground_mean": {"Dice": dice}}
        (base / f"fold_{fold}" / "validation" / "summary.json").write_text(json.dumps(summary))
    return base
