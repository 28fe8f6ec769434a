"""nnU-Net's trainer, extended so that a signal, a kill or a full disk costs at most the running epoch."""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import Any, NoReturn

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from torch import distributed

from nnunet_seqtransfer.errors import CheckpointError, SeqTransferError
from nnunet_seqtransfer.nnunet.training_log import ITERATION
from nnunet_seqtransfer.signals import STOPPED
from nnunet_seqtransfer.storage import disk_errors_as_user_errors, found_json, mend_json, replacing
from nnunet_seqtransfer.trainers.stopping import StopRequest, any_process
from nnunet_seqtransfer.training.job import checkpoint_seconds
from nnunet_seqtransfer.training.locks import hold_training, read_holder, training_lock
from nnunet_seqtransfer.training.stage_files import FINAL, LATEST, PREVIOUS
from nnunet_seqtransfer.transfer.checkpoints import save

PICTURE_SECONDS = 30.0
"""Seconds between two drawings of progress.png."""
PROGRESS_SECONDS = 5.0
"""Seconds between two lines about the iterations of an epoch."""

CheckpointTimes = dict[str, tuple[int, int]]
"""Checkpoint name -> modification time in ns and size in bytes."""


def checkpoint_times(folder: Path) -> CheckpointTimes:
    """Return the checkpoints in a fold's folder."""
    found = {path.name: path.stat() for path in folder.glob("checkpoint_*.pth")}
    return {name: (status.st_mtime_ns, status.st_size) for name, status in found.items()}


def objection(before: CheckpointTimes, now: CheckpointTimes, loaded: str | None) -> str | None:
    """Return why a training must not begin, or None if it may.

    ``before``, ``now``: checkpoints when this process began, and since it holds the lock. ``loaded``: the resumed one.
    """
    if now != before:
        return "another process has trained here since this one began; start it again to resume from there"
    if FINAL in now and loaded != FINAL:
        return "this training is finished; delete the folder to train again"
    if now and loaded is None:
        return "there is a checkpoint to resume; use --c, or delete the folder to train again"
    return None


class InterruptibleTrainer(nnUNetTrainer):
    """nnUNetTrainer that stops between two epochs, with a checkpoint, when it is asked to.

    Between epochs it also writes a checkpoint if the last one is older than the environment allows. Only there can all
    processes of a distributed training agree. A killed training loses what followed the last checkpoint.
    """

    def __init__(self, *given: Any) -> None:  # nnU-Net inspects the signature of the subclass
        super().__init__(*given)
        self.stop = StopRequest()
        self.owns_checkpoints = False
        "True if the latest checkpoint on disk belongs to this training: it has loaded or written it."
        self._found = checkpoint_times(Path(self.output_folder))
        self.loaded: str | None = None
        "Name of the checkpoint that this training resumes."
        self._checkpoint_seconds = checkpoint_seconds()
        self._written_at = time.monotonic()  # monotonic: setting the clock must not matter
        self._drawn_at = -PICTURE_SECONDS
        self._iteration, self._told_at = 0, -PROGRESS_SECONDS

    @property
    def is_stage(self) -> bool:
        """True if this training is a stage of a chain, which must not be restarted by accident."""
        raise NotImplementedError

    def checkpoint_content(self, epoch: int, *, final: bool) -> dict[str, Any]:
        """Return what nnU-Net's checkpoints hold, for resuming with ``epoch`` unless it is the ``final`` one."""
        raise NotImplementedError

    def run_training(self) -> None:
        """Extend nnU-Net's method: exit with status 75 if asked to stop, with 1 and one line if the disk is full."""
        with self._alone(), self.stop.noted(at_once=True):
            self._require_unchanged()
            if self.loaded == FINAL:  # already trained: nnU-Net would write the same checkpoint again
                return
            try:
                with disk_errors_as_user_errors(self.output_folder):
                    self.run_epochs()
            except SeqTransferError as error:
                # with a cause: the disk failed while something other than a checkpoint was written
                if isinstance(error, CheckpointNotWrittenError) or isinstance(error.__cause__, OSError):
                    self._finish_workers()
                    sys.exit(f"seq_transfer: the training stops here: {error}")
                raise
            except Exception as error:
                # the same signal may have ended a worker process, so that the next batch fails
                if not self.stop.follows_soon():
                    raise
                self._exit_stopped(f"in epoch {self.current_epoch}, which is repeated ({type(error).__name__})")
            if self.stop.reason is not None:
                self._exit_stopped("after the last epoch, final checkpoint written")

    def run_epochs(self) -> None:
        """Run nnU-Net's loop over the epochs."""
        super().run_training()

    def on_train_start(self) -> None:
        """Extend nnU-Net's hook: repair files and delete what a killed training left."""
        super().on_train_start()
        self._repair_files()
        self._written_at = time.monotonic()

    def on_epoch_start(self) -> None:
        """Extend nnU-Net's hook: stop here if asked to, and write a checkpoint if one is due."""
        self.stop.at_once = False
        if any_process(self.stop.is_made, self.device):
            self._stop_here()
        if self.current_epoch and time.monotonic() - self._written_at >= self._checkpoint_seconds:
            self._write_latest()
        self._iteration = 0
        super().on_epoch_start()

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Extend nnU-Net's method: print how far the epoch is, every few seconds."""
        result: dict[str, Any] = super().train_step(batch)
        self._iteration += 1
        if self.local_rank == 0 and time.monotonic() - self._told_at >= PROGRESS_SECONDS:
            self._told_at = time.monotonic()
            with suppress(OSError):  # a closed terminal: the next line for nnU-Net's log handles it
                print(ITERATION.format(self._iteration, self.num_iterations_per_epoch), flush=True)  # noqa: T201
        return result

    def on_epoch_end(self) -> None:
        """Extend nnU-Net's hook: draw progress.png, which takes a second, only every half minute."""
        is_due = time.monotonic() - self._drawn_at >= PICTURE_SECONDS
        if is_due:
            self._drawn_at = time.monotonic()
        else:
            self.logger.plot_progress_png = lambda _: None  # hides the method for this call
        super().on_epoch_end()
        if not is_due:
            del self.logger.plot_progress_png

    def on_train_end(self) -> None:
        """Extend nnU-Net's hook: delete the previous checkpoint, draw progress.png with every epoch."""
        super().on_train_end()
        if self.local_rank == 0:
            remove_leftovers(Path(self.output_folder))
            self.logger.plot_progress_png(self.output_folder)

    def save_checkpoint(self, filename: str) -> None:
        """Replace nnU-Net's method: write aside, rename, and try again for a minute.

        Raises CheckpointNotWrittenError if the disk does not accept the file.
        """
        # nnU-Net calls this before it counts the epoch that has just ended
        self._save(Path(filename), self.current_epoch + 1)

    def load_checkpoint(self, filename_or_checkpoint: dict[str, Any] | str) -> None:
        """Extend nnU-Net's method: remember which checkpoint this training resumes."""
        super().load_checkpoint(filename_or_checkpoint)
        self.owns_checkpoints = True
        self.loaded = Path(str(filename_or_checkpoint)).name

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Extend nnU-Net's method: a signal ends it at once, because an unfinished validation is repeated anyway."""
        with self._alone(), self.stop.noted(at_once=True):
            self._repair_files()
            super().perform_actual_validation(save_probabilities)

    def print_to_log_file(self, *args: Any, also_print_to_console: bool = True, add_timestamp: bool = True) -> None:
        """Extend nnU-Net's method: a closed terminal or pipe must not end a training."""
        try:
            super().print_to_log_file(*args, also_print_to_console=also_print_to_console, add_timestamp=add_timestamp)
            sys.stdout.flush()
        except OSError as error:  # of the terminal: nnU-Net handles those of its log file
            if error.errno not in (errno.EPIPE, errno.EIO):
                raise
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, 1)
            os.dup2(nowhere, 2)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the training's lock; exit with one line if another process trains or validates in this folder."""
        if self.local_rank != 0:
            yield
            return
        with hold_training(Path(self.output_folder), self.print_to_log_file, self.stop.lose_lock):
            yield

    def _require_unchanged(self) -> None:
        """Exit if this training would overwrite another one, or restart what can be resumed."""
        if self.local_rank != 0 or not self.is_stage:
            return
        reason = objection(self._found, checkpoint_times(Path(self.output_folder)), self.loaded)
        if self.stop.is_made:
            self._exit_stopped("before it began, everything on disk stays as it was")
        if reason is not None:
            sys.exit(f"seq_transfer: {self.output_folder}: {reason}")

    def _write_latest(self) -> None:
        """Write a checkpoint between two epochs."""
        self._save(Path(self.output_folder) / LATEST, self.current_epoch)

    def _save(self, path: Path, next_epoch: int) -> None:
        if self.local_rank != 0:
            return
        if self.disable_checkpointing:
            self.print_to_log_file("No checkpoint written, checkpointing is disabled")
            return
        if self._is_taken_over():
            self.print_to_log_file(f"seq_transfer: {path.name} not written, another process trains here now")
            return
        checkpoint = self.checkpoint_content(next_epoch, final=path.name == FINAL)
        say, in_a_hurry = self.print_to_log_file, lambda: self.stop.is_made
        write_patiently(path, checkpoint, say, in_a_hurry, same_training=self.owns_checkpoints)
        if path.name == LATEST:
            self._written_at, self.owns_checkpoints = time.monotonic(), True

    def _is_taken_over(self) -> bool:
        """Return whether the lost lock names another process; an unreadable lock names none."""
        if not self.stop.lock_lost:
            return False
        holder = read_holder(training_lock(Path(self.output_folder)))
        return holder is not None and not holder.is_this_process

    def _stop_here(self) -> NoReturn:
        """Write a checkpoint between two epochs and exit."""
        if self.current_epoch:
            self._write_latest()
        if self.is_ddp:
            distributed.barrier()  # nnU-Net ends the other processes when the first one has ended
        is_written = self.current_epoch and not self.disable_checkpointing and not self._is_taken_over()
        written = "checkpoint written; nnUNetv2_train --c resumes from it" if is_written else "no checkpoint written"
        self._exit_stopped(f"before epoch {self.current_epoch}, {written}")

    def _exit_stopped(self, when: str) -> NoReturn:
        self.print_to_log_file(f"seq_transfer: stopped by {self.stop.reason} {when}", add_timestamp=False)
        self._finish_workers()
        sys.exit(STOPPED)

    def _finish_workers(self) -> None:
        """End the processes that make batches, silently, as nnU-Net does at the end of a training."""
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            for loader in (self.dataloader_train, self.dataloader_val):
                if hasattr(loader, "_finish"):
                    loader._finish()

    def _repair_files(self) -> None:
        """Repair the files that predictions need; nnU-Net writes them in place, and not at all when it validates."""
        if self.local_rank != 0:
            return
        remove_leftovers(Path(self.output_folder))
        base = Path(self.output_folder_base)
        mend_json(base / "plans.json", self.plans_manager.plans)
        mend_json(base / "dataset.json", self.dataset_json)
        fingerprint = found_json(Path(self.preprocessed_dataset_folder_base) / "dataset_fingerprint.json")
        if fingerprint is not None:
            mend_json(base / "dataset_fingerprint.json", fingerprint)


RETRY_SECONDS = 60.0
"""Seconds for which a failed write is tried again."""
PAUSE_SECONDS = 5.0
"""Seconds between two attempts."""


class CheckpointNotWrittenError(CheckpointError):
    """A checkpoint could not be written; the earlier one is unchanged."""


def write_checkpoint(path: Path, checkpoint: dict[str, Any], *, same_training: bool = True) -> None:
    """Write a checkpoint aside and rename it; the latest one becomes the previous one.

    Unless the files there are of the ``same_training`` (nnUNetv2_train was called again without --c), the previous
    checkpoint is deleted, so that recovery never falls back to another training.

    Raises SeqTransferError if the disk is full or read-only, OSError if writing fails otherwise; then nothing has
    changed.
    """
    previous = path.with_name(PREVIOUS) if path.name == LATEST else None
    keep = previous if same_training else None
    with replacing(path, keep=keep) as aside, aside.open("wb") as stream:
        save(checkpoint, stream)
    if previous is not None and not same_training:
        previous.unlink(missing_ok=True)


def write_patiently(
    path: Path,
    checkpoint: dict[str, Any],
    say: Callable[[str], None],
    in_a_hurry: Callable[[], bool],
    *,
    same_training: bool = True,
) -> None:
    """Call `write_checkpoint` again for a minute if it fails, unless ``in_a_hurry()``.

    A training that continued without checkpoints would lose hours at the next interruption, so it waits.

    Raises CheckpointNotWrittenError after that minute.
    """
    deadline, warned = time.monotonic() + RETRY_SECONDS, False
    while True:
        try:
            write_checkpoint(path, checkpoint, same_training=same_training)
            return
        except (SeqTransferError, OSError) as error:
            # an input/output error is no user's mistake, but as good a reason to wait as a full disk
            why = f"cannot write {path}: {error.strerror or error}" if isinstance(error, OSError) else str(error)
            if in_a_hurry() or time.monotonic() >= deadline:
                raise CheckpointNotWrittenError(f"{why}; the earlier checkpoints are whole") from error
            if not warned:
                say(f"seq_transfer: {why}; trying again for {RETRY_SECONDS:.0f} s")
            warned = True
        pause = time.monotonic() + PAUSE_SECONDS
        while time.monotonic() < pause and not in_a_hurry():
            time.sleep(0.1)


def remove_leftovers(folder: Path) -> None:
    """Delete temporary files of a killed training and, next to a final checkpoint, the previous one."""
    for path in folder.glob(".checkpoint_*.tmp*"):
        path.unlink(missing_ok=True)
    if (folder / FINAL).is_file():
        (folder / PREVIOUS).unlink(missing_ok=True)
