"""One subject made, diagnosed and set beside its truth: a plain record."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import collapsekit
from benchmarks.generative.competitors import scores
from benchmarks.generative.data import hand_over
from benchmarks.generative.subjects import Subject, load_or_train
from benchmarks.generative.truth import measure_truth
from collapsekit.errors import CollapsekitError

PROBES = ("reliance", "utilisation", "prefix_gap", "pathway")


def measure(subject: Subject, profile: str, diagnosed: int, models: Path | None) -> dict[str, Any]:
    """Measure the truth of a subject, ask competitors, and diagnose it.

    Args:
        subject: which.
        profile: of the diagnosis.
        diagnosed: how many examples are.
        models: a folder where trained models are kept; None: they are not.

    Returns:
        The record; ``refused`` says why there are no verdicts, where there are none.
    """
    model = load_or_train(subject, models)
    record: dict[str, Any] = {
        "subject": subject.name,
        "architecture": subject.architecture,
        "world": subject.world,
        "kind": subject.kind,
        "profile": profile,
        "examples": diagnosed,
        "measured": measure_truth(model, subject),
        "others": scores(model, subject),
        "refused": None,
    }
    factory = f"{subject.of.build.__module__}:{subject.of.build.__name__}"
    began = time.process_time()
    try:
        report = collapsekit.diagnose(
            model=model,
            data=hand_over(subject, diagnosed),
            config={**subject.of.config, "model": {"factory": factory}},
            profile=profile,
            probes=PROBES,
        )
    except CollapsekitError as e:
        return record | {"refused": str(e), "verdicts": {}}
    return record | {
        "seconds": round(time.process_time() - began, 1),
        "whole": report.verdict,
        "verdicts": {
            m: {"verdict": v.verdict, "score": v.score, "missing": v.missing, "cause": v.cause, "reason": v.reason}
            for m, v in report.modalities.items()
        },
    }
