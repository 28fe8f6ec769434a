"""The ``seq_transfer`` block of a plans file: what stage this is, its recipe, and the weights that it starts from."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from nnunet_seqtransfer.errors import RecordError

FORMAT = 2
KEY = "seq_transfer"


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

    @property
    def validation_iterations(self) -> int:
        """Validation iterations per epoch, in nnU-Net's proportion of 50 to 250."""
        return max(1, self.iterations // 5)

    @property
    def save_every(self) -> int:
        """Epochs between checkpoints: 25 to a training, never more than nnU-Net's 50 apart."""
        return max(1, min(50, self.epochs // 25))

    def differences(self, other: Recipe) -> str:
        """In words, what differs: "epochs 250 against 100"."""
        mine, theirs = asdict(self), asdict(other)
        return ", ".join(f"{key} {mine[key]} against {theirs[key]}" for key in mine if mine[key] != theirs[key])


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


def with_block(plans: dict[str, Any], configuration: str, block: StageBlock) -> dict[str, Any]:
    """``plans`` with the block of one configuration replaced; other configurations, and inits of other folds, stay."""
    others = plans.get(KEY, {}).get("configurations", {})
    init = _init_content(block.init) if block.init is not None else None
    own: dict[str, Any] = {"recipe": asdict(block.recipe), "init": init, "excluded": list(block.excluded)}
    if block.keep_heads:
        own["keep_heads"] = True
    if block.fold is not None:
        of_others = others.get(configuration, {}).get("init_of_fold", {})
        own |= {"init": None, "init_of_fold": {**of_others, block.fold: init}}
    content = {
        "format": FORMAT,
        "target": block.target,
        "path": list(block.path),
        "role": block.role,
        "configurations": {**others, configuration: own},
    }
    if block.landmark is not None:
        content["landmark"] = block.landmark
    return {**plans, KEY: content}
