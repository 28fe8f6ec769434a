"""The published affinity as its scripts compute it, each pair of volumes from its files, beside `-m published`.

    python benchmarks/published_procedure.py -volumes 10
    python benchmarks/published_procedure.py -volumes 2 -pairs 2      (a quick look)

Makes two tasks of volumes in a temporary folder. As written: for each pair of volumes both are read, resized to 128^3
and projected, W is computed, then both masks are read and S is computed. Only -pairs pairs are run so; all pairs cost
the same, so their mean time is multiplied. Ours: every volume is read and profiled once, by the code that the command
runs, then the pairs are compared. Both in one process; results of the pairs that were run are compared.

Then the cost of the published study: 84 tasks, which are 7 centres x 4 modalities x 3 labels, thus 28 kinds of images
and 21 of masks. It is added up from the measured parts by the formulas that are printed. Pairs of tasks of one centre
share patients, and only the volumes of the same patient are paired.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter
from scipy.stats import wasserstein_distance
from skimage.transform import resize
from sklearn.decomposition import PCA

from nnunet_seqtransfer.affinity import published
from nnunet_seqtransfer.affinity.published import PublishedMetric, packed_ssim, wasserstein_of_ascending
from nnunet_seqtransfer.nnunet.datasets import RawCase
from nnunet_seqtransfer.nnunet.preprocessing import read_raw_case

METRIC = PublishedMetric()
CENTRES, MODALITIES, LABELS = 7, 4, 3
Result = TypeVar("Result")
Profile = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Parts:
    """Seconds that the parts of our procedure took, means."""

    read: float
    "Reading image and mask of a case."
    scores: float
    "Projecting an image."
    rest: float
    "All else in a profile: the digest of the image, and the mask."
    wasserstein: float
    "W of a pair of volumes."
    ssim: float
    "S of a pair of masks."
    remembered: float
    "Looking both up for a pair that was computed before."


def timed(function: Callable[[], Result]) -> tuple[float, Result]:
    """Seconds and result."""
    start = time.perf_counter()
    result = function()
    return time.perf_counter() - start, result


def make_task(folder: Path, count: int, shape: tuple[int, ...], rng: np.random.Generator) -> list[RawCase]:
    """Volumes like skull-stripped MR: smooth structure and noise in an ellipsoid, zero around; a lesion as mask."""
    grid = np.stack(np.meshgrid(*[np.linspace(-1, 1, length) for length in shape], indexing="ij"))
    cases = []
    for index in range(count):
        head = ((grid / rng.uniform(0.7, 0.9, (3, 1, 1, 1))) ** 2).sum(axis=0) < 1
        smooth = gaussian_filter(rng.normal(size=shape), [length / rng.uniform(10, 20) for length in shape])
        image = head * (600 + 200 * smooth / smooth.std() + rng.normal(0, 20, shape))
        lesion = ((grid - rng.uniform(-0.3, 0.3, (3, 1, 1, 1))) ** 2).sum(axis=0) < rng.uniform(0.1, 0.3) ** 2
        paths = [folder / f"{index}_{kind}.nii.gz" for kind in ("image", "mask")]
        for path, array in zip(paths, (image.astype(np.int16), lesion.astype(np.uint8)), strict=True):
            sitk.WriteImage(sitk.GetImageFromArray(array.transpose(2, 1, 0)), str(path), useCompression=True)
        cases.append(RawCase((paths[0],), paths[1]))
    return cases


def read(path: Path) -> NDArray[Any]:
    """A file as stored, axes x, y, z."""
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose(2, 1, 0)


def as_written(a: RawCase, b: RawCase) -> tuple[float, float]:
    """W and S of one pair of volumes, from their files."""
    w = wasserstein_distance(projected(a.images[0]), projected(b.images[0]))
    return float(w), structural_similarity(read(a.label) > 0, read(b.label) > 0)


def projected(path: Path) -> NDArray[np.float64]:
    """PCA scores of one volume, from its file."""
    volume = resize(read(path).astype(np.float64), (128, 128, 128), anti_aliasing=True, preserve_range=True)
    return np.asarray(PCA(n_components=0.75).fit_transform(volume.reshape(-1, 128))).ravel()


def structural_similarity(a: NDArray[np.bool_], b: NDArray[np.bool_]) -> float:
    """S of two masks: one window, K1 = K2 = 0.3, L = 1."""
    x, y = a.ravel().astype(np.float64), b.ravel().astype(np.float64)
    constant = 0.3**2
    covariance = np.cov(x, y)[0, 1]
    luminance = (2 * x.mean() * y.mean() + constant) / (x.mean() ** 2 + y.mean() ** 2 + constant)
    return float(luminance * (2 * covariance + constant) / (x.var() + y.var() + constant))


def profiled(tasks: list[list[RawCase]]) -> tuple[list[list[Profile]], tuple[float, float, float]]:
    """Our profiles of all cases, and the mean seconds of reading, of the scores, and of the rest."""
    spent, profiles = [], []
    for cases in tasks:
        profiles.append([])
        for number, raw in enumerate(cases):
            reading, case = timed(lambda number=number, raw=raw: read_raw_case(str(number), raw, "SimpleITKIO"))
            first, profile = timed(lambda case=case: METRIC.profile(case, ((1,),)))
            again, _ = timed(lambda case=case: METRIC.profile(case, ((1,),)))  # as for another label of this image
            spent.append((reading, first - again, again))
            profiles[-1].append(profile)
    reading, scores, rest = np.mean(spent, axis=0)
    return profiles, (reading, scores, rest)


def compared(profiles: list[list[Profile]], times: tuple[float, float, float]) -> tuple[Parts, dict[str, Any]]:
    """W and S of all pairs, (N, N) each, and what the parts took."""
    pairs = [(a, b) for a in profiles[0] for b in profiles[1]]
    seconds_w, w = timed(lambda: [wasserstein_of_ascending(a["scores"], b["scores"]) for a, b in pairs])
    seconds_s, s = timed(lambda: [packed_ssim(a["mask"], b["mask"], int(np.prod(a["shape"]))) for a, b in pairs])

    def look_up() -> None:
        for a, b in pairs:
            published._remembered(0, published._wasserstein, a, b)
            published._remembered(1, published._ssim, a, b)

    look_up()
    looked_up, _ = timed(look_up)
    shape = (len(profiles[0]), len(profiles[1]))
    parts = Parts(*times, seconds_w / len(pairs), seconds_s / len(pairs), looked_up / len(pairs))
    return parts, {"W": np.reshape(w, shape), "S": np.reshape(s, shape)}


def study(parts: Parts, written: float, cases: int) -> None:
    """Prints the cost of the published study by its formula."""
    images, masks, tasks = CENTRES * MODALITIES, CENTRES * LABELS, CENTRES * MODALITIES * LABELS
    between = CENTRES * (CENTRES - 1) // 2
    pairs = tasks * (tasks - 1) // 2
    across = between * (MODALITIES * LABELS) ** 2
    volume_pairs = across * cases**2 + (pairs - across) * cases
    image_pairs = between * MODALITIES**2 * cases**2 + CENTRES * MODALITIES * (MODALITIES + 1) // 2 * cases
    mask_pairs = between * LABELS**2 * cases**2 + CENTRES * LABELS * (LABELS + 1) // 2 * cases
    rows = [
        ("reading", tasks * cases, parts.read),
        ("scores", images * cases, parts.scores),
        ("rest of the profile", tasks * cases, parts.rest),
        ("W", image_pairs, parts.wasserstein),
        ("S", mask_pairs, parts.ssim),
        ("looking up", volume_pairs, parts.remembered),
    ]
    print(f"\n{tasks} tasks ({images} kinds of images, {masks} of masks) of {cases} cases, {pairs} pairs of tasks:")
    print(
        f"  as written   {volume_pairs:8} pairs of volumes ({across} pairs of tasks x {cases}^2 + {pairs - across} x "
        f"{cases}) x {written:8.4f} s = {volume_pairs * written:10.0f} s"
    )
    for name, number, seconds in rows:
        print(f"  ours, {name:20} {number:8} x {seconds * 1e3:10.4f} ms = {number * seconds:10.1f} s")
    total = sum(number * seconds for _, number, seconds in rows)
    print(
        f"  ours, sum    {total:10.1f} s; {volume_pairs * written / total:.0f} times faster, in one process either way"
    )


def main() -> None:
    """Prints times, the largest differences, and the cost of the published study."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-volumes", type=int, default=10, help="volumes of each task")
    parser.add_argument("-pairs", type=int, default=10, help="pairs of volumes that are run as written; 0: all")
    parser.add_argument("-shape", type=int, nargs=3, default=[240, 240, 155])
    parser.add_argument("-cases", type=int, default=10, help="cases of each task of the published study")
    parser.add_argument("-seed", type=int, default=0)
    options = parser.parse_args()
    count = options.volumes
    every = np.random.default_rng(options.seed).permutation(count**2)
    chosen = [divmod(int(place), count) for place in every[: options.pairs or None]]
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(options.seed)
        tasks = []
        for name in "ab":
            (Path(folder) / name).mkdir()
            tasks.append(make_task(Path(folder) / name, count, tuple(options.shape), rng))
        seconds, expected = timed(lambda: [as_written(tasks[0][i], tasks[1][j]) for i, j in chosen])
        written = seconds / len(chosen)
        parts, found = compared(*profiled(tasks))
    shape = "x".join(str(length) for length in options.shape)
    print(f"One pair of tasks of {count} volumes of {shape}, {count**2} pairs of volumes:")
    print(
        f"  as written   {written * count**2:10.1f} s = {count**2} x {written:.3f} s"
        f" (measured on {len(chosen)} pairs of volumes, multiplied)"
    )
    profiling = 2 * count * (parts.read + parts.scores + parts.rest)
    comparing = count**2 * (parts.wasserstein + parts.ssim)
    ratio = written * count**2 / (profiling + comparing)
    print(f"  ours         {profiling + comparing:10.1f} s = {profiling:.1f} s once + {comparing:.3f} s; x {ratio:.0f}")
    for place, name in enumerate("WS"):
        ours = np.asarray([found[name][pair] for pair in chosen])
        theirs = np.asarray([values[place] for values in expected])
        largest, relative = np.abs(ours - theirs).max(), np.abs(ours / theirs - 1).max()
        values = f"of values from {theirs.min():.4g} to {theirs.max():.4g}"
        print(f"  {name}: largest difference {largest:.2e}, relative {relative:.2e}, {values}")
    study(parts, written, options.cases)


if __name__ == "__main__":
    main()
