"""Networks that nnU-Net builds from plans: their tensors, and what their outputs are for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from nnunetv2.utilities.label_handling.label_handling import LabelManager

from nnunet_seqtransfer.nnunet.network import Outputs, fresh_network, is_u_net, network_outputs, network_tensors
from support.world import TARGET, World

LABELS: list[tuple[dict[str, Any], tuple[str, ...], bool]] = [
    # labels of a dataset.json, the network's outputs in their order, whether these are regions
    ({"background": 0, "b": 2, "a": 1}, ("background", "a", "b"), False),
    ({"a": 1, "ignore": 2, "background": 0}, ("background", "a"), False),
    ({"background": 0, "a": [1], "b": "2"}, ("background", "a", "b"), False),
    ({"background": 0, "whole": [1, 2, 3], "core": [2, 3], "rim": 3, "ignore": 4}, ("whole", "core", "rim"), True),
    ({"background": 0, "rim": 3, "whole": [1, 2, 3]}, ("rim", "whole"), True),
]


@pytest.mark.parametrize(("labels", "names", "regions"), LABELS)
def test_outputs_are_those_of_nnunet(labels: dict[str, Any], names: tuple[str, ...], regions: bool) -> None:
    """Names, order and number of a network's outputs are what nnU-Net's LabelManager trains."""
    assert network_outputs({"labels": labels}) == Outputs(names, regions)
    manager = LabelManager(labels, list(range(1, len(names) + 1)) if regions else None)
    assert (manager.num_segmentation_heads, manager.has_regions) == (len(names), regions)
    values = [tuple(labels[name]) if isinstance(labels[name], list) else labels[name] for name in names]
    trained = manager.foreground_regions if regions else manager.all_labels
    flat = [value[0] if isinstance(value, tuple) and len(value) == 1 else value for value in values]
    assert [int(v) if isinstance(v, str) else v for v in flat] == list(trained)


def test_the_tensors_come_from_the_plans_alone(world: World) -> None:
    """Names and shapes are those of the network that nnU-Net builds, without memory; equal seeds give equal values."""
    plans, dataset_json = (
        json.loads((world.preprocessed / TARGET / name).read_text()) for name in ("nnUNetPlans.json", "dataset.json")
    )
    listed = network_tensors(plans, "3d_fullres", dataset_json)
    one, again, other = (fresh_network(plans, "3d_fullres", dataset_json, seed).state_dict() for seed in (0, 0, 1))
    assert {name: tensor.shape for name, tensor in listed.items()} == {n: t.shape for n, t in one.items()}
    assert all(tensor.is_meta for tensor in listed.values())
    assert all(one[name].equal(again[name]) for name in one) and not all(one[name].equal(other[name]) for name in one)
    assert is_u_net(plans, "3d_fullres")
    plans["configurations"]["3d_fullres"]["architecture"]["network_class_name"] = "torch.nn.Linear"
    assert not is_u_net(plans, "3d_fullres")
