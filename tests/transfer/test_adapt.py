"""Weights go to networks of other architectures by rules that keep what can be kept, and with an honest account."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.transfer.adapt import account as shapes_alone
from nnunet_seqtransfer.transfer.adapt import (
    adapt,
    match_channels,
    place_in,
    require_coverage,
    require_same_architecture,
    resize_convolution,
    resize_upsampling,
)
from nnunet_seqtransfer.transfer.checkpoints import body_digest, write_weights
from nnunet_seqtransfer.transfer.tensor_roles import HEADS, is_alias
from support.u_nets import architecture, build, level_scales, patch, trained


def hand_over(old: nn.Module, new: nn.Module, **options: Any) -> Any:
    """Puts the old network's weights into the new one; returns the account."""
    fresh = new.state_dict()
    adapted, account = adapt(old.state_dict(), fresh, **options)
    new.load_state_dict({**fresh, **adapted})
    return account


def features(network: nn.Module, image: Tensor) -> list[Tensor]:
    with torch.no_grad():
        return network.encoder(image)


def logits(network: nn.Module, image: Tensor) -> Tensor:
    with torch.no_grad():
        return network(image)[0]


def noise(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


BASE: dict[str, Any] = {}
MATRIX: dict[str, tuple[tuple[dict[str, Any], int], tuple[dict[str, Any], int], float]] = {
    # what the old and the new network are (architecture, input channels), and the least coverage
    "same": ((BASE, 1), (BASE, 1), 1),
    "same residual": (({"residual": True}, 1), ({"residual": True}, 1), 1),
    "1 -> 2 channels": ((BASE, 1), (BASE, 2), 1),
    "4 -> 1 channels": ((BASE, 4), (BASE, 1), 1),
    "2 -> 4 channels, residual": (({"residual": True}, 2), ({"residual": True}, 4), 1),
    "anisotropic -> isotropic": (({"flat": 2}, 1), (BASE, 1), 1),
    "isotropic -> anisotropic": ((BASE, 1), ({"flat": 2}, 1), 1),
    "residual anisotropic -> isotropic": (({"flat": 2, "residual": True}, 1), ({"residual": True}, 1), 1),
    "4 -> 5 stages": (({"stages": 4}, 1), ({"stages": 5}, 1), 0.5),
    "5 -> 6 stages": (({"stages": 5}, 1), ({"stages": 6}, 1), 0.6),
    "4 -> 6 stages": (({"stages": 4}, 1), ({"stages": 6}, 1), 0.3),
    "6 -> 4 stages": (({"stages": 6}, 1), ({"stages": 4}, 1), 1),
    "5 -> 4 stages, residual": (({"stages": 5, "residual": True}, 1), ({"stages": 4, "residual": True}, 1), 1),
    "wider": (({"width": 4}, 1), ({"width": 6}, 1), 0.4),
    "narrower": (({"width": 6}, 1), ({"width": 4}, 1), 0.6),
    "more convolutions": (({"convolutions": 2}, 1), ({"convolutions": 3}, 1), 0.6),
    "more blocks": (({"convolutions": 1, "residual": True}, 1), ({"convolutions": 2, "residual": True}, 1), 0.5),
    "2d -> 3d": (({"dimensions": 2}, 1), (BASE, 1), 1),
    "3d -> 2d": ((BASE, 1), ({"dimensions": 2}, 1), 1),
    "2d -> anisotropic 3d": (({"dimensions": 2}, 1), ({"flat": 2}, 1), 1),
    "residual 2d -> 3d": (({"dimensions": 2, "residual": True}, 1), ({"residual": True}, 1), 1),
    "plain -> residual": ((BASE, 1), ({"residual": True, "convolutions": 1}, 1), 0.4),
    "residual -> plain": (({"residual": True, "convolutions": 1}, 1), (BASE, 1), 0.1),
    "all at once": (({"dimensions": 2, "stages": 4, "width": 4}, 4), ({"stages": 5, "flat": 1, "width": 5}, 1), 0.2),
}


@pytest.mark.parametrize("case", MATRIX)
def test_matrix_of_hand_offs(case: str, tmp_path: Path) -> None:
    """From any to any: coverage, an account that adds up, features of the same order, and a file nnU-Net takes."""
    from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

    (given, old_channels), (wanted, new_channels), least = MATRIX[case]
    old, new = trained(architecture(**given), old_channels), build(architecture(**wanted), new_channels, 3)
    fresh = {name: tensor.clone() for name, tensor in new.state_dict().items()}
    adapted, account = adapt(old.state_dict(), new.state_dict())
    assert account == shapes_alone(old.state_dict(), new.state_dict()), "shapes suffice for the account"

    assert least <= account.coverage <= 1
    assert account.coverage == 1 if least == 1 else account.coverage < 1
    assert {change.name for change in account.tensors} == {n for n in fresh if not is_alias(n) and HEADS not in n}
    body = [parameter for name, parameter in new.named_parameters() if HEADS not in name]
    assert sum(change.parameters for change in account.tensors) == sum(parameter.numel() for parameter in body)
    assert sum(account.share(how) for how in ("copied", "adapted", "new")) == pytest.approx(1)
    for change in account.tensors:
        same = torch.equal(adapted[change.name], old.state_dict().get(change.source or "", torch.empty(0)))
        assert change.how != "copied" or same
        assert (change.transferred == 0) == (change.how == "new") == (change.source is None)
    assert set(account.left_behind).isdisjoint(change.source for change in account.tensors)

    write_weights(tmp_path / "init.pth", adapted)
    load_pretrained_weights(new, str(tmp_path / "init.pth"))
    assert body_digest(new.state_dict()) == body_digest(adapted)
    assert all(torch.equal(new.state_dict()[name], fresh[name]) for name in fresh if HEADS in name)
    before = level_scales(old, patch(architecture(**given), old_channels))
    after = level_scales(new, patch(architecture(**wanted), new_channels))
    assert len(after) == wanted.get("stages", 4)
    assert all(0.1 < now / was < 10 for was, now in zip(before, after, strict=False))


def batch_norm(settings: dict[str, Any]) -> dict[str, Any]:
    return {**settings, "norm_op": "torch.nn.modules.batchnorm.BatchNorm3d"}


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("channels", [(1, 1), (1, 3), (4, 2), (3, 1)])
@pytest.mark.parametrize("change", [dict, batch_norm])
def test_equal_architectures_are_copied_bit_by_bit(residual: bool, channels: tuple[int, int], change: Any) -> None:
    """All tensors but heads arrive bit by bit; each new channel reads the sum over the old ones by their new number."""
    settings = change(architecture(residual=residual))
    old, new = (network.state_dict() for network in (trained(settings, channels[0]), build(settings, channels[1], 5)))
    adapted, account = adapt(old, new)
    require_same_architecture(account, channels, "x")
    assert adapted.keys() == {name for name in new if HEADS not in name}
    stem = "encoder.stem.convs.0.conv.weight" if residual else "encoder.stages.0.0.convs.0.conv.weight"
    aliases = [name for name in old if old[name].data_ptr() == old[stem].data_ptr()]
    assert len(aliases) == 4
    for name, tensor in adapted.items():
        assert tensor.dtype == old[name].dtype
        if name in aliases and channels[0] != channels[1]:
            assert torch.equal(tensor, adapted[aliases[0]])
            mean = old[name].sum(dim=1) / channels[1]
            assert all(torch.equal(tensor[:, channel], mean) for channel in range(channels[1]))
        else:
            assert torch.equal(tensor, old[name]), name
    assert account.coverage == 1 and account.left_behind == () and account.count("new") == 0
    assert account.count("adapted") == (channels[0] != channels[1])


@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("channels", [(1, 2), (2, 1), (3, 1), (4, 3)])
def test_a_repeated_image_gives_the_same_features(residual: bool, channels: tuple[int, int]) -> None:
    """One image in every channel gives the features that it gave in every channel of the old network."""
    old, new = (make(architecture(3, residual=residual), n) for make, n in zip((trained, build), channels, strict=True))
    hand_over(old, new)
    image = noise(1, 1, 8, 8, 8)
    before, after = (
        features(network, image.expand(-1, n, -1, -1, -1)) for network, n in zip((old, new), channels, strict=True)
    )
    for one, other in zip(before, after, strict=True):
        close(other, one)


@pytest.mark.parametrize("change", [{"width": 6}, {"stages": 3}, {"convolutions": 3}, {"flat": 1}, {"residual": True}])
@pytest.mark.parametrize("channels", [(1, 1), (1, 2)])
def test_another_architecture_is_refused_within_a_chain(change: dict[str, Any], channels: tuple[int, int]) -> None:
    """Where architectures differ the error names one tensor, and both shapes if it is in both; either way round."""
    ours = build(architecture(), channels[0]).state_dict()
    theirs = build(architecture(**change), channels[1]).state_dict()
    for weights, like, pair in ((ours, theirs, channels), (theirs, ours, channels[::-1])):
        with pytest.raises(CheckpointError, match="x has another architecture") as raised:
            require_same_architecture(shapes_alone(weights, like), pair, "x")
        message = str(raised.value)
        assert "\n" not in message and len(message) < 400
        named = [name for name in {**weights, **like} if name in message.replace(",", " ").replace(";", " ").split()]
        assert len(named) == 1
        for state in (weights, like) if named[0] in weights and named[0] in like else ():
            assert str(tuple(state[named[0]].shape)) in message


def test_channels_that_are_not_those_of_the_tasks_are_refused_within_a_chain() -> None:
    """A first convolution of other channels than the two tasks have belongs to another chain."""
    account = shapes_alone(build(architecture(), 3).state_dict(), build(architecture(), 1).state_dict())
    require_same_architecture(account, (3, 1), "x")
    with pytest.raises(CheckpointError, match=r"conv\.weight has shape \(4, 3, 3, 3, 3\).*\(4, 1, 3, 3, 3\)"):
        require_same_architecture(account, (2, 1), "x")


def test_neither_side_is_changed_or_shared() -> None:
    """The old weights and the new network's stay as they were, and no memory is shared with what is made of them."""
    old, new = trained(architecture()).state_dict(), build(architecture(5)).state_dict()
    copies = [{name: tensor.clone() for name, tensor in state.items()} for state in (old, new)]
    adapted, _ = adapt(old, new)
    for tensor in adapted.values():
        tensor.fill_(7)
    for state, copy in zip((old, new), copies, strict=True):
        assert all(torch.equal(state[name], copy[name]) for name in state)


@pytest.mark.parametrize("residual", [False, True])
def test_inflated_networks_do_to_every_slice_what_they_did(residual: bool) -> None:
    """2d -> 3d gives the old output in each repeated slice; 1x3x3 grown to 3x3x3 gives it for any volume at all."""
    old = trained(architecture(3, dimensions=2, residual=residual), classes=3)
    settings = architecture(3, residual=residual)
    settings["strides"] = [[1, 1, 1], [1, 2, 2], [1, 2, 2]]
    new = build(settings, classes=3)
    account = hand_over(old, new, keep_heads={0: 0, 1: 1, 2: 2})
    assert account.coverage == 1 and len(account.heads) == 4
    image = noise(1, 1, 16, 16)
    volume = image[:, :, None].expand(-1, -1, 3, -1, -1)
    expected = logits(old, image)
    for depth in range(3):
        close(logits(new, volume)[:, :, depth], expected)

    anisotropic = architecture(3, residual=residual)
    anisotropic["kernel_sizes"] = [[1, 3, 3], [1, 3, 3], [3, 3, 3]]
    isotropic = architecture(3, residual=residual)
    old, new = trained(anisotropic), build(isotropic)
    hand_over(old, new, keep_heads={0: 0, 1: 1})
    volume = noise(1, 1, 8, 16, 16)
    close(logits(new, volume), logits(old, volume))


def test_deflated_kernels_keep_what_is_constant_along_the_axis() -> None:
    """3x3x3 -> 1x3x3: away from the border, images that are constant across slices are convolved as before."""
    weight, image = noise(5, 2, 3, 3, 3), noise(1, 2, 1, 9, 9, seed=2).expand(-1, -1, 7, -1, -1)
    before = nn.functional.conv3d(image, weight, padding=1)
    after = nn.functional.conv3d(image, resize_convolution(weight, (1, 3, 3)), padding=(0, 1, 1))
    close(after[:, :, 1:-1], before[:, :, 1:-1])
    flat = nn.functional.conv2d(image[:, :, 3], resize_convolution(weight, (3, 3)), padding=1)
    close(flat, before[:, :, 3])


@pytest.mark.parametrize("size", [(1, 3, 3), (3, 3, 3), (5, 3, 3), (3, 1, 5)])
@pytest.mark.parametrize("given", [(1, 3, 3), (3, 3, 3), (5, 5, 5)])
def test_kernels_of_any_odd_size(given: tuple[int, ...], size: tuple[int, ...]) -> None:
    """The sum over a kernel is kept, so is its answer to a constant image; growing and shrinking again is no change."""
    weight = noise(3, 2, *given)
    resized = resize_convolution(weight, size)
    assert resized.shape == (3, 2, *size)
    close(resized.sum(dim=(2, 3, 4)), weight.sum(dim=(2, 3, 4)))
    larger = tuple(max(a, b) for a, b in zip(given, size, strict=True))
    assert torch.equal(resize_convolution(resize_convolution(weight, larger), given), weight)
    image = noise(1, 2, 9, 9, 9)
    grown = nn.functional.conv3d(image, resize_convolution(weight, larger), padding=[k // 2 for k in larger])
    close(grown, nn.functional.conv3d(image, weight, padding=[k // 2 for k in given]))


def test_upsampling_repeats_or_averages() -> None:
    """Kernel and stride 1x2x2 -> 2x2x2 repeats the old output along the axis; 2x2x2 -> 1x2x2 averages it."""

    def upsample(image: Tensor, weight: Tensor) -> Tensor:
        return nn.functional.conv_transpose3d(image, weight, stride=weight.shape[2:])

    image, thin, full = noise(1, 3, 4, 5, 5), noise(3, 2, 1, 2, 2), noise(3, 2, 2, 2, 2)
    close(upsample(image, resize_upsampling(thin, (2, 2, 2))), upsample(image, thin).repeat_interleave(2, dim=2))
    averaged = upsample(image, full).unflatten(2, (4, 2)).mean(dim=3)
    close(upsample(image, resize_upsampling(full, (1, 2, 2))), averaged)
    assert torch.equal(resize_upsampling(thin[:, :, 0], (2, 2, 2)), thin.repeat(1, 1, 2, 1, 1))
    close(resize_upsampling(full, (2, 2)), full.mean(dim=2))
    assert torch.equal(resize_upsampling(full, (2, 2, 2)), full)


@pytest.mark.parametrize("residual", [False, True])
def test_wider_networks_compute_what_they_did(residual: bool) -> None:
    """Grown in width, the leading features of every stage, and with its heads the network's output, are unchanged."""
    old = trained(architecture(width=4, residual=residual), classes=3)
    new = build(architecture(width=6, residual=residual), classes=4)
    account = hand_over(old, new, keep_heads={1: 0, 2: 1, 3: 2})
    assert 0.3 < account.coverage < 0.6
    image = noise(1, 1, 16, 16, 16)
    for mine, theirs in zip(features(new, image), features(old, image), strict=True):
        close(mine[:, : theirs.shape[1]], theirs)
        assert mine[:, theirs.shape[1] :].std() > 0.1
    close(logits(new, image)[:, 1:], logits(old, image))


def test_coverage_of_other_widths_is_counted() -> None:
    """Closed form: of 6x4 filters 3x2 come over; of narrower ones each counts by its share of inputs left."""
    fresh, given = noise(6, 4, 3, 3), noise(3, 2, 3, 3, seed=2)
    placed, transferred = place_in(fresh, given)
    assert transferred == 3 * 2 * 9
    assert torch.equal(placed[:3, :2], given) and torch.equal(placed[3:], fresh[3:])
    assert not placed[:3, 2:].any()
    placed, transferred = place_in(given, fresh)
    assert torch.equal(placed, fresh[:3, :2]) and transferred == 3 * 2 * 9 / 2
    placed, transferred = place_in(noise(6, 8, 1, 1), noise(6, 4, 1, 1, seed=2), groups=2)
    assert torch.equal(placed[:, [0, 1, 4, 5]], noise(6, 4, 1, 1, seed=2))
    assert not placed[:, [2, 3, 6, 7]].any() and transferred == 24


@pytest.mark.parametrize("stages", [(4, 5), (5, 4), (4, 6)])
def test_other_depths_are_aligned_by_resolution(stages: tuple[int, int]) -> None:
    """Encoder stages shared by both give the same features; decoder stages of one resolution have the same weights."""
    old, new = trained(architecture(stages[0])), build(architecture(stages[1]))
    account = hand_over(old, new)
    image = noise(1, 1, 64, 64, 64)
    for mine, theirs in zip(features(new, image), features(old, image), strict=False):
        close(mine, theirs)
    shared = min(stages) - 1
    for parts in ("stages", "transpconvs"):
        mine, theirs = (getattr(network.decoder, parts)[-shared:] for network in (new, old))
        assert body_digest(mine.state_dict()) == body_digest(theirs.state_dict())
    levels = {change.reason for change in account.tensors if change.how == "new"}
    deeper = [f"encoder level {level}: no counterpart" for level in range(stages[0], stages[1])]
    assert levels >= set(deeper)
    assert (account.left_behind != ()) == (stages[0] > stages[1])


def test_a_new_residual_block_begins_as_the_identity() -> None:
    """More blocks per stage: each new one passes its input on, but for its activation, so features change little."""
    old = trained(architecture(residual=True, convolutions=1))
    new = build(architecture(residual=True, convolutions=2))
    hand_over(old, new)
    image = noise(1, 1, 16, 16, 16)
    leaky = nn.LeakyReLU(0.01)
    close(features(new, image)[0], leaky(features(old, image)[0]))


def test_plain_stages_become_residual_blocks() -> None:
    """Plain -> residual: below the first stage a plain stage and the block made of it compute the same function."""
    old = trained(architecture(convolutions=2))
    new = build(architecture(residual=True, convolutions=1))
    account = hand_over(old, new)
    for level in (1, 2):  # the last stage is as wide as the one before: its skip has no projection
        image = noise(1, old.encoder.output_channels[level - 1], 8, 8, 8)
        with torch.no_grad():
            close(new.encoder.stages[level](image), old.encoder.stages[level](image))
    with torch.no_grad():
        image = noise(1, 1, 8, 8, 8)
        close(new.encoder.stem(image), old.encoder.stages[0][0].convs[0](image))
    assert {change.reason for change in account.tensors if change.how == "new"} == {
        f"encoder level {level}: no counterpart" for level in range(4)
    }
    back = hand_over(new, build(architecture()))
    new_parts = {change.reason for change in back.tensors if change.how == "new"}
    assert {f"encoder level {level}: no counterpart" for level in range(4)} <= new_parts, "blocks are no plain stages"


@pytest.mark.parametrize("matched", [[0], [1, None], [None, None, 0], [0, 0], [None], [2, 1, 0, None]])
def test_matched_channels_keep_the_scale(matched: list[int | None]) -> None:
    """Each filter keeps its Euclidean norm: independent z-scored channels give outputs of the old variance."""
    weight = noise(4, 3, 3, 3)
    chosen = match_channels(weight, matched)
    close(chosen.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    for place, old in enumerate(matched):
        wanted = weight.mean(dim=1) if old is None else weight[:, old]
        cosine = nn.functional.cosine_similarity(chosen[:, place].flatten(1), wanted.flatten(1))
        close(cosine, torch.ones(4))
    before = nn.functional.conv2d(noise(1, 3, 200, 200), weight).std(dim=(0, 2, 3))
    after = nn.functional.conv2d(noise(1, len(matched), 200, 200, seed=3), chosen).std(dim=(0, 2, 3))
    torch.testing.assert_close(after, before, rtol=0.05, atol=0)


def test_a_filter_of_zeros_stays_one() -> None:
    """Nothing is divided by a norm of 0."""
    assert torch.equal(match_channels(torch.zeros(2, 2, 3, 3), [0]), torch.zeros(2, 1, 3, 3))


def test_heads_that_do_not_exist_cannot_be_kept() -> None:
    """An output that the checkpoint or the network lacks is an error with both numbers."""
    old, new = trained(architecture(3), classes=3), build(architecture(3), classes=4, seed=3)
    for wrong in ({0: 3}, {4: 0}, {-1: 0}):
        with pytest.raises(CheckpointError, match=r"heads .* cannot be kept: .* 3 outputs .* 4 in the network"):
            adapt(old.state_dict(), new.state_dict(), keep_heads=wrong)


def test_too_little_coverage_is_refused() -> None:
    """Below the wanted coverage: one line with the figure and the largest reasons first; at it, nothing."""
    old, new = trained(architecture(4)), build(architecture(6))
    _, account = adapt(old.state_dict(), new.state_dict())
    require_coverage(account, account.coverage, "x.pth")
    with pytest.raises(CheckpointError, match=r"x\.pth gives only 0") as raised:
        require_coverage(account, 0.9, "x.pth")
    message = str(raised.value)
    assert "\n" not in message and f"{account.coverage:.3f}" in message
    assert "encoder level 4: no counterpart" in message and "-min_coverage" in message
    shares = [int(part.split("%")[0].split("(")[-1]) for part in message.split(",") if "%" in part]
    assert shares == sorted(shares, reverse=True) and sum(shares) <= 100
    assert account.summary().startswith(f"coverage {account.coverage:.3f}: copied ")


def test_other_networks_go_by_name_and_shape() -> None:
    """Tensors of networks that are no U-Nets of nnU-Net's are copied where name and shape agree, else new."""
    old = {"a": noise(2, 3), "b": noise(4), "c": noise(1)}
    fresh = {"a": noise(2, 3, seed=2), "b": noise(5, seed=2), "d": noise(1, seed=2)}
    adapted, account = adapt(old, fresh)
    assert [change.how for change in account.tensors] == ["copied", "new", "new"]
    assert torch.equal(adapted["a"], old["a"])
    assert torch.equal(adapted["b"], fresh["b"]) and torch.equal(adapted["d"], fresh["d"])
    assert account.coverage == 0.5 and account.left_behind == ("b", "c")
    assert account.reasons() == "the rest: no counterpart (50 %)"


def test_other_networks_read_other_channels() -> None:
    """A convolution of an unknown network reads the image if only its channels differ, by the tasks' numbers."""
    old, fresh = {"a": noise(4, 2, 3, 3), "b": noise(4, 4, 1, 1)}, {"a": noise(4, 3, 3, 3), "b": noise(4, 4, 1, 1)}
    adapted, account = adapt(old, fresh, inputs=(2, 3))
    require_same_architecture(account, (2, 3), "x")
    assert torch.equal(adapted["a"][:, 1], old["a"].sum(dim=1) / 3) and torch.equal(adapted["b"], old["b"])
    for inputs in (None, (1, 3), (3, 2)):
        assert shapes_alone(old, fresh, inputs=inputs).count("new") == 1


@pytest.mark.parametrize(
    "odd",
    [torch.zeros(3), torch.zeros(()), torch.zeros(0, 2, 3, 3, 3), torch.zeros(2, 3), torch.ones(2, 2, 3, 3, 3).int()],
    ids=lambda tensor: f"{tensor.dtype} {tuple(tensor.shape)}",
)
@pytest.mark.parametrize(
    "place", ["encoder.stages.0.0.convs.0.", "decoder.stages.0.convs.0.", "decoder.transpconvs.0."]
)
def test_what_is_no_convolution_counts_as_missing(odd: Tensor, place: str) -> None:
    """A checkpoint may hold anything under a convolution's name: what the rules do not know is new, and no crash."""
    old, new = trained(architecture(3)).state_dict(), build(architecture(3)).state_dict()
    name = next(name for name in old if name.startswith(place) and name.endswith("weight"))
    adapted, account = adapt({**old, name: odd}, new)
    assert torch.equal(adapted[name], new[name])
    assert [change.name for change in account.tensors if change.how == "new"] == [name]
    assert name in account.left_behind
