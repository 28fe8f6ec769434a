"""The ``seq_transfer`` block of a plans file: what stage this is, its recipe, and the weights that it starts from."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from nnunet_seqtransfer.errors import RecordError

FORMAT = 3
"""Written only where a recipe has a part of `ADDED`, which versions that read up to 2 cannot obey; else it is 2."""
KEY = "seq_transfer"
ADDED = ("heads_first_epochs", "frozen_encoder_epochs", "layer_decay", "patience")
"""Parts of the recipe that format 2 does not know. They are written only where they differ from the default, which
leaves a training as it was; so blocks without them are of equal recipes, and older versions read what they can obey."""


@dataclass(frozen=True)
class Recipe:
    """How one stage is trained."""

    epochs: int = 250
    "Epochs (250 a stage in arXiv 2410.06892)."
    iterations: int = 250
    "Iterations per epoch (nnU-Net's 250)."
    initial_lr: float = 1e-2
    "Initial learning rate (nnU-Net's 1e-2, kept by arXiv 2410.06892 for every stage)."
    warmup_epochs: int = 0
    "Epochs of linear warm-up before the polynomial decay."
    seed: int | None = None
    "Seed of the random number generators; None leaves them unseeded, like nnU-Net."
    heads_first_epochs: int = 0
    "Epochs at the beginning in which only the segmentation heads train (arXiv 2202.10054); 0 as nnU-Net."
    frozen_encoder_epochs: int = 0
    "Epochs at the beginning in which the encoder does not train (arXiv 1801.06146); 0 as nnU-Net."
    layer_decay: float = 1.0
    "Factor of the learning rate from level to level, heads to input (arXiv 2003.10555, 2106.08254); 1 as nnU-Net."
    patience: int | None = None
    "Epochs without a new best of nnU-Net's EMA pseudo Dice after which training ends early; None as nnU-Net: never."

    @property
    def validation_iterations(self) -> int:
        """Validation iterations per epoch, in nnU-Net's proportion of 50 to 250."""
        return max(1, self.iterations // 5)

    @property
    def save_every(self) -> int:
        """Epochs between checkpoints: 25 to a training, never more than nnU-Net's 50 apart."""
        return max(1, min(50, self.epochs // 25))

    @property
    def settled_epoch(self) -> int:
        """The first epoch that trains the whole network at its full learning rate: `patience` counts from it."""
        return max(self.warmup_epochs, self.heads_first_epochs, self.frozen_encoder_epochs)

    @property
    def needs_places(self) -> bool:
        """Whether it treats parts of the network differently, so that these have to be known by name."""
        return self.heads_first_epochs > 0 or self.frozen_encoder_epochs > 0 or self.layer_decay != 1

    def from_random_weights(self) -> Recipe:
        """The recipe without what is only for a network that has learnt something already."""
        return replace(self, warmup_epochs=0, heads_first_epochs=0, frozen_encoder_epochs=0, layer_decay=1.0)

    def added_parts(self) -> tuple[str, ...]:
        """In words, the parts of `ADDED` that differ from their defaults."""
        parts = (
            (self.heads_first_epochs > 0, f"only the heads train for {_epochs(self.heads_first_epochs)}"),
            (self.frozen_encoder_epochs > 0, f"encoder frozen for {_epochs(self.frozen_encoder_epochs)}"),
            (self.layer_decay != 1, f"learning rate x {self.layer_decay:g} a level towards the input"),
            (self.patience is not None, f"ends after {_epochs(self.patience or 0)} without a new best"),
        )
        return tuple(words for differs, words in parts if differs)

    def differences(self, other: Recipe) -> str:
        """In words, what differs: "epochs 250 against 100"."""
        mine, theirs = asdict(self), asdict(other)
        return ", ".join(f"{key} {mine[key]} against {theirs[key]}" for key in mine if mine[key] != theirs[key])


def _epochs(number: int) -> str:
    return f"{number} epoch{'' if number == 1 else 's'}"


@dataclass(frozen=True)
class Init:
    """The weights that a fine-tuning stage starts from; paths relative to nnUNet_results."""

    checkpoint: str
    "The final checkpoint of the stage before; of a model that the chain begins with, its absolute path."
    checkpoint_sha256: str
    "Its SHA-256."
    weights: str
    "The file handed over, made from it for this stage's channels and labels."
    weights_sha256: str
    "Its SHA-256."
    coverage: float = 1.0
    "Share of the network's parameters, heads left out, that come from the checkpoint; below 1 only for other networks."
    channels: tuple[int | None, ...] | None = None
    "For each input channel the checkpoint's that it was matched with; None where all read the mean, or alike."
    heads: tuple[int | None, ...] | None = None
    "For each output of the network the checkpoint's whose head it keeps, or None; None where all heads are new."


@dataclass(frozen=True)
class StageBlock:
    """The block, for one configuration."""

    target: str
    "Full name of the target."
    path: tuple[str, ...]
    "Full names of all datasets up to and including this stage's."
    role: Literal["source", "target"]
    "Sources skip the final validation."
    recipe: Recipe
    "How this stage is trained."
    init: Init | None
    "None for the first stage, and for a stage whose weights were not handed over yet."
    excluded: tuple[str, ...] = ()
    "Cases of this stage's dataset that it is trained without."
    fold: str | None = None
    "The fold that `init` belongs to; None where all folds start from the same weights."
    landmark: str | None = None
    "SHA-256 of the model that the chain begins with; None where its first stage starts from random weights."
    keep_heads: bool = False
    "Whether it starts with the heads of the labels whose names are in both; else all its heads are new."

    @property
    def needs_weights(self) -> bool:
        """Whether this stage belongs behind another, or behind an existing model."""
        return len(self.path) > 1 or self.landmark is not None


def read_block(plans: dict[str, Any], configuration: str, fold: str | int = "all") -> StageBlock | None:
    """The block of ``plans`` for a fold of ``configuration``; None where the plans have none.

    Raises RecordError where it is of a newer format or damaged.
    """
    block = plans.get(KEY)
    if block is None:
        return None
    remedy = "run nnUNetv2_seq_train again"
    try:
        if block["format"] > FORMAT:
            raise RecordError(
                f"the seq_transfer block of plans {plans.get('plans_name')} has format {block['format']}, "
                f"this version reads up to {FORMAT}; update nnunet-seqtransfer"
            )
        if configuration not in block["configurations"]:
            return None
        own = block["configurations"][configuration]
        inits = own.get("init_of_fold")
        found = own["init"] if inits is None else inits.get(str(fold))
        return StageBlock(
            target=block["target"],
            path=tuple(block["path"]),
            role=block["role"],
            recipe=Recipe(**own["recipe"]),
            init=_read_init(found) if found is not None else None,
            excluded=tuple(own.get("excluded", ())),
            fold=None if inits is None else str(fold),
            landmark=block.get("landmark"),
            keep_heads=bool(own.get("keep_heads", False)),
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise RecordError(
            f"the seq_transfer block of plans {plans.get('plans_name')} is damaged ({error}); {remedy}"
        ) from None


def _read_init(content: dict[str, Any]) -> Init:
    places = {name: content.get(name) for name in ("channels", "heads")}
    return Init(**{**content, **{name: None if one is None else tuple(one) for name, one in places.items()}})


def _init_content(init: Init) -> dict[str, Any]:
    content = asdict(init)
    return {name: list(value) if isinstance(value, tuple) else value for name, value in content.items()}


def _recipe_content(recipe: Recipe) -> dict[str, Any]:
    defaults = {field.name: field.default for field in fields(Recipe)}
    return {key: value for key, value in asdict(recipe).items() if key not in ADDED or value != defaults[key]}


def with_block(plans: dict[str, Any], configuration: str, block: StageBlock) -> dict[str, Any]:
    """``plans`` with the block of one configuration replaced; other configurations, and inits of other folds, stay."""
    others = plans.get(KEY, {}).get("configurations", {})
    init = _init_content(block.init) if block.init is not None else None
    own: dict[str, Any] = {"recipe": _recipe_content(block.recipe), "init": init, "excluded": list(block.excluded)}
    if block.keep_heads:
        own["keep_heads"] = True
    if block.fold is not None:
        of_others = others.get(configuration, {}).get("init_of_fold", {})
        own |= {"init": None, "init_of_fold": {**of_others, block.fold: init}}
    configurations = {**others, configuration: own}
    has_added = any(key in ADDED for content in configurations.values() for key in content.get("recipe", ()))
    content = {
        "format": FORMAT if has_added else 2,
        "target": block.target,
        "path": list(block.path),
        "role": block.role,
        "configurations": configurations,
    }
    if block.landmark is not None:
        content["landmark"] = block.landmark
    return {**plans, KEY: content}
