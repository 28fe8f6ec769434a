"""The trainer of every stage: nnU-Net's own, with a recipe and starting weights from the plans file."""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.find_objects import recursive_find_trainer_class_by_name
from torch import nn
from torch._dynamo import OptimizedModule
from torch.nn.parallel import DistributedDataParallel

from nnunet_seqtransfer.errors import CheckpointError, DatasetError
from nnunet_seqtransfer.nnunet.folders import results_folder
from nnunet_seqtransfer.parallel import cores
from nnunet_seqtransfer.storage import write_json
from nnunet_seqtransfer.trainers import schedule
from nnunet_seqtransfer.trainers.interruptible import InterruptibleTrainer
from nnunet_seqtransfer.trainers.mixing import MIXED_HEADS, Mixing, batch_order, last_epochs, placed
from nnunet_seqtransfer.training.recipe import KEY, STOCK_TRAINER, StageBlock, read_block
from nnunet_seqtransfer.transfer.checkpoints import body_digest, load_body

NOT_VALIDATED: dict[str, Any] = {"metric_per_case": [], "mean": {}, "foreground_mean": {}}
"""Summary of a final validation, in nnU-Net's format, without any case."""


class nnUNetTrainerSeqTransfer(InterruptibleTrainer):
    """nnUNetTrainer that reads a recipe (epochs, learning rate, seed, ...) and starting weights from the plans.

    Both come from the ``seq_transfer`` block of the plans, see `StageBlock`. Without a block it trains like the stock
    trainer. The weights are loaded here and not by ``-pretrained_weights``: so no command line can start a stage that
    follows another one from random weights.
    """

    network: Any
    dataloader_train: Any

    def __new__(
        cls, plans: dict[str, Any] | None = None, configuration: str = "", fold: int | str = "all", *_: Any, **__: Any
    ) -> "nnUNetTrainerSeqTransfer":
        """Return a trainer that also extends the trainer in the recipe."""
        block = read_block(plans, configuration, fold) if cls is nnUNetTrainerSeqTransfer and plans else None
        kind = block.recipe.trainer if block is not None else STOCK_TRAINER
        made: nnUNetTrainerSeqTransfer = super().__new__(cls if kind == STOCK_TRAINER else extending(kind))
        return made

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net inspects exactly this signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        if self.device.type == "cpu":
            # nnUNetv2_train takes all cores of the machine: trainings side by side become several times slower
            torch.set_num_threads(allowed_threads(torch.get_num_threads()))
        self.seq_transfer: StageBlock | None = read_block(self.plans_manager.plans, configuration, fold)
        self.mixing: Mixing | None = None
        "Further datasets, from the start of the training; None if the stage is not mixed."
        if self.seq_transfer is not None:
            recipe = self.seq_transfer.recipe
            self.num_epochs = recipe.epochs
            self.num_iterations_per_epoch = recipe.iterations
            self.num_val_iterations_per_epoch = recipe.validation_iterations
            self.initial_lr = recipe.initial_lr
            self.save_every = recipe.save_every

    def initialize(self) -> None:
        """Extend nnU-Net's method: seed the random number generators first, if the recipe has a seed."""
        if not self.was_initialized and self.seq_transfer is not None and self.seq_transfer.recipe.seed is not None:
            seed_generators(self.seq_transfer.recipe.seed + self.local_rank)
        super().initialize()

    def do_split(self) -> tuple[list[str], list[str]]:
        """Extend nnU-Net's method: exclude the cases that the target validates on.

        Raises DatasetError if no training case is left.
        """
        training, validation = super().do_split()
        excluded = set(self.seq_transfer.excluded) if self.seq_transfer is not None else set()
        if not excluded:
            return training, validation
        left = [case for case in training if case not in excluded]
        if not left:
            raise DatasetError(
                f"plans {self.plans_manager.plans_name} exclude every case of {self.plans_manager.dataset_name}; "
                "leave this source out"
            )
        self.print_to_log_file(f"seq_transfer: {len(training) - len(left)} cases left out, {len(left)} to train on")
        return left, [case for case in validation if case not in excluded]

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, Any]:
        """Extend nnU-Net's method: add the recipe's warm-up and layer-wise learning-rate decay."""
        optimizer, scheduler = super().configure_optimizers()
        if self.seq_transfer is None:
            return optimizer, scheduler
        recipe = self.seq_transfer.recipe
        if recipe.layer_decay != 1:
            optimizer = schedule.with_layer_decay(optimizer, self._bare_network(), recipe.layer_decay)
        if recipe.warmup_epochs > 0 or recipe.layer_decay != 1:
            scheduler = schedule.WarmupPolyLRScheduler(
                optimizer, self.initial_lr, self.num_epochs, recipe.warmup_epochs
            )
        return optimizer, scheduler

    def on_train_start(self) -> None:
        """Extend nnU-Net's hook: load the starting weights first, unless training resumes a checkpoint.

        Raises CheckpointError if the plans belong to a stage whose weights are not there.
        """
        if self.seq_transfer is None and KEY in self.plans_manager.plans:
            raise CheckpointError(
                f"plans {self.plans_manager.plans_name} hold no stage for configuration {self.configuration_name}; "
                "start it through nnUNetv2_seq_train"
            )
        if not self.was_initialized:
            self.initialize()
        if self.seq_transfer is not None and self.seq_transfer.needs_weights and not self.owns_checkpoints:
            init = self.seq_transfer.init
            if init is None:
                raise CheckpointError(
                    f"plans {self.plans_manager.plans_name} follow another stage whose weights are missing; "
                    "start this stage through nnUNetv2_seq_train"
                )
            load_body(self._bare_network(), results_folder() / init.weights, init.weights_sha256)
            digest = body_digest(self._bare_network().state_dict())
            self.print_to_log_file(f"seq_transfer: weights handed over from {init.checkpoint}, body SHA-256 {digest}")
        if self.seq_transfer is not None and self.seq_transfer.mixed:
            self._start_mixing()
        super().on_train_start()

    def _start_mixing(self) -> None:
        """Make the heads of the further datasets; take their weights from the resumed checkpoint, or as recorded."""
        self.mixing = Mixing(self, self._bare_network(), self.optimizer)
        if self.owns_checkpoints:
            self.mixing.load_state(Path(self.output_folder) / str(self.loaded))
        else:
            self.mixing.load_published()
        self.network = schedule.rewrapped(self.network, self.mixing.heads)

    def get_dataloaders(self) -> tuple[Any, Any]:
        """Extend nnU-Net's method: batches of all datasets that are mixed in now."""
        if self.mixing is None:
            return super().get_dataloaders()  # type: ignore[no-any-return]
        active = self.mixing.active(self.current_epoch, self.num_epochs)
        return self.mixing.loader(super().get_dataloaders, active)

    def get_training_transforms(self, *args: Any, **settings: Any) -> Any:
        """Extend nnU-Net's method: with a seed, no augmentation depends on measured times."""
        transforms = super().get_training_transforms(*args, **settings)
        seeded = self.seq_transfer is not None and self.seq_transfer.recipe.seed is not None
        return without_timing(transforms) if seeded else transforms

    def on_epoch_start(self) -> None:
        """Extend nnU-Net's hook: seed, and raise PlateauReached if the recipe's patience is exhausted.

        Every epoch has random numbers of its own, so that a resumed training goes on like an undisturbed one.
        """
        if self.seq_transfer is not None:
            recipe = self.seq_transfer.recipe
            ends = last_epochs(self.seq_transfer.mixed, self.num_epochs)
            # what follows the last change of the mix is like a new training
            settled = max((end for end in ends if end < self.num_epochs), default=0)
            schedule.stop_at_plateau(self.logger.get_value("ema_fg_dice", step=None), recipe, settled)
            if self.mixing is not None:
                self._take_turns(self.mixing)
            if recipe.seed is not None:
                seed_generators(f"{recipe.seed} {self.local_rank} {self.current_epoch}")
        super().on_epoch_start()

    def _take_turns(self, mixing: Mixing) -> None:
        """Decide the dataset of each batch in the epoch that begins; datasets that are no longer mixed in leave."""
        active = mixing.active(self.current_epoch, self.num_epochs)
        if active != [loader is not None for loader in self.dataloader_train.loaders[1:]]:
            self._finish_workers()
            self.dataloader_train, self.dataloader_val = self.get_dataloaders()
        order = batch_order(mixing.records, self.current_epoch, self.num_epochs, self.num_iterations_per_epoch)
        self.dataloader_train.order = iter(order)

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Extend nnU-Net's method: use the heads and the loss of the dataset that the batch comes from."""
        if self.mixing is None:
            return super().train_step(batch)
        with self.mixing.using(self, batch["dataset"]) as channels:
            data = placed(batch["data"].to(self.device, non_blocking=True), channels)
            return {**super().train_step({**batch, "data": data}), "dataset": batch["dataset"]}

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """Extend nnU-Net's hook: log the loss of the stage's own dataset as the training's, those of others apart."""
        if self.mixing is not None:
            train_outputs = self.mixing.own_outputs(train_outputs, self.print_to_log_file)
        super().on_train_epoch_end(train_outputs)

    def on_train_end(self) -> None:
        """Extend nnU-Net's hook: end the processes that make batches of several datasets, which nnU-Net overlooks."""
        super().on_train_end()
        if self.mixing is not None:
            self._finish_workers()
            # --val_best loads a checkpoint next, whose optimiser knows no other heads
            self.optimizer.param_groups.pop()
            self.mixing = None

    def on_train_epoch_start(self) -> None:
        """Extend nnU-Net's hook: freeze the parts of the network that the recipe freezes in this epoch."""
        freezing = self.seq_transfer is not None and schedule.freezes(self.seq_transfer.recipe)
        if self.seq_transfer is not None and freezing:
            bare = self._bare_network()
            if schedule.set_trainable(bare, self.current_epoch, self.seq_transfer.recipe):
                self.network = schedule.rewrapped(self.network, self.mixing.heads if self.mixing else None)
                self.print_to_log_file(f"seq_transfer: {schedule.summary(bare)}")
        super().on_train_epoch_start()
        if freezing:
            schedule.hold_statistics(self._bare_network())  # super has set everything to training mode

    def run_epochs(self) -> None:
        """Run nnU-Net's loop over the epochs; at a plateau, end as after the last epoch."""
        try:
            super().run_epochs()
        except schedule.PlateauReached as reached:
            self.print_to_log_file(f"seq_transfer: {reached}")
            self.on_train_end()

    @property
    def is_stage(self) -> bool:
        """True if the plans have a block for this configuration."""
        return self.seq_transfer is not None

    def checkpoint_content(self, epoch: int, *, final: bool) -> dict[str, Any]:
        """Return what nnU-Net's checkpoints hold, with the name of the trainer that this one extends.

        The network is that trainer's, so that prediction needs no plug-in.

        Heads of further datasets are in a separate entry, unless the checkpoint is the ``final`` one.
        """
        mixing, kind = self.mixing, type(self).__name__
        if kind == nnUNetTrainerSeqTransfer.__name__:
            kind = STOCK_TRAINER if self.seq_transfer is None else self.seq_transfer.recipe.trainer
        return {
            "network_weights": self._bare_network().state_dict(),
            "optimizer_state": mixing.stock_optimizer_state() if mixing else self.optimizer.state_dict(),
            "grad_scaler_state": self.grad_scaler.state_dict() if self.grad_scaler is not None else None,
            "logging": self.logger.get_checkpoint(),
            "_best_ema": self._best_ema,
            "current_epoch": epoch,
            "init_args": self.my_init_kwargs,
            "trainer_name": kind,  # a user's subclass may change the network, so it keeps its own name
            "inference_allowed_mirroring_axes": self.inference_allowed_mirroring_axes,
            **({MIXED_HEADS: mixing.state()} if mixing and not final else {}),
        }

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Extend nnU-Net's method: skip the final validation of sources, which no one reads.

        A source gets a summary without cases, because nnUNetv2_export_model_to_zip needs that file.
        """
        if self.seq_transfer is not None and self.seq_transfer.role == "source":
            self.print_to_log_file("seq_transfer: a source's final validation is left out")
            if self.local_rank == 0:
                write_json(Path(self.output_folder) / "validation" / "summary.json", NOT_VALIDATED)
            return
        super().perform_actual_validation(save_probabilities)

    def _bare_network(self) -> nn.Module:
        """Return the network without the wrappers of DDP and torch.compile."""
        network = self.network
        if isinstance(network, DistributedDataParallel):
            network = network.module
        if isinstance(network, OptimizedModule):
            network = network._orig_mod
        return network  # type: ignore[no-any-return]


def extending(name: str) -> type[nnUNetTrainerSeqTransfer]:
    """Return our trainer as a subclass of nnU-Net's trainer ``name``. Raises RuntimeError if nnU-Net cannot find it."""
    other = recursive_find_trainer_class_by_name(name)
    bases = (other,) if issubclass(other, nnUNetTrainerSeqTransfer) else (nnUNetTrainerSeqTransfer, other)
    # nnU-Net names the results folder after the class
    return type(nnUNetTrainerSeqTransfer.__name__, bases, {})


def seed_generators(seed: int | str) -> None:
    """Seed the random number generators of Python, NumPy and PyTorch."""
    if isinstance(seed, str):
        seed = random.Random(seed).getrandbits(32)
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def without_timing(transforms: Any) -> Any:
    """Let nnU-Net's blur always convolve: otherwise it tries two methods and takes the faster one."""
    for transform in getattr(transforms, "transforms", ()):
        inner = getattr(transform, "transform", transform)
        if hasattr(inner, "benchmark"):
            inner.benchmark = False
    return transforms


def allowed_threads(limit: int) -> int:
    """Return the threads that OMP_NUM_THREADS and the CPU affinity allow this process, at most ``limit``."""
    text = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()  # a list is for nested parallel regions
    return min(limit, cores(), int(text) if text.isdecimal() and int(text) > 0 else limit)
