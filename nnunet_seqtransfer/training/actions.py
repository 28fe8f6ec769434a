"""The rule that says what each stage needs, from existing files. Pure; every command uses it."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from nnunet_seqtransfer.training.on_disk import StageOnDisk
from nnunet_seqtransfer.training.stages import Role


class Action(enum.Enum):
    """Next step for a stage."""

    NOTHING = "finished"
    NOT_NEEDED = "not needed: a later stage is already trained"
    VALIDATE = "trained, the final validation is missing"
    RESUME = "resumes from its checkpoint"
    START = "starts"


DONE = (Action.NOTHING, Action.NOT_NEEDED)


@dataclass(frozen=True)
class Link:
    """One stage in a chain, as far as the rule is concerned."""

    key: str
    "Stage identifier: DATASET/PLANS/fold_K."
    role: Role
    "Role in the chain."
    after: str | None
    "Key for the stage that hands weights to it; None for the first stage."
    on_disk: StageOnDisk
    "State on disk."
    has_own_weights: bool
    "True if this fold starts from separate weights; otherwise all folds share one file."
    weights_fit: bool
    "True if handed-over weights exist and are those that the stage asks for."

    @property
    def shares_used_weights(self) -> bool:
        """Return True if another fold has trained from the same weights, so that they count without their source."""
        return self.on_disk.has_siblings and not self.has_own_weights


def needed_actions(links: Sequence[Link], *, probabilities: bool = False) -> dict[str, Action]:
    """Return key -> action, decided from the last stage back: a source is needed only by a stage that has yet to start.

    Handed-over weights count only while their source exists or another fold has trained from them. So a source that
    was deleted to be trained again is trained again.

    Each source precedes the stages after it in ``links``. ``probabilities``: a final validation without softmax outputs
    is incomplete.
    """
    final = {link.key for link in links if link.on_disk.final}
    needed = {link.key for link in links if link.role == "target"}
    actions = {}
    for link in reversed(links):
        action = action_of(link.on_disk, link.role, probabilities=probabilities)
        if link.key not in needed and not link.on_disk.final:
            action = Action.NOT_NEEDED
        actions[link.key] = action
        usable = link.weights_fit and (link.after in final or link.shares_used_weights)
        if action is Action.START and link.after is not None and not usable:
            needed.add(link.after)
    return {link.key: actions[link.key] for link in links}


def action_of(on_disk: StageOnDisk, role: Role, *, probabilities: bool = False) -> Action:
    """Return what a stage needs if nothing else is considered."""
    if on_disk.final:
        is_complete = on_disk.validated and (on_disk.has_probabilities or not probabilities)
        return Action.NOTHING if role == "source" or is_complete else Action.VALIDATE
    return Action.RESUME if on_disk.unfinished else Action.START
