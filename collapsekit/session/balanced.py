"""The balanced reference of an open subject, fitted once for whoever asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from collapsekit.games.balanced_reference import BalancedReference, make_reference
from collapsekit.readouts.strength import MARGIN

if TYPE_CHECKING:
    from collapsekit.session.session import Session

WEAK = 0.05  # share of the prior loss under which a modality's gain alone makes us look for what it says jointly


@dataclass(frozen=True)
class FittedReference:
    """The reference, and what became of looking for what modalities say only together."""

    summed: BalancedReference  # of unimodal evidence alone
    whole: BalancedReference  # with what modalities say together, where that lowers the held-out loss; else the same
    described: str | None  # on which encoders that was found; None: it was not


def fit_balanced_reference(session: Session) -> FittedReference:
    """Fit the balanced reference of a session's examples.

    Encoders are trained for what modalities say together, and raw inputs asked, only where one of them says next to nothing
    alone.

    Args:
        session: the open subject.

    Returns:
        The reference, without and with what modalities say only together.

    Raises:
        NumericsError: where the task has no prior, or there is nothing to fit on.
    """
    readouts = {m: session.reference(m).used.readout for m in session.modalities}
    summed = make_reference(session.adapter, session.features, readouts, session.game.donors)
    most = summed.constant().loss[0]
    weak = [m for m in session.modalities if float(most - summed.alone(m).loss[0]) < WEAK * float(most)]
    joint = session.synergy(summed.offset())
    whole = summed.together(joint)
    if weak:
        offset = summed.offset()
        on_encoders, on_raw = session.synergy_on_encoders(offset), session.synergy_on_raw(offset)
        for other, margin in ((on_encoders, 0.0), (on_raw, MARGIN * float(most))):
            if other is not None and other.loss < joint.loss - margin:
                joint, whole = other, summed.together(other)
    return FittedReference(summed, whole, joint.described if whole.joint is not None else None)
