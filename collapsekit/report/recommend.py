"""Which repair to try first, from a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence

from collapsekit.report.diagnosis import Report
from collapsekit.report.rules.causes import KEPT
from collapsekit.report.verdicts import is_weak, kept_part


def weak_modalities(report: Report) -> tuple[str, ...]:
    """List the modalities that surely are less used than they could be, in the subject's order."""
    return tuple(m for m in report.subject.modalities if is_weak(report.modalities[m]))


def advise(report: Report, weak: Sequence[str]) -> str | None:
    """Say what to mend where no training helps any of the ``weak`` modalities, by their causes; None where it may help."""
    causes = {m: report.modalities[m].cause for m in weak}
    if not causes or not set(causes.values()) <= {"not there", "prior"}:
        return None
    missing = [m for m, cause in causes.items() if cause == "not there"]
    if missing:
        return f"mend how {' and '.join(missing)} reaches the model, which no training does; then diagnose again."
    return f"on these examples nothing is lost: ask what needs {' and '.join(causes)}, then diagnose again."


def recommend(report: Report, weak: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """Recommend the methods to run, in order, and say why.

    Where the encoders still hold what the modalities say, modality dropout teaches the fusion to listen; where they do
    not, distillation has to teach the encoders first. That takes an encoder, which a modality exchanged at the model's input
    has not.
    """
    bare = [m for m in weak if not _has_encoder(report, m)]
    if bare:
        have = "have no encoders of their own" if len(bare) > 1 else "has no encoder of its own"
        return ("dropout",), f"{' and '.join(bare)} {have} that could be taught, so modality dropout, which needs none."
    kept = {m: share for m in weak if (share := _kept_or_seen(report, m)) is not None}
    if len(kept) == len(weak) and all(share >= KEPT for share in kept.values()):
        return ("dropout",), (
            f"the {_encoders(weak)} of {' and '.join(weak)} still {_hold(weak)} what can be learned alone, so it is the "
            "fusion that has to listen: modality dropout."
        )
    lost = [m for m in weak if m in kept and kept[m] < KEPT]
    why = (
        f"the {_encoders(lost)} of {' and '.join(lost)} never learned what can be learned alone"
        if lost
        else f"whether the {_encoders(weak)} of {' and '.join(weak)} learned what can be learned alone is not known"
    )
    them = "them" if len(lost or weak) > 1 else "it"
    return ("kd", "dropout"), f"{why}: distillation into {them} first, then modality dropout."


def _kept_or_seen(report: Report, modality: str) -> float | None:
    """The part that is kept beside an encoder trained alone; where none was trained, 1 or 0 by the cause that is named."""
    kept = kept_by(report, modality)
    seen = {"seen but not believed": 1.0, "not seen": 0.0}
    return seen.get(str(report.modalities[modality].cause)) if kept is None else kept


def _has_encoder(report: Report, modality: str) -> bool:
    """Whether the config names an encoder of the modality; where an adapter of the user's own says it, it is taken to."""
    config = report.settings.get("config", {})
    named = config.get("modalities", {}).get(modality)
    return named is None or config.get("adapter", "module") != "module" or "encoder" in named


def _encoders(names: Sequence[str]) -> str:
    return "encoders" if len(names) > 1 else "encoder"


def _hold(names: Sequence[str]) -> str:
    return "hold" if len(names) > 1 else "holds"


def kept_by(report: Report, modality: str, least: float = 0.0) -> float | None:
    """Compute the part of the gain of an encoder trained alone that a readout of this encoder has.

    Args:
        report: A report with the losses of readouts and of encoders trained alone.
        modality: Whose encoder.
        least: The least gain that counts, in parts of the prior loss.

    Returns:
        The part; None where that is not known, or one trained alone gains no more than ``least``.
    """
    found = {r.name: r.value for r in report.results if r.modality in (modality, None)}
    prior, left, alone = (
        found.get(n) for n in ("utilisation.prior_loss", "prefix_gap.prefix_loss", "prefix_gap.baseline_loss")
    )
    if prior is None or left is None or alone is None or prior - alone <= least * prior:
        return None
    return kept_part(prior, left, alone)
