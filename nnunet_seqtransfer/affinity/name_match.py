"""Compare the names of channels and labels, which tell how alike two tasks are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nnunet_seqtransfer.affinity.record import TaskEntry

SYNONYMS: dict[str, str] = {
    "t2 flair": "flair",
    "t2flair": "flair",
    "fluid attenuated inversion recovery": "flair",
    "t1ce": "t1c",
    "t1gd": "t1c",
    "t1post": "t1c",
    "t1 ce": "t1c",
    "t1 gd": "t1c",
    "t1 post": "t1c",
    "t1 contrast": "t1c",
    "t1 contrast enhanced": "t1c",
    "t1w": "t1",
    "t1 weighted": "t1",
    "t1n": "t1",
    "mprage": "t1",
    "t2w": "t2",
    "t2 weighted": "t2",
    "t2f": "flair",
    "dwi adc": "adc",
    "diffusion": "dwi",
    "pd": "proton density",
    "pet ct": "pet",
    "cect": "ct",
    "ncct": "ct",
    "mri": "mr",
    "magnetic resonance": "mr",
    "red": "r",
    "green": "g",
    "blue": "b",
    "tumor": "tumour",
    "wt": "whole tumour",
    "tc": "tumour core",
    "et": "enhancing tumour",
    "wmh": "white matter hyperintensity",
    "ms lesion": "lesion",
    "gm": "grey matter",
    "gray matter": "grey matter",
    "wm": "white matter",
    "lv": "ventricle",
    "lateral ventricle": "ventricle",
}
"""Name, normalised -> the name it stands for. Extend this table with the names that your datasets use."""

MODALITIES: dict[str, frozenset[str]] = {
    "MR": frozenset({"mr", "t1", "t1c", "t2", "flair", "adc", "dwi", "proton density", "swi", "t2star", "bold"}),
    "CT": frozenset({"ct"}),
    "PET": frozenset({"pet", "suv", "fdg"}),
    "RGB": frozenset({"r", "g", "b", "rgb"}),
    "ultrasound": frozenset({"us", "ultrasound"}),
}
"""Modality -> normalised channel names that belong to it; longer names that start with one belong to it too."""

GENERIC = frozenset({"mr", "image", "channel", "scan", "grey", "gray", "grayscale", "intensity", "modality"})
"""Channel names that name no sequence: they neither match nor clash with the sequences of their modality."""

_SIDES = re.compile(r"\b(left|right|l|r|lh|rh|bilateral)\b")


@dataclass(frozen=True)
class Names:
    """Names of a dataset."""

    channels: Sequence[str]
    "Channel names."
    labels: Sequence[str]
    "Label names without the background."
    dataset: str = ""
    "Dataset name, if there is one."


@dataclass(frozen=True)
class NameMatch:
    """Fit between the names of a source and a target."""

    labels: float
    "Mean over the target's labels, 0 to 1: 1 for an equal name, 0.5 for a part of one, or of the dataset's name."
    channels: float
    "Mean over the target's channels, 0 to 1: 1 for an equal name, 0.5 if one of both is generic, 0 otherwise."
    clash: str | None
    "Both modalities if they differ, for example ``CT/MR``; None if they agree or are unknown."

    @property
    def score(self) -> float:
        """(2 labels + channels) / 3, from 0 to 1; docs/method.md says what it is worth."""
        return (2 * self.labels + self.channels) / 3


def match_names(source: "Names | TaskEntry", target: "Names | TaskEntry") -> NameMatch:
    """Compare the names of two datasets; each target name counts with its best match in the source.

    Labels are often parts (Anterior, Posterior) or generic (tumour), and only the dataset's name says of what. So a
    label that is a word in the other dataset's name counts as a part.
    """
    is_part = _in_dataset_name(source.labels, target.dataset)
    labels = _mean(
        [
            max(
                0.5 * (is_part or _in_dataset_name([label], source.dataset)),
                *(_label_match(other, label) for other in source.labels),
                0.0,
            )
            for label in target.labels
        ]
    )
    channels = _mean([max((_channel_match(s, t) for s in source.channels), default=0.0) for t in target.channels])
    return NameMatch(labels, channels, _clash(source.channels, target.channels))


def normalise(name: str) -> str:
    """Return a name in lower case, words separated by one space, plural removed, synonyms replaced.

    >>> normalise("T2-FLAIR"), normalise("Hippocampi"), normalise("T1_Gd")
    ('flair', 'hippocampus', 't1c')
    """
    words = re.sub(r"[^a-z0-9]+", " ", re.sub(r"([a-z])([A-Z])", r"\1 \2", name).lower()).strip()
    return SYNONYMS.get(words) or SYNONYMS.get(_singular(words)) or _singular(words)


def modality(channel: str) -> str | None:
    """Return the modality of a channel, or None if its name does not tell."""
    words = normalise(channel)
    for name, known in MODALITIES.items():
        if words in known or words.split(" ")[0] in known or (re.match(r"t[12]", words) and name == "MR"):
            return name
    return None


def _singular(words: str) -> str:
    if words.endswith("campi"):
        return words[:-1] + "us"
    if words.endswith("ies"):
        return words[:-3] + "y"
    if words.endswith("nuclei"):
        return words[:-1] + "us"
    # "pancreas" and "mass" end in s and are no plurals
    return (
        words[:-1] if len(words) > 3 and words.endswith("s") and not words.endswith(("ss", "us", "is", "as")) else words
    )


def _label_match(source: str, target: str) -> float:
    one, other = (normalise(_SIDES.sub(" ", normalise(name))) for name in (source, target))
    if one == other:
        return 1.0
    return 0.5 if min(len(one), len(other)) > 3 and (one in other or other in one) else 0.0


def _in_dataset_name(labels: Sequence[str], dataset: str) -> bool:
    words = f" {normalise(re.sub(r'^Dataset[0-9]+_', '', dataset))} "
    names = [normalise(_SIDES.sub(" ", normalise(label))) for label in labels]
    return any(len(name) > 3 and f" {name} " in words for name in names)


def _channel_match(source: str, target: str) -> float:
    one, other = normalise(source), normalise(target)
    if one == other:
        return 1.0
    if not {one, other} & GENERIC:
        return 0.0
    modalities = {modality(source), modality(target)} - {None}
    return 0.5 if len(modalities) < 2 else 0.0


def _clash(source: Sequence[str], target: Sequence[str]) -> str | None:
    ours = {found for name in source if (found := modality(name))}
    theirs = {found for name in target if (found := modality(name))}
    if ours and theirs and not ours & theirs:
        return f"{'+'.join(sorted(ours))}/{'+'.join(sorted(theirs))}"
    if (len(source) == 1) != (len(target) == 1) and "RGB" in ours | theirs:
        return f"{len(source)} channel{'s' * (len(source) > 1)}/{len(target)} channel{'s' * (len(target) > 1)}"
    return None


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
