"""The balanced reference, with what modalities say only together where that can be found."""

from __future__ import annotations

from dataclasses import dataclass

from collapsekit.games.balanced_reference import BalancedReference
from collapsekit.readouts.strength import MARGIN
from collapsekit.readouts.synergy import JointReadouts
from collapsekit.readouts.unimodal import Plan

WEAK = 0.05  # share of the prior loss under which a modality's gain alone makes us look for what it says jointly


@dataclass(frozen=True)
class FittedReference:
    """The reference, and what became of looking for what modalities say only together."""

    summed: BalancedReference  # of unimodal evidence alone
    whole: BalancedReference  # with what modalities say together, where that lowers the held-out loss; else the same
    described: str | None  # on which encoders that was found; None: it was not


def add_joint(
    summed: BalancedReference, joint: JointReadouts, train: JointReadouts, plan: Plan | None, *, raw: bool
) -> FittedReference:
    """Add to a reference what modalities say only together.

    Encoders are trained for that, and raw inputs asked, only where one of them says next to nothing alone.

    Args:
        summed: the reference of unimodal evidence.
        joint: networks for what they say together.
        train: those of the training examples, which keep what is fitted on them.
        plan: how encoders are trained; None: none are.
        raw: whether raw inputs can be read.

    Returns:
        The reference, without and with what modalities say only together.

    Raises:
        NumericsError: where there is nothing to fit on.
    """
    most, offset = summed.constant().loss[0], summed.offset()
    margin = MARGIN * float(most)
    found = joint.on_recorded(offset, train)
    whole = summed.together(found)
    if any(float(most - summed.alone(m).loss[0]) < WEAK * float(most) for m in summed.evidence):
        on_encoders = None if plan is None else joint.on_encoders(offset, plan)
        on_raw = joint.on_raw(offset) if raw else None
        for other, least in ((on_encoders, 0.0), (on_raw, margin)):
            if other is not None and other.loss < found.loss - least:
                found, whole = other, summed.together(other)
    return FittedReference(summed, whole, found.described if whole.joint is not None else None)
