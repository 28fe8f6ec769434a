"""The methods paragraph of a run, with its numbers filled in, and what it cites."""

from __future__ import annotations

import math
from dataclasses import fields

from nnunet_seqtransfer.nnunet.validation import case_dice, mean_dice
from nnunet_seqtransfer.planning.cost import CostModel
from nnunet_seqtransfer.planning.record import SequencePlan
from nnunet_seqtransfer.planning.verdict import percent
from nnunet_seqtransfer.report.page.findings import Findings
from nnunet_seqtransfer.report.page.naming import counted, decimals, listed
from nnunet_seqtransfer.report.page.training_words import cases_of, training_sentences

CITATIONS = (
    "Yang J, Wang J, Zhang G, Li Y. Selecting the Best Sequential Transfer Path for Medical Image Segmentation with "
    "Limited Labeled Data. arXiv:2410.06892, 2024.",
    "Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep "
    "learning-based biomedical image segmentation. Nature Methods 18, 203-211, 2021.",
)


def methods(found: Findings, versions: dict[str, str]) -> str:
    """A paragraph for a paper, from what is known of this run."""
    sentences = [
        _task(found),
        _network(found, versions),
        *_choice(found),
        *training_sentences(found),
        *_validation(found),
    ]
    return " ".join(sentences)


def _task(found: Findings) -> str:
    target = found.run.request.target
    cases = cases_of(found, target)
    labels = (
        f" with the label{'' if len(found.labels) == 1 else 's'} {listed(list(found.labels))}" if found.labels else ""
    )
    return f"The target dataset was {target}{cases}{labels}."


def _network(found: Findings, versions: dict[str, str]) -> str:
    request = found.run.request
    sizes = ""
    if {"patch_size", "batch_size"} <= set(found.settings):
        patch = " \N{MULTIPLICATION SIGN} ".join(str(side) for side in found.settings["patch_size"])
        sizes = f", patches of {patch}, batches of {found.settings['batch_size']}"
    begin = f", initialised with the weights of {request.landmark.file.name}" if request.landmark else ""
    network = (
        f"The network was the one that nnU-Net {versions.get('nnunetv2', '')} plans for the target (configuration "
        f"{request.configuration}{sizes}; Isensee et al., 2021){begin}"
    )
    package = f"nnunet-seqtransfer {found.run.version}"
    if not request.sources:
        return f"{network}, trained {'on the target alone' if begin else 'from scratch'} with {package}."
    order = " and then on ".join(request.sources)
    return f"{network}, pre-trained on {order}, by sequential transfer (Yang et al., 2024) as implemented in {package}."


def _choice(found: Findings) -> list[str]:
    """How the path was chosen, where it was."""
    plan, affinity = found.plan, found.affinity
    if plan is None or not found.follows_plan:
        return ["The order was chosen by hand."] if found.run.request.sources else []
    chosen = f"path chosen by the strategy {plan.strategy} with {constants_origin(plan)}"
    if affinity is None:  # deleted since, or kept elsewhere
        sentence = f"Distances were measured by the metric {plan.metric}, and the {chosen}"
    else:
        looked = max((len(task.sampled_cases) for task in affinity.tasks), default=0)
        sentence = (
            f"The distance of {counted(len(affinity.sources), 'candidate source')} to the target and to each other was "
            f"measured by the metric {affinity.metric} on up to {counted(looked, 'case')} of each (seed "
            f"{affinity.seed}), and the {chosen}"
        )
    if not plan.wins or not plan.resamples:
        return [f"{sentence}."]
    share = next((win.share for win in plan.wins if win.path == (*plan.sources, plan.target)), 0.0)
    return [f"{sentence}; it was chosen in {percent(share)} of {plan.resamples} bootstrap resamples of the cases."]


def constants_origin(plan: SequencePlan) -> str:
    """Where the constants of the cost come from. The unit is left out: it is the metric's, whatever was asked for."""
    if plan.calibration:
        return f"the calibration {plan.calibration}"
    given = [
        f"{entry.name.replace('_', ' ')} {plan.constants[entry.name]:.4g}"
        for entry in fields(CostModel)
        if entry.name != "unit" and plan.constants.get(entry.name, entry.default) != entry.default
    ]
    return "uncalibrated default constants" + (f" but for {listed(given)}, given by hand" if given else "")


def _validation(found: Findings) -> list[str]:
    dice = mean_dice(case_dice(found.cases))
    if math.isnan(dice):
        return []
    cases = counted(len(found.cases), "case")
    if found.trained_on_cases:
        return [
            f"Fold all holds no case out: on the training cases themselves ({cases}) the mean Dice was "
            f"{decimals(dice)}, which is no estimate for other cases."
        ]
    told = [f"On the {cases} held out by the validated folds, the mean Dice was {decimals(dice)}."]
    if found.sources_may_hold_cases:
        told.append("Sources may hold some of these cases, which makes it too high (--allow_overlap).")
    return told
