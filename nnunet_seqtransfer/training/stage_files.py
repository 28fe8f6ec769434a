"""File names: nnU-Net's checkpoints and summary, and our weights, locks and logs."""

from dataclasses import dataclass
from pathlib import Path

from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.training.locks import training_lock

FINAL = "checkpoint_final.pth"
LATEST, BEST, PREVIOUS = "checkpoint_latest.pth", "checkpoint_best.pth", "checkpoint_previous.pth"
UNFINISHED = (LATEST, BEST, PREVIOUS)
"""Checkpoints that a training can resume from. nnU-Net looks for the latest, then the best; see `run_stage.recover`."""
SUMMARY = Path("validation", "summary.json")
"""nnU-Net's final validation result, below the fold's folder."""


@dataclass(frozen=True)
class StageFiles:
    """Every file for one fold, derived from the fold's results folder."""

    output: Path
    "nnU-Net's results folder for the fold: DATASET/TRAINER__PLANS__CONFIGURATION/fold_K below nnUNet_results."

    @property
    def base(self) -> Path:
        """Return the results folder that all folds share."""
        return self.output.parent

    @property
    def dataset(self) -> str:
        """Return the full dataset name."""
        return self.base.parent.name

    @property
    def plans_name(self) -> str:
        """Return the plans name."""
        return self.base.name.split("__")[1]

    @property
    def configuration(self) -> str:
        """Return nnU-Net's configuration."""
        return self.base.name.split("__")[2]

    @property
    def fold(self) -> str:
        """Return the fold: a number or ``all``."""
        return self.output.name.removeprefix("fold_")

    @property
    def key(self) -> str:
        """Return the identifier in run records and on the command line: DATASET/PLANS/fold_K."""
        return f"{self.dataset}/{self.plans_name}/fold_{self.fold}"

    @property
    def final(self) -> Path:
        """Return the final checkpoint."""
        return self.output / FINAL

    @property
    def summary(self) -> Path:
        """Return nnU-Net's validation summary."""
        return self.output / SUMMARY

    @property
    def plans(self) -> Path:
        """Return the plans file in nnUNet_preprocessed."""
        return plans_path(self.dataset, self.plans_name)

    @property
    def plans_copy(self) -> Path:
        """Return the plans copy that nnU-Net writes when a training starts."""
        return self.base / "plans.json"

    @property
    def shared_weights(self) -> Path:
        """Return the starting weights that all folds share."""
        return self.base / "seq_transfer_init.pth"

    @property
    def own_weights(self) -> Path:
        """Return the starting weights for this fold alone."""
        return self.base / f"seq_transfer_init_fold_{self.fold}.pth"

    @property
    def lock(self) -> Path:
        """Return the lock that a working command holds."""
        return self.base / f".{self.output.name}.lock"

    @property
    def locks(self) -> tuple[Path, Path]:
        """Return the command's lock and the training's, which nnUNetv2_train by hand holds too."""
        return self.lock, training_lock(self.output)

    @property
    def plans_lock(self) -> Path:
        """Return the lock for writing the plans file, which all folds and configurations share."""
        return self.plans.with_name(f".{self.plans.name}.lock")

    def log(self, run: Path) -> Path:
        """Return the stage command's log in the run folder ``run``."""
        return run / "logs" / f"{self.dataset}_{self.plans_name}_fold_{self.fold}.log"
