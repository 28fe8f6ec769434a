"""nnU-Net's trainer, made so that nothing is lost when it is interrupted: by a signal, a kill or a full disk."""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed

from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.storage import disk_errors_as_user_errors, found_json, mend_json
from nnunet_seqtransfer.trainers.agreement import agreed
from nnunet_seqtransfer.trainers.claim import objection, seen
from nnunet_seqtransfer.trainers.keeping import NotKeptError, keep_checkpoint, sweep
from nnunet_seqtransfer.trainers.picture import Picture
from nnunet_seqtransfer.trainers.stopping import Stop
from nnunet_seqtransfer.trainers.terminal import lasting_output
from nnunet_seqtransfer.training.epoch_progress import KEY, Midway, checkpoint_seconds, finished_epochs, read_midway
from nnunet_seqtransfer.training.locks import Holder, locked, read_holder, training_lock
from nnunet_seqtransfer.training.stage_files import FINAL, LATEST
from nnunet_seqtransfer.training.stop_signals import STOPPED
from nnunet_seqtransfer.transfer.checkpoints import load_checkpoint


class InterruptibleTrainer(nnUNetTrainer):
    """nnUNetTrainer with checkpoints inside of epochs, and an end without loss.

    After every iteration it looks whether a checkpoint is due or the training is to stop; an epoch goes on from a
    checkpoint with the iterations that are left. Distributed trainings do both between epochs, where all processes
    can agree.
    """

    num_iterations_per_epoch: int
    "Of nnU-Net; fewer while an epoch goes on that was interrupted."

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int,
        dataset_json: dict[str, Any],
        device: torch.device = torch.device("cuda"),  # noqa: B008 - nnU-Net wants exactly this signature
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        self.stop = Stop()
        self._seen = seen(Path(self.output_folder))
        self._loaded: str | None = None  # name of the checkpoint that this goes on from
        self.continues = False
        "Whether the latest checkpoint on disk, if there is one, is of this training: loaded or written by it."
        self.midway = Midway(-1)
        self._iterations_per_epoch = self.num_iterations_per_epoch
        self._steps_run = False  # between two iterations of an epoch, training or validation
        self._checkpoint_seconds = checkpoint_seconds()
        self._kept = time.monotonic()
        self._picture = Picture()

    @property
    def is_stage(self) -> bool:
        """Whether this training is a stage of a chain, whose checkpoints nobody may begin anew by accident."""
        raise NotImplementedError

    def checkpoint_content(self, epoch: int) -> dict[str, Any]:
        """What nnU-Net's checkpoints hold, to go on with ``epoch``."""
        raise NotImplementedError

    def run_training(self) -> None:
        """nnU-Net's. Ends the process with status 75 where it was stopped, with 1 and one line on a full disk."""
        with self._alone(), lasting_output(), self.stop.heeded(at_once=True):
            self._require_unchanged()
            if self._loaded == FINAL:  # trained already: nnU-Net would write the same checkpoint again
                return
            try:
                with disk_errors_as_user_errors(self.output_folder):
                    self.run_epochs()
            except NotKeptError as error:
                self._give_up(error)
            except SeqTransferError as error:
                if isinstance(error.__cause__, OSError):  # a disk, when something else than a checkpoint was written
                    self._give_up(error)
                raise
            except Exception:
                # a worker that was ended by the same signal lets the next batch fail
                if not (self._steps_run and self.stop.follows_soon()):
                    raise
                self._leave()
            if self.stop.reason is not None:
                self._say_stopped("after the last epoch, final checkpoint written")
                sys.exit(STOPPED)

    def run_epochs(self) -> None:
        """nnU-Net's loop over the epochs, its beginning and its end."""
        super().run_training()

    def on_train_start(self) -> None:
        """nnU-Net's; then what it wrote in place is whole, and what a killed training left aside is gone."""
        super().on_train_start()
        if self.local_rank == 0:
            sweep(Path(self.output_folder))
            self._mend_files()
        self._kept = time.monotonic()

    def on_epoch_start(self) -> None:
        """Between two epochs: the place where distributed trainings stop and write checkpoints."""
        self.stop.at_once = False
        if self.midway.epoch != self.current_epoch:
            self.midway = Midway(self.current_epoch)
        self.midway.began = time.monotonic()
        self._iterations_per_epoch = self.num_iterations_per_epoch
        if agreed(self.stop.requested, self.device):
            self._leave()
        if self.is_ddp and self.local_rank == 0:
            self._keep_when_due()
        super().on_epoch_start()

    def on_train_epoch_start(self) -> None:
        """nnU-Net's, and an epoch that goes on has fewer iterations left."""
        super().on_train_epoch_start()
        if self.midway.iterations:
            self.print_to_log_file(f"seq_transfer: goes on in this epoch after {self._place()}")
            self.num_iterations_per_epoch = max(0, self._iterations_per_epoch - self.midway.iterations)
        self._steps_run = True

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's, then a look whether to write a checkpoint or to stop."""
        self._steps_run = False
        output: dict[str, Any] = super().train_step(batch)
        self._steps_run = True
        self.midway.losses.append(float(output["loss"]))
        self._between_steps()
        return output

    def on_train_epoch_end(self, train_outputs: list[dict[str, Any]]) -> None:
        """nnU-Net's; the loss of an epoch that was interrupted is the mean over all of its iterations."""
        self.num_iterations_per_epoch = self._iterations_per_epoch
        earlier = self.midway.losses[: self.midway.iterations - len(train_outputs)]
        super().on_train_epoch_end([{"loss": np.array(loss, dtype=np.float32)} for loss in earlier] + train_outputs)

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """nnU-Net's, then a look whether to stop; an epoch stopped here goes on with its whole validation."""
        self._steps_run = False
        output: dict[str, Any] = super().validation_step(batch)
        self._steps_run = True
        self._between_steps()
        return output

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """nnU-Net's; the iterations of this epoch are over."""
        self._steps_run = False
        super().on_validation_epoch_end(val_outputs)

    def on_epoch_end(self) -> None:
        """nnU-Net's; the epoch's time is what was spent on it, however often it was interrupted and the clock set."""
        starts = self.logger.get_value("epoch_start_timestamps", None)
        starts[-1] = time.time() - self.midway.elapsed
        with self._picture.when_due(self.logger):
            super().on_epoch_end()

    def on_train_end(self) -> None:
        """nnU-Net's; the previous checkpoint goes together with the latest one, and the picture holds every epoch."""
        super().on_train_end()
        if self.local_rank == 0:
            sweep(Path(self.output_folder))
            self._picture.finish(self.logger, self.output_folder)

    def save_checkpoint(self, filename: str) -> None:
        """The checkpoint that nnU-Net writes between two epochs, but never half-written, and tried again.

        Raises NotKeptError where the disk does not take it for a minute.
        """
        self._save(filename, self.checkpoint_content(self.current_epoch + 1))

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """nnU-Net's; an epoch that was interrupted goes on after it."""
        super().load_checkpoint(filename_or_checkpoint)
        self.continues = True
        path = Path(str(filename_or_checkpoint))
        self._loaded = path.name
        self.midway = (read_midway(load_checkpoint(path)) if path.name == LATEST else None) or Midway(-1)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """nnU-Net's; a signal ends it at once, for nothing of a validation is kept until it is whole."""
        with self._alone(), lasting_output(), self.stop.heeded(at_once=True):
            if self.local_rank == 0:
                sweep(Path(self.output_folder))
                self._mend_files()
            super().perform_actual_validation(save_probabilities)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else trains or validates in this folder, whoever started it. Ends the process with one line if so."""
        if self.local_rank != 0:
            yield
            return
        what = f"the training in {self.output_folder}"
        lock = training_lock(Path(self.output_folder))
        # one whose driving command was killed stops at its next iteration
        held = locked(lock, what, self.print_to_log_file, self.stop.lose_lock, patience=60.0)
        try:
            held.__enter__()
        except SeqTransferError as error:
            sys.exit(f"seq_transfer: {error}")
        try:
            yield
        finally:
            held.__exit__(None, None, None)

    def _require_unchanged(self) -> None:
        """Ends the process where this training would undo what another one has done, or begin what is there."""
        if self.local_rank != 0 or not self.is_stage:
            return
        reason = objection(self._seen, seen(Path(self.output_folder)), self._loaded)
        if self.stop.requested:
            self._say_stopped("before it began, everything on disk stays as it was")
            sys.exit(STOPPED)
        if reason is not None:
            sys.exit(f"seq_transfer: {self.output_folder}: {reason}")

    def _between_steps(self) -> None:
        if self.is_ddp:
            return
        if self.stop.requested:
            self._leave()
        self._keep_when_due()

    def _keep_when_due(self) -> None:
        """Writes a checkpoint when the last one that a training goes on from is too old."""
        if not self.disable_checkpointing and time.monotonic() - self._kept >= self._checkpoint_seconds:
            self._keep_here()
            self.print_to_log_file(f"seq_transfer: checkpoint written after {self._place()}")

    def _keep_here(self) -> None:
        """Writes a checkpoint of this moment."""
        checkpoint = self.checkpoint_content(self.current_epoch)
        checkpoint["logging"] = finished_epochs(checkpoint["logging"], self.current_epoch)
        if self.midway.iterations:
            checkpoint[KEY] = self.midway.content()
        self._save(str(Path(self.output_folder) / LATEST), checkpoint)

    def _save(self, filename: str, checkpoint: dict[str, Any]) -> None:
        if self.local_rank != 0:
            return
        if self.disable_checkpointing:
            self.print_to_log_file("No checkpoint written, checkpointing is disabled")
            return
        if self.stop.lost and self._is_taken_over():
            self.print_to_log_file(f"seq_transfer: {Path(filename).name} not written, another process trains here now")
            return
        say, hurry = self.print_to_log_file, lambda: self.stop.requested
        keep_checkpoint(Path(filename), checkpoint, say, hurry, same_training=self.continues)
        if Path(filename).name == LATEST:
            self._kept, self.continues = time.monotonic(), True

    def _is_taken_over(self) -> bool:
        """Whether the lock names another process; where it cannot be read, nobody may have it, and nothing is lost."""
        holder = read_holder(training_lock(Path(self.output_folder)))
        return holder is not None and holder != Holder(os.getpid(), socket.gethostname())

    def _place(self) -> str:
        return f"{self.midway.iterations} of {self._iterations_per_epoch} iterations"

    def _leave(self) -> NoReturn:
        """Ends the process, the state of this moment in a checkpoint."""
        begun = bool(self.current_epoch or self.midway.iterations)
        try:
            if begun:
                self._keep_here()
        except NotKeptError as error:
            self._give_up(error)
        if self.is_ddp:
            distributed.barrier()  # nnU-Net ends the other processes when the first one has ended
        is_kept = begun and not self.disable_checkpointing and not (self.stop.lost and self._is_taken_over())
        kept = "checkpoint written; nnUNetv2_train --c goes on from it" if is_kept else "no checkpoint written"
        self._say_stopped(f"in epoch {self.current_epoch} after {self._place()}, {kept}")
        self._finish_workers()
        sys.exit(STOPPED)

    def _say_stopped(self, where: str) -> None:
        self.print_to_log_file(f"seq_transfer: stopped by {self.stop.reason} {where}", add_timestamp=False)

    def _give_up(self, error: SeqTransferError) -> NoReturn:
        """Ends the process with status 1 and one line, the last one."""
        self._finish_workers()
        sys.exit(f"seq_transfer: the training stops here: {error}")

    def _finish_workers(self) -> None:
        """Ends the worker processes that make batches, without a word, as nnU-Net does at the end of a training."""
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            for loader in (self.dataloader_train, self.dataloader_val):
                if hasattr(loader, "_finish"):
                    loader._finish()

    def _mend_files(self) -> None:
        """The files that predictions and exports need and nnU-Net writes in place, or not at all when validating."""
        base = Path(self.output_folder_base)
        mend_json(base / "plans.json", self.plans_manager.plans)
        mend_json(base / "dataset.json", self.dataset_json)
        fingerprint = found_json(Path(self.preprocessed_dataset_folder_base) / "dataset_fingerprint.json")
        if fingerprint is not None:
            mend_json(base / "dataset_fingerprint.json", fingerprint)
