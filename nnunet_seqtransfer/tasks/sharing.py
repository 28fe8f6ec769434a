"""Whether a source's stage is the same training for two targets, so that one can serve both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

OWN = ("data_identifier", "normalization_schemes", "use_mask_for_norm", "median_image_size_in_voxels", "next_stage")
"""Settings of a configuration that a source's stage does not take from its target (see `alignment`), or not use."""


def differences(plans: Mapping[str, Any], others: Mapping[str, Any], configuration: str) -> tuple[str, ...]:
    """Names of the settings in which a source's stage for one target's plans differs from that for another's.

    Without differences both stages are the same training: the same network, batches and spacing, since normalisation
    and intensities are the source's own.
    """
    one, two = (entry["configurations"].get(configuration, {}) for entry in (plans, others))
    names = sorted((set(one) | set(two)) - set(OWN))
    differing = [name for name in names if one.get(name) != two.get(name)]
    return (*differing, *(name for name in ("transpose_forward",) if plans[name] != others[name]))
