"""The report in sentences: the decision, the result, and a methods paragraph with its numbers filled in."""

from __future__ import annotations

import math
from dataclasses import MISSING, fields

from nnunet_seqtransfer.chain.block import Recipe
from nnunet_seqtransfer.report.page.findings import Findings, StageFound
from nnunet_seqtransfer.report.page.naming import arrows, counted, decimals, listed, path_words
from nnunet_seqtransfer.report.page.validation import mean_of
from nnunet_seqtransfer.sequence.plan import CandidatePath, SequencePlan
from nnunet_seqtransfer.sequence.verdict import percent

TOLD = ("epochs", "iterations", "initial_lr", "warmup_epochs", "seed")
"""Parts of a recipe that have a sentence of their own."""
CITATIONS = (
    "Yang J, Wang J, Zhang G, Li Y. Selecting the Best Sequential Transfer Path for Medical Image Segmentation with "
    "Limited Labeled Data. arXiv:2410.06892, 2024.",
    "Isensee F, Jaeger PF, Kohl SAA, Petersen J, Maier-Hein KH. nnU-Net: a self-configuring method for deep "
    "learning-based biomedical image segmentation. Nature Methods 18, 203-211, 2021.",
)


def decision(found: Findings) -> str:
    """What is trained and why, in one sentence."""
    request = found.run.request
    begin = f", beginning with the weights of {request.landmark.file.name}" if request.landmark else ""
    if request.sources:
        what = f"{request.target} is trained after {' and then '.join(request.sources)}{begin}"
    else:
        what = f"{request.target} is trained {'alone' if begin else 'from scratch'}{begin}"
    return f"{what}{_reason(found)}."


def _reason(found: Findings) -> str:
    """Why, as what follows the first half of a sentence."""
    if found.plan is None:
        return ", as it was asked for: there is no plan for this target"
    if not found.follows_plan:
        return f", as it was asked for: the plan proposes {_proposal(found.plan)}"
    prices = {entry.path: entry for entry in found.plan.candidates}
    chosen = prices.get((*found.plan.sources, found.plan.target))
    if chosen is None or not chosen.cost > 0:
        return ", as planned"
    allowed = [entry for entry in found.plan.candidates if not entry.ruled_out and entry.cost > 0]
    is_cheapest = all(chosen.cost <= entry.cost for entry in allowed)
    which = "the cheapest" if is_cheapest else "the simplest that the data cannot tell from the cheapest"
    other = _other(found.plan, allowed)
    against = f" against {decimals(other[1].cost, 2)} {other[0]}" if other else ""
    certain = {True: "; the data support it", False: "; the data do not tell it from simpler ones", None: ""}
    support = certain[found.plan.supported] if is_cheapest else ""
    price = f"at a cost of {decimals(chosen.cost, 2)}{against}"
    return f": of the paths that were compared this is {which}, {price}{support}"


def _other(plan: SequencePlan, allowed: list[CandidatePath]) -> tuple[str, CandidatePath] | None:
    """What the chosen path is held against: scratch, or the best transfer where scratch was chosen."""
    if plan.sources:
        scratch = next((entry for entry in allowed if len(entry.path) == 1), None)
        return None if scratch is None else ("for training from scratch", scratch)
    best = min((entry for entry in allowed if len(entry.path) > 1), key=lambda entry: entry.cost, default=None)
    return None if best is None else (f"for the best transfer, {path_words(best.path)}", best)


def _proposal(plan: SequencePlan) -> str:
    return path_words((*plan.sources, plan.target)) if plan.sources else "training from scratch"


def reasons(found: Findings) -> list[str]:
    """Why, as the plan says it; what it takes to train is left out, since the run has its own recipe."""
    plan = found.plan
    if plan is None:
        return ["There is no plan of this target: the path was asked for."] if found.affinity else []
    told = [arrows(line) for line in plan.explanation if not line.startswith("To train: ")]
    if not found.follows_plan:
        told.insert(0, "What follows is about the path that is planned now, which is not the one of this run.")
    return told


def result(found: Findings) -> str:
    """What came of it so far, in a sentence or two."""
    done = sum(stage.status == "finished" for stage in found.stages)
    progress = f"{done} of {counted(len(found.stages), 'stage')} finished"
    if not found.cases:
        return f"{progress}; no fold of the target has been validated yet."
    folds = list(dict.fromkeys(case.fold for case in found.cases))
    what = f"fold{'' if len(folds) == 1 else 's'} {listed(folds)}"
    scores = f"Dice {decimals(mean_of(found.cases))} in the validation of {what} ({counted(len(found.cases), 'case')})"
    few = " With so few cases this is a rough figure." if len(found.cases) < 10 else ""
    return f"{scores}; {progress}.{few}"


def methods(found: Findings, versions: dict[str, str]) -> str:
    """A paragraph for a paper, from what is known of this run."""
    sentences = [_task(found), _network(found, versions), *_choice(found), *_training(found), *_validation(found)]
    return " ".join(sentences)


def _task(found: Findings) -> str:
    target = found.run.request.target
    cases = _cases(found, target)
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
    if plan is None or affinity is None or not found.follows_plan:
        return ["The order was chosen by hand."] if found.run.request.sources else []
    looked = max((len(task.sampled_cases) for task in affinity.tasks), default=0)
    origin = f"the calibration {plan.calibration}" if plan.calibration else "uncalibrated default constants"
    sentence = (
        f"The distance of {counted(len(affinity.sources), 'candidate source')} to the target and to each other was "
        f"measured by the metric {affinity.metric} on up to {counted(looked, 'case')} of each (seed {affinity.seed}), "
        f"and the path chosen by the strategy {plan.strategy} with {origin}"
    )
    if not plan.wins or not plan.resamples:
        return [f"{sentence}."]
    share = next((win.share for win in plan.wins if win.path == (*plan.sources, plan.target)), 0.0)
    return [f"{sentence}; it was chosen in {percent(share)} of {plan.resamples} bootstrap resamples of the cases."]


def _training(found: Findings) -> list[str]:
    """The recipe of each stage; folds of the target share theirs."""
    told: dict[str, StageFound] = {}
    for stage in found.stages:
        told.setdefault(stage.entry.dataset, stage)
    sentences = []
    for name, stage in told.items():
        recipe = stage.entry.recipe
        warm = f" after a warm-up of {counted(recipe.warmup_epochs, 'epoch')}" if recipe.warmup_epochs else ""
        seed = f", seed {recipe.seed}" if recipe.seed is not None else ", unseeded"
        sentences.append(
            f"Training on {name}{'' if stage.is_target else _cases(found, name)} took "
            f"{counted(recipe.epochs, 'epoch')} of {counted(recipe.iterations, 'iteration')} at an initial learning "
            f"rate of {recipe.initial_lr:g}{warm}{seed}{other_settings(recipe)}."
        )
    if len(told) > 1:
        sentences.append("All weights but those of the segmentation heads were handed from each stage to the next.")
    return sentences


def other_settings(recipe: Recipe) -> str:
    """What a recipe changes beside the numbers that are always told, as ", NAME VALUE"."""
    changed = (
        (entry.name, getattr(recipe, entry.name), None if entry.default is MISSING else entry.default)
        for entry in fields(recipe)
        if entry.name not in TOLD
    )
    return "".join(f", {name.replace('_', ' ')} {value}" for name, value, default in changed if value != default)


def _validation(found: Findings) -> list[str]:
    if not found.cases or math.isnan(mean_of(found.cases)):
        return []
    return [
        f"On the {counted(len(found.cases), 'case')} held out by the validated folds, the mean Dice was "
        f"{decimals(mean_of(found.cases))}."
    ]


def _cases(found: Findings, dataset: str) -> str:
    count = found.case_counts.get(dataset)
    return f" ({counted(count, 'labelled case')})" if count else ""
