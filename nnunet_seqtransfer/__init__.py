"""Choose source datasets for nnU-Net from the data alone, then train through them in sequence."""

__version__ = "0.1.0"
