"""Use of a modality: what a model credits it with, of what is due to it."""

from __future__ import annotations

FLOOR = 0.005  # share of the prior loss that is added to credit and due


def floor_of(prior_loss: float) -> float:
    """Return what is added to credit and due, in units of the loss, so that what is due nothing is not ignored."""
    return FLOOR * prior_loss


def use(credit: float, due: float, prior_loss: float) -> float:
    """Compute how much of what is due to a modality a model credits it with: (credit + e) / (due + e), e = :func:`floor_of`.

    1 is all that is due, 0 (or below) nothing; there is no upper end. The score of a modality (docs/verdicts.md) is 1 minus
    this, with credit and due at least 0 and the result in [0, 1]. Without those bounds it varies over training runs as a
    mean does, which is what comparisons of runs need.

    Args:
        credit: what the model gains from the modality, in units of the loss.
        due: what could be gained from it, in the same.
        prior_loss: loss of the best constant answer, in the same.

    Returns:
        The ratio, without a unit.

    Raises:
        ZeroDivisionError: where due is minus e.
    """
    more = floor_of(prior_loss)
    return (credit + more) / (due + more)
