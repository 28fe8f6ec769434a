"""Mixed stages: shares hold, heads stay apart, checkpoints are stock, and an interruption changes nothing."""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import multiprocessing, nn

from nnunet_seqtransfer.errors import CheckpointError, StageError
from nnunet_seqtransfer.nnunet.folders import external_trainers
from nnunet_seqtransfer.storage import sha256, write_json
from nnunet_seqtransfer.trainers import mixing
from nnunet_seqtransfer.trainers.mixing import MixedLoader, batch_order, placed
from nnunet_seqtransfer.training.recipe import MixedDataset, Recipe
from nnunet_seqtransfer.training.stages import TRAINER
from nnunet_seqtransfer.transfer.checkpoints import HEADS, load_checkpoint
from support import interrupted, mixed
from support.ranks import swap_heads_rank, train_mixed_rank
from support.u_nets import batch, loss_of, u_net
from support.world import (
    FLAT_SOURCE,
    FLAT_TARGET,
    NEAR,
    PYTHON,
    QUICK_FINGERPRINTS,
    SCRIPTS,
    TARGET,
    TWO_CHANNELS,
    World,
    run,
    shrink_network,
    write_dataset_json,
)

FULL = "3d_fullres"
BOTH = (MixedDataset(NEAR, "", 0.25), MixedDataset(TWO_CHANNELS, "", 0.25, (1,), until=0.5))


def shares(*given: float, until: float = 1.0) -> tuple[MixedDataset, ...]:
    return tuple(MixedDataset(f"Dataset{index:03d}_X", "p", share, until=until) for index, share in enumerate(given))


@pytest.mark.parametrize("given", [(0.25,), (0.5,), (0.1, 0.2), (1 / 3, 1 / 3), (0.07, 0.13, 0.41, 0.02), (0.99,)])
@pytest.mark.parametrize("iterations", [1, 7, 20, 250])
def test_every_dataset_has_its_share_at_all_times(given: tuple[float, ...], iterations: int) -> None:
    """After any number of batches, each dataset is within one batch of its share; epochs continue each other."""
    epochs = 1 + 400 // iterations
    order = [k for epoch in range(epochs) for k in batch_order(shares(*given), epoch, epochs, iterations)]
    assert len(order) == epochs * iterations
    times = np.arange(1, len(order) + 1)
    for index, share in enumerate((1 - sum(given), *given)):
        count = np.cumsum(np.equal(order, index))
        assert np.abs(count - share * times).max() < 1, index


def test_whole_shares_hold_in_every_epoch() -> None:
    """With 20 batches, a quarter is 5 in each epoch; the end of one dataset leaves the others their shares."""
    records = (*shares(0.25), *shares(0.5, until=0.5))
    counts = [Counter(batch_order(records, epoch, 9, 20)) for epoch in range(9)]
    assert counts[:4] == [{0: 5, 1: 5, 2: 10}] * 4 and counts[4:] == [{0: 15, 1: 5}] * 5
    assert batch_order(records, 3, 9, 20) == batch_order(records, 3, 9, 20)


def test_missing_channels_are_zero_and_others_in_place() -> None:
    """Each input reads the channel that it is matched with, also one for all; without a match the data stay."""
    data = torch.rand(2, 3, 4, 4)
    result = placed(data, (2, None, 2, 0))
    assert torch.equal(result, torch.stack([data[:, 2], torch.zeros(2, 4, 4), data[:, 2], data[:, 0]], 1))
    assert placed(data, None) is data and data.min() >= 0


def test_a_loader_ends_all_its_processes() -> None:
    """As nnU-Net's own loaders do; those that make batches in this process have none."""
    finished: list[int] = []

    class Loader:
        def __init__(self, index: int) -> None:
            self._finish = lambda: finished.append(index)

        def __next__(self) -> dict[str, Any]:
            return {"data": 0}

    loader = MixedLoader([Loader(0), None, Loader(2), iter([])])
    loader.order = iter([2, 0])
    assert [next(loader)["dataset"] for _ in range(2)] == [2, 0]
    loader._finish()
    assert finished == [0, 2]


def test_the_processes_that_nnunet_allows_are_shared(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not multiplied: by the shares, at least one for each dataset that is mixed in; 0 stays 0."""
    started: list[int] = []

    class Trainer:
        def get_dataloaders(self) -> tuple[str, str]:
            started.append(int(os.environ["nnUNet_n_proc_DA"]))
            return "training", "validation"

    monkeypatch.setattr(os, "cpu_count", lambda: 99)
    made = mixing.Mixing.__new__(mixing.Mixing)
    made.records = (*shares(0.25), *shares(0.5, until=0.5))
    made.branches = [SimpleNamespace(trainer=Trainer()) for _ in made.records]
    for allowed, active, counts in (
        ("12", [True, True], [3, 6, 3]),
        ("12", [True, False], [3, 9]),
        ("1", [True, True], [1, 1, 1]),
        ("0", [True, True], [0, 0, 0]),
    ):
        monkeypatch.setenv("nnUNet_n_proc_DA", allowed)
        started.clear()
        loader, validation = made.loader(Trainer().get_dataloaders, active)
        assert started == counts and validation == "validation" and os.environ["nnUNet_n_proc_DA"] == allowed
        assert loader.loaders == ["training", *("training" if on else None for on in active)]


def test_a_compiled_network_has_one_graph_for_each_number_of_outputs() -> None:
    """Swapped heads are seen by torch.compile: outputs are right, and nothing is compiled in each iteration."""
    graphs: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    torch._dynamo.reset()
    network: Any = u_net()
    own = network.decoder.seg_layers
    other = nn.ModuleList(nn.Conv2d(layer.in_channels, 5, 1) for layer in own)
    compiled = torch.compile(network, backend=backend)
    for _ in range(3):
        for heads in (own, other):
            network.decoder.seg_layers = heads
            for a, b in zip(compiled(batch(0)), network(batch(0)), strict=True):
                torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
            loss_of([each[:, :2] for each in compiled(batch(1))]).backward()
            assert all(parameter.grad is not None for parameter in heads[1:].parameters())
            network.zero_grad(set_to_none=True)
            other.zero_grad(set_to_none=True)
            own.zero_grad(set_to_none=True)
    assert len(graphs) == 2


def test_compiled_heads_in_turns_stay_together_in_processes_of_ddp(tmp_path: Path) -> None:
    """Gradients of all heads are averaged, heads without a batch do not move, and the network stays the stock one."""
    multiprocessing.start_processes(swap_heads_rank, args=(str(tmp_path),), nprocs=2, start_method="spawn")
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert all(torch.equal(value, second["weights"][name]) for name, value in first["weights"].items())
    assert first["moved"] == first["names"] == [] and first["graphs"] == 2


@pytest.fixture
def quick(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """nnU-Net finds the trainer, and draws no pictures."""
    from nnunetv2.training.logging.nnunet_logger import LocalLogger

    monkeypatch.setenv("nnUNet_extTrainer", external_trainers())
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)
    return world


@pytest.mark.chain
def test_processes_of_ddp_stay_together(quick: World, tmp_path: Path) -> None:
    """Two processes (gloo), a mixed stage with parts frozen at first: same weights of body and of all heads in both."""
    recipe = Recipe(epochs=3, iterations=4, seed=1, heads_first_epochs=1)
    mixed.write_stage(TARGET, FULL, recipe, *BOTH)
    multiprocessing.start_processes(train_mixed_rank, args=(str(tmp_path), TARGET, FULL), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pt") for rank in range(2))
    assert first["loaded"] != second["loaded"], "each process has batches of its own"
    assert first["orders"] == second["orders"] and sorted(first["orders"][0]) == [0, 0, 1, 2]
    for one, other in zip(first["states"], second["states"], strict=True):
        assert one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())
    before, after = first["states"][:2]
    parts = {name.split(".")[0] for name, value in before.items() if not torch.equal(value, after[name])}
    assert {f"{NEAR} 1", f"{TWO_CHANNELS} 1"} <= parts and "own module" in parts, "all heads learn"


@pytest.mark.chain
def test_batches_of_a_dataset_leave_the_heads_of_others_alone(quick: World) -> None:
    """Weights and momenta of other heads are bit-equal after a batch; the body and the batch's heads have moved."""
    mixed.write_stage(TARGET, FULL, Recipe(epochs=2, iterations=8, seed=1, layer_decay=0.9), *BOTH)
    made = mixed.trainer(TARGET, FULL)
    step, seen = made.train_step, Counter[int]()

    def watched(data: dict[str, Any]) -> Any:
        before, result, after = mixed.copies(made), step(data), mixed.copies(made)
        moved = {name for name, value in after.items() if name not in before or not torch.equal(value, before[name])}
        heads = {name.split()[0] for name in moved if not name.startswith("own ") or HEADS in name}
        assert heads == {("own", NEAR, TWO_CHANNELS)[data["dataset"]]}
        assert any(name.startswith("own encoder.") for name in moved)
        seen[data["dataset"]] += 1
        assert made.optimizer.param_groups[0]["lr"] == made.optimizer.param_groups[-1]["lr"], "the rate of heads"
        return result

    made.train_step = watched
    made.run_training()
    assert seen == {0: 10, 1: 4, 2: 2}, "the third is mixed in for half of the epochs"
    made.load_checkpoint(str(mixed.folder(made) / "checkpoint_best.pth"))  # as --val_best does


@pytest.mark.chain
def test_the_final_checkpoint_is_stock_and_the_others_hold_all_heads(quick: World) -> None:
    """nnUNetTrainer loads it as its own; the best checkpoint has one more entry."""
    mixed.write_stage(TARGET, FULL, Recipe(epochs=1, iterations=4, seed=1), *BOTH)
    made = mixed.trainer(TARGET, FULL)
    made.run_training()
    final, best = (load_checkpoint(mixed.folder(made) / f"checkpoint_{name}.pth") for name in ("final", "best"))
    assert set(best) - set(final) == {mixing.MIXED_HEADS} and final["trainer_name"] == "nnUNetTrainer"
    assert set(best[mixing.MIXED_HEADS]["heads"]) == {NEAR, TWO_CHANNELS}
    stock = mixed.trainer(TARGET, FULL, kind="nnUNetTrainer")
    stock.load_checkpoint(str(mixed.folder(made) / "checkpoint_final.pth"))
    weights = stock.network.state_dict()
    assert weights.keys() == final["network_weights"].keys()
    assert all(torch.equal(value, weights[name]) for name, value in final["network_weights"].items())
    assert all(torch.equal(value, weights[name]) for name, value in best["network_weights"].items())


@pytest.mark.chain
def test_heads_come_from_the_recorded_checkpoint_or_not_at_all(quick: World) -> None:
    """A replayed dataset continues with the heads of its own stage; another file is refused."""
    mixed.write_stage(TARGET, FULL, Recipe(epochs=1, iterations=2, seed=1), BOTH[0], name="nnUNetPlans_a")
    donor = mixed.trainer(TARGET, FULL, name="nnUNetPlans_a")
    donor.run_training()
    path = mixed.folder(donor) / "checkpoint_final.pth"
    relative = str(path.relative_to(quick.results))
    recorded = MixedDataset(TARGET, "", 0.5, heads=relative, heads_sha256=sha256(path))
    mixed.write_stage(TARGET, FULL, Recipe(epochs=1, iterations=2, seed=2), recorded)
    made = mixed.trainer(TARGET, FULL)
    made.on_train_start()
    expected = donor.network.decoder.seg_layers.state_dict()
    assert all(torch.equal(v, expected[name]) for name, v in made.mixing.branches[0].heads.state_dict().items())
    mixed.write_stage(TARGET, FULL, Recipe(epochs=1), replace(recorded, heads_sha256="0"))
    with pytest.raises(CheckpointError, match="are missing, or not the ones recorded"):
        mixed.trainer(TARGET, FULL).on_train_start()


@pytest.mark.chain
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"share": 1.0}, "each must be above 0 and their sum below 1"),
        ({"share": 0.0}, "each must be above 0 and their sum below 1"),
        ({"channels": (1,)}, "do not fit the network"),
        ({"channels": (0, 0)}, "do not fit the network"),
    ],
)
def test_records_that_do_not_fit_are_one_line(quick: World, change: dict[str, Any], words: str) -> None:
    """Before the first batch is made."""
    mixed.write_stage(TARGET, FULL, Recipe(epochs=1), replace(BOTH[0], **change))
    with pytest.raises(StageError, match=words):
        mixed.trainer(TARGET, FULL).on_train_start()


@pytest.mark.chain
@pytest.mark.parametrize("datasets", [(), BOTH], ids=["plain", "mixed"])
def test_a_killed_training_resumes_as_if_nothing_had_happened(quick: World, datasets: tuple[MixedDataset, ...]) -> None:
    """SIGKILL in the third of four epochs: the same losses and weights, bit by bit, as without it."""
    recipe = Recipe(epochs=4, iterations=12, seed=3)
    mixed.write_stage(TARGET, FULL, recipe, *datasets, name=interrupted.PLANS)
    folder, options = interrupted.output_folder(quick), {"nnUNet_seq_checkpoint_minutes": "1e-9"}
    finished = []
    for kill in (False, True):
        child = interrupted.start(quick, **options)
        if kill:
            interrupted.wait_for(child, lambda: "Epoch 2" in interrupted.log_text(folder))
            os.killpg(child.pid, signal.SIGKILL)
            child.communicate()
            assert not (folder / "checkpoint_final.pth").exists()
            child = interrupted.start(quick, "--c", **options)
        text = child.communicate()[0]
        assert child.returncode == 0, text
        finished.append(load_checkpoint(folder / "checkpoint_final.pth"))
        folder.rename(folder.with_name(f"fold_0_{kill}"))
    undisturbed, killed = finished
    for key in ("train_losses", "val_losses", "ema_fg_dice"):
        assert undisturbed["logging"][key] == killed["logging"][key] and len(killed["logging"][key]) == 4
    for name, value in undisturbed["network_weights"].items():
        assert torch.equal(value, killed["network_weights"][name]), name


@pytest.mark.chain
def test_processes_that_make_batches_end_with_their_dataset_and_with_the_training(quick: World) -> None:
    """A real training with worker processes and a dataset that leaves halfway: it ends, and no process is left."""
    mixed.write_stage(TARGET, FULL, Recipe(epochs=2, iterations=4, seed=1), BOTH[1], name=interrupted.PLANS)
    child = interrupted.start(quick, workers=2)
    text = child.communicate()[0]
    assert child.returncode == 0, text
    assert "Training done" in text and "no longer alive" not in text
    assert interrupted.group_is_gone(child.pid)


@pytest.mark.chain
@pytest.mark.parametrize("supervised", [True, False])
def test_planar_images_with_another_number_of_channels(
    quick: World, monkeypatch: pytest.MonkeyPatch, supervised: bool
) -> None:
    """RGB trains with grey images in all three inputs, with and without deep supervision, and ends on RGB alone."""
    grey = MixedDataset(FLAT_SOURCE, "", 0.5, (0, 0, 0), until=0.5)
    mixed.write_stage(FLAT_TARGET, "2d", Recipe(epochs=2, iterations=4, seed=1), grey)
    made = mixed.trainer(FLAT_TARGET, "2d")
    made.enable_deep_supervision = supervised
    inputs: list[tuple[int, bool]] = []
    made.initialize()
    network = made.network.forward

    def watched(data: torch.Tensor) -> Any:
        inputs.append((made.current_epoch, bool(torch.equal(data[:, 0], data[:, 2]))))
        return network(data)

    made.network.forward = watched
    made.run_training()
    assert np.isfinite(mixed.losses(made)).all()
    assert Counter(inputs)[0, True] >= 2 and (mixed.folder(made) / "checkpoint_final.pth").is_file()
    assert made.dataloader_train.loaders[1] is None


LESIONS, STRUCTURES, PARTS = "Dataset931_Lesions", "Dataset932_Structures", (21, 22, 23, 24)


def real_datasets(world: World, data: Path) -> None:
    """Register lesions in three channels, and four structures in one channel as regions with ignored slices."""
    for name in (LESIONS, STRUCTURES):
        for part in ("imagesTr", "labelsTr"):
            (world.raw / name / part).mkdir(parents=True)
    lesions = data / "Dataset052_MSLesionMNI"
    for label in sorted((lesions / "labelsTr").iterdir()):
        segmentation = sitk.ReadImage(label)
        shape = sitk.LabelShapeStatisticsImageFilter()
        shape.Execute(segmentation)
        corner = [
            int(min(max(0, c - 20), n - 40))
            for c, n in zip(
                segmentation.TransformPhysicalPointToIndex(shape.GetCentroid(1)), segmentation.GetSize(), strict=True
            )
        ]
        crop = tuple(slice(start, start + 40) for start in corner)
        sitk.WriteImage(segmentation[crop], world.raw / LESIONS / "labelsTr" / label.name)
        for index, channel in enumerate((0, 1, 3)):
            image = sitk.ReadImage(lesions / "imagesTr" / label.name.replace(".nii", f"_{channel:04d}.nii"))
            sitk.WriteImage(
                image[crop], world.raw / LESIONS / "imagesTr" / label.name.replace(".nii", f"_{index:04d}.nii")
            )
    parts = [next(data.glob(f"Dataset{number:03d}_*")) for number in PARTS]
    for label in sorted((parts[0] / "labelsTr").iterdir())[:4]:
        images = [sitk.ReadImage(part / "labelsTr" / label.name) for part in parts]
        merged = np.zeros_like(sitk.GetArrayFromImage(images[0]))
        for value, image in enumerate(images, 1):
            merged[sitk.GetArrayFromImage(image) > 0] = value
        merged[:3] = 5
        result = sitk.GetImageFromArray(merged)
        result.CopyInformation(images[0])
        sitk.WriteImage(result, world.raw / STRUCTURES / "labelsTr" / label.name)
        image = label.name.replace(".nii", "_0000.nii")
        shutil.copy(parts[0] / "imagesTr" / image, world.raw / STRUCTURES / "imagesTr" / image)
    write_dataset_json(world.raw / LESIONS, ("FLAIR", "T1", "T2"), ("lesion",), 3, ".nii.gz")
    labels = {"background": 0, "all": [1, 2, 3, 4], "thalamus": 2, "caudate": 3, "ventricle": 4, "ignore": 5}
    content = {"channel_names": {"0": "T1"}, "labels": labels, "numTraining": 4, "file_ending": ".nii.gz"}
    write_json(world.raw / STRUCTURES / "dataset.json", content | {"regions_class_order": [1, 2, 3, 4]})


@pytest.mark.chain
def test_real_datasets_with_other_channels_labels_and_regions(quick: World, shared_data: Path) -> None:
    """Three channels with one label, mixed with one channel and four regions; stock nnU-Net predicts the result."""
    real_datasets(quick, shared_data)
    environment = {**os.environ, **quick.environment}
    run([PYTHON, "-c", QUICK_FINGERPRINTS, LESIONS, STRUCTURES], environment)
    environment.pop("nnUNet_n_proc_DA")  # with 0 nnU-Net trains, but does not plan
    run([str(SCRIPTS / "nnUNetv2_plan_and_preprocess"), "-d", "931", "-c", FULL, "-np", "1"], environment)
    shrink_network(quick.preprocessed / LESIONS / "nnUNetPlans.json")
    mixed.write_stage(LESIONS, FULL, Recipe(2, 6, seed=1), MixedDataset(STRUCTURES, "", 0.5, (None, 0, None)))
    made = mixed.trainer(LESIONS, FULL)
    step, seen = made.train_step, []

    def watched(data: dict[str, Any]) -> Any:
        if data["dataset"] == 1:
            outputs = len(made.mixing.branches[0].heads[-1].bias)
            seen.append((tuple(data["data"].shape[:2]), data["target"][0].shape[1], outputs))
        result = step(data)
        assert np.isfinite(result["loss"])
        return result

    made.train_step = watched
    made.run_training()
    assert seen == [((2, 1), 5, 4)] * 6, "four regions, and the ignored voxels in the reference"
    assert len(made.network.decoder.seg_layers[-1].bias) == 2
    images, out = quick.root / "in", quick.root / "out"
    images.mkdir()
    for path in (quick.raw / LESIONS / "imagesTr").glob("patient07_*"):
        shutil.copy(path, images)
    environment.pop("nnUNet_extTrainer")
    arguments = ["-d", "931", "-i", str(images), "-o", str(out), "-tr", TRAINER, "-p", mixed.PLANS, "-c", FULL]
    settings = ["-f", "all", "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1"]
    run([str(SCRIPTS / "nnUNetv2_predict"), *arguments, *settings], environment)
    assert sitk.ReadImage(out / "patient07.nii.gz").GetSize() == (40, 40, 40)
