"""Mixed stages: preprocessed further datasets, the block, and trainers that are watched."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import nnunetv2.run.run_training as nnunet_run
import torch
from torch import Tensor

from nnunet_seqtransfer.context import Context
from nnunet_seqtransfer.nnunet.plans import plans_path, read_plans
from nnunet_seqtransfer.storage import write_json
from nnunet_seqtransfer.tasks.alignment import align_plans
from nnunet_seqtransfer.tasks.task import load_task
from nnunet_seqtransfer.training.prepare import prepare_source
from nnunet_seqtransfer.training.recipe import MixedDataset, Recipe, StageBlock, with_block
from nnunet_seqtransfer.training.stages import TRAINER

PLANS = "nnUNetPlans_mixed"


def prepare(target: str, dataset: str, configuration: str) -> str:
    """Preprocess a further dataset as for a source stage; return the plans name."""
    plans = read_plans(target, "nnUNetPlans", configuration)
    source = load_task(dataset)
    plans = align_plans(plans, load_task(target), source)
    prepare_source(source, plans, configuration, Context())
    write_json(plans_path(dataset, plans["plans_name"]), plans)
    return str(plans["plans_name"])


def write_stage(target: str, configuration: str, recipe: Recipe, *mixed: MixedDataset, name: str = PLANS) -> None:
    """Write the plans of the target's stage from random weights, mixed with datasets that are prepared here."""
    mixed = tuple(replace(each, plans_name=prepare(target, each.dataset, configuration)) for each in mixed)
    block = StageBlock(target, (target,), "target", recipe, None, mixed=mixed)
    plans = read_plans(target, "nnUNetPlans", configuration)
    write_json(plans_path(target, name), with_block({**plans, "plans_name": name}, configuration, block))


def trainer(target: str, configuration: str, *, resume: bool = False, name: str = PLANS, kind: str = TRAINER) -> Any:
    """Return what nnUNetv2_train makes; fold all."""
    cpu = torch.device("cpu")
    made = nnunet_run.get_trainer_from_args(target, configuration, "all", kind, name, resume, cpu)
    nnunet_run.maybe_load_checkpoint(made, resume, False)
    return made


def copies(made: Any) -> dict[str, Tensor]:
    """Return copies of all weights and momenta: the body's, own heads', and others' by dataset."""
    found = {f"own {name}": tensor for name, tensor in made.network.named_parameters()}
    for branch in made.mixing.branches:
        found |= {f"{branch.record.dataset} {name}": tensor for name, tensor in branch.heads.named_parameters()}
    for name, tensor in list(found.items()):
        momentum = made.optimizer.state.get(tensor, {}).get("momentum_buffer")
        if momentum is not None:
            found[f"{name} momentum"] = momentum
    return {name: tensor.detach().clone() for name, tensor in found.items()}


def losses(made: Any) -> list[float]:
    """Return the losses of training and validation of all epochs."""
    return [*made.logger.get_value("train_losses", None), *made.logger.get_value("val_losses", None)]


def folder(made: Any) -> Path:
    return Path(made.output_folder)
