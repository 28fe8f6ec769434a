"""Pretrained models are found in any form, loaded as data only, and otherwise named for what they are."""

from __future__ import annotations

import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from nnunet_seqtransfer.errors import CheckpointError
from nnunet_seqtransfer.nnunet.folders import FINAL_CHECKPOINT
from nnunet_seqtransfer.nnunet.network import Outputs
from nnunet_seqtransfer.storage import sha256
from nnunet_seqtransfer.transfer.checkpoints import body_digest, load_checkpoint
from nnunet_seqtransfer.transfer.pretrained import channel_names, find_pretrained, outputs
from support.models import MODEL, Malicious, checkpoint, save
from support.u_nets import architecture


def export(path: Path, files: dict[str, Path | bytes], compression: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name, content.read_bytes() if isinstance(content, Path) else content)
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A results folder of nnU-Net's with the folds 1, 3 and all."""
    root = tmp_path_factory.mktemp("results")
    for seed, fold in enumerate(("1", "3", "all")):
        save(root / MODEL / f"fold_{fold}" / FINAL_CHECKPOINT, checkpoint(architecture(3), seed=seed))
    return root / MODEL


def test_every_form_of_a_model_is_found(model: Path, tmp_path: Path) -> None:
    """A checkpoint, a fold's folder, a model's folder and an export give the same weights; fold all goes first."""
    final = model / "fold_all" / FINAL_CHECKPOINT
    digest = sha256(final)
    members = {f"{MODEL}/{path.relative_to(model)}": path for path in model.rglob("*.pth")}
    archive = export(tmp_path / "export.zip", {**members, f"{MODEL}/plans.json": b"{}"})
    for given in (final, final.parent, model, archive):
        found = find_pretrained(given, "3d_fullres")
        assert found.sha256 == digest
        loaded = found.load()
        assert body_digest(loaded["network_weights"]) == body_digest(load_checkpoint(final)["network_weights"])
    assert str(found) == f"{archive}!{MODEL}/fold_all/{FINAL_CHECKPOINT}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["export.zip"], "nothing is extracted"
    del members[f"{MODEL}/fold_all/{FINAL_CHECKPOINT}"]
    assert find_pretrained(export(archive, members), "3d_fullres").sha256 == sha256(model / "fold_1" / FINAL_CHECKPOINT)


@pytest.mark.parametrize(
    ("held", "taken"),
    [
        (("fold_0/checkpoint_best.pth", "fold_1/checkpoint_final.pth"), "fold_1/checkpoint_final.pth"),
        (("fold_0/checkpoint_best.pth", "fold_0/checkpoint_latest.pth"), "fold_0/checkpoint_best.pth"),
        (("fold_2/model_best.model", "fold_2/model_final_checkpoint.model"), "fold_2/model_final_checkpoint.model"),
        (("fold_0/checkpoint_latest.pth",), None),
    ],
)
def test_the_best_suited_checkpoint_of_a_folder(tmp_path: Path, held: tuple[str, ...], taken: str | None) -> None:
    """A final checkpoint of any fold, otherwise the best epoch's, also of nnU-Net v1; never an unfinished one."""
    for name in held:
        save(tmp_path / name, {"state_dict": {"a": torch.zeros(1)}})
    if taken is None:
        with pytest.raises(CheckpointError, match=r"no checkpoint_final\.pth or checkpoint_best\.pth in"):
            find_pretrained(tmp_path, "3d_fullres")
    else:
        assert find_pretrained(tmp_path, "3d_fullres").file == tmp_path / taken


WEIGHTS = {"a": torch.arange(4.0), "b": torch.zeros(2)}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        {"state_dict": WEIGHTS, "epoch": 3, "optimizer_state_dict": {"state": {0: {"x": torch.zeros(9)}}}},
        {"network_weights": WEIGHTS, "ema": {"a": torch.zeros(99)}},
        {"model": {"state_dict": WEIGHTS}, "logging": np.zeros(3)},
    ],
    ids=["bare", "v1 or Lightning", "nnU-Net v2", "nested"],
)
@pytest.mark.parametrize("new", [True, False], ids=["new format", "old format"])
@pytest.mark.parametrize("lazy", [True, False])
def test_weights_are_found_in_any_checkpoint(tmp_path: Path, content: Any, new: bool, lazy: bool) -> None:
    """A bare dictionary of tensors, or the largest one in what others save; nnU-Net's own goes first."""
    path = tmp_path / "c.model"
    torch.save(content, path, _use_new_zipfile_serialization=new)
    weights = find_pretrained(path, "3d_fullres").load(lazy=lazy)["network_weights"]
    assert body_digest(weights) == body_digest(WEIGHTS)


@pytest.mark.parametrize(("content", "words"), [({"epoch": 3, "x": {}}, "it holds epoch, x"), ([1], "it holds list")])
def test_a_checkpoint_without_weights_is_named(tmp_path: Path, content: Any, words: str) -> None:
    """The error says what the file holds instead, and what to give."""
    with pytest.raises(CheckpointError, match=f"no dictionary of tensors .{words}"):
        find_pretrained(save(tmp_path / "c.pth", content), "3d_fullres").load()


def test_an_archive_of_several_models(model: Path, tmp_path: Path) -> None:
    """The one of the wanted configuration is taken; if it is the only one, any; where that leaves several, none."""
    final, flat = model / "fold_1" / FINAL_CHECKPOINT, model / "fold_3" / FINAL_CHECKPOINT
    names = [f"{MODEL}/fold_0/{FINAL_CHECKPOINT}", f"{MODEL.replace('3d_fullres', '2d')}/fold_0/{FINAL_CHECKPOINT}"]
    archive = export(tmp_path / "export.zip", dict(zip(names, (final, flat), strict=True)))
    assert find_pretrained(archive, "3d_fullres").sha256 == sha256(final)
    assert find_pretrained(archive, "2d").sha256 == sha256(flat)
    with pytest.raises(CheckpointError, match=r"holds 2 models, .*__2d and others"):
        find_pretrained(archive, "3d_lowres")
    assert find_pretrained(export(archive, {names[1]: flat}), "3d_fullres").sha256 == sha256(flat)


def test_what_is_no_model_is_named(model: Path, tmp_path: Path) -> None:
    """Nothing there, an empty folder, text, a cut-off file, an archive without a checkpoint: one line with the path."""
    whole = (model / "fold_1" / FINAL_CHECKPOINT).read_bytes()
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.pth").write_text("text")
    (tmp_path / "v1.model.pkl").write_bytes(pickle.dumps({"init": ()}))
    (tmp_path / "x.onnx").write_bytes(b"\x08\x07")
    torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), str(tmp_path / "script.pt"))
    (tmp_path / "cut.pth").write_bytes(whole[: len(whole) // 2])
    export(tmp_path / "other.zip", {"readme.txt": b"hello", FINAL_CHECKPOINT: b"not in a fold"})
    damaged = export(tmp_path / "damaged.zip", {f"{MODEL}/fold_0/{FINAL_CHECKPOINT}": whole}).read_bytes()
    place = len(damaged) // 2
    (tmp_path / "damaged.zip").write_bytes(damaged[:place] + bytes(64) + damaged[place + 64 :])
    for name, words in {
        "none.pth": "no model at",
        "empty": f"no {FINAL_CHECKPOINT} or",
        "text.pth": "no checkpoint and no ZIP file",
        "v1.model.pkl": "give -init the .model file",
        "x.onnx": "an ONNX program",
        "script.pt": "a TorchScript program",
        "cut.pth": "truncated",
        "other.zip": f"no {FINAL_CHECKPOINT} of a fold",
        "damaged.zip": "damaged or encrypted",
    }.items():
        with pytest.raises(CheckpointError, match=words) as raised:
            find_pretrained(tmp_path / name, "3d_fullres")
        assert str(tmp_path / name) in str(raised.value) and "\n" not in str(raised.value)


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "\\x", "..\\x", "C:/x", "C:\\x"])
def test_archives_that_lead_out_of_themselves_are_refused(model: Path, tmp_path: Path, name: str) -> None:
    """An entry that would be written elsewhere is refused before anything is read or written, beside a good model."""
    good = {f"{MODEL}/fold_0/{FINAL_CHECKPOINT}": model / "fold_1" / FINAL_CHECKPOINT}
    (tmp_path / "in").mkdir()
    archive = export(tmp_path / "in" / "export.zip", good)
    assert find_pretrained(archive, "3d_fullres")
    export(archive, {**good, name: b"evil"})
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(CheckpointError, match="not safe"):
        find_pretrained(archive, "3d_fullres")
    assert sorted(tmp_path.rglob("*")) == before


def test_an_archive_that_would_fill_the_memory_is_refused(tmp_path: Path) -> None:
    """A checkpoint that unpacks to a thousand times its size is not unpacked."""
    archive = export(tmp_path / "export.zip", {f"{MODEL}/fold_0/{FINAL_CHECKPOINT}": bytes(10_000_000)})
    assert archive.stat().st_size < 20_000
    with pytest.raises(CheckpointError, match="unpacks to 10000000 bytes"):
        find_pretrained(archive, "3d_fullres")


@pytest.mark.parametrize("new", [True, False], ids=["new format", "old format"])
@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_model_is_not_run(tmp_path: Path, zipped: bool, new: bool) -> None:
    """A model that would run code is refused without running it, as a file and within an export."""
    mark = tmp_path / "mark"
    path = tmp_path / "c.pth"
    torch.save({**checkpoint(architecture(3)), "logging": Malicious(mark)}, path, _use_new_zipfile_serialization=new)
    given = export(tmp_path / "export.zip", {f"{MODEL}/fold_0/{FINAL_CHECKPOINT}": path}) if zipped else path
    with pytest.raises(CheckpointError, match="not safe to load") as raised:
        find_pretrained(given, "3d_fullres").load()
    assert not mark.exists() and "-init" in str(raised.value) and "mkdir" in str(raised.value)


def test_a_model_that_changes_meanwhile_is_noticed(model: Path, tmp_path: Path) -> None:
    """The checkpoint that is loaded is the one that gave the stages their names, or none."""
    path = tmp_path / "c.pth"
    path.write_bytes((model / "fold_1" / FINAL_CHECKPOINT).read_bytes())
    found = find_pretrained(path, "3d_fullres")
    path.write_bytes((model / "fold_3" / FINAL_CHECKPOINT).read_bytes())
    with pytest.raises(CheckpointError, match="has changed"):
        found.load()


@pytest.mark.parametrize("zipped", [False, True])
def test_a_model_that_is_gone_is_one_line(model: Path, tmp_path: Path, zipped: bool) -> None:
    """Its stage may begin days after the chain was asked for."""
    saved = model / "fold_1" / FINAL_CHECKPOINT
    path = tmp_path / "c"
    if zipped:
        export(path, {f"{MODEL}/fold_1/{FINAL_CHECKPOINT}": saved})
    else:
        path.write_bytes(saved.read_bytes())
    found = find_pretrained(path, "3d_fullres")
    path.unlink()
    with pytest.raises(CheckpointError, match=r"the model is missing: .*; restore it") as caught:
        found.load()
    assert str(path) in str(caught.value) and len(str(caught.value).splitlines()) == 1


def test_names_of_a_models_outputs_fit_its_heads_or_do_not_count() -> None:
    """A checkpoint whose dataset.json lists more or fewer labels than it has heads says nothing about them."""
    good = checkpoint(architecture(3))
    good["init_args"]["dataset_json"]["labels"] = {"background": 0, "organ": 1}
    assert outputs(good) == Outputs(("background", "organ"), False)
    for labels in ({"background": 0}, {"background": 0, "a": 1, "b": 2}, {"background": "x"}, [], None):
        good["init_args"]["dataset_json"]["labels"] = labels
        assert outputs(good) is None
    assert outputs({"network_weights": good["network_weights"]}) is None


def test_channels_of_a_model_are_named_if_all_are_read() -> None:
    """A checkpoint that lists more channels than its first convolution reads says nothing about them."""
    good = checkpoint(architecture(3))
    assert channel_names(good) == ("MRI",)
    good["init_args"]["dataset_json"]["channel_names"]["1"] = "not read"
    assert channel_names(good) == ()
    assert channel_names({"init_args": {"dataset_json": {"channel_names": ["MRI"]}}}) == () == channel_names({})
