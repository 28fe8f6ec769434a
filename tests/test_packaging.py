"""What is installed is what is in the folders, and imports go one way."""

from __future__ import annotations

import ast
import importlib
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.quick import QUICK

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

ROOT = Path(__file__).parents[1]
PACKAGE = "nnunet_seqtransfer"
ORDER = [
    "nnunet",
    "tasks",
    "overlap",
    "affinity",
    "transfer",
    "planning",
    "training",
    "slurm",
    "trainers",
    "calibration",
    "evaluation",
    "report",
    "demo",
]
"""Data flow one way: a folder imports from those before it, never from those after it."""


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def folders() -> dict[str, Path]:
    """Every package and where its modules lie; entry_points is the one outside of the package's folder."""
    found = {f"{PACKAGE}.entry_points": ROOT / "entry_points"}
    for folder in [ROOT / PACKAGE, *(path for path in (ROOT / PACKAGE).rglob("*") if not path.is_symlink())]:
        if folder.is_dir() and any(folder.glob("*.py")):
            found[".".join(folder.relative_to(ROOT).parts)] = folder
    return found


def modules() -> list[Path]:
    return sorted(path for folder in folders().values() for path in folder.glob("*.py"))


def test_the_quick_tests_cover_every_package() -> None:
    """Each package has files of tests that are marked as quick, and each such file exists."""
    assert set(QUICK) - {"tests"} == {name.rpartition(".")[2] for name in folders()} - {PACKAGE, "nnunet_ext"}
    for folder, names in QUICK.items():
        for name in names:
            assert (ROOT / "tests" / folder.replace("tests", ".") / f"test_{name}.py").is_file()


def test_every_folder_is_listed(project: dict[str, Any]) -> None:
    """The packages that are installed are the folders that hold modules; one left out is missing from a wheel only."""
    assert sorted(project["tool"]["setuptools"]["packages"]) == sorted(folders())
    assert project["tool"]["setuptools"]["package-dir"] == {f"{PACKAGE}.entry_points": "entry_points"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, project: dict[str, Any]) -> set[str]:
    """Names of the files in a wheel, built from a copy of the sources without any network."""
    pytest.importorskip("setuptools", minversion="77")
    import shutil
    import subprocess

    source, goal = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__")
    for name in (PACKAGE, "entry_points"):
        shutil.copytree(ROOT / name, source / name, ignore=ignored, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    build = f"from setuptools import build_meta; build_meta.build_wheel({str(goal)!r})"
    subprocess.run([sys.executable, "-c", build], cwd=source, check=True, capture_output=True, timeout=300)
    (path,) = goal.glob("*.whl")
    with zipfile.ZipFile(path) as archive:
        return set(archive.namelist())


def test_the_wheel_holds_every_module(wheel: set[str]) -> None:
    """Every module, the shim that nnU-Net searches, the commands and the mark of typing are in the wheel."""
    expected = {
        f"{name.replace('.', '/')}/{path.name}" for name, folder in folders().items() for path in folder.glob("*.py")
    }
    assert f"{PACKAGE}/nnunet_ext/nnunet_seqtransfer_trainers.py" in expected
    assert f"{PACKAGE}/entry_points/train.py" in expected
    templates = {f"{PACKAGE}/report/templates/page.{ending}" for ending in ("html", "css", "js")}
    assert expected | templates | {f"{PACKAGE}/py.typed"} <= wheel
    others = {
        name for name in wheel if not name.startswith((f"{PACKAGE}/", f"{PACKAGE}-")) and ".dist-info/" not in name
    }
    assert not others, "nothing is installed beside the package"
    assert f"{PACKAGE}/nnunet_ext/__init__.py" not in wheel


def test_every_command_can_be_called(project: dict[str, Any]) -> None:
    """Every command imports and has a main; every module in entry_points but those that commands share is one."""
    scripts = project["project"]["scripts"]
    for name, reference in scripts.items():
        module, function = reference.split(":")
        assert name.startswith("nnUNetv2_seq_")
        assert function == "main"
        assert callable(importlib.import_module(module).main), name
    called = {reference.split(":")[0].rsplit(".", 1)[1] for reference in scripts.values()}
    assert called == {path.stem for path in (ROOT / "entry_points").glob("*.py")} - {
        "__init__",
        "common",
        "executor_options",
        "plan_options",
        "recipe_options",
    }


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_module_says_what_it_is_for(path: Path) -> None:
    """The first line of each module is a sentence on one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text()))
    assert docstring
    assert docstring.splitlines()[0].rstrip().endswith((".", ":"))


def imports(path: Path) -> Iterator[str]:
    """Names of all modules that a module imports, inside functions too, but not those for type checkers only."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_only_nnunet_and_trainers_know_nnunet(path: Path) -> None:
    """nnU-Net's modules are imported in nnunet/ and trainers/ alone."""
    known = path.parent.name in ("nnunet", "trainers")
    found = [name for name in imports(path) if name.split(".")[0] in ("nnunetv2", "batchgenerators", "acvl_utils")]
    assert known or not found


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_data(path: Path) -> None:
    """A folder imports only what lies before it on the way of the data; the commands import everything, nobody them."""
    place = "report" if path.parent.name == "page" else path.parent.name
    for name in imports(path):
        parts = name.split(".")
        if parts[0] != PACKAGE or len(parts) < 2:
            continue
        assert parts[1] != "entry_points" or place == "entry_points"
        if place in ORDER and parts[1] in ORDER:
            assert ORDER.index(parts[1]) <= ORDER.index(place), f"{path} imports {name}"
        # The package itself hands out what is meant to be called from Python, and imports it when asked.
        if path.parent == ROOT / PACKAGE and path.name != "__init__.py":
            assert parts[1] not in ORDER, f"{path} imports {name}"
