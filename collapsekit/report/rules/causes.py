"""Why a model uses a modality for less than it is worth, where the probe pathway followed it to the answer."""

from __future__ import annotations

from typing import NamedTuple

from collapsekit.report.parts import Cause
from collapsekit.report.rules.evidence import ModalityEvidence

SAME = 1e-6  # spread of states, in parts of their size, up to which they are the same for every example
NEEDLESS = 0.03  # share of the prior loss that a modality has to add surely less than for others to suffice
KEPT = 0.7  # part of what the strongest readout gains from which states are said to hold the modality


class FoundCause(NamedTuple):
    """A cause, or None where it could not be told, and a sentence that says why."""

    cause: Cause | None
    sentence: str


def find_cause(evidence: ModalityEvidence, name: str) -> FoundCause | None:
    """Name the cause of a modality's collapse or underuse.

    A pipeline bug comes first, as then nothing else can be told of the model; then whether the modality was needed at all;
    then where it is lost.

    Args:
        evidence: the results about the modality.
        name: the modality's.

    Returns:
        The cause and its sentence; None where pathway did not run.
    """
    moves = evidence.get("pathway.moves")
    if moves is None:
        return None
    for find in (_not_there, _prior, _lost):
        found = find(evidence, name)
        if found is not None:
            return found
    why = evidence.why_not("pathway.held_loss") or "no readout of its states could be judged"
    return FoundCause(None, f"Where it is lost is not known: {why}.")


def _not_there(evidence: ModalityEvidence, name: str) -> FoundCause | None:
    moves, spread = evidence.get("pathway.moves"), evidence.get("pathway.spread")
    if spread is not None and spread.value <= SAME:
        return FoundCause(
            "not there",
            f"Cause: not there. What stands for {name} behind its encoder is the same for every example: look for dead "
            "weights, and for preprocessing that makes all inputs alike.",
        )
    if moves is None or moves.value > 0:
        return None
    return FoundCause(
        "not there",
        f"Cause: not there. No answer moves when {name} is another example's: look for places of {name} that are masked, "
        "missing from the prompt, or never handed to the model.",
    )


def _prior(evidence: ModalityEvidence, name: str) -> FoundCause | None:
    adds = evidence.get("pathway.adds")
    if adds is None or adds.high >= NEEDLESS:
        return None
    return FoundCause(
        "prior",
        f"Cause: prior. The rest suffices: {name} would take {max(0.0, adds.value):.1%} of the prior loss off the model's "
        f"answers without it, so these examples cannot tell whether it would be used. Ask what needs {name}.",
    )


def _lost(evidence: ModalityEvidence, name: str) -> FoundCause | None:
    prior, held = evidence.get("utilisation.prior_loss"), evidence.get("pathway.held_loss")
    gain = evidence.get("utilisation.alone_gain")
    if prior is None or held is None or gain is None or gain.value <= 0:
        return None
    part = max(0.0, prior.value - held.value) / gain.value
    said = f"a readout of what its encoder gives has {min(part, 1.0):.0%} of what can be read of {name} alone"
    if part >= KEPT:
        return FoundCause("seen but not believed", f"Cause: seen but not believed: {said}, and the answer does not.")
    return FoundCause("not seen", f"Cause: not seen: {said}.")
