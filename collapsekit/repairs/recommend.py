"""Which repair to try first, from a diagnosis."""

from __future__ import annotations

from collections.abc import Sequence

from collapsekit.report import Report

HELD = 0.7  # part of what it can learn alone that an encoder still holds, beyond which the fusion is to blame


def recommend(report: Report, weak: Sequence[str]) -> tuple[tuple[str, ...], str]:
    """The methods to run in order, and why: where the encoders still hold what the modalities say, modality dropout
    teaches the fusion to listen; where they do not, distillation has to teach the encoders first."""
    kept = {m: share for m in weak if (share := _kept(report, m)) is not None}
    if len(kept) == len(weak) and all(share >= HELD for share in kept.values()):
        return ("dropout",), (
            f"the {_encoders(weak)} of {' and '.join(weak)} still {_hold(weak)} what can be learned alone, so it is the "
            "fusion that has to listen: modality dropout."
        )
    lost = [m for m in weak if m in kept and kept[m] < HELD]
    why = (
        f"the {_encoders(lost)} of {' and '.join(lost)} never learned what can be learned alone"
        if lost
        else f"whether the {_encoders(weak)} of {' and '.join(weak)} learned what can be learned alone is not known"
    )
    return ("kd", "dropout"), f"{why}: distillation into them first, then modality dropout."


def _encoders(names: Sequence[str]) -> str:
    return "encoders" if len(names) > 1 else "encoder"


def _hold(names: Sequence[str]) -> str:
    return "hold" if len(names) > 1 else "holds"


def _kept(report: Report, modality: str) -> float | None:
    """Part of the gain of an encoder trained alone that a readout of this encoder has."""
    found = {r.name: r.value for r in report.results if r.modality in (modality, None)}
    prior, left, alone = (
        found.get(n) for n in ("utilisation.prior_loss", "prefix_gap.prefix_loss", "prefix_gap.baseline_loss")
    )
    if prior is None or left is None or alone is None or prior <= alone:
        return None
    return (prior - left) / (prior - alone)
