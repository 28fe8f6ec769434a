"""The page of a run: what it says, what it leaves out, and that it is sound HTML which loads nothing."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from nnunet_seqtransfer.affinity.record import read_affinity, write_affinity
from nnunet_seqtransfer.evaluation.comparison import ModelScores, comparison_path, read_comparison
from nnunet_seqtransfer.nnunet.training_log import read_lines
from nnunet_seqtransfer.nnunet.validation import CaseDice, ValidatedCase, case_dice, mean_dice, telling
from nnunet_seqtransfer.report.page.curves import MOST_POINTS, thinned
from nnunet_seqtransfer.report.page.findings import find
from nnunet_seqtransfer.report.page.heatmap import MOST, NUMBERS
from nnunet_seqtransfer.report.page.markup import element, polyline
from nnunet_seqtransfer.report.page.methods import methods
from nnunet_seqtransfer.report.page.naming import listed
from nnunet_seqtransfer.report.page.page import TEMPLATES, render, write_report
from nnunet_seqtransfer.report.page.paired import paired_plots
from nnunet_seqtransfer.report.page.scales import Scale
from nnunet_seqtransfer.report.page.slices import telling_slices
from nnunet_seqtransfer.report.page.training_words import other_settings
from nnunet_seqtransfer.report.page.words import decision, result
from nnunet_seqtransfer.report.palette import PREDICTION, REFERENCE, contrast, viridis
from nnunet_seqtransfer.training.recipe import Recipe
from nnunet_seqtransfer.transfer.pretrained import PretrainedModel
from support import made_run
from support.made_run import FAR, HOSTILE, NEAR, SMALL, TARGET

Command = Callable[..., object]
VOID = {"meta", "link", "br", "hr", "img", "input"}
LOADS = {"src", "href", "xlink:href", "action", "data", "poster", "srcset"}


class Reader(HTMLParser):
    """Every element of a page with its attributes and its text; fails where elements are not closed in order."""

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
        """Attributes and text of all elements of that name (and class)."""
        return [
            (attributes, "".join(texts))
            for name, attributes, texts in self.elements
            if name == tag and (not look or look in (attributes.get("class") or "").split())
        ]


def whole(folders: Path, channel: str = "MRI", sources: tuple[str, ...] = (NEAR,)) -> Path:
    """A finished run with everything that a report can show."""
    made_run.write_world(folders / "raw", channel=channel)
    made_run.write_made_plan(made_run.write_made_affinity(channel))
    made_run.write_made_comparison()
    return made_run.write_made_run(sources)


def page_of(folder: Path) -> Reader:
    return Reader(render(find(folder)))


def test_the_page_of_a_whole_run_has_every_part(folders: Path) -> None:
    """Decision, graph, heat map, candidates, sources, curves, overlays, comparison, methods, provenance are there."""
    page = page_of(whole(folders))
    headings = [text for _, text in page.all("h2")]
    assert headings == [
        "Why this path",
        "Distances",
        "Training",
        "Validation",
        "Comparison with other paths",
        "Methods, ready to paste",
        "Provenance",
    ]
    (lead,) = [text for attributes, text in page.all("p", "lead")]
    assert lead == (
        f"{TARGET} is trained after {NEAR}: of the paths that were compared this is the cheapest, at a cost of 0.56 "
        "against 1.02 for training from scratch; the data support it."
    )
    assert len(page.all("svg", "graph")) == 2 and len(page.all("svg", "plot")) == 4
    assert len(page.all("table", "heat")) == 1 and len(page.all("svg", "paired")) == 2
    captions = [text for _, text in page.all("caption")]
    assert captions[:3] == [
        "Candidate paths, cheapest first",
        "Distance from the task of the row to the task of the column",
        "Sources, nearest first",
    ]
    headings = [text for _, text in page.all("h3")]
    assert [text for text in headings if "case: " in text] == [
        "Worst case: case2, Dice 0.65",
        "Median case: case1, Dice 0.78",
        "Best case: case0, Dice 1.00",
    ]
    candidates = page.all("table", "sortable")[0][1]
    assert (
        "0.460 (0.410 to 0.500)" in candidates
        and "97 %" in candidates
        and "ruled out: it has too few cases" in candidates
    )


def test_the_path_of_the_run_is_marked(folders: Path) -> None:
    """The row of the run's path is the one that stands out, also where the plan proposes another."""
    page = page_of(whole(folders, sources=(NEAR, SMALL)))
    marked = [text for _, text in page.all("tr", "chosen")]
    assert marked[0].startswith("902 Near \N{RIGHTWARDS ARROW} 905 Small \N{RIGHTWARDS ARROW} 901 Target")
    assert {text.split("MRI")[0] for text in marked[1:]} == {"902 Near", "905 Small"}
    assert len(page.all("line", "planned")) == 2 * 1 and len([1 for a, _ in page.all("line", "path")]) == 2 * 2


@pytest.mark.parametrize("flat", [False, True], ids=["3-D", "2-D in colours"])
def test_names_from_datasets_are_text(folders: Path, flat: bool) -> None:
    """A channel called <script> is shown as that and never becomes an element, in texts or attributes."""
    made_run.write_world(folders / "raw", flat=flat, channel=HOSTILE)
    made_run.write_made_plan(made_run.write_made_affinity(HOSTILE))
    text = render(find(made_run.write_made_run()))
    page = Reader(text)
    assert len(page.all("script")) == 1 and HOSTILE not in text
    notes = [shown for _, shown in page.all("span", "note")]
    assert any(HOSTILE in shown for shown in notes)
    assert any(HOSTILE in (attributes.get("data-tip") or "") for attributes, _ in page.all("g"))


def test_nothing_is_loaded_from_elsewhere(folders: Path) -> None:
    """Only anchors and data URLs are referred to, and a policy forbids all but this style and script."""
    text = render(find(whole(folders)))
    assert str(folders) not in text, "folders of this machine are nobody else's business"
    page = Reader(text)
    for tag, attributes, _ in page.elements:
        for name in LOADS & set(attributes):
            value = attributes[name] or ""
            assert value.startswith(("#", "data:image/png;base64,")) or value == "data:,", (
                f"<{tag} {name}={value[:40]}>"
            )
        assert "style" not in attributes and not [name for name in attributes if name.startswith("on")]
    assert not re.findall(r"@import|url\((?!#)", text)
    (policy,) = [
        attributes["content"] or ""
        for attributes, _ in page.all("meta")
        if attributes.get("http-equiv") == "Content-Security-Policy"
    ]
    assert policy.startswith("default-src 'none'; img-src data:;") and "unsafe" not in policy and "http" not in policy


def test_every_picture_has_words_and_every_table_its_headers(folders: Path) -> None:
    """Drawings have a label, what can be focused has one, header cells have a scope, ids are unique."""
    page = page_of(whole(folders))
    for attributes, _ in page.all("svg"):
        assert attributes.get("role") in ("img", "group") and attributes.get("aria-label")
    for tag, attributes, _ in page.elements:
        if attributes.get("tabindex") == "0" and tag != "pre":
            assert attributes.get("aria-label"), (tag, attributes)
    for attributes, text in page.all("th"):
        assert attributes.get("scope") in ("col", "row") and text.strip()
    for attributes, _ in page.all("th", "num"):
        assert attributes.get("scope") == "row" or attributes.get("aria-sort") == "none"
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = {(attributes["href"] or "")[1:] for attributes, _ in page.all("a")}
    uses = {(attributes["href"] or "")[1:] for attributes, _ in page.all("use")}
    assert anchors | uses <= set(ids)
    assert page.all("html")[0][0]["lang"] == "en"


def test_a_run_without_plan_and_distances_gets_a_report(folders: Path) -> None:
    """An order of one's own on nothing but a record: the page says so, and shows stages, methods, provenance."""
    made_run.write_world(folders / "raw")
    folder = made_run.write_made_run((FAR,), begun=0)
    found = find(folder)
    assert decision(found) == (
        f"{TARGET} is trained after {FAR}, as it was asked for: there is no plan for this target."
    )
    assert result(found) == "0 of 2 stages finished; no fold of the target has been validated yet."
    page = Reader(render(found))
    assert [text for _, text in page.all("h2")] == ["Training", "Methods, ready to paste", "Provenance"]
    states = [text for _, text in page.all("span", "status")]
    assert states == ["6 of 12 epochs", "fold 0: not begun"]
    assert "The order was chosen by hand." in methods(found, {})


def test_scratch_gets_a_report(folders: Path) -> None:
    """The target alone has one stage, and scratch is what the sentence says."""
    made_run.write_world(folders / "raw")
    found = find(made_run.write_made_run((), begun=1))
    assert decision(found).startswith(f"{TARGET} is trained from scratch, as it was asked for")
    assert "trained from scratch with nnunet-seqtransfer" in methods(found, {})
    assert [text for _, text in Reader(render(found)).all("svg", "plot")] and not found.run.request.sources


def test_a_model_that_a_chain_begins_with_is_named_without_its_folder(folders: Path) -> None:
    """The sentence and the command name the file; where it lies is nobody else's business."""
    made_run.write_world(folders / "raw", cases=1)
    found = find(made_run.write_made_run((), begun=0))
    landmark = PretrainedModel(Path("/home/someone/model.zip"), "fold_0/checkpoint_final.pth", "ab" * 32)
    found = replace(found, run=replace(found.run, request=replace(found.run.request, landmark=landmark)))
    assert decision(found).startswith(f"{TARGET} is trained alone, beginning with the weights of model.zip, as")
    text = render(found)
    assert "-init model.zip" in text and "/home/someone" not in text


def test_damaged_files_are_notes(folders: Path) -> None:
    """A damaged plan, affinity, comparison or summary, and missing images, are said on the page; no folder is named."""
    folder = whole(folders)
    for path in [
        *(folders / "preprocessed" / TARGET / "seqtransfer").glob("*.json"),
        *(folders / "results").rglob("comparison.json"),
        *(folders / "results").rglob("summary.json"),
    ]:
        path.write_text("{")
    found = find(folder)
    assert found.plan is None and found.affinity is None and found.comparisons == () and found.cases == ()
    text = render(found)
    assert len(found.notes) == 4 and len(Reader(text).all("aside")) == 1
    assert str(folders) not in text and "nnUNet_preprocessed/" in text


def test_images_that_are_gone_are_notes(folders: Path) -> None:
    """Without raw data the scores stay, the overlays are missing, and a note says why."""
    folder = whole(folders)
    next((folders / "raw" / TARGET / "imagesTr").glob("case1*")).unlink()
    text = render(find(folder))
    assert "No overlays: " in text and len(Reader(text).all("svg", "overlay")) == 0 and "0.65" in text


def test_a_deleted_prediction_is_a_note(folders: Path) -> None:
    """Validated predictions take room and are often deleted; the other cases are shown all the same."""
    folder = whole(folders)
    next((folders / "results" / TARGET).rglob("validation/case2*")).unlink()
    text = render(find(folder))
    assert "No overlay of case2: " in text
    assert [shown[:11] for _, shown in Reader(text).all("h3") if " case: " in shown] == ["Median case", "Best case: "]


def test_a_source_without_distances_is_shown_as_such(folders: Path) -> None:
    """Where a pair has no distance there is a dash, in the map and in the table, last when sorted."""
    made_run.write_world(folders / "raw")
    path = made_run.write_made_affinity()
    affinity = read_affinity(path)
    gone = tuple(
        tuple(math.inf if i == 2 != j else value for j, value in enumerate(row))
        for i, row in enumerate(affinity.distances)
    )
    write_affinity(path, replace(affinity, distances=gone, low=(0.3, 0.6, math.inf), high=(0.5, 0.8, math.inf)))
    page = page_of(made_run.write_made_run())
    empty = [attributes for attributes, _ in page.all("td") if attributes.get("data-d") == "none"]
    assert len(empty) == 3
    assert "unknown (one case)" in page.all("table", "sortable")[0][1]


def test_overlays_draw_reference_and_prediction(folders: Path) -> None:
    """Three panels a slice: plain, with the reference, with both; contours of both labels; one image each slice."""
    page = page_of(whole(folders))
    panels = page.all("svg", "overlay")
    assert len(panels) % 3 == 0 and len(page.all("image")) == len(panels) // 3
    drawn = [attributes["class"] for attributes, _ in page.all("path") if (attributes.get("class") or "").endswith("0")]
    assert drawn.count("reference label0") == 2 * drawn.count("prediction label0") > 0


@pytest.mark.parametrize(
    ("of_run", "of_comparison", "is_shown"),
    [
        (None, None, True),
        ("seed1", None, True),
        ("long50_seed1", None, True),
        ("short_long50_seed1", "short", True),
        ("short", "short", True),
        ("short_seed1", None, False),
        (None, "short", False),
    ],
)
def test_a_comparison_belongs_to_the_runs_that_it_trained(
    folders: Path, of_run: str | None, of_comparison: str | None, is_shown: bool
) -> None:
    """Runs with its tag, and those that it trained, which have seeds behind it; not those of another recipe."""
    made_run.write_world(folders / "raw", cases=1)
    made_run.write_made_comparison(tag=of_comparison)
    found = find(made_run.write_made_run((), begun=0, tag=of_run))
    assert bool(found.comparisons) == is_shown


def test_comparisons_on_test_sets_have_sections_of_their_own(folders: Path) -> None:
    """That on the folds comes first, then test sets by number; each heading names its test set; anchors are unique."""
    made_run.write_world(folders / "raw", cases=1)
    for test in (None, "Dataset920_OtherHospital", "Dataset099_x"):
        made_run.write_made_comparison(test=test)
    made_run.write_made_comparison(tag="other", test=FAR)
    found = find(made_run.write_made_run((), begun=0))
    text = render(found)
    page = Reader(text)
    assert [shown for _, shown in page.all("h2") if shown.startswith("Comparison")] == [
        "Comparison with other paths",
        "Comparison with other paths on the test set Dataset099_x",
        "Comparison with other paths on the test set Dataset920_OtherHospital",
    ]
    ids = [attributes["id"] for _, attributes, _ in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) and {"comparison", "comparison-2", "comparison-3"} <= set(ids)
    assert 'href="#comparison-3">Comparison on 920 OtherHospital' in text and FAR not in text


def test_a_comparison_on_a_test_set_alone_is_shown(folders: Path) -> None:
    """Fold all, say, can be compared on a test set only."""
    made_run.write_world(folders / "raw", cases=1)
    made_run.write_made_comparison(test=FAR)
    page = page_of(made_run.write_made_run((), begun=0, tag="seed1"))
    assert f"Comparison with other paths on the test set {FAR}" in [shown for _, shown in page.all("h2")]


def test_a_tag_that_reads_like_a_test_set_is_a_tag(folders: Path) -> None:
    """compare_..._test903 may be of the tag test903, on the folds, or of no tag, on dataset 903."""
    made_run.write_world(folders / "raw", cases=1)
    made_run.write_made_comparison(tag="test903")
    plain, tagged = (made_run.write_made_run((), begun=0, tag=tag) for tag in (None, "test903"))
    assert find(plain).comparisons == () and len(find(tagged).comparisons) == 1
    made_run.write_made_comparison(test=FAR)
    assert len(find(plain).comparisons) == 1 and find(tagged).comparisons == ()


def test_plots_of_an_unfinished_comparison_pair_what_both_have(folders: Path) -> None:
    """A seed that one path lacks is left out of both columns, as it is of the difference."""
    made_run.write_made_comparison(2)
    comparison = read_comparison(comparison_path(TARGET, "nnUNetPlans", "3d_fullres"))
    dice = {("scratch", 0): 0.5, ("902 -> 901", 0): 0.6, ("902 -> 901", 1): 0.9}
    scores = tuple(
        ModelScores(arm, "0", seed, tuple(CaseDice(case, "front", value) for case in "ab"))
        for (arm, seed), value in dice.items()
    )
    ((_, plot),) = paired_plots(replace(comparison, scores=scores, differences=comparison.differences[:1]))
    (one, other) = (str(attributes["data-tip"]) for attributes, _ in Reader(plot).all("g"))
    assert one == "a\nscratch: 0.500\n902 \N{RIGHTWARDS ARROW} 901: 0.600\ndifference +0.100" and other[0] == "b"


def test_many_tasks_stay_light(folders: Path) -> None:
    """With 84 more sources the map shows the nearest, without numbers, and the page stays far below 5 MB."""
    made_run.write_world(folders / "raw")
    many = [f"Dataset{100 + place}_Source{place}" for place in range(84)]
    made_run.write_made_plan(made_run.write_made_affinity(sources=(NEAR, SMALL, FAR, *many)))
    folder = made_run.write_made_run(epochs=1000)
    path = folders / "page.html"
    write_report(folder, path)
    assert path.stat().st_size < 2_000_000
    page = Reader(path.read_text())
    ((attributes, _),) = page.all("table", "heat")
    assert len((attributes["data-names"] or "").split("\n")) == MOST + 1 > NUMBERS
    assert "The nearest 40 of 87 sources." in "".join(text for _, text in page.all("figcaption"))


def test_the_command_writes_where_it_is_told(folders: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its name, into the run's folder or where -o says; an unknown run, or a folder after -o, is one line."""
    folder = whole(folders)
    name = f"{TARGET}/{folder.name}"
    done = command("report", name)
    assert done.status == 0 and (folder / "report.html").is_file() and "written: " in done.out
    assert command("report", folder.name, "-o", str(folders / "deep" / "page.html")).status == 0
    assert (folders / "deep" / "page.html").is_file()
    for arguments, words in (
        (("nothing",), "there is no run 'nothing'"),
        ((name, "-o", str(folders)), "is a folder; give the name of a file"),
    ):
        failed = command("report", *arguments)
        assert failed.status == 2 and failed.err.count("\n") == 1 and words in failed.err


def test_colours_can_be_told_apart() -> None:
    """Texts have a contrast of 4.5 with their ground, lines and markers of 3, light and dark alike."""
    style = (TEMPLATES / "page.css").read_text()
    roots = re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    light, dark, printed = (dict(re.findall(r"--(\w+): (#\w{6})", root)) for root in roots)
    assert printed == light and set(light) == set(dark)
    for theme in (light, dark):
        for ground in ("paper", "raised", "chosen"):
            for ink in ("ink", "soft", "link", "good", "wait"):
                assert contrast(theme[ink], theme[ground]) >= 4.5, (ink, ground)
        for mark in ("path", "strong", "second", "star"):
            assert contrast(theme[mark], theme["paper"]) >= 3, mark
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    for shade in range(16):
        assert max(contrast(ink, viridis(shade / 15)) for ink in ("#000000", "#ffffff")) >= 4.5
    for line in (REFERENCE, PREDICTION):
        assert contrast(line, "#000000") >= 3 and line in style


def test_long_curves_keep_their_last_epoch() -> None:
    """Of many epochs evenly spread ones are drawn, the last among them."""
    curve = read_lines(made_run.training_log(1000, 1).splitlines()).epochs
    drawn = thinned(curve)
    assert len(drawn) <= MOST_POINTS and drawn[-1].number == 999 and len(thinned(curve[:5])) == 5


def test_worst_median_and_best_are_told_apart() -> None:
    """By mean Dice, NaN left out; one case is the only one, of two there is no median."""

    def case(name: str, *dice: float) -> ValidatedCase:
        return ValidatedCase(name, "0", dict(zip("ab", dice, strict=False)), Path(name))

    cases = [case("one", 0.5, 0.7), case("two", 0.9, float("nan")), case("three", 0.1, 0.1), case("four", float("nan"))]
    assert [(rank, found.case) for rank, found in telling(cases)] == [
        ("worst", "three"),
        ("median", "one"),
        ("best", "two"),
    ]
    assert [rank for rank, _ in telling(cases[:1])] == ["only"]
    assert [rank for rank, _ in telling(cases[:2])] == ["worst", "best"]
    assert telling(cases[3:]) == ()
    assert mean_dice(case_dice(cases)) == pytest.approx(((0.5 + 0.9 + 0.1) / 3 + (0.7 + 0.1) / 2) / 2)


def test_telling_slices_are_cut_across_the_widest_spacing() -> None:
    """The largest cross-section and the most wrong slice, across the thick axis; pixels keep their proportions."""
    reference = np.zeros((12, 30, 40), dtype=np.int16)
    reference[2:9, 10:16, 10:16] = 1
    reference[5, 8:18, 8:18] = 1
    prediction = reference.copy()
    prediction[3] = 0
    prediction[3, 20:27, 30:37] = 1
    image = np.random.default_rng(0).normal(size=(1, *reference.shape)).astype(np.float32)
    cuts = telling_slices(image, reference, prediction, (3.0, 1.0, 2.0), colours=False)
    assert [(cut.title, cut.place) for cut in cuts] == [
        ("largest cross-section", "slice 6 of 12"),
        ("most wrong pixels", "slice 4 of 12"),
    ]
    assert all(cut.image.shape == cut.reference.shape == cut.prediction.shape for cut in cuts)
    assert cuts[0].aspect == 0.5 and cuts[0].reference.sum() == 100 and cuts[1].prediction.sum() == 49
    (same,) = telling_slices(image, reference, reference, (3.0, 1.0, 2.0), colours=False)
    assert same.title == "largest cross-section"
    with pytest.raises(ValueError, match="prediction"):
        telling_slices(image, reference, prediction[1:], (3.0, 1.0, 2.0), colours=False)


def test_voxels_that_nobody_annotated_do_not_choose_the_slice() -> None:
    """Voxels with the ignore label are neither structure nor wrong, and the picture is cut around what is known."""
    reference = np.zeros((12, 60, 60), dtype=np.int16)
    reference[2:5, 10:16, 10:16] = 1
    reference[9] = 2
    prediction = reference.copy()
    prediction[3] = 0
    prediction[9] = 1
    prediction[3, 50:, 50:] = 1
    reference[3, 50:, 50:] = 2
    image = np.zeros((1, *reference.shape), dtype=np.float32)
    known = telling_slices(image, reference, prediction, (3.0, 1.0, 1.0), colours=False, ignore=2)
    assert [(cut.title, cut.place) for cut in known] == [
        ("largest cross-section", "slice 3 of 12"),
        ("most wrong pixels", "slice 4 of 12"),
    ]
    assert all(max(cut.reference.shape) < 30 for cut in known)
    unaware = telling_slices(image, reference, prediction, (3.0, 1.0, 1.0), colours=False)
    assert [cut.place for cut in unaware] == ["slice 10 of 12"]


def test_the_ignore_label_of_the_target_is_known_to_the_overlays(
    folders: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its value comes from dataset.json."""
    folder = whole(folders)
    path = folders / "raw" / TARGET / "dataset.json"
    content = json.loads(path.read_text())
    content["labels"]["ignore"] = 3
    path.write_text(json.dumps(content))
    seen = []

    def noted(*arrays: object, **options: object) -> tuple[()]:
        seen.append(options["ignore"])
        return ()

    monkeypatch.setattr("nnunet_seqtransfer.report.page.overlays.telling_slices", noted)
    render(find(folder))
    assert seen == [3, 3, 3]


def test_a_volume_cut_from_the_side_stands_upright() -> None:
    """Where slices are not axial, the last row of the volume, the head, is on top."""
    reference = np.zeros((20, 20, 6), dtype=np.int16)
    reference[15:18, 5:15, 2:4] = 1
    image = np.zeros((1, *reference.shape), dtype=np.float32)
    image[0, 19] = 1
    (cut, *_) = telling_slices(image, reference, reference, (1.0, 1.0, 4.0), colours=False)
    rows = np.flatnonzero(cut.reference.any(axis=1))
    assert cut.image[0].max() == 255 and rows.mean() < len(cut.reference) / 2


def test_elements_escape_everything() -> None:
    """Texts and attributes are escaped, markup is kept, numbers are short, None is left out."""
    made = element("text", "<b>&", element("tspan", 1.23456), None, x=0.5, y=2.0, aria_label='"<', hidden=True, id=None)
    assert made == ('<text x="0.5" y="2" aria-label="&#34;&lt;" hidden>&lt;b&gt;&amp;<tspan>1.23</tspan></text>')
    assert element("br") == "<br>" and polyline([(0, 1.5), (2, -3)]) == "M0 1.5L2 -3"


def test_scales_have_round_ticks() -> None:
    """A value's place lies between the ends; ticks are round and inside."""
    scale = Scale(-0.93, -0.07, 150, 10)
    assert scale(-0.93) == 150 and scale(-0.07) == 10
    assert scale.ticks(4) == [-0.75, -0.5, -0.25] and Scale(1, 26, 0, 1).ticks(5) == [5, 10, 15, 20, 25]
    assert listed(["a"]) == "a" and listed(["a", "b", "c"]) == "a, b and c"


def test_usual_settings_are_not_told() -> None:
    """The methods paragraph names only what differs from the defaults."""
    assert other_settings(Recipe()) == ""


def test_series_of_curves_are_json(folders: Path) -> None:
    """What the script reads of a plot: one value of each line for each epoch, null where there is none."""
    page = page_of(whole(folders))
    for attributes, _ in page.all("svg", "plot"):
        series = json.loads(attributes["data-series"] or "")
        assert len(series["x"]) == len(series["epoch"]) == 12
        assert all(len(values) == 12 for _, values in series["lines"])
