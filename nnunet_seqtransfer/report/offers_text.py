"""Existing models that a chain could begin with, in words for the terminal."""

from __future__ import annotations

import math
import shlex

from nnunet_seqtransfer.nnunet.folders import dataset_id
from nnunet_seqtransfer.nnunet.plans import DEFAULT_PLANS
from nnunet_seqtransfer.planning.record import SequencePlan
from nnunet_seqtransfer.report.tables import text_table
from nnunet_seqtransfer.training.offers import Offers


def offers_text(offers: Offers, plan: SequencePlan) -> str:
    """A table of the models and the command for each; empty where there is nothing to say."""
    lines = list(offers.broken)
    if offers.best:
        header = ["dataset", "trainer", "plans", "configuration", "distance", "coverage"]
        rows = [
            [
                offer.dataset,
                *offer.parts,
                f"{offer.distance:.3f}" if math.isfinite(offer.distance) else "unknown",
                f"{offer.coverage:.3f}",
            ]
            for offer in offers.best
        ]
        number = str(dataset_id(plan.target))
        other = [] if plan.plans == DEFAULT_PLANS else ["-p", plan.plans]
        command = ["nnUNetv2_seq_train", number, plan.configuration, "0", "-s", "none", *other, "-init"]
        lines += [
            "Models in nnUNet_results that a chain could begin with (-init), not part of the plan:",
            "",
            text_table(header, rows),
            "",
            *(shlex.join([*command, str(offer.folder)]) for offer in offers.best),
            "",
            "Coverage is the share of the network that comes over. Whether these models have seen patients of the "
            "target is not known (nnUNetv2_seq_overlap compares datasets that are registered).",
        ]
    return "\n".join(lines)
