"""Mixed stages: batches of several datasets in turns, one body, and separate heads and losses for each dataset."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from copy import copy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.training.dataloading.nnunet_dataset import infer_dataset_class
from nnunetv2.utilities.default_n_proc_DA import get_allowed_n_proc_DA
from nnunetv2.utilities.label_handling.label_handling import determine_num_input_channels
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import Tensor, nn
from torch.optim import Optimizer

from nnunet_seqtransfer.errors import CheckpointError, StageError
from nnunet_seqtransfer.nnunet.folders import preprocessed_folder, results_folder
from nnunet_seqtransfer.nnunet.plans import plans_path
from nnunet_seqtransfer.storage import read_json, sha256
from nnunet_seqtransfer.training.recipe import MixedDataset
from nnunet_seqtransfer.transfer.checkpoints import load_checkpoint

MIXED_HEADS = "mixed_heads"
"""Entry of a training's checkpoints with the other datasets' heads; final checkpoints do not have it."""
OWN_HEADS = "decoder.seg_layers."
REMEDY = "start this stage through nnUNetv2_seq_train"
WORKERS = "nnUNet_n_proc_DA"
"""nnU-Net's variable for the number of processes that make batches."""


def last_epochs(mixed: Sequence[MixedDataset], epochs: int) -> list[int]:
    """Return for each further dataset the first epoch without it."""
    return [round(each.until * epochs) for each in mixed]


def batch_order(mixed: Sequence[MixedDataset], epoch: int, epochs: int, iterations: int) -> list[int]:
    """Return the dataset of each batch in ``epoch``: 0 is the stage's own, k the k-th further one.

    Webster's order: batch j of a dataset with share s comes at the time (j + 1/2) / s, counted from the epoch in which
    the shares last changed. So every dataset has its share of the batches at all times, up to rounding. The order
    depends on the record alone: it is the same in every process, and for a resumed training.
    """
    ends = last_epochs(mixed, epochs)
    begin = max((end for end in ends if end <= epoch), default=0)
    shares = [each.share if epoch < end else 0.0 for each, end in zip(mixed, ends, strict=True)]
    shares = [1 - sum(shares), *shares]
    first, last, slack = (epoch - begin) * iterations, (epoch + 1 - begin) * iterations, len(shares)
    # batches of this epoch lie within `slack` of these times: a dataset is at most 1/2 batch early or late
    low = [max(0, int(share * (first - slack) + 0.5)) for share in shares]
    high = [int(share * (last + slack) + 0.5) for share in shares]
    times = [(np.arange(a, b) + 0.5) / share for share, a, b in zip(shares, low, high, strict=True) if share > 0]
    which = np.repeat(np.arange(slack), np.subtract(high, low))
    order = np.argsort(np.concatenate(times), kind="stable")[first - sum(low) : last - sum(low)]
    return [int(index) for index in which[order]]


def placed(data: Tensor, channels: Sequence[int | None] | None) -> Tensor:
    """Return images (n, channels, ...) as (n, inputs, ...): each input gets a channel or zeros, see `MixedDataset`."""
    if channels is None:
        return data
    inputs = data[:, [channel or 0 for channel in channels]]
    inputs[:, [index for index, channel in enumerate(channels) if channel is None]] = 0
    return inputs


class MixedLoader:
    """Batches of several loaders in a given order, with the interface that nnU-Net's trainer uses."""

    def __init__(self, loaders: Sequence[Any]) -> None:
        self.loaders = loaders
        "One per dataset, the stage's own first; None for datasets that are no longer mixed in."
        self.order: Iterator[int] = iter(())
        "Dataset of each batch that is left in the epoch."

    def __next__(self) -> dict[str, Any]:
        """Return the next batch, with the index of the dataset."""
        index = next(self.order)
        return {**next(self.loaders[index]), "dataset": index}

    def _finish(self) -> None:
        """End the processes that make batches, as nnU-Net's own loaders do."""
        for loader in self.loaders:
            if hasattr(loader, "_finish"):
                loader._finish()


@dataclass(frozen=True)
class Branch:
    """Parts of a mixed training that one further dataset adds."""

    record: MixedDataset
    "Dataset, share and channels."
    trainer: Any
    "Copy of the trainer that sees this dataset, so that nnU-Net's own code makes the loss and the batches."
    heads: nn.ModuleList
    "One segmentation layer per decoder stage."
    loss: Any
    "nnU-Net's loss for the labels of this dataset."


class Mixing:
    """Heads, losses and batches of the further datasets in a mixed training.

    The heads are no part of the network: it is the stock network at all times, except during a batch of a further
    dataset, in which `using` puts the heads of that dataset in place.
    """

    def __init__(self, trainer: Any, network: nn.Module, optimizer: Optimizer) -> None:
        """Make new heads, and add them to the bare network's optimiser as the last parameter group.

        Raises StageError if a dataset cannot be mixed in.
        """
        self.records: tuple[MixedDataset, ...] = trainer.seq_transfer.mixed
        shares = [each.share for each in self.records]
        if min(shares) <= 0 or sum(shares) >= 1:
            raise StageError(
                f"the shares of the further datasets are {', '.join(map(str, shares))}, but each must be above 0 and "
                f"their sum below 1; {REMEDY}"
            )
        if not isinstance(getattr(getattr(network, "decoder", None), "seg_layers", None), nn.ModuleList):
            raise StageError("mixed stages need a network with known segmentation heads; use plans of another planner")
        self.optimizer = optimizer
        self.decoder: Any = network.decoder
        self.own_parameters = sum(len(group["params"]) for group in optimizer.param_groups)
        self.branches = [_branch(trainer, network, record) for record in self.records]
        self.heads = nn.ModuleList(branch.heads for branch in self.branches)
        optimizer.add_param_group({"params": list(self.heads.parameters())})
        # torch.compile makes one graph for each number of outputs; beyond its limit it would not compile at all
        limits: Any = torch._dynamo.config
        limits.cache_size_limit = max(limits.cache_size_limit, 8 * (1 + len(self.branches)))

    def load_published(self) -> None:
        """Load the heads that the records name. Raises CheckpointError if a file is not the recorded one."""
        for branch in self.branches:
            if branch.record.heads is None:
                continue
            path = results_folder() / branch.record.heads
            if not path.is_file() or sha256(path) != branch.record.heads_sha256:
                raise CheckpointError(
                    f"the heads for {branch.record.dataset} are missing, or not the ones recorded in the plans: "
                    f"{path}; {REMEDY}"
                )
            weights = load_checkpoint(path)["network_weights"]
            heads = {name.removeprefix(OWN_HEADS): w for name, w in weights.items() if name.startswith(OWN_HEADS)}
            _load(branch.heads, heads, path)

    def state(self) -> dict[str, Any]:
        """Return what resuming needs: the heads of each dataset, and the optimiser's state of their parameters."""
        states = self.optimizer.state_dict()["state"]
        return {
            "heads": {branch.record.dataset: branch.heads.state_dict() for branch in self.branches},
            "optimizer": {index: state for index, state in states.items() if index >= self.own_parameters},
        }

    def load_state(self, path: Path) -> None:
        """Load `state` from a checkpoint. Raises CheckpointError if it belongs to other datasets."""
        state = load_checkpoint(path).get(MIXED_HEADS, {"heads": {}})
        if set(state["heads"]) != {record.dataset for record in self.records}:
            raise CheckpointError(f"the checkpoint was made with other mixed datasets: {path}; delete it")
        for branch in self.branches:
            _load(branch.heads, state["heads"][branch.record.dataset], path)
        content = self.optimizer.state_dict()
        self.optimizer.load_state_dict({**content, "state": {**content["state"], **state["optimizer"]}})

    def stock_optimizer_state(self) -> dict[str, Any]:
        """Return the optimiser's state without the heads of further datasets."""
        content = self.optimizer.state_dict()
        own = {index: state for index, state in content["state"].items() if index < self.own_parameters}
        return {"state": own, "param_groups": content["param_groups"][:-1]}

    def active(self, epoch: int, epochs: int) -> list[bool]:
        """Return for each further dataset whether it is mixed in in ``epoch``."""
        return [epoch < end for end in last_epochs(self.records, epochs)]

    def loader(self, make_own: Any, active: Sequence[bool]) -> tuple[MixedLoader, Any]:
        """Return training and validation batches; the processes that nnU-Net allows are shared by the datasets.

        Args:
            make_own: makes both loaders of the stage's own dataset.
            active: for each further dataset whether it is mixed in.
        """
        allowed = get_allowed_n_proc_DA()
        counts = [max(1, round(allowed * r.share)) * on for r, on in zip(self.records, active, strict=True)]
        loaders = []
        for branch, count in zip(self.branches, counts, strict=True):
            loaders.append(_training_batches(branch, min(count, allowed)) if count else None)
        with _workers(min(allowed, max(1, allowed - sum(counts)))):
            own, validation = make_own()
        return MixedLoader([own, *loaders]), validation

    @contextmanager
    def using(self, trainer: Any, index: int) -> Iterator[Sequence[int | None] | None]:
        """Put the heads and the loss of a dataset in place while the block runs. Yield its channels.

        ``index``: 0 for the stage's own dataset, k for the k-th further one.
        """
        if index == 0:
            yield None
            return
        branch, decoder = self.branches[index - 1], self.decoder
        own = decoder.seg_layers, trainer.loss
        decoder.seg_layers, trainer.loss = branch.heads, branch.loss
        try:
            yield branch.record.channels
        finally:
            decoder.seg_layers, trainer.loss = own

    def own_outputs(self, outputs: list[dict[str, Any]], say: Any) -> list[dict[str, Any]]:
        """Return what the batches of the stage's own dataset gave, and log the mean loss of the others."""
        for index, record in enumerate(self.records, 1):
            losses = [output["loss"] for output in outputs if output["dataset"] == index]
            if losses:
                say(f"seq_transfer: train_loss {np.mean(losses):.4f} in {len(losses)} batches of {record.dataset}")
        return [output for output in outputs if output["dataset"] == 0] or outputs


def _branch(trainer: Any, network: Any, record: MixedDataset) -> Branch:
    view = _view(trainer, record)
    outputs = view.label_manager.num_segmentation_heads
    layers = network.decoder.seg_layers
    heads = nn.ModuleList(type(layer)(layer.in_channels, outputs, 1, 1, 0, bias=True) for layer in layers)
    if hasattr(network, "initialize"):  # nnU-Net's networks initialise their layers by this
        heads.apply(network.initialize)
    return Branch(record, view, heads.to(next(network.parameters()).device), view._build_loss())


def _view(trainer: Any, record: MixedDataset) -> Any:
    """Return a copy of the trainer that trains on all cases of a further dataset."""
    folder, what = preprocessed_folder() / record.dataset, f"of {record.dataset}, which is mixed in,"
    view, configuration = copy(trainer), trainer.configuration_name
    plans = read_json(plans_path(record.dataset, record.plans_name), f"the plans {record.plans_name} {what}", REMEDY)
    view.dataset_json = read_json(folder / "dataset.json", f"the dataset.json {what}", REMEDY)
    view.plans_manager = PlansManager(plans)
    view.configuration_manager = view.plans_manager.get_configuration(configuration)
    view.label_manager = view.plans_manager.get_label_manager(view.dataset_json)
    view.preprocessed_dataset_folder_base = str(folder)
    view.preprocessed_dataset_folder = str(folder / view.configuration_manager.data_identifier)
    view.fold, view.seq_transfer = "all", replace(trainer.seq_transfer, excluded=record.excluded, mixed=())
    if trainer.is_cascaded or view.configuration_manager.previous_stage_name is not None:
        raise StageError(f"configuration {configuration} is a cascade, which mixed stages do not train; use another")
    given = determine_num_input_channels(view.plans_manager, view.configuration_manager, view.dataset_json)
    channels = tuple(range(given)) if record.channels is None else record.channels
    if (
        list(view.configuration_manager.patch_size) != list(trainer.configuration_manager.patch_size)
        or len(channels) != trainer.num_input_channels
        or any(channel is not None and not 0 <= channel < given for channel in channels)
    ):
        raise StageError(
            f"the plans {record.plans_name} or the channels {what} do not fit the network of this stage; {REMEDY}"
        )
    view.dataset_class = infer_dataset_class(view.preprocessed_dataset_folder)
    return view


def _load(heads: nn.ModuleList, weights: dict[str, Tensor], path: Path) -> None:
    try:
        heads.load_state_dict(weights)
    except RuntimeError:
        raise CheckpointError(f"the heads in {path} do not fit the labels of this stage's datasets; {REMEDY}") from None


def _training_batches(branch: Branch, processes: int) -> Any:
    with _workers(processes):
        training, validation = branch.trainer.get_dataloaders()
    if hasattr(validation, "_finish"):  # only the stage's own dataset is validated on
        with Path(os.devnull).open("w") as nowhere, redirect_stdout(nowhere):
            validation._finish()
    return training


@contextmanager
def _workers(count: int) -> Iterator[None]:
    """Let nnU-Net start ``count`` processes per loader while the block runs; 0 makes the batches in this process."""
    before = os.environ.get(WORKERS)
    os.environ[WORKERS] = str(count)
    try:
        yield
    finally:
        if before is None:
            del os.environ[WORKERS]
        else:
            os.environ[WORKERS] = before
