"""The documentation: its links, its page of commands, and its examples agree with the code."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from urllib.parse import unquote

import numpy as np
import pytest

from nnunet_seqtransfer.affinity import metrics as metric_module
from nnunet_seqtransfer.affinity.base import AffinityMetric
from nnunet_seqtransfer.affinity.metrics import find_metric, metric_names
from nnunet_seqtransfer.nnunet.preprocessing import CaseData
from nnunet_seqtransfer.tasks.signature import INTENSITY_PROPERTIES, Signature, read_signature, write_signature
from support.world import NEAR, PYTHON, TARGET, World, load_script, run

ROOT = Path(__file__).parents[1]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for page in (ROOT / "docs").rglob("*.md") if "_build" not in page.parts)],
    key=lambda page: page.relative_to(ROOT),
)
BLOCK = re.compile(r"^```\{?(?P<language>[\w-]*)\}?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]


def blocks(page: Path, language: str) -> list[str]:
    return [match["text"] for match in BLOCK.finditer(page.read_text()) if match["language"] == language]


def prose(page: Path) -> str:
    return re.sub(r"`[^`\n]*`", "", BLOCK.sub("", page.read_text()))


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def example_commands() -> Iterator[tuple[str, list[str]]]:
    """(page, words) of every command of this project in a bash block, comments and substitutions taken away."""
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line.replace('"$(', " ; ").replace(')"', ""), comments=True)
                for start, word in enumerate(words):
                    if Path(word).name.startswith("nnUNetv2_seq_"):
                        yield str(page.relative_to(ROOT)), [Path(word).name, *words[start + 1 :]]


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    return load_script("docs/generate_commands.py")


@pytest.fixture
def example_metric(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The name of the how-to's metric, registered for one test as the page says."""
    page = ROOT / "docs" / "how-to" / "own-metric.md"
    (code,), (registration,) = blocks(page, "python"), blocks(page, "toml")
    name, module, attribute = re.findall(r'^(\w+) = "(\w+):(\w+)"$', registration, re.MULTILINE)[0]
    (tmp_path / f"{module}.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    point = importlib.metadata.EntryPoint(name, f"{module}:{attribute}", metric_module.ENTRY_POINT_GROUP)
    monkeypatch.setattr(metric_module, "entry_points", lambda group: [point])
    yield name
    sys.modules.pop(module, None)


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_relative_links_resolve(page: Path) -> None:
    """Every relative link leads to a file that exists, and every anchor to a heading in it."""
    for link in re.findall(r"\]\(([^)\s]+)\)", prose(page)):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = unquote(link).partition("#")
        goal = page if not file else page.parent / file
        assert goal.is_file(), f"{link} leads to no file"
        assert not anchor or anchor in anchors(goal), f"{link}: no such heading, but {sorted(anchors(goal))}"


def test_every_page_is_in_the_table_of_contents() -> None:
    """No page of docs/ is left out of the index."""
    index = (ROOT / "docs" / "index.md").read_text()
    for page in (page.relative_to(ROOT / "docs") for page in PAGES if "docs" in page.relative_to(ROOT).parts):
        assert str(page) == "index.md" or f"\n{page.with_suffix('')}\n" in index, page


def test_every_command_has_a_section() -> None:
    """Each command of pyproject.toml is described in the reference."""
    page = (ROOT / "docs" / "reference" / "commands.md").read_text()
    names = re.findall(r"^(nnUNetv2_seq_\w+) *=", (ROOT / "pyproject.toml").read_text(), re.MULTILINE)
    assert names
    for name in names:
        assert f"\n## {name}\n" in page, f"{name} is missing; run python docs/generate_commands.py"


def test_the_page_of_commands_is_what_the_parsers_say(generator: ModuleType) -> None:
    """The committed page equals the one generated from the parsers now."""
    assert generator.PAGE.read_text() == generator.page(), "run python docs/generate_commands.py"


def test_examples_use_existing_options(generator: ModuleType, example_metric: str) -> None:
    """Every command of this project in the documentation is accepted by its parser, values included."""
    assert example_metric in metric_names()
    parsers = {name: generator.parser_of(name, main) for name, main in generator.commands().items()}
    examples = list(example_commands())
    assert {words[0] for _, words in examples} == set(parsers), "every command is shown somewhere"
    for page, (name, *arguments) in examples:
        try:
            parsers[name].parse(arguments)
        except SystemExit:
            pytest.fail(f"{page}: {shlex.join([name, *arguments])} is refused")


def test_the_pages_are_for_users() -> None:
    """No page names a test, and all pages together can be read in an afternoon."""
    text = {page: page.read_text() for page in PAGES}
    assert not [page.name for page, words in text.items() if re.search(r"::test_|`tests/\S+/", words)]
    printed = re.compile(r"^```text$.*?^```$", re.MULTILINE | re.DOTALL)  # what the commands print is not prose
    assert sum(len(printed.sub("", words).split()) for words in text.values()) <= 20_000


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_nothing_is_left_to_be_written(page: Path) -> None:
    """No page holds a mark of unfinished text, and every block of code is closed."""
    text = page.read_text()
    assert not re.search(r"\b(TODO|TBD|FIXME|XXX|lorem ipsum)\b|coming soon|to be written", text, re.IGNORECASE)
    assert len(re.findall(r"^```", text, re.MULTILINE)) % 2 == 0


def test_the_example_of_a_metric_works(tmp_path: Path, example_metric: str) -> None:
    """The class of the how-to, registered as it says, is found, profiles a case, and gives a distance."""
    metric = find_metric(example_metric)
    assert metric.name == example_metric and {"descriptors", "published"} < set(metric_names())
    signatures = [signature_of(metric, slices, tmp_path) for slices in (2, 4)]
    itself, other = (metric.compare(signatures[0], signature).distances for signature in signatures)
    assert metric.combination.distances(itself) == 0
    assert metric.combination.distances(other) == pytest.approx(np.log10(2), rel=1e-3)


def signature_of(metric: AffinityMetric, slices: int, folder: Path) -> Signature:
    """The signature of a task of one case whose first ``slices`` of 8 slices are foreground, through its file."""
    segmentation = np.zeros((8, 8, 8), dtype=np.int16)
    segmentation[:slices] = 1
    case = CaseData(np.zeros((1, 8, 8, 8), dtype=np.float32), segmentation)
    signature = Signature(
        dataset=f"Dataset00{slices}_X",
        metric=metric.name,
        version=metric.version,
        digest=str(slices),
        base=str(slices),
        preprocessing=metric.view,
        channels=("MRI",),
        labels=("organ",),
        labelled_cases=1,
        cases=("case",),
        stamps=("stamp",),
        labelled=(True,),
        geometry=np.asarray([[(1.0, 1.0, 1.0), (8.0, 8.0, 8.0)]]),
        intensities=np.zeros((1, len(INTENSITY_PROPERTIES))),
        profiles=(metric.profile(case, ((1,),)),),
    )
    write_signature(folder / f"{slices}.npz", signature)
    return read_signature(folder / f"{slices}.npz")


def test_the_example_of_planning_works(capsys: pytest.CaptureFixture[str]) -> None:
    """The example on a plain table in the Python reference prints what its comments say."""
    _, code = blocks(ROOT / "docs" / "reference" / "python.md", "python")
    exec(compile(code, "python.md", "exec"), {})  # noqa: S102 - our own page
    path, gain, kind = capsys.readouterr().out.splitlines()
    assert (path, kind) == ("(1, 2)", "scratch") and "chance of harm" in gain


@pytest.mark.chain
def test_the_script_in_the_python_reference_measures_plans_and_trains(world: World, tmp_path: Path) -> None:
    """The script runs as a file of its own, follows its plan, and leaves nnU-Net's final checkpoint."""
    script = tmp_path / "script.py"
    script.write_text(blocks(ROOT / "docs" / "reference" / "python.md", "python")[0])
    out = run([PYTHON, str(script)], dict(os.environ)).stdout
    assert f"('{NEAR}',): expected gain +" in out
    base = world.results / TARGET / "nnUNetTrainerSeqTransfer__nnUNetPlans_via902__3d_fullres"
    assert (base / "fold_0" / "checkpoint_final.pth").is_file()
    assert f"{NEAR}/nnUNetPlans_for901/fold_all" in out.splitlines()[-1]
