"""How strong the readout is that a modality's due is read from, beside every other that was tried."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from collapsekit.readouts.linear import FitSplit, UnimodalReadout
from collapsekit.tasks.base import Task

OWN_ENCODER, TRAINED_ALONE = "the checkpoint's own encoder", "the encoder trained alone"
MODEL_ALONE = "the whole model trained on it alone"  # of a modality that has no encoder
AT_INPUT = "inputs as the model is given them"  # of a modality that has no encoder
ASKED_ALONE = "the model's own answers to it alone"  # where that was asked: a prior that the text gives, for one
PREDICTIONS = "your own predictions"  # of the user's model of this modality alone
# By how much a readout of raw inputs has to do better than one of encoders to be taken: standard errors of the difference,
# and share of the prior loss. Or the family would change with the draw where both say the same.
SURE, MARGIN = 1.0, 0.01


@dataclass(frozen=True)
class TriedReadout:
    """A readout of one modality, of a family, and what it reads in words."""

    family: str
    readout: UnimodalReadout
    read: str


@dataclass(frozen=True)
class ReferenceStrength:
    """The readout a modality's due is read from, and the held-out gain of each that was tried.

    Gains are shares of the loss of the best constant; that is 1 for a readout that is always right and sure of it.
    """

    used: TriedReadout
    gains: dict[str, float]  # by family, the one that is used first, then the best first
    reads: dict[str, str]
    trained_alone: bool  # whether an encoder was trained alone until it got no better, by us or by the user
    independent: bool  # whether anything was tried that does not depend on the checkpoint's own encoder
    why_not: str | None = None  # why no encoder was trained alone, or not to its end

    @cached_property
    def strength(self) -> float:
        """The held-out gain of the readout used over the best known, 0 to 1; 1 where nothing gains anything."""
        best, ours = max(self.gains.values()), self.gains[self.used.family]
        return 1.0 if best <= 0 else min(1.0, max(0.0, ours / best))

    @property
    def read(self) -> str:
        """What the due is read from, in words."""
        return self.used.read


def weigh_readouts(
    task: Task, at: FitSplit, encoders: Sequence[TriedReadout], raw: Sequence[TriedReadout], why_not: str | None = None
) -> ReferenceStrength:
    """Choose the readout that a modality's due is read from, on held-out examples.

    The best readout of encoders is taken, but where readouts of raw inputs lose surely less than that, by a share of the
    prior loss that counts, the best of these.

    Args:
        task: whose loss.
        at: with the held-out examples.
        encoders: readouts of encoders' features, at least one; of equal ones the first is taken.
        raw: readouts of raw inputs.
        why_not: why no encoder was trained alone until it got no better; None where one was. Predictions of the user's
            own that nothing else surely beats stand for one.

    Returns:
        The readout and its strength.
    """
    losses = {tried.family: task.loss(tried.readout.validation, at.held_targets) for tried in (*encoders, *raw)}
    used = min(encoders, key=lambda tried: float(losses[tried.family].mean()))
    constant = task.prior(at.targets, at.width).expand(len(at.choose), -1)
    prior = float(task.loss(constant, at.held_targets).mean())
    better = [t for t in raw if _surely_better(losses[t.family], losses[used.family], MARGIN * prior)]
    if better:
        used = min(better, key=lambda tried: float(losses[tried.family].mean()))
    gains = {family: 1.0 - float(loss.mean()) / prior if prior > 0 else 0.0 for family, loss in losses.items()}
    if gains.get(PREDICTIONS, -math.inf) >= max(gains.values()) - MARGIN:
        why_not = None  # nothing that was tried does better
    order = sorted(gains, key=lambda family: (family != used.family, -gains[family]))
    return ReferenceStrength(
        used,
        {family: gains[family] for family in order},
        {tried.family: tried.read for tried in (*encoders, *raw)},
        why_not is None,
        bool(raw),
        why_not,
    )


def _surely_better(loss: Tensor, than: Tensor, margin: float) -> bool:
    """Whether losses (v,) are lower by more than SURE standard errors, and by more than a margin."""
    gain = than - loss
    return float(gain.mean()) > max(margin, SURE * float(gain.std(correction=0)) / math.sqrt(len(gain)))
