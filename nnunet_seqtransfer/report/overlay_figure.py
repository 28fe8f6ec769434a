"""Overlays: slices from held-out images with the contours of reference and predictions."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from nnunet_seqtransfer.report.figures import PREDICTION, REFERENCE, SOFT, STYLE, tip

LINE_STYLES = ("solid", "dashed", "dotted", "dashdot")
"""One per label. Further labels start again."""
MARGIN, MIN_MARGIN = 0.35, 10
"""Surrounding on each side: share of the structure, and pixels at least. A guess at what readers need."""
MAX_PIXELS = 420
"""Pixels along the longer side. Larger cut-outs lose every second pixel, or more."""
Labels = Sequence[tuple[str, tuple[int, ...]]]
Image = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Overlay:
    """One slice with reference and prediction."""

    title: str
    "Caption."
    image: Image
    "Grey values 0 to 255, shape (height, width), or RGB, shape (height, width, 3)."
    reference: Image
    "Label values, shape (height, width)."
    prediction: Image
    "Label values, shape (height, width)."
    caption: str
    "Caption for the prediction."
    aspect: float = 1.0
    "Pixel height divided by pixel width."


@mpl.rc_context(STYLE)
def draw_overlays(rows: Sequence[Overlay], labels: Labels, *, channel: str = "image") -> Figure:
    """Draw each slice as a row: the plain image, the reference, and the prediction on the reference.

    ``channel``: caption for the plain image. Each label has another line style.
    """
    columns, side = 3, 2.6
    heights = [max(0.4, min(2.0, row.image.shape[0] / row.image.shape[1] * row.aspect)) for row in rows]
    size = (side * columns, sum(side * height + 0.35 for height in heights) + 0.35)
    figure = Figure(figsize=size)
    # fixed margins: matplotlib's layout engines leave gaps between images of unlike shapes
    bottom = size[1]
    for row, height in zip(rows, heights, strict=True):
        bottom -= side * height + 0.35
        panels = [
            figure.add_axes((k / columns + 0.003, bottom / size[1], 1 / columns - 0.006, side * height / size[1]))
            for k in range(columns)
        ]
        _draw_row(panels, row, labels, (channel, "reference", row.caption))
    handles = [
        Line2D([], [], color=REFERENCE, linewidth=2.6, label="reference"),
        Line2D([], [], color=PREDICTION, linewidth=1.6, label="prediction"),
    ]
    for place, (name, _) in enumerate(labels if len(labels) > 1 else ()):
        handles.append(Line2D([], [], color=SOFT, linestyle=LINE_STYLES[place % len(LINE_STYLES)], label=name))
    figure.legend(handles=handles, loc="lower left", ncols=min(len(handles), 6), borderaxespad=0.1, handlelength=2.6)
    return figure


def _draw_row(panels: Sequence[Axes], row: Overlay, labels: Labels, captions: Sequence[str]) -> None:
    height, width = row.reference.shape
    extent = (0, width, height, 0)
    for panel, caption in zip(panels, captions, strict=True):
        panel.imshow(row.image, cmap="gray", vmin=0, vmax=255, interpolation="none", extent=extent)
        panel.set(aspect="auto", xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        panel.spines[:].set_visible(False)
        panel.set_title(caption, fontsize=8.5, pad=3)
    panels[0].set_title(f"{row.title}, {captions[0]}", fontsize=8.5, pad=3)
    for panel in panels[1:]:
        _draw_contours(panel, row.reference, labels, REFERENCE, "reference", 2.4)
    _draw_contours(panels[2], row.prediction, labels, PREDICTION, "prediction", 1.4)


def _draw_contours(panel: Axes, segmentation: Image, labels: Labels, colour: str, what: str, width: float) -> None:
    rows, columns = (np.arange(-1, length + 1) + 0.5 for length in segmentation.shape)
    for place, (name, values) in enumerate(labels):
        mask = np.pad(np.isin(segmentation, values).astype(float), 1)  # so that contours close at the edge
        if mask.any():
            style = LINE_STYLES[place % len(LINE_STYLES)]
            drawn = panel.contour(columns, rows, mask, [0.5], colors=[colour], linewidths=width, linestyles=style)
            tip(drawn, f"{name}, {what}")


def telling_slices(
    images: NDArray[np.float32],
    reference: NDArray[np.int16],
    prediction: NDArray[np.int16],
    spacing: tuple[float, ...],
    *,
    colours: bool = False,
    ignore: int | None = None,
    caption: str = "prediction",
) -> tuple[Overlay, ...]:
    """Return the slice with the largest structure, and the one with most wrong pixels if that is another one.

    The structure is the reference, or the prediction if the reference is empty. Slices are cut across the axis with
    the widest spacing, the first if several are equal.

    Args:
        images: (channels, z, y, x). The first channel is shown.
        reference: (z, y, x) label values.
        prediction: (z, y, x) label values.
        spacing: (3,) voxel distances along z, y, x. 2-D images have a single slice.
        colours: True if the first three channels are red, green and blue from 0 to 255.
        ignore: label value that counts as neither structure nor wrong.
        caption: text above the prediction.

    Raises ValueError if the shapes differ.
    """
    if not images.shape[1:] == reference.shape == prediction.shape:
        raise ValueError(f"image {images.shape[1:]}, reference {reference.shape}, prediction {prediction.shape}")
    # 2-D images are volumes with one slice
    axis = 0 if reference.shape[0] == 1 else int(np.argmax(np.asarray(spacing) > max(spacing) * 0.999))
    others = tuple(other for other in range(3) if other != axis)
    known = np.ones(reference.shape, dtype=bool) if ignore is None else reference != ignore
    structure = (reference > 0) & known
    sizes = (structure if structure.any() else (prediction > 0) & known).sum(axis=others)
    wrong = ((reference != prediction) & known).sum(axis=others)
    count = reference.shape[axis]
    titles = {int(sizes.argmax()): "largest cross-section" if count > 1 else "cut-out"}
    if count > 1 and wrong.any():
        worst = int(wrong.argmax())
        titles[worst] = "largest, and most wrong" if worst in titles else "most wrong pixels"
    # grey levels are those of the whole image, so that both slices look alike
    picture = images[:3] if colours else on_screen(images[:1])
    around = structure | ((prediction > 0) & known)
    cuts = []
    for index, title in titles.items():
        cut = [np.take(array, index, axis=axis) for array in (*picture, reference, prediction, around)]
        # volumes are stored from the feet up: the upper end belongs on top of slices along the body
        *channels, one, two, near = [array[::-1] for array in cut] if axis > 0 else cut
        window = _window(near)
        shown = np.stack(channels, axis=-1)[window] if colours else channels[0][window]
        where = f"{title}, slice {index + 1} of {count}" if count > 1 else title
        aspect = spacing[others[0]] / spacing[others[1]]
        cuts.append(Overlay(where, shown.astype(np.uint8), one[window], two[window], caption, aspect))
    return tuple(cuts)


def on_screen(image: Image) -> NDArray[np.uint8]:
    """Return intensities, shape kept, as grey values 0 to 255, from the 0.5 to the 99.5 percentile."""
    low, high = np.percentile(image, (0.5, 99.5))
    scaled = np.clip((image - low) / ((high - low) or 1.0) * 255, 0, 255)
    return np.asarray(np.nan_to_num(scaled), dtype=np.uint8)


def _window(structure: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Return a square around the structure, or the whole slice if there is none, thinned if large."""
    if not structure.any():
        windows = [slice(0, length) for length in structure.shape]
    else:
        ends = [(int(found.min()), int(found.max()) + 1) for found in np.nonzero(structure)]
        side = max(stop - start for start, stop in ends)
        side += 2 * max(MIN_MARGIN, round(MARGIN * side))
        firsts = [
            max(0, min((a + b - side) // 2, length - side))
            for (a, b), length in zip(ends, structure.shape, strict=True)
        ]
        windows = [slice(a, min(length, a + side)) for a, length in zip(firsts, structure.shape, strict=True)]
    # every second pixel keeps the page small; contours are thinned with the image
    step = max(1, -(-max(window.stop - window.start for window in windows) // MAX_PIXELS))
    return slice(windows[0].start, windows[0].stop, step), slice(windows[1].start, windows[1].stop, step)
