"""A figure on disk, for screens and for print."""

from __future__ import annotations

from pathlib import Path

import matplotlib as mpl

from nnunet_seqtransfer.storage import replacing

mpl.use("agg")
import matplotlib.pyplot as plt


def save_both(figure: plt.Figure, path: Path) -> None:
    """Writes ``path``, a PNG, and an SVG beside it; the same figure gives the same bytes."""
    with mpl.rc_context({"svg.hashsalt": "nnunet-seqtransfer"}):
        for target, metadata in ((path, None), (path.with_suffix(".svg"), {"Date": None})):
            with replacing(target) as aside:
                figure.savefig(aside, dpi=150, metadata=metadata)
