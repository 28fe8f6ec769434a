"""Stage recipe, and the ``seq_transfer`` block in a plans file: path, recipe, starting weights."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Literal

import msgspec

from nnunet_seqtransfer.errors import RecordError
from nnunet_seqtransfer.storage import from_json, to_json

FORMAT = 5
"""Newest block format. Blocks are written in the oldest format that can express them: 5 if a stage is mixed or has
another trainer, 4 if the chain starts from a pretrained model, 3 if the recipe has a part from `ADDED`, otherwise 2."""
KEY = "seq_transfer"
ADDED = ("heads_first_epochs", "frozen_encoder_epochs", "layer_decay", "patience", "trainer")
"""Recipe parts that format 2 does not know. They are written only if they differ from the default, so that older
versions still read every block that they can obey."""
STOCK_TRAINER = "nnUNetTrainer"
"""Trainer that a stage extends by default, and that final checkpoints name."""
WARMUP_EPOCHS = 5
"""Default warm-up after weights were handed over. A guess."""
LEAST_PATIENCE = 10
"""Epochs. nnU-Net's EMA forgets with the time constant 1 / (1 - 0.9) = 10 epochs; shorter lulls say nothing."""


def _option(
    default: Any, kind: str, text: str, *, of_sources: bool = False, fine_tuning: bool = False, option: str = ""
) -> Any:
    """Return a dataclass field that is also a command-line option: the table behind parser and command.

    ``option``: name of the option if it is not that of the field.
    """
    metadata = {"kind": kind, "help": text, "of_sources": of_sources, "fine_tuning": fine_tuning, "option": option}
    return field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Recipe:
    """Recipe for one stage. Each field is an option of nnUNetv2_seq_train; see recipe_options.py."""

    epochs: int = _option(250, "positive_int", "Epochs", of_sources=True)
    "Epochs (250 per stage in arXiv 2410.06892)."
    iterations: int = _option(250, "positive_int", "Iterations per epoch", of_sources=True)
    "Iterations per epoch (nnU-Net's 250)."
    initial_lr: float = _option(1e-2, "positive_float", "Initial learning rate", of_sources=True)
    "Initial learning rate (nnU-Net's 1e-2, kept by arXiv 2410.06892 for every stage)."
    warmup_epochs: int = _option(
        0, "natural", "Warm-up epochs of fine-tuned stages (at most a tenth of their epochs)", fine_tuning=True
    )
    "Linear warm-up epochs before the polynomial decay; the commands' default is `WARMUP_EPOCHS`."
    seed: int | None = _option(None, "seed", "Seed of the random number generators. Default: unseeded, like nnU-Net")
    "Random seed; None leaves them unseeded, like nnU-Net."
    heads_first_epochs: int = _option(
        0, "natural", "Train only the segmentation heads for the first N epochs of fine-tuned stages", fine_tuning=True
    )
    "Initial epochs that train only the segmentation heads (arXiv 2202.10054); nnU-Net's value is 0."
    frozen_encoder_epochs: int = _option(
        0, "natural", "Freeze the encoder for the first N epochs of fine-tuned stages", fine_tuning=True
    )
    "Initial epochs that do not train the encoder (arXiv 1801.06146); nnU-Net's value is 0."
    layer_decay: float = _option(
        1.0, "positive_share", "Learning-rate factor per level, heads to input, of fine-tuned stages", fine_tuning=True
    )
    "Learning-rate factor per level, heads to input (arXiv 2003.10555, 2106.08254); nnU-Net's value is 1."
    patience: int | None = _option(
        None,
        "patience",
        f"End a stage after N epochs, at least {LEAST_PATIENCE}, without a new best EMA pseudo Dice. Default: never",
    )
    "Epochs without a new best EMA pseudo Dice after which training ends early; None as nnU-Net: never."
    trainer: str = _option(STOCK_TRAINER, "trainer", "nnU-Net trainer class", of_sources=True, option="tr")
    "nnU-Net trainer class that the stage's trainer extends, and that final checkpoints name."

    @property
    def validation_iterations(self) -> int:
        """Return validation iterations per epoch, in nnU-Net's proportion, 50 to 250."""
        return max(1, self.iterations // 5)

    @property
    def save_every(self) -> int:
        """Return the epochs between checkpoints: 25 checkpoints per training, at most nnU-Net's 50 epochs apart."""
        return max(1, min(50, self.epochs // 25))

    @property
    def settled_epoch(self) -> int:
        """Return the first epoch that trains the whole network at the full learning rate; `patience` counts from it."""
        return max(self.warmup_epochs, self.heads_first_epochs, self.frozen_encoder_epochs)

    @property
    def needs_places(self) -> bool:
        """Return True if network parts are treated differently, so that tensors must be known by name."""
        return self.heads_first_epochs > 0 or self.frozen_encoder_epochs > 0 or self.layer_decay != 1

    def after_handover(self, warmup_epochs: int) -> "Recipe":
        """Return the recipe with a warm-up of so many epochs, but at most a tenth of all."""
        return replace(self, warmup_epochs=min(warmup_epochs, self.epochs // 10))

    def from_random_weights(self) -> "Recipe":
        """Return the recipe without the parts that only make sense for a network that was trained before."""
        defaults: dict[str, Any] = {part.name: part.default for part in fields(Recipe) if part.metadata["fine_tuning"]}
        return replace(self, **defaults)

    def differences(self, other: "Recipe") -> dict[str, tuple[Any, Any]]:
        """Return field -> (value here, value in ``other``) for fields that differ."""
        mine, theirs = asdict(self), asdict(other)
        return {name: (mine[name], theirs[name]) for name in mine if mine[name] != theirs[name]}


@dataclass(frozen=True)
class Init:
    """Weights that a fine-tuned stage starts from; paths are relative to nnUNet_results."""

    checkpoint: str
    "Previous stage's final checkpoint, or a pretrained model's absolute path."
    checkpoint_sha256: str
    "Checkpoint's SHA-256."
    weights: str
    "File with the starting weights, adapted to this stage's channels and labels."
    weights_sha256: str
    "Weights file's SHA-256."
    coverage: float = 1.0
    "Share (0 to 1) that the body's parameters take from the checkpoint; below 1 only for other networks."
    channels: tuple[int | None, ...] | None = None
    "Matched checkpoint channel for each input channel; None if all channels get the mean, or match one to one."
    heads: tuple[int | None, ...] | None = None
    "Checkpoint output kept for each network output, or None; None as a whole if all heads are new."


@dataclass(frozen=True)
class MixedDataset:
    """A further dataset of a mixed stage. Its batches have separate heads and losses; the body is shared.

    Before the training starts, these must exist in nnUNet_preprocessed/``dataset``, as for a stage of a source:
    dataset.json, the plans file, and the cases in the data folder that the plans name for the stage's configuration.
    """

    dataset: str
    "Full dataset name."
    plans_name: str
    "Plans aligned to the target: they name the data folder, the normalisation and the label handling."
    share: float
    "Share (0 to 1, without the ends) of the batches; the stage's own dataset gets what all shares leave."
    channels: tuple[int | None, ...] | None = None
    "For each network input the channel of this dataset, None for zeros; None as a whole if they match one to one."
    excluded: tuple[str, ...] = ()
    "Cases that are excluded from training; all others are used."
    until: float = 1.0
    "Share (above 0, up to 1) of the epochs in which it is mixed in, from the first; 1 is to the end."
    heads: str | None = None
    "Final checkpoint that its heads come from, relative to nnUNet_results; None if they start from random weights."
    heads_sha256: str | None = None
    "SHA-256 of that checkpoint."


@dataclass(frozen=True)
class StageBlock:
    """The ``seq_transfer`` block for one configuration."""

    target: str
    "Target's full name."
    path: tuple[str, ...]
    "Full dataset names up to and including this stage's."
    role: Literal["source", "target"]
    "Role in the chain; sources skip the final validation."
    recipe: Recipe
    "Recipe for this stage."
    init: Init | None
    "Starting weights; None for the first stage, and if weights were not handed over yet."
    excluded: tuple[str, ...] = ()
    "Cases in this stage's dataset that are excluded from training."
    fold: str | None = None
    "Fold that `init` belongs to; None if all folds start from the same weights."
    pretrained: str | None = None
    "Pretrained model's SHA-256 if the chain starts from one; None for random weights."
    keep_heads: bool = False
    "True if heads for labels with matching names are kept; otherwise all heads start from random weights."
    mixed: tuple[MixedDataset, ...] = ()
    "Further datasets that the stage trains on; final checkpoints hold the heads of the stage's own dataset alone."

    @property
    def needs_weights(self) -> bool:
        """Return True if this stage starts from another stage or from a pretrained model."""
        return len(self.path) > 1 or self.pretrained is not None


def read_block(plans: Mapping[str, Any], configuration: str, fold: str | int = "all") -> StageBlock | None:
    """Return the block of ``plans`` for a fold under ``configuration``; None if the plans have none.

    Raises RecordError if the block is damaged or has a newer format.
    """
    block = plans.get(KEY)
    if block is None:
        return None
    name = plans.get("plans_name")
    try:
        if block["format"] > FORMAT:
            raise RecordError(
                f"the seq_transfer block of plans {name} has format {block['format']}, this version reads up to "
                f"{FORMAT}; update nnunet-seqtransfer"
            )
        if configuration not in block["configurations"]:
            return None
        own = dict(block["configurations"][configuration])
        unknown = own["recipe"].keys() - {part.name for part in fields(Recipe)}
        if unknown:  # a part that would be ignored
            raise KeyError(min(unknown))
        inits = own.get("init_of_fold")
        if inits is not None:
            mixed = own.pop("mixed_of_fold", {}).get(str(fold), ())
            own |= {"init": inits.get(str(fold)), "fold": str(fold), "mixed": mixed}
        shared = {key: block[key] for key in ("target", "path", "role")}
        # up to format 3 the SHA-256 of the pretrained model was called landmark
        pretrained = block.get("pretrained", block.get("landmark"))
        return from_json({**own, **shared, "pretrained": pretrained}, StageBlock)
    except (AttributeError, KeyError, TypeError, ValueError, msgspec.ValidationError) as error:
        raise RecordError(
            f"the seq_transfer block of plans {name} is damaged ({error}); run nnUNetv2_seq_train again"
        ) from None


def with_block(plans: dict[str, Any], configuration: str, block: StageBlock) -> dict[str, Any]:
    """Return ``plans`` with one configuration's block replaced; inits for other folds are kept."""
    others = plans.get(KEY, {}).get("configurations", {})
    # lists, so that unchanged plans compare equal
    init, mixed = json.loads(json.dumps(to_json([block.init, block.mixed])))
    defaults = {part.name: part.default for part in fields(Recipe)}
    recipe = {key: value for key, value in asdict(block.recipe).items() if key not in ADDED or value != defaults[key]}
    own: dict[str, Any] = {"recipe": recipe, "init": init, "excluded": list(block.excluded)}
    if block.keep_heads:
        own["keep_heads"] = True
    if block.fold is not None:
        known = others.get(configuration, {})
        own |= {"init": None, "init_of_fold": {**known.get("init_of_fold", {}), block.fold: init}}
        if mixed:  # each fold excludes other cases
            own["mixed_of_fold"] = {**known.get("mixed_of_fold", {}), block.fold: mixed}
    elif mixed:
        own["mixed"] = mixed
    configurations = {**others, configuration: own}
    has_added = any(key in ADDED for content in configurations.values() for key in content.get("recipe", ()))
    needs_5 = any(
        {"mixed", "mixed_of_fold"} & content.keys() or "trainer" in content.get("recipe", ())
        for content in configurations.values()
    )
    content = {
        "format": 5 if needs_5 else 4 if block.pretrained is not None else 3 if has_added else 2,
        "target": block.target,
        "path": list(block.path),
        "role": block.role,
        "configurations": configurations,
    }
    if block.pretrained is not None:
        content["pretrained"] = block.pretrained
    return {**plans, KEY: content}
