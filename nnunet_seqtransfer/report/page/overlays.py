"""Overlays: a slice as an image, and the contours of reference and prediction as lines that stay sharp."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from nnunet_seqtransfer.errors import SeqTransferError
from nnunet_seqtransfer.nnunet.datasets import RawCase, channel_names, raw_cases
from nnunet_seqtransfer.nnunet.plans import read_plans
from nnunet_seqtransfer.nnunet.preprocessing import read_raw_case, read_raw_labels, read_spacing
from nnunet_seqtransfer.nnunet.validation import ValidatedCase, telling
from nnunet_seqtransfer.report.page.findings import Findings
from nnunet_seqtransfer.report.page.markup import element, polyline
from nnunet_seqtransfer.report.page.naming import decimals
from nnunet_seqtransfer.report.page.slices import Slice, telling_slices

COLOUR_READER = "NaturalImage2DIO"
"""nnU-Net's reader of photographs; three channels of it are red, green and blue."""
WIDTH = 200.0
"""Of a panel, in the units of its contours."""


@dataclass(frozen=True)
class CaseView:
    """One case as it is shown."""

    rank: str
    "worst, median, best or only."
    case: ValidatedCase
    "Which, and its Dice."
    slices: tuple[tuple[str, tuple[Markup, ...]], ...]
    "For each slice its caption, and its panels: plain, with the reference, with the prediction."


def case_views(found: Findings, notes: list[str]) -> tuple[CaseView, ...]:
    """The worst, the median and the best validated case; one that cannot be read leaves a note instead."""
    views = []
    try:
        reader = str(
            read_plans(found.run.request.target, found.run.request.plans, found.run.request.configuration)[
                "image_reader_writer"
            ]
        )
        raw = raw_cases(found.run.request.target, found.target_json) if found.target_json else {}
    except SeqTransferError as error:
        notes.append(f"No overlays: {' '.join(str(error).split())}.")
        return ()
    ignore = found.target_json.get("labels", {}).get("ignore")
    for rank, case in telling(found.cases):
        try:
            slices = _slices(case, raw[case.case], reader, None if ignore is None else int(ignore))
            views.append(CaseView(rank, case, tuple(_panels(found, rank, case, cut) for cut in slices)))
        except KeyError:
            notes.append(f"No overlay of {case.case}: its image is not in nnUNet_raw.")
        except (SeqTransferError, ValueError, OSError) as error:  # OSError: a prediction was deleted
            notes.append(f"No overlay of {case.case}: {' '.join(str(error).split())}.")
    return tuple(views)


def _slices(case: ValidatedCase, raw: RawCase, reader: str, ignore: int | None) -> tuple[Slice, ...]:
    data = read_raw_case(case.case, raw, reader)
    prediction = read_raw_labels(case.case, case.prediction, reader)
    colours = reader == COLOUR_READER and len(data.images) == 3
    arrays = data.images, data.segmentation, prediction
    return telling_slices(*arrays, read_spacing(raw, reader), colours=colours, ignore=ignore)


def _panels(found: Findings, rank: str, case: ValidatedCase, cut: Slice) -> tuple[str, tuple[Markup, ...]]:
    """The caption of a slice, and three panels that share one image."""
    height, width = cut.reference.shape
    scale = WIDTH / width
    high = height * scale * cut.aspect
    name = f"{rank}-{case.fold}-{'w' if 'wrong' in cut.title else 'l'}"
    picture = element(
        "image",
        id=name,
        href=_png(cut.image),
        width=WIDTH,
        height=high,
        preserveAspectRatio="none",
    )
    again = element("use", href=f"#{name}")
    reference, prediction = (
        list(_contours(array, found.labels, (scale, scale * cut.aspect), look))
        for array, look in ((cut.reference, "reference"), (cut.prediction, "prediction"))
    )
    where = ", ".join(text for text in (cut.title, cut.place) if text)
    about = f"{rank} case {case.case}, {where}"
    channel = "" if cut.image.ndim == 3 or not found.target_json else f" ({channel_names(found.target_json)[0]})"
    titles = (
        (f"Image{channel} of the {about}", [picture]),
        (f"Reference contour on the {about}", [again, *reference]),
        (f"Prediction, Dice {decimals(case.mean, 2)}, and reference on the {about}", [again, *reference, *prediction]),
    )
    box = f"0 0 {WIDTH:g} {high:.1f}"
    panels = tuple(
        element("svg", *parts, viewBox=box, class_="overlay", role="img", aria_label=title) for title, parts in titles
    )
    return where[0].upper() + where[1:], panels


def _contours(
    array: NDArray[np.int16], labels: Mapping[str, tuple[int, ...]], scale: tuple[float, float], look: str
) -> Iterator[Markup]:
    from skimage.measure import find_contours  # noqa: PLC0415 - slow import

    for place, (name, values) in enumerate(labels.items()):
        mask = np.pad(np.isin(array, values).astype(np.float32), 1)
        lines = (
            polyline([(float(x - 0.5) * scale[0], float(y - 0.5) * scale[1]) for y, x in line])
            for line in find_contours(mask, 0.5)
        )
        drawn = "".join(lines)
        if drawn:
            yield element("path", element("title", f"{name}, {look}"), d=drawn, class_=f"{look} label{place % 4}")


def _png(image: NDArray[np.uint8]) -> str:
    """The image as a data URL."""
    from PIL import Image  # noqa: PLC0415 - only where there are overlays

    stream = io.BytesIO()
    Image.fromarray(image).save(stream, format="PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"
