"""nnU-Net's picture of the curves, progress.png, which takes a second to draw: not after every short epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

SECONDS = 30.0
"""The picture is at most so old while epochs end, a guess at what people who watch it put up with."""


class Picture:
    """When the picture of one training was drawn last."""

    def __init__(self) -> None:
        self._drawn = -math.inf
        self._is_old = True

    @contextmanager
    def when_due(self, logger: Any) -> Iterator[None]:
        """Inside, ``logger`` (nnU-Net's MetaLogger) draws only if the last picture is old enough."""
        self._is_old = time.monotonic() - self._drawn < SECONDS
        if not self._is_old:
            yield
            self._drawn = time.monotonic()
            return
        logger.plot_progress_png = lambda output_folder: None
        try:
            yield
        finally:
            del logger.plot_progress_png

    def finish(self, logger: Any, folder: str) -> None:
        """Draws it where it lacks an epoch."""
        if self._is_old:
            logger.plot_progress_png(folder)
            self._is_old = False
