"""Texts without the folders of this machine: pages are sent to others."""

from __future__ import annotations

import re

from nnunet_seqtransfer.nnunet.folders import preprocessed_folder, raw_folder, results_folder

_FOLDERS = re.compile(r"(?<![\w./\\])(?:[A-Za-z]:)?[/\\](?=[^\s/\\])(?:(?:[^/\\:;,'\"()]*[^\s/\\:;,'\"()])[/\\])*")
"""The beginning of an absolute path, up to the last part. Folders may hold spaces: rather a word too many is left out
than a part of a path too few."""


def without_folders(text: str) -> str:
    """``text`` with nnU-Net's folders as the names of their variables, and other absolute paths as their last part."""
    folders = {"nnUNet_raw": raw_folder, "nnUNet_preprocessed": preprocessed_folder, "nnUNet_results": results_folder}
    roots = {str(folder()): name for name, folder in folders.items()}
    for root in sorted(roots, key=len, reverse=True):  # one may lie in another
        text = re.sub(rf"{re.escape(root)}(?![\w.-])", roots[root], text)
    return _FOLDERS.sub("", text)
