"""The page of a run: what it shows, what it leaves out, and that it is sound HTML which loads nothing."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nnunet_seqtransfer.affinity.record import read_affinity, write_affinity
from nnunet_seqtransfer.report.findings import read_findings
from nnunet_seqtransfer.report.page import render, write_report
from nnunet_seqtransfer.report.pages import policy
from support import made_run
from support.bad_inputs import Command
from support.made_run import FAR, HOSTILE, NEAR, SMALL, TARGET

VOID = {"meta", "link", "br", "hr", "img", "input"}
LOADS = {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}


class Reader(HTMLParser):
    """Every element of a page with its attributes and its text; fails if elements are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[int] = []
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []
        self.feed(page)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        names = [name for name, _ in attrs]
        assert len(names) == len(set(names)), f"<{tag}> has an attribute twice"
        self.elements.append((tag, dict(attrs), []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.elements[self.open[-1]][0] == tag, f"</{tag}> closes no <{tag}>"
        self.open.pop()

    def handle_data(self, data: str) -> None:
        for place in self.open:
            self.elements[place][2].append(data)

    def all(self, tag: str, look: str = "") -> list[tuple[dict[str, str | None], str]]:
        """Attributes and text of all elements with that name (and class)."""
        return [
            (attributes, "".join(texts))
            for name, attributes, texts in self.elements
            if name == tag and (not look or look in (attributes.get("class") or "").split())
        ]

    def texts(self, tag: str, look: str = "") -> list[str]:
        """Texts of all elements with that name (and class)."""
        return [text for _, text in self.all(tag, look)]


def whole(folders: Path, channel: str = "MRI", sources: tuple[str, ...] = (NEAR,), flat: bool = False) -> Path:
    """A finished run with everything that a report can show."""
    made_run.write_world(folders / "raw", channel=channel, flat=flat)
    made_run.write_made_plan(made_run.write_made_affinity(channel))
    made_run.write_made_comparison()
    return made_run.write_made_run(sources)


def page_of(folder: Path) -> Reader:
    return Reader(render(read_findings(folder)))


def test_the_page_of_a_whole_run(folders: Path) -> None:
    """Every part is there in order, is sound, has words for every drawing, loads nothing, and names no folder."""
    text = render(read_findings(whole(folders)))
    page = Reader(text)
    headings = ["Comparison with other paths", "Why this path", "Distances", "Training", "Validation", "Provenance"]
    assert page.texts("h2") == headings
    assert page.texts("p", "verdict") == ["Dice +0.060 (+0.020 to +0.100) against scratch, over 8 cases."]
    # gains, graph, ranking and heat map for both widths, two stages, three cases, one comparison
    assert len(page.all("svg", "wide")) == len(page.all("svg", "narrow")) == 4
    assert len(page.all("svg", "drawing")) == 8 + 2 + 3 + 1
    assert page.texts("caption")[2:5] == [
        "Candidate paths, best first",
        "Sources, nearest first",
        "Validated cases, worst first",
    ]
    cases = [text for text in page.texts("h3") if "case: " in text]
    told = ["Worst case: case2, Dice 0.65", "Median case: case1, Dice 0.78", "Best case: case0, Dice 1.00"]
    assert cases == told
    candidates = page.texts("table", "sortable")[2]
    assert "95 %" not in candidates and " to +" in candidates and "ruled out: " in candidates
    _check_words(page)
    _check_loads_nothing(page, text)
    assert str(folders) not in text


def _check_words(page: Reader) -> None:
    for attributes, _ in page.all("svg"):
        assert attributes.get("role") == "img" and attributes.get("aria-label")
    for tag, attributes, _ in page.elements:
        if attributes.get("tabindex") == "0" and tag != "pre":
            assert attributes.get("aria-label"), (tag, attributes)
    for attributes, text in page.all("th"):
        assert attributes.get("scope") in ("col", "row") and text.strip()
        assert attributes.get("scope") == "row" or attributes.get("aria-sort") == "none"
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {(attributes["href"] or "")[1:] for attributes, _ in page.all("a")} <= set(ids)
    assert page.all("html")[0][0]["lang"] == "en"


def _check_loads_nothing(page: Reader, text: str) -> None:
    for tag, attributes, _ in page.elements:
        for name in LOADS & set(attributes):
            value = attributes[name] or ""
            assert value.startswith(("#", "data:image/png;base64,")) or value == "data:,", (
                f"<{tag} {name}={value[:40]}>"
            )
        assert "style" not in attributes and not [name for name in attributes if name.startswith("on")]
    assert not re.findall(r"@import|url\((?!#)", text)
    (style,), (script,) = (re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("style", "script"))
    policies = [one["content"] for one, _ in page.all("meta") if one.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [policy(style, script)]
    assert policies[0].startswith("default-src 'none'; img-src data:;") and "unsafe" not in policies[0]


def test_an_order_of_ones_own_comes_first(folders: Path) -> None:
    """If the plan proposes another path, the run comes first, the plan later; the row of the run's path is marked."""
    page = page_of(whole(folders, sources=(NEAR, SMALL)))
    headings = page.texts("h2")
    assert headings.index("Training") < headings.index("What the plan would have been")
    marked = page.texts("tr", "chosen")
    assert len(marked) == 3 and "902 Near" in marked[0] and "905 Small" in marked[1]
    assert marked[2].strip().startswith("902 \N{RIGHTWARDS ARROW} 905 \N{RIGHTWARDS ARROW} 901")
    (planned,) = [text for text in page.texts("th") if "planned" in text]
    assert planned.strip().startswith("902 \N{RIGHTWARDS ARROW} 901")


@pytest.mark.parametrize("flat", [False, True], ids=["3-D", "2-D in colours"])
def test_names_from_datasets_are_text(folders: Path, flat: bool) -> None:
    """A channel called <script> is shown as that and never becomes an element, in texts, titles or attributes."""
    text = render(read_findings(whole(folders, HOSTILE, flat=flat)))
    page = Reader(text)
    assert len(page.all("script")) == 1 and HOSTILE not in text
    assert any(HOSTILE in shown for shown in page.texts("span", "note"))
    assert any(HOSTILE in shown for shown in page.texts("title"))


def test_a_run_without_plan_and_distances_gets_a_report(folders: Path) -> None:
    """An order of one's own on nothing but a record: stages, provenance, and how to compare with scratch."""
    made_run.write_world(folders / "raw")
    page = page_of(made_run.write_made_run((FAR,), begun=0))
    assert page.texts("h2") == ["Training", "Provenance"]
    assert page.texts("span", "status") == ["6 of 12 epochs", "fold 0: not begun"]
    assert page.texts("pre")[0].startswith("nnUNetv2_seq_train 901 3d_fullres 0 -s none -epochs 12")


def test_damaged_files_are_notes(folders: Path) -> None:
    """A damaged plan, affinity, comparison or summary is said on the page; no folder is named."""
    folder = whole(folders)
    for path in [
        *(folders / "preprocessed" / TARGET / "seqtransfer").glob("*.json"),
        *(folders / "results").rglob("comparison.json"),
        *(folders / "results").rglob("summary.json"),
    ]:
        path.write_text("{")
    found = read_findings(folder)
    assert found.plan is None and found.affinity is None and found.comparisons == () and found.cases == ()
    text = render(found)
    assert len(found.notes) == 4 and len(Reader(text).all("aside")) == 1
    assert str(folders) not in text and "nnUNet_preprocessed/" in text


def test_what_is_gone_is_noted(folders: Path) -> None:
    """A deleted prediction takes one case's overlay, a deleted image all; the scores stay, and no folder is named."""
    folder = whole(folders)
    next((folders / "results" / TARGET).rglob("validation/case2*")).unlink()
    page = page_of(folder)
    assert "No overlay of case2: " in page.texts("aside")[0]
    assert [text[:11] for text in page.texts("h3") if " case: " in text] == ["Median case", "Best case: "]
    next((folders / "raw" / TARGET / "imagesTr").glob("case1*")).unlink()
    found = read_findings(folder)
    page = Reader(render(replace(found, notes=("The file is damaged: /home/someone/private/x.json; make it again.",))))
    assert "No overlays: " in page.texts("aside")[0] and "damaged: x.json; make" in page.texts("aside")[0]
    assert page.texts("td") and not [text for text in page.texts("h3") if " case: " in text]


def test_a_source_without_distances_is_shown_as_such(folders: Path) -> None:
    """A missing distance is a dash in the map and in the table, last when sorted."""
    made_run.write_world(folders / "raw")
    path = made_run.write_made_affinity()
    affinity = read_affinity(path)
    gone = tuple(
        tuple(math.inf if (i == 2) != (j == 2) else value for j, value in enumerate(row))
        for i, row in enumerate(affinity.distances)
    )
    write_affinity(path, replace(affinity, distances=gone, low=(0.3, 0.6, math.inf), high=(0.5, 0.8, math.inf)))
    page = page_of(made_run.write_made_run())
    assert sum("no distance" in text for text in page.texts("title")) == 2 * 3
    table = page.texts("table", "sortable")[0]
    assert "unknown (one case)" in table and "\N{EN DASH}" in table
    assert [one["data-key"] for one, text in page.all("td") if text == "\N{EN DASH}"] == [""]


def test_overlays_draw_reference_and_prediction(folders: Path) -> None:
    """Each slice has its image once and contours of both labels, three times the reference's."""
    page = page_of(whole(folders))
    titles = page.texts("title")
    repeated = [one["href"] for one, _ in page.all("use") if "-image" in (one["href"] or "")]
    assert len(repeated) == 2 * len(set(repeated)) >= 2 * 3
    for label in ("front", "back"):
        assert titles.count(f"{label}, reference") == 2 * titles.count(f"{label}, prediction") > 0


def test_fold_all_and_test_sets_are_named(folders: Path) -> None:
    """Scores of fold all are those of training cases; each comparison has a section that names its test set."""
    made_run.write_world(folders / "raw", cases=3)
    for test in (None, "Dataset920_OtherHospital", "Dataset099_x"):
        made_run.write_made_comparison(test=test)
    made_run.write_made_comparison(tag="other", test=FAR)
    page = page_of(made_run.write_made_run((), ("all",), begun=1))
    assert page.texts("p", "trained-on") and any(text.startswith("Worst training case: ") for text in page.texts("h3"))
    assert "on the training cases themselves (3 cases)" in page.texts("p", "result")[0]
    heading = "Comparison with other paths"
    sections = [text.removeprefix(heading) for text in page.texts("h2") if text.startswith(heading)]
    assert sections == ["", " on the test set Dataset099_x", " on the test set Dataset920_OtherHospital"]
    anchors = {attributes.get("id") for attributes, _ in page.all("section")}
    assert {"comparison", "comparison-2", "comparison-3"} <= anchors
    assert not page.all("p", "verdict")  # scratch is not compared with itself


def test_many_tasks_stay_light(folders: Path) -> None:
    """With 84 more sources the map shows the nearest, and the page stays far below 5 MB."""
    made_run.write_world(folders / "raw")
    many = [f"Dataset{100 + place}_Source{place}" for place in range(84)]
    made_run.write_made_plan(made_run.write_made_affinity(sources=(NEAR, SMALL, FAR, *many)))
    path = folders / "page.html"
    write_report(made_run.write_made_run(epochs=1000), path)
    assert path.stat().st_size < 2_000_000
    assert "show the nearest 15 of 87 sources" in "".join(Reader(path.read_text()).texts("p", "under"))


def test_the_command_writes_where_it_is_told(folders: Path, command: Command) -> None:
    """By its name, into the run's folder or where -o says; an unknown run, or a folder after -o, is one line."""
    made_run.write_world(folders / "raw", cases=1)
    folder = made_run.write_made_run((), begun=0)
    name = f"{TARGET}/{folder.name}"
    done = command("report", name)
    assert done.status == 0 and (folder / "report.html").is_file() and "written: " in done.out
    assert command("report", folder.name, "-o", str(folders / "deep" / "page.html")).status == 0
    assert (folders / "deep" / "page.html").is_file()
    for arguments, words in ((("nothing",), "nothing"), ((name, "-o", str(folders)), "is a folder")):
        failed = command("report", *arguments)
        assert failed.status == 2 and failed.err.count("\n") == 1 and words in failed.err
