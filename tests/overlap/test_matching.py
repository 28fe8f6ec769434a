"""Tests of overlap/matching.py: planted cases are found whatever was done to them, and no other pair is named."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
from PIL import Image
from scipy import ndimage

from nnunet_seqtransfer.context import Context, Notify
from nnunet_seqtransfer.errors import DatasetError
from nnunet_seqtransfer.nnunet.folders import dataset_name
from nnunet_seqtransfer.overlap.cache import SketchedDataset
from nnunet_seqtransfer.overlap.matching import (
    LEAST_COMMON,
    LEAST_SHARE,
    MOST_CASES,
    MOST_IMAGES,
    SharedCase,
    _shares,
    find_overlap,
    image_matches,
    match_datasets,
)
from nnunet_seqtransfer.overlap.sketch import ChannelSketch, Sketch
from support.world import NEAR, TARGET, World, write_dataset_json

Case = tuple[list[np.ndarray], np.ndarray]
"""Images and labels."""


@pytest.fixture
def raw(folders: Path) -> Path:
    return folders / "raw"


def volume(rng: np.random.Generator, channels: int, shape: tuple[int, ...] = (20, 26, 24)) -> Case:
    """Noisy volumes of whole numbers and an irregular object."""
    images = [1000 + 300 * ndimage.gaussian_filter(rng.normal(size=shape), 0.6) for _ in range(channels)]
    field = ndimage.gaussian_filter(rng.normal(size=shape), 3)
    return [np.round(image).astype(np.int16) for image in images], (field > np.quantile(field, 0.7)).astype(np.uint8)


def write(raw: Path, name: str, channels: tuple[str, ...], cases: dict[str, Case], ending: str = ".nii.gz") -> None:
    folder = raw / name
    for sub in ("imagesTr", "labelsTr"):
        (folder / sub).mkdir(parents=True)
    for case, (images, label) in cases.items():
        for channel, image in enumerate(images):
            save(folder / f"imagesTr/{case}_{channel:04d}{ending}", image)
        save(folder / f"labelsTr/{case}{ending}", label)
    write_dataset_json(folder, channels, ("organ",), len(cases), ending)


def save(path: Path, array: np.ndarray) -> None:
    if path.suffix == ".png":
        Image.fromarray(array.astype(np.uint8)).save(path)
    else:
        sitk.WriteImage(sitk.GetImageFromArray(array), str(path))


def shared_cases(target: str, sources: Sequence[str], notify: Notify = print) -> list[SharedCase]:
    return [case for one in find_overlap(target, sources, Context(notify)) for case in one.shared]


def pairs(shared: Iterable[SharedCase]) -> dict[tuple[str, str], str]:
    return {(one.source_case, one.target_case): one.evidence for one in shared}


def test_planted_cases_among_400_are_found_and_no_other(raw: Path) -> None:
    """Renamed, re-saved, inverted, scaled, cropped, turned, a channel dropped, only the labels kept: all are found."""
    rng = np.random.default_rng(0)
    target = {f"patient{number:03d}": volume(rng, 2) for number in range(200)}
    source = {f"scan{number:03d}": volume(rng, 2) for number in range(142)}
    single = {f"visit{number:03d}": volume(rng, 1) for number in range(46)}
    donors = iter(target.items())
    expected: dict[str, tuple[str, str]] = {}

    def plant(
        into: dict[str, Case], name: str, words: str, change: Callable[[list[np.ndarray], np.ndarray], Case]
    ) -> None:
        case, (images, label) = next(donors)
        into[name] = change(images, label)
        expected[name] = (case, words)

    box = (slice(3, 17), slice(5, 25), slice(2, 20))
    other = lambda: volume(rng, 2)  # noqa: E731 - new images or labels for a planted case
    plant(source, "renamed", "same image, T1 = T1; same image, T2 = T2; labels equal", lambda i, m: (i, m))
    plant(source, "float", "same image, T1 = T1", lambda i, m: ([x.astype(np.float32) for x in i], other()[1]))
    plant(
        source,
        "scaled",
        "same image, T1 = T1",
        lambda i, m: ([(x / x.max()).astype(np.float64) for x in i], other()[1]),
    )
    plant(source, "inverted", "T1 = T1 (contrast inverted)", lambda i, m: ([x.max() - x for x in i], other()[1]))
    plant(source, "crop", "source's image is a crop", lambda i, m: ([x[box] for x in i], other()[1][box]))
    plant(source, "swapped", "T1 = T2", lambda i, m: (i[::-1], other()[1]))
    plant(
        source,
        "turned",
        "labels equal: organ = organ",
        lambda i, m: ([np.ascontiguousarray(x.transpose(1, 0, 2)[::-1]) for x in i], m.transpose(1, 0, 2)[::-1].copy()),
    )
    plant(source, "labels", "labels equal: organ = organ", lambda i, m: (other()[0], m))
    for name, kept in (("dropped_first", 1), ("dropped_second", 0)):
        plant(single, name, f"MRI = T{kept + 1}", lambda i, m, kept=kept: ([i[kept]], other()[1]))
    plant(single, "dropped_inverted", "MRI = T1 (contrast inverted)", lambda i, m: ([-i[0].astype(np.float32)], m))
    plant(single, "dropped_crop", "crop", lambda i, m: ([i[1][box]], other()[1][box]))
    write(raw, "Dataset001_Target", ("T1", "T2"), target)
    write(raw, "Dataset002_Source", ("T1", "T2"), source)
    write(raw, "Dataset003_Single", ("MRI",), single)
    assert len(target) + len(source) + len(single) == 400

    found = pairs(shared_cases("Dataset001_Target", ["Dataset002_Source", "Dataset003_Single"]))
    assert set(found) == {(name, case) for name, (case, _) in expected.items()}
    for name, (case, words) in expected.items():
        assert words in found[name, case], (name, found[name, case])


def picture(rng: np.random.Generator) -> Case:
    """A grey picture of 8 bits, and an irregular object."""
    image = 120 + 60 * ndimage.gaussian_filter(rng.normal(size=(120, 140)), 1.0) / 0.28
    field = ndimage.gaussian_filter(rng.normal(size=(120, 140)), 8)
    return [image.clip(0, 255).astype(np.uint8)], (field > np.quantile(field, 0.8)).astype(np.uint8)


def test_planted_pictures_are_found_too(raw: Path) -> None:
    """PNG: renamed, inverted, padded, cropped, turned, and a grey picture that was stored in colour."""
    rng = np.random.default_rng(1)
    target = {f"a{number}": picture(rng) for number in range(30)}
    source = {f"b{number}": picture(rng) for number in range(25)}
    changes: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "renamed": lambda x: x,
        "inverted": lambda x: 255 - x,
        "padded": lambda x: np.pad(x, 10),
        "crop": lambda x: x[30:110, 40:130],
        "turned": lambda x: np.rot90(x).copy(),
    }
    for (images, _), (name, change) in zip(target.values(), changes.items(), strict=False):
        image = change(images[0])
        source[name] = ([image], np.resize(picture(rng)[1], image.shape))
    colour = {f"c{number}": picture(rng) for number in range(5)}
    colour["stored"] = target["a9"]
    write(raw, "Dataset001_Target", ("grey",), target, ".png")
    write(raw, "Dataset002_Source", ("grey",), source, ".png")
    in_colour = {case: ([np.stack([images[0]] * 3, axis=-1)], label) for case, (images, label) in colour.items()}
    write(raw, "Dataset003_Colour", ("R", "G", "B"), in_colour, ".png")
    found = pairs(shared_cases("Dataset001_Target", ["Dataset002_Source", "Dataset003_Colour"]))
    assert set(found) == {*((name, f"a{number}") for number, name in enumerate(changes)), ("stored", "a9")}
    assert "contrast inverted" in found["inverted", "a1"]
    assert found["stored", "a9"].startswith("same image, R = grey; labels equal"), "each channel is named once"


def random_sketches(rng: np.random.Generator, name: str, pool: np.ndarray, cases: int) -> SketchedDataset:
    """Cases of one or two channels, each a bottom sketch of hashes drawn from a common pool."""
    sketches = {}
    for case in range(cases):
        channels = []
        for _ in range(2):
            drawn = np.unique(rng.choice(pool, size=rng.integers(3, 60), replace=False))
            kept = rng.integers(3, len(drawn) + 1) if len(drawn) > 3 else len(drawn)
            channels.append(ChannelSketch(drawn[:kept], int(drawn[kept - 1]) | 1, 0))
        sketches[f"{name}{case}"] = Sketch(tuple(channels), {})
    return SketchedDataset(f"Dataset001_{name}", ("x", "y"), sketches)


def test_the_join_finds_what_a_loop_over_all_pairs_finds() -> None:
    """Common patterns, shares and inversion of every pair of channels equal those counted one pair after the other."""
    rng = np.random.default_rng(2)
    pool = rng.integers(0, 2**63, size=150, dtype=np.uint64) << np.uint64(1)
    target, source = random_sketches(rng, "A", pool, 12), random_sketches(rng, "B", pool, 9)
    found = {
        (*pair, match.source_channel, match.target_channel): (
            match.common,
            match.share_of_source,
            match.share_of_target,
        )
        for pair, matches in image_matches(target, source).items()
        for match in matches
    }
    expected = {}
    for (case, name, channel), (other, other_name, other_channel) in itertools.product(source.images, target.images):
        common = len(np.intersect1d(channel.patterns, other_channel.patterns))
        if common >= LEAST_COMMON and max(_shares(common, channel, other_channel)) >= LEAST_SHARE:
            expected[case, other, name, other_name] = (common, *_shares(common, channel, other_channel))
    assert found == expected and len(expected) > 50


def sketched(name: str, channels: Iterable[list[int]], masks: Iterable[dict[str, int]] = ()) -> SketchedDataset:
    """A dataset of one channel whose cases have these patterns and masks."""
    every = [
        Sketch((ChannelSketch(np.asarray(sorted(one), dtype=np.uint64), 2**64 - 1, 0),), mask)
        for one, mask in itertools.zip_longest(channels, masks, fillvalue={})
    ]
    return SketchedDataset(name, ("MRI",), {f"{number:03d}": sketch for number, sketch in enumerate(every)})


def test_marks_that_many_images_carry_are_no_evidence() -> None:
    """Patterns of more images of a task than MOST_IMAGES (a scale bar, a frame) connect nobody."""
    mark = [10, 20, 30, 40, 50]
    few, many = ([[*mark, 1000 * case + 2] for case in range(1, count + 1)] for count in (MOST_IMAGES, MOST_IMAGES + 1))
    one = sketched("Dataset001_One", [[*mark, 999_998]])
    assert len(match_datasets(one, sketched("Dataset002_Few", few))) == MOST_IMAGES
    assert match_datasets(one, sketched("Dataset002_Many", many)) == ()
    assert match_datasets(sketched("Dataset002_Many", many), one) == ()


def test_labels_that_many_cases_have_are_no_evidence() -> None:
    """The same mask in more cases than MOST_CASES is an atlas's or a phantom's."""
    one = sketched("Dataset001_One", [[]], [{"organ": 7}])
    for count in (MOST_CASES, MOST_CASES + 1):
        atlas = sketched("Dataset002_Atlas", [[]] * count, [{"liver": 7}] * count)
        assert (
            len(match_datasets(one, atlas)) == len(match_datasets(atlas, one)) == (count if count == MOST_CASES else 0)
        )
    (shared, *_) = match_datasets(one, sketched("Dataset002_Two", [[]], [{"liver": 7}]))
    assert shared == SharedCase("Dataset002_Two", "000", "000", labels=(("liver", "organ"),))
    assert shared.share == 0 and shared.evidence == "labels equal: liver = organ"


def test_fewer_patterns_than_make_evidence_are_none() -> None:
    """One pattern less than LEAST_COMMON, or less than LEAST_SHARE of the smaller image, is no match."""
    common = [2 * number for number in range(1, LEAST_COMMON + 1)]
    assert match_datasets(sketched("Dataset001_A", [common]), sketched("Dataset002_B", [common]))
    assert not match_datasets(sketched("Dataset001_A", [common[1:]]), sketched("Dataset002_B", [common]))
    for extra, found in ((LEAST_COMMON * 99, 1), (LEAST_COMMON * 99 + 1, 0)):
        apart = [[*common, *(100_000 * side + 2 * number for number in range(extra))] for side in (1, 2)]
        assert len(match_datasets(sketched("Dataset001_A", apart[:1]), sketched("Dataset002_B", apart[1:]))) == found


def test_a_target_matched_with_nothing_shares_nothing() -> None:
    """Datasets without cases, and cases without patterns, are no error."""
    empty, blank = SketchedDataset("Dataset001_A", ("MRI",), {}), sketched("Dataset002_B", [[], []])
    for one, other in itertools.product([empty, blank], repeat=2):
        assert match_datasets(one, other) == ()


def test_preprocessed_images_do_where_there_are_no_raw_ones(world: World) -> None:
    """At the same spacing a preprocessed case is known as its raw copy, and it is said what cannot be found."""
    copy = "Dataset905_Copy"
    (world.raw / TARGET).rename(world.raw / copy)
    lines: list[str] = []
    found = shared_cases(TARGET, [copy], lines.append)
    assert [(one.source_case, one.target_case) for one in found] == [(f"case{n}", f"case{n}") for n in range(6)]
    assert all("same image" in one.evidence or "crop" in one.evidence for one in found)
    assert len(lines) == 1 and TARGET in lines[0] and "no raw images" in lines[0]


def test_a_dataset_without_images_is_said_to_be_none_that_can_be_compared(world: World) -> None:
    """A source with only a dataset.json gives one line of progress; as a target it is an error."""
    bare = world.preprocessed / "Dataset906_Bare"
    bare.mkdir()
    shutil.copy(world.raw / NEAR / "dataset.json", bare)
    lines: list[str] = []
    assert shared_cases(TARGET, [bare.name], lines.append) == []
    assert len(lines) == 1 and bare.name in lines[0]
    with pytest.raises(DatasetError, match="no images to compare"):
        shared_cases(bare.name, [TARGET])


def test_the_command_lists_shared_cases(world: World, command: Callable[..., Any]) -> None:
    """Each source has a row with counts and the strongest example; --all adds the pairs with their evidence."""
    copy = "Dataset905_Copy"
    shutil.copytree(world.raw / TARGET, world.raw / copy)
    outcome = command("overlap", "-t", "901", "-s", "902", "905", "-np", "1")
    assert outcome.status == 0, outcome.err
    example = "case0 and case0: same image, MRI = MRI; labels equal: all labels = all labels"
    rows = [line.split(maxsplit=3) for line in outcome.out.splitlines()]
    assert rows[-2:] == [[NEAR, "0", "0"], [copy, "6", "6", example]]
    every = command("overlap", "-t", "901", "-s", "902", "905", "-np", "1", "--all")
    added = every.out.removeprefix(outcome.out.rstrip("\n")).split("\n")
    assert f"  {example}" in added and len([line for line in added if line.startswith("  case")]) == 6


def test_bad_input_is_one_line(world: World, command: Callable[..., Any]) -> None:
    """An unreadable case, the target as a source, an unknown dataset: exit status 2; with all datasets others go on."""
    (world.raw / NEAR / "imagesTr/case3_0000.nii.gz").write_bytes(b"no image")
    before = {path for path in world.snapshot() if "sketches" not in path}
    for arguments, words in (
        (("-t", "901", "-s", "902"), "case3 cannot be read"),
        (("-t", "902", "-s", "901"), "case3 cannot be read"),
        (("-t", "901", "-s", "901"), "among its sources"),
        (("-t", "901", "-s", "77"), "unknown dataset '77'"),
    ):
        outcome = command("overlap", *arguments, "-np", "1")
        errors = [line for line in outcome.err.splitlines() if line.startswith("error: ")]
        assert outcome.status == 2 and len(errors) == 1 and words in errors[0], outcome.err
        assert outcome.out == ""
    rest = command("overlap", "-t", "901", "-np", "1")
    assert rest.status == 0 and f"{NEAR} is skipped: case case3 cannot be read" in rest.err
    assert len([line for line in rest.out.splitlines() if line.startswith("Dataset")]) == 4, "four other datasets"
    assert {path for path in world.snapshot() if "sketches" not in path} == before


@pytest.fixture(scope="module")
def sketches(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sketches of the real datasets are kept."""
    return tmp_path_factory.mktemp("sketches")


@pytest.fixture
def real(shared_data: Path, sketches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net's folders over the real datasets."""
    monkeypatch.setenv("nnUNet_raw", str(shared_data))
    monkeypatch.setenv("nnUNet_preprocessed", str(sketches))


def of(target: int, *sources: int) -> list[SharedCase]:
    return shared_cases(dataset_name(target), [dataset_name(source) for source in sources])


def test_the_same_patients_with_inverted_contrast_are_all_found(real: None) -> None:
    """021 against 026, all 40 with equal labels and inverted contrast; beyond them only the two sides of one scan."""
    found = of(21, 26)
    same = [one for one in found if one.source_case == one.target_case]
    assert len(same) == 40
    assert all(
        "T1inv = T1 (contrast inverted); labels equal: hippocampus = hippocampus" in one.evidence for one in same
    )
    assert all(one.source_case[:10] == one.target_case[:10] and one.share < 0.1 for one in found if one not in same)


def test_overlapping_crops_of_the_same_scans_are_found(real: None) -> None:
    """021 against crops of the same scans at other places: every case, and never another scan."""
    found = of(21, 22, 23, 24, 25)
    for source in (22, 23, 24, 25):
        assert len({one.source_case for one in found if one.source == dataset_name(source)}) == 40
    assert all(one.source_case[:10] == one.target_case[:10] for one in found)
    assert not any("labels" in one.evidence for one in found)


def test_other_patients_share_nothing(real: None) -> None:
    """004 against all crops of OASIS, and 112 against 111: not one pair."""
    assert of(4, 21, 22, 23, 24, 25, 26) == []
    assert of(112, 111) == []
