"""Fixtures: a small nnU-Net world, made once per session and copied for every test that writes in it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from filelock import FileLock

from support.quick import QUICK
from support.world import SHARED, Outcome, World, make_world


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Quick tests first, real chains last; within each, the order of the files, but the longest chain first.

    Workers take the quick tests of one file together, since these share fixtures, and chains one by one.
    """
    items.sort(key=lambda item: (item.get_closest_marker("chain") is not None, not _is_longest(item)))
    for item in items:
        chain = item.get_closest_marker("chain") is not None
        # the template of the world takes nearly a minute
        slow = chain or "world_template" in getattr(item, "fixturenames", ())
        if not slow and item.path.stem.removeprefix("test_") in QUICK.get(item.path.parent.name, ()):
            item.add_marker("quick")
        item.add_marker(pytest.mark.xdist_group(item.name if chain else item.path.stem))


def _is_longest(item: pytest.Item) -> bool:
    return item.path.stem == "test_kills" and item.get_closest_marker("chain") is not None


@pytest.fixture(scope="session")
def world_template(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The world as a user has it: all datasets in nnUNet_raw, fingerprints there, 901, 904 and 911 preprocessed.

    One worker makes it for all, the others wait for it.
    """
    session = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # each worker has a folder of its own in that of the session
        session = session.parent
    world = World(session / "world_template")
    with FileLock(session / "world_template.lock"):
        if not world.root.is_dir():
            aside = World(tmp_path_factory.mktemp("world"))
            make_world(aside)
            aside.root.rename(world.root)
    return world


@pytest.fixture
def world(world_template: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    """A copy of the template for one test, with nnU-Net's variables pointing at it."""
    own = World(tmp_path / "world")
    shutil.copytree(world_template.root, own.root)
    for name, value in own.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("nnUNet_n_proc_DA", "0")
    monkeypatch.setenv("nnUNet_def_n_proc", "1")
    return own


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with raw, preprocessed and results, all empty, to which nnU-Net's variables point."""
    for name in ("raw", "preprocessed", "results"):
        (tmp_path / name).mkdir()
        monkeypatch.setenv(f"nnUNet_{name}", str(tmp_path / name))
    return tmp_path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real datasets; skips where it is not there."""
    folder = SHARED / "data"
    if not folder.is_dir():
        pytest.skip(f"no real datasets in {folder}")
    return folder


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[..., Outcome]]:
    """Calls a command in this process: command("affinity", "-t", "901") -> Outcome."""

    def call(name: str, *arguments: str) -> Outcome:
        import importlib

        main = importlib.import_module(f"nnunet_seqtransfer.entry_points.{name}").main
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        captured = capfd.readouterr()
        return Outcome(int(ended.value.code or 0), captured.out, captured.err)

    yield call
