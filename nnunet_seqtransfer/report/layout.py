"""Where tasks and their names go on paper: distances kept as well as two dimensions can, names beside their tasks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STEPS = 300
"""Iterations of the majorisation; it has settled long before."""
ROOM = 0.045
"""Least distance of two tasks on paper, as a share of the picture's diagonal."""
DIRECTIONS = 16
"""Places tried around a task for its name, on each ring."""
RINGS = (4.0, 10.0, 20.0, 34.0)
"""Gaps between a task and its name in pixels, the nearest first; from the third on a line leads to it."""

Box = tuple[float, float, float, float]
"""Left, bottom, right, top."""


def placed(distances: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
    """Points on paper whose distances are as close to ``distances`` as two dimensions allow.

    Args:
        distances: (n, n), >= 0; both directions of a pair are averaged, inf where there is none.

    Returns (n, 2) points, the last task on the right half, and Kruskal's stress: the root of the mean squared error
    over the mean squared distance (0 is perfect, above 0.2 is poor; Kruskal, Psychometrika 29, 1964).

    Metric multidimensional scaling by majorisation (SMACOF; de Leeuw 1977), from the classical solution, so that
    nothing is random. A pair without distance counts as a bit farther than the farthest.
    """
    wanted = (distances + distances.T) / 2
    np.fill_diagonal(wanted, 0.0)
    finite = np.isfinite(wanted)
    wanted = np.where(finite, wanted, 1.2 * wanted[finite].max() or 1.0)
    points = _classical(wanted)
    for _ in range(STEPS):
        now = _apart(points)
        ratio = np.divide(wanted, now, out=np.zeros_like(now), where=now > 0)
        pull = -ratio
        np.fill_diagonal(pull, ratio.sum(axis=1))
        points = pull @ points / len(points)
    error = np.sqrt(((_apart(points) - wanted) ** 2).sum() / max((wanted**2).sum(), 1e-300))
    points -= points.mean(axis=0)
    if points[-1, 0] < 0:
        points[:, 0] *= -1
    return _spread(points), float(error)


def label_boxes(
    points: NDArray[np.float64],
    radii: NDArray[np.float64],
    sizes: NDArray[np.float64],
    order: Sequence[int],
    frame: Box,
    obstacles: Sequence[Box] = (),
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Where each name goes so that it covers as little as possible.

    Args:
        points: (n, 2) centres of the tasks in pixels.
        radii: (n,) of their markers.
        sizes: (n, 2) width and height of their names.
        order: the tasks; those whose names are placed first have the choice.
        frame: what names should not reach beyond, in pixels.
        obstacles: what they should not cover beside markers and each other.

    Returns (n, 2) lower left corners, (n,) whether a name is so far off that a line has to lead to it, and (n,) how
    much of it covers something else or reaches beyond the frame, in pixels squared.
    """
    markers = [(x - r, y - r, x + r, y + r) for (x, y), r in zip(points, radii, strict=True)]
    corners, is_far, covered = np.zeros_like(points), np.zeros(len(points), dtype=bool), np.zeros(len(points))
    taken: list[Box] = list(obstacles)
    for task in order:
        best: tuple[float, int] | None = None
        tried = list(_around(points[task], radii[task], sizes[task]))
        for number, (corner, _) in enumerate(tried):
            box = (*corner, *(corner + sizes[task]))
            outside = float(np.prod(sizes[task])) - _overlap(box, frame)
            overlap = outside + sum(_overlap(box, other) for other in (*taken, *markers))
            if best is None or overlap < best[0] - 1e-9:
                best = (overlap, number)
            if overlap < 1e-6:
                break
        if best is not None:
            corners[task], is_far[task] = tried[best[1]]
            covered[task] = best[0]
            taken.append((*corners[task], *(corners[task] + sizes[task])))
    return corners, is_far, covered


def _classical(wanted: NDArray[np.float64]) -> NDArray[np.float64]:
    """Torgerson's solution: the first two principal coordinates, (n, 2), each with its largest entry positive."""
    n = len(wanted)
    centre = np.eye(n) - 1 / n
    values, vectors = np.linalg.eigh(-centre @ wanted**2 @ centre / 2)
    first = np.argsort(-values, kind="stable")[:2]
    points = np.zeros((n, 2))
    points[:, : len(first)] = vectors[:, first] * np.sqrt(np.maximum(values[first], 0))
    largest = np.abs(points).argmax(axis=0)
    points *= np.where(points[largest, [0, 1]] < 0, -1, 1)
    # Tasks that coincide would stay together for ever.
    return points + 1e-6 * (np.abs(wanted).max() or 1.0) * np.arange(n)[:, None] * [1, -1] / n


def _apart(points: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.linalg.norm(points[:, None] - points[None], axis=-1))


def _spread(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Tasks that would cover each other are pushed apart, the others stay where they are."""
    spread = points.copy()
    room = ROOM * float(np.linalg.norm(np.ptp(points, axis=0))) or 1.0
    room = min(room, room * 5 / np.sqrt(len(points)))
    for _ in range(200):
        now = _apart(spread)
        np.fill_diagonal(now, np.inf)
        near = np.argwhere(now < room * 0.999)
        if not len(near):
            break
        for i, j in near[near[:, 0] < near[:, 1]]:
            step = spread[j] - spread[i]
            length = float(np.linalg.norm(step))
            step = step / length if length > 1e-12 else np.asarray([1.0, 0.0])
            spread[i] -= step * (room - length) / 4
            spread[j] += step * (room - length) / 4
    return spread


def _around(
    point: NDArray[np.float64], radius: float, size: NDArray[np.float64]
) -> list[tuple[NDArray[np.float64], bool]]:
    """Lower left corners of a box of ``size`` around a marker, ring by ring, beginning on the right."""
    found = []
    for ring, gap in enumerate(RINGS):
        for angle in 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS:
            way = np.asarray([np.cos(angle), np.sin(angle)])
            # The box touches the circle with the side or corner that faces it.
            centre = (
                point + way * (radius + gap) + np.sign(np.round(way, 9)) * size / 2 * np.minimum(1, 2 * np.abs(way))
            )
            found.append((centre - size / 2, ring > 1))
    return found


def _overlap(one: Box, two: Box) -> float:
    width = min(one[2], two[2]) - max(one[0], two[0])
    height = min(one[3], two[3]) - max(one[1], two[1])
    return max(0.0, width) * max(0.0, height) if width > 0 and height > 0 else 0.0
