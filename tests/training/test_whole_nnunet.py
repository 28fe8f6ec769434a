"""Real chains through what nnU-Net has beside 3d_fullres, and nnU-Net's own commands on what they leave behind."""

from __future__ import annotations

import importlib.metadata
import json
import sys
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch._dynamo import OptimizedModule

from nnunet_seqtransfer.nnunet.network import fresh_network
from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.storage import read_json, write_json
from nnunet_seqtransfer.training.executors import LocalExecutor
from nnunet_seqtransfer.training.job import Job
from nnunet_seqtransfer.training.recipe import Init, Recipe, StageBlock, with_block
from nnunet_seqtransfer.transfer.checkpoints import HEADS, load_checkpoint, write_weights
from support.world import NEAR, PYTHON, QUICK_FINGERPRINTS, SCRIPTS, TARGET, World, python_environment, run

TRAINER = "nnUNetTrainerSeqTransfer"
SMALL = ("-device", "cpu", "-epochs", "1", "-source_epochs", "1", "-iterations", "2", "-seed", "0", "-np", "1")
REGIONS, IGNORING, RESIDUAL = "Dataset921_Regions", "Dataset922_Ignoring", "nnUNetResEncUNetMPlans"
Host = Callable[..., None]


@pytest.fixture
def nnunet(world: World, monkeypatch: pytest.MonkeyPatch) -> Host:
    """Calls a command of nnU-Net's in this process, which cannot find our trainer."""
    monkeypatch.delenv("nnUNet_extTrainer", raising=False)

    def call(name: str, *arguments: str | Path) -> None:
        (script,) = importlib.metadata.entry_points(group="console_scripts", name=name)
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        script.load()()

    return call


def base(world: World, dataset: str, plans: str, configuration: str) -> Path:
    return world.results / dataset / f"{TRAINER}__{plans}__{configuration}"


def make_large_dataset(raw: Path, name: str, labels: dict[str, int | list[int]], cases: int) -> None:
    """Registers volumes with a core in a shell (labels 2 and 1), whose first slices nobody has looked at (3)."""
    rng, shape = np.random.default_rng(int(name[7:10])), (40, 40, 40)
    grid = np.stack(np.meshgrid(*[np.arange(size) for size in shape], indexing="ij"), axis=-1)
    for folder in ("imagesTr", "labelsTr"):
        (raw / name / folder).mkdir(parents=True)
    for case in range(cases):
        distance = (((grid - 20 - rng.normal(0, 2, 3)) / rng.uniform(9, 12, 3)) ** 2).sum(axis=-1)
        segmentation = (distance < 1).astype(np.uint8) + (distance < 0.4)
        image = (rng.normal(100, 10, shape) + 60 * segmentation).astype(np.float32)
        segmentation[:4] = 3
        sitk.WriteImage(sitk.GetImageFromArray(image), raw / name / f"imagesTr/case{case}_0000.nii.gz")
        sitk.WriteImage(sitk.GetImageFromArray(segmentation), raw / name / f"labelsTr/case{case}.nii.gz")
    content = {"channel_names": {"0": "MRI"}, "labels": labels, "numTraining": cases, "file_ending": ".nii.gz"}
    write_json(raw / name / "dataset.json", content | {"regions_class_order": [1, 2]})


@pytest.fixture
def residual_world(world: World) -> World:
    """The world with regions and ignored voxels, planned with residual encoders, for images that want a cascade."""
    ignore = {"background": 0, "ignore": 3}
    make_large_dataset(world.raw, REGIONS, {**ignore, "whole": [1, 2], "core": 2}, 4)
    make_large_dataset(world.raw, IGNORING, {**ignore, "shell": 1, "core": 2}, 2)
    environment = python_environment(world)
    environment.pop("nnUNet_n_proc_DA")  # with 0 nnU-Net trains, but does not plan
    run([PYTHON, "-c", QUICK_FINGERPRINTS, REGIONS, IGNORING], environment)
    planning = ["-d", "921", "-pl", "nnUNetPlannerResEncM", "-gpu_memory_target", "0.02", "-c", "3d_lowres"]
    run([str(SCRIPTS / "nnUNetv2_plan_and_preprocess"), *planning, "-np", "1"], environment)
    path = plans_path(REGIONS, RESIDUAL)
    plans = read_json(path, "the plans", "")
    settings = plans["configurations"]["3d_lowres"]
    assert settings["next_stage"] == "3d_cascade_fullres" and settings["architecture"]["network_class_name"].endswith(
        "ResidualEncoderUNet"
    )
    architecture = settings["architecture"]["arch_kwargs"]
    stages = architecture["n_stages"]
    architecture |= {"features_per_stage": [4 * 2**i for i in range(stages)], "n_blocks_per_stage": [1] * stages}
    settings |= {"batch_size": 2, "patch_size": [32, 32, 32]}
    write_json(path, plans)
    split = {"train": ["case0", "case1"], "val": ["case2", "case3"]}
    swapped = {"train": split["val"], "val": split["train"]}
    (path.parent / "splits_final.json").write_text(json.dumps([split, swapped]))
    return world


@pytest.mark.chain
def test_regions_an_ignore_label_and_residual_encoders_in_3d_lowres(residual_world, command, nnunet):
    """From distances to find_best_configuration, below a cascade, which itself is refused in one line."""
    world, chosen = residual_world, ("-p", RESIDUAL)
    for name, sources in (("affinity", ("-s", "922")), ("plan", ())):
        outcome = command(name, "-t", "921", "-c", "3d_lowres", *sources, *chosen, "-np", "1")
        assert outcome.status == 0, outcome.err
    refused = command("train", "921", "3d_cascade_fullres", "0", "-s", "922", *chosen, *SMALL)
    assert refused.status == 2 and refused.err.count("\n") == 1 and "cascade" in refused.err
    outcome = command("train", "921", "3d_lowres", "0", "1", "-s", "922", "--npz", *chosen, *SMALL)
    assert outcome.status == 0, outcome.err
    source = base(world, IGNORING, f"{RESIDUAL}_for921", "3d_lowres") / "fold_all" / "checkpoint_final.pth"
    target = base(world, REGIONS, f"{RESIDUAL}_via922", "3d_lowres")
    for path, heads in ((source, 3), (target / "fold_0" / source.name, 2)):
        weights = load_checkpoint(path)["network_weights"]
        assert {len(tensor) for name, tensor in weights.items() if HEADS in name} == {heads}
    for fold in ("fold_0", "fold_1"):
        summary = json.loads((target / fold / "validation" / "summary.json").read_text())
        assert set(summary["mean"]) == {"(1, 2)", "2"} and summary["metric_per_case"][0]["metrics"]["2"]["n_ref"] > 0
        assert len(list((target / fold / "validation").glob("*.npz"))) == 2
    assert not (target / "predicted_next_stage").exists()
    models = ("-c", "3d_lowres", "-p", f"{RESIDUAL}_via922", "-tr", TRAINER, "-f", "0", "1", "-np", "1")
    nnunet("nnUNetv2_find_best_configuration", "921", *models)
    assert (target / "crossval_results_folds_0_1" / "postprocessing.pkl").is_file()


@pytest.mark.chain
def test_two_configurations_side_by_side_go_through_nnunets_own_commands(world, command, nnunet, tmp_path, monkeypatch):
    """2d and 3d_fullres along one path: the best configuration, export, installation, prediction, ensemble."""
    assert command("train", "901", "2d", "0", "-s", "902", "--npz", *SMALL).status == 0
    assert command("train", "901", "3d_fullres", "0", "-s", "902", *SMALL).status == 0
    blocks = read_json(plans_path(TARGET, "nnUNetPlans_via902"), "the plans", "")["seq_transfer"]["configurations"]
    assert set(blocks) == {"2d", "3d_fullres"} and all(block["init"] for block in blocks.values())
    folder = base(world, TARGET, "nnUNetPlans_via902", "3d_fullres")
    trained = (folder / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns
    again = command("train", "901", "3d_fullres", "0", "-s", "902", "--npz", *SMALL)
    assert again.status == 0 and "the final validation is missing" in again.err, "probabilities are made up for"
    validated = read_json(folder / "fold_0" / "validation" / "summary.json", "the summary", "")["metric_per_case"]
    assert len(list(folder.glob("fold_0/validation/*.npz"))) == len(validated) == 2
    assert (folder / "fold_0" / "checkpoint_final.pth").stat().st_mtime_ns == trained

    model, folds = ("-p", "nnUNetPlans_via902", "-tr", TRAINER), ("-f", "0")
    nnunet("nnUNetv2_find_best_configuration", "901", "-c", "2d", "3d_fullres", *model, *folds, "-np", "1")
    results = json.loads((world.results / TARGET / "inference_information.json").read_text())["all_results"]
    assert len(results) == 3 and sum(name.startswith("ensemble___") for name in results) == 1

    exported, source = tmp_path / "model.zip", tmp_path / "source.zip"
    nnunet("nnUNetv2_export_model_to_zip", "-d", "901", "-o", exported, "-c", "2d", "3d_fullres", *model, *folds)
    model_of_source = ("-p", "nnUNetPlans_for901", "-tr", TRAINER, "-f", "all")
    nnunet("nnUNetv2_export_model_to_zip", "-d", NEAR, "-o", source, "-c", "3d_fullres", *model_of_source)
    with zipfile.ZipFile(source) as archive:
        assert any(name.endswith("fold_all/checkpoint_final.pth") for name in archive.namelist())

    for name in ("raw", "preprocessed", "results"):  # a machine that has neither our package's trainer nor the data
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    nnunet("nnUNetv2_install_pretrained_model_from_zip", exported)
    images = tmp_path / "in"
    images.mkdir()
    (images / "a_0000.nii.gz").symlink_to(world.raw / TARGET / "imagesTr" / "case0_0000.nii.gz")
    for configuration in ("2d", "3d_fullres"):
        where = ("-i", images, "-o", tmp_path / configuration, "-d", TARGET, "-c", configuration)
        how = ("-device", "cpu", "--disable_tta", "--save_probabilities", "-npp", "1", "-nps", "1")
        nnunet("nnUNetv2_predict", *where, *how, *model, *folds)
    nnunet("nnUNetv2_ensemble", "-i", tmp_path / "2d", tmp_path / "3d_fullres", "-o", tmp_path / "both", "-np", "1")
    assert sitk.ReadImage(tmp_path / "both" / "a.nii.gz").GetSize() == (20, 24, 20)


RANK = """
import sys
import torch, torch.distributed
import nnunetv2.run.run_training as run
import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as host
from nnunet_seqtransfer.transfer.checkpoints import body_digest

rank, meeting, dataset, configuration, fold, plans = int(sys.argv[1]), *sys.argv[2:]
distributed, parallel, trainer = torch.distributed, host.DDP, host.nnUNetTrainer
run.setup_ddp = lambda rank, size: distributed.init_process_group("gloo", f"file://{meeting}", None, size, rank)
torch.cuda.set_device = lambda device: None
host.DDP = lambda network, device_ids: parallel(network)
made, begun = trainer.__init__, trainer.on_epoch_start

def on_the_cpu(self, *arguments, **options):
    made(self, *arguments, **options)
    self.device, self.grad_scaler = torch.device("cpu"), None

def telling(self):
    digest = body_digest(self.network.module.state_dict())
    print(f"rank {rank} batch {self.batch_size} epoch {self.current_epoch} {digest}")
    begun(self)

trainer.__init__, trainer.on_epoch_start = on_the_cpu, telling
fold = fold if fold == "all" else int(fold)
run.run_ddp(rank, dataset, configuration, fold, "nnUNetTrainerSeqTransfer", plans, *[False] * 3, None, False, False, 2)
"""
"""One rank of `nnUNetv2_train -num_gpus 2`, with two changes: gloo in place of nccl, the CPU in place of the GPU."""


class WithoutGPUs(LocalExecutor):
    """Asks for no GPU: none is needed."""

    def check(self, options: object) -> None:
        """Any device will do."""


class TwoRanks:
    """Runs a job for two GPUs in two processes on the CPU; keeps what the ranks print at the start of each epoch."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.epochs: list[list[list[str]]] = []

    def __call__(self, job: Job) -> None:
        import os
        from concurrent.futures import ThreadPoolExecutor

        assert job.command[-4:] == ("-device", "cuda", "-num_gpus", "2")
        environment = {**os.environ, **job.environment, "GLOO_SOCKET_IFNAME": "lo"}
        meeting = self.folder / f"meeting{len(self.epochs)}"
        arguments = [str(meeting), *job.command[1:4], job.command[7]]
        with ThreadPoolExecutor(2) as pool:
            ranks = [pool.submit(run, [PYTHON, "-c", RANK, str(rank), *arguments], environment) for rank in range(2)]
        printed = [rank.result().stdout.splitlines() for rank in ranks]
        self.epochs.append([[line for line in lines if line.startswith("rank ")] for lines in printed])


@pytest.mark.chain
def test_several_gpus_start_each_stage_from_the_same_weights(world, command, monkeypatch):
    """nnU-Net's DDP, two processes (gloo): every rank starts from the weights handed over, and they stay equal."""
    ranks = TwoRanks(world.root)
    monkeypatch.chdir(world.root)  # python -c puts the working folder on the path
    executor = WithoutGPUs(train=ranks, prefetch=0)
    monkeypatch.setattr("nnunet_seqtransfer.entry_points.executor_options.chosen_executor", lambda options: executor)
    several = ("-device", "cuda", "-num_gpus", "2", "-epochs", "2", "-source_epochs", "2", "-iterations", "2")
    outcome = command("train", "901", "3d_fullres", "0", "-s", "902", *several, "-seed", "0", "-np", "1")
    assert outcome.status == 0, outcome.err
    for stage in ranks.epochs:
        (first, second), (other_first, other_second) = ([line.split()[-1] for line in lines] for lines in stage)
        assert second == other_second != first, "after an epoch both ranks hold the same, trained network"
        assert "batch 1 " in stage[0][0], "each rank has half of the batch of 2"
    assert first == other_first
    log = (base(world, TARGET, "nnUNetPlans_via902", "3d_fullres") / "fold_0").glob("training_log_*.txt")
    assert f"body SHA-256 {first}" in next(log).read_text()
    final = base(world, TARGET, "nnUNetPlans_via902", "3d_fullres") / "fold_0" / "checkpoint_final.pth"
    assert not any(name.startswith("module.") for name in load_checkpoint(final)["network_weights"])


@pytest.mark.chain
def test_a_compiled_network_is_handed_weights_saved_and_loaded_like_another(world, monkeypatch):
    """torch.compile (eager backend): handed-over weights arrive, and checkpoints hold no trace of the wrapper."""
    import nnunetv2.run.run_training as nnunet_run
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

    from nnunet_seqtransfer.nnunet.folders import external_trainers

    monkeypatch.setenv("nnUNet_extTrainer", external_trainers())
    monkeypatch.setattr(nnUNetTrainer, "_do_i_compile", lambda self: True)
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    plans = read_json(plans_path(TARGET, "nnUNetPlans"), "the plans", "") | {"plans_name": "nnUNetPlans_via902"}
    dataset_json = read_json(world.raw / TARGET / "dataset.json", "dataset.json", "")
    given = {
        name: tensor
        for name, tensor in fresh_network(plans, "2d", dataset_json, seed=7).state_dict().items()
        if HEADS not in name
    }
    digest = write_weights(world.results / "weights.pth", given)
    init = Init("none", "", "weights.pth", digest)
    block = StageBlock(TARGET, (NEAR, TARGET), "target", Recipe(epochs=1, iterations=1), init)
    write_json(plans_path(TARGET, "nnUNetPlans_via902"), with_block(plans, "2d", block))

    def trainer():
        return nnunet_run.get_trainer_from_args(
            "901", "2d", 0, TRAINER, "nnUNetPlans_via902", device=torch.device("cpu")
        )

    first = trainer()
    first.on_train_start()
    assert isinstance(first.network, OptimizedModule)
    state = first.network._orig_mod.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in given.items())
    first = trainer()
    first.run_training()
    final = base(world, TARGET, "nnUNetPlans_via902", "2d") / "fold_0" / "checkpoint_final.pth"
    saved = load_checkpoint(final)["network_weights"]
    assert saved.keys() == state.keys() and not all(torch.equal(saved[name], given[name]) for name in given)
    second = trainer()
    second.load_checkpoint(str(final))
    loaded = second.network._orig_mod.state_dict()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in saved.items())
