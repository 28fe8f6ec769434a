"""nnU-Net's own trainer trains by the recipe: what is frozen, at which rates, until when, and what it leaves behind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nnunetv2.run.run_training as nnunet_run
import numpy as np
import pytest
import SimpleITK as sitk
import torch
from torch import Tensor

from nnunet_seqtransfer.nnunet.folders import external_trainers
from nnunet_seqtransfer.nnunet.network import fresh_network
from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.trainers.schedule import learning_rate
from nnunet_seqtransfer.trainers.seq_transfer import seed_generators, without_timing
from nnunet_seqtransfer.training.actions import Action, action_of
from nnunet_seqtransfer.training.on_disk import read_stage
from nnunet_seqtransfer.training.recipe import Init, Recipe, StageBlock, with_block
from nnunet_seqtransfer.training.stages import ChainRequest, chain_stages
from nnunet_seqtransfer.transfer.checkpoints import HEADS, load_checkpoint, write_weights
from support.world import NEAR, SCRIPTS, TARGET, World, python_environment, run

pytestmark = pytest.mark.chain

TRAINER, CONFIGURATION = "nnUNetTrainerSeqTransfer", "3d_fullres"
SCRATCH, BEHIND = "nnUNetPlans_scratch", "nnUNetPlans_via902"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """nnU-Net finds the trainer, and draws no pictures, which take longer than such an epoch."""
    from nnunetv2.training.logging.nnunet_logger import LocalLogger

    monkeypatch.setenv("nnUNet_extTrainer", external_trainers())
    monkeypatch.setattr(LocalLogger, "plot_progress_png", lambda *_: None)
    yield


def write_stage(world: World, name: str, recipe: Recipe) -> None:
    """Plans of the target's stage under ``name``, behind a source unless it is from scratch, weights handed over."""
    folder = world.preprocessed / TARGET
    plans = json.loads((folder / "nnUNetPlans.json").read_text())
    init, path = None, (TARGET,)
    if name == BEHIND:
        network = fresh_network(plans, CONFIGURATION, json.loads((folder / "dataset.json").read_text()), seed=3)
        body = {key: value for key, value in network.state_dict().items() if HEADS not in key}
        weights = f"{TARGET}/{TRAINER}__{name}__{CONFIGURATION}/seq_transfer_init.pth"
        digest = write_weights(world.results / weights, body)
        init, path = Init("x", "a" * 64, weights, digest), (NEAR, TARGET)
    block = StageBlock(TARGET, path, "target", recipe, init)
    plans_path(TARGET, name).write_text(json.dumps(with_block({**plans, "plans_name": name}, CONFIGURATION, block)))


def trainer(name: str, kind: str = TRAINER, *, resume: bool = False) -> Any:
    """What nnUNetv2_train makes; fold all."""
    made = nnunet_run.get_trainer_from_args(
        TARGET, CONFIGURATION, "all", kind, name, continue_training=resume, device=torch.device("cpu")
    )
    nnunet_run.maybe_load_checkpoint(made, resume, False)
    return made


def watch(made: Any, log: list[dict[str, Any]]) -> Any:
    """Notes the weights before and after each epoch, the rates, and which parameters have a gradient."""
    start, end = made.on_train_epoch_start, made.on_train_epoch_end

    def weights() -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in made.network.named_parameters()}

    def on_start() -> None:
        start()
        rates = [group["lr"] for group in made.optimizer.param_groups]
        log.append({"epoch": made.current_epoch, "before": weights(), "rates": rates})

    def on_end(outputs: list[Any]) -> None:
        end(outputs)
        changed = {name for name, value in weights().items() if not torch.equal(value, log[-1]["before"][name])}
        named = made.network.named_parameters()
        log[-1] |= {"moved": changed, "gradients": {name for name, value in named if value.grad is not None}}

    made.on_train_epoch_start, made.on_train_epoch_end = on_start, on_end
    return made


def kinds(names: set[str]) -> set[str]:
    """Which parts the names belong to."""
    return {"heads" if HEADS in name else name.split(".")[0] for name in names}


def pseudo_dice(monkeypatch: pytest.MonkeyPatch, values: Callable[[int], float]) -> None:
    """Sets the mean pseudo Dice that nnU-Net logs for an epoch; its average over epochs is its own."""
    from nnunetv2.training.logging.nnunet_logger import MetaLogger

    log = MetaLogger.log

    def other(self: MetaLogger, key: str, value: Any, step: int) -> None:
        log(self, key, values(step) if key == "mean_fg_dice" else value, step)

    monkeypatch.setattr(MetaLogger, "log", other)


class Killed(Exception):  # noqa: N818
    """The process dies here."""


def kill_after(made: Any, epoch: int) -> None:
    """The training dies when nnU-Net has finished an epoch and written its checkpoints."""
    end = made.on_epoch_end

    def on_end() -> None:
        end()
        if made.current_epoch == epoch + 1:
            raise Killed

    made.on_epoch_end = on_end
    with pytest.raises(Killed):
        made.run_training()


def test_with_all_defaults_it_is_the_stock_trainer_bit_by_bit(world: World) -> None:
    """The same seed gives the weights, the optimiser's state and the losses of nnUNetTrainer."""
    write_stage(world, SCRATCH, Recipe(epochs=2, iterations=2, seed=5))
    ours = trainer(SCRATCH)
    ours.run_training()
    stock = trainer("nnUNetPlans", "nnUNetTrainer")
    stock.num_epochs, stock.num_iterations_per_epoch, stock.num_val_iterations_per_epoch = 2, 2, 1
    begin, blur = stock.on_epoch_start, stock.get_training_transforms
    stock.on_epoch_start = lambda: (seed_generators(f"5 0 {stock.current_epoch}"), begin())
    stock.get_training_transforms = lambda *given, **named: without_timing(blur(*given, **named))
    seed_generators(5)
    stock.run_training()
    weights = ours.network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in stock.network.state_dict().items())
    states = [made.optimizer.state_dict() for made in (ours, stock)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    for index, state in states[1]["state"].items():
        assert torch.equal(state["momentum_buffer"], states[0]["state"][index]["momentum_buffer"])
    for key in ("train_losses", "val_losses", "ema_fg_dice", "lrs"):
        np.testing.assert_array_equal(ours.logger.get_value(key, None), stock.logger.get_value(key, None))


def test_heads_then_decoder_then_all_and_so_when_resumed(world: World) -> None:
    """Frozen parts are bit-equal after their epochs and move in the next; killed in between, the rule goes on."""
    recipe = Recipe(
        epochs=4, iterations=2, seed=1, heads_first_epochs=1, frozen_encoder_epochs=3, layer_decay=0.5, warmup_epochs=1
    )
    write_stage(world, BEHIND, recipe)
    log: list[dict[str, Any]] = []
    kill_after(watch(trainer(BEHIND), log), 1)
    resumed = watch(trainer(BEHIND, resume=True), log)
    resumed.run_training()
    assert [entry["epoch"] for entry in log] == [0, 1, 2, 3]
    parts = [{"heads"}, {"heads", "decoder"}, {"heads", "decoder"}, {"heads", "decoder", "encoder"}]
    for entry, expected in zip(log, parts, strict=True):
        assert kinds(entry["moved"]) == kinds(entry["gradients"]) == expected, entry["epoch"]
        whole = {name for name in entry["before"] if kinds({name}) <= expected}
        unused = {name for name in whole if ".seg_layers.0." in name}  # nnU-Net's loss gives the lowest head weight 0
        assert entry["gradients"] == whole - unused, "all of a part trains"
        full = learning_rate(entry["epoch"], 1e-2, 4, 1)
        assert entry["rates"] == [full * 0.5**depth for depth in range(len(entry["rates"]))]
    handed = load_checkpoint(next(world.results.rglob("seq_transfer_init.pth")))["network_weights"]
    assert all(torch.equal(value, handed[name]) for name, value in log[3]["before"].items() if "encoder" in name)
    text = "".join(path.read_text() for path in sorted(Path(resumed.output_folder).glob("training_log_*.txt")))
    assert text.count("parameters train from this epoch on") == 4, "at its start, at each change, and when it goes on"
    assert resumed.logger.get_value("lrs", None) == [entry["rates"][0] for entry in log], "nnU-Net logs the full rate"


def test_it_ends_on_a_plateau_and_leaves_all_behind(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Best after epoch 1, patience 2: epoch 3 is the last; the rest is as after a whole training, and it predicts."""
    pseudo_dice(monkeypatch, lambda epoch: 0.5 if epoch < 1 else 0.9 if epoch == 1 else 0.1)
    write_stage(world, SCRATCH, Recipe(epochs=9, iterations=1, seed=0, patience=2))
    made = trainer(SCRATCH)
    made.run_training()
    folder = Path(made.output_folder)
    final = load_checkpoint(folder / "checkpoint_final.pth")
    assert final["current_epoch"] == made.current_epoch == 4
    assert len(final["logging"]["ema_fg_dice"]) == 4, "no epoch is half in the log"
    assert not (folder / "checkpoint_latest.pth").exists() and (folder / "checkpoint_best.pth").is_file()
    text = "".join(path.read_text() for path in folder.glob("training_log_*.txt"))
    assert "training ends after 4 of 9 epochs" in text and text.count("Training done.") == 1

    recipe = Recipe(epochs=9, iterations=1, seed=0, patience=2)
    request = ChainRequest(TARGET, (), "nnUNetPlans", CONFIGURATION, ("all",), recipe, recipe, 0)
    (stage,) = chain_stages(request)
    assert action_of(read_stage(stage.files), stage.role) is Action.VALIDATE, "for the chain it is trained"

    images, out = world.root / "in", world.root / "out"
    images.mkdir()
    shutil.copy(world.raw / TARGET / "imagesTr" / "case0_0000.nii.gz", images)
    environment = python_environment(world)
    environment.pop("nnUNet_extTrainer", None)
    arguments = ["-d", "901", "-i", str(images), "-o", str(out), "-tr", TRAINER, "-p", SCRATCH]
    settings = ["-c", CONFIGURATION, "-f", "all", "-device", "cpu", "--disable_tta", "-npp", "1", "-nps", "1"]
    run([str(SCRIPTS / "nnUNetv2_predict"), *arguments, *settings], environment)
    assert sitk.ReadImage(str(out / "case0.nii.gz")).GetSize() == (20, 24, 20)


def test_resumed_behind_its_plateau_it_ends_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the last epoch and the final checkpoint: no further epoch is trained, the final one is written."""
    pseudo_dice(monkeypatch, lambda epoch: 0.9 if epoch == 0 else 0.1)
    write_stage(world, SCRATCH, Recipe(epochs=9, iterations=1, seed=0, patience=2))
    kill_after(trainer(SCRATCH), 2)
    log: list[dict[str, Any]] = []
    resumed = watch(trainer(SCRATCH, resume=True), log)
    folder = Path(resumed.output_folder)
    latest = load_checkpoint(folder / "checkpoint_latest.pth")
    assert latest["current_epoch"] == 3 and not (folder / "checkpoint_final.pth").exists()
    digest = sha256(folder / "checkpoint_best.pth")
    resumed.run_training()
    final = load_checkpoint(folder / "checkpoint_final.pth")
    assert log == [] and final["current_epoch"] == 3 and sha256(folder / "checkpoint_best.pth") == digest
    assert all(torch.equal(value, latest["network_weights"][name]) for name, value in final["network_weights"].items())


def test_resumed_before_its_plateau_it_ends_where_it_would_have(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The epochs before the interruption count: three without a new best in all, not three after it."""
    pseudo_dice(monkeypatch, lambda epoch: 0.9 if epoch == 1 else 0.1)
    write_stage(world, BEHIND, Recipe(epochs=9, iterations=1, seed=0, patience=3, layer_decay=0.5))
    kill_after(trainer(BEHIND), 2)
    resumed = trainer(BEHIND, resume=True)
    resumed.run_training()
    assert resumed.current_epoch == 5 and (Path(resumed.output_folder) / "checkpoint_final.pth").is_file()
