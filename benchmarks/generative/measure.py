"""One subject made, diagnosed and set beside its truth: a plain record."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import collapsekit
from benchmarks.generative.competitors import scores
from benchmarks.generative.data import hand_over
from benchmarks.generative.subjects import GREY, Subject, load_or_train
from benchmarks.generative.truth import measure_truth
from collapsekit.errors import CollapsekitError

OTHERS = "others"
# By name what stands for an absent picture: another example's; grey, as Idefics3 leaves out what is 0 throughout; noise.
ABSENT: dict[str, Any] = {OTHERS: None, "blank": GREY, "noise": "noise"}
PROBES = ("reliance", "utilisation", "prefix_gap", "pathway")


def measure(
    subject: Subject, profile: str, diagnosed: int, models: Path | None, absent: str = OTHERS
) -> dict[str, Any]:
    """Measure the truth of a subject, ask competitors, and diagnose it.

    Args:
        subject: which.
        profile: of the diagnosis.
        diagnosed: how many examples are.
        models: a folder where trained models are kept; None: they are not.
        absent: what stands in the place of a picture that is not there: one of ABSENT.

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
        "absent": absent,
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
            config={**_absent_as(subject.of.config, absent), "model": {"factory": factory}},
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


def _absent_as(config: Mapping[str, Any], absent: str) -> dict[str, Any]:
    """The lines of a config, with what stands in the place of a picture."""
    value = ABSENT[absent]
    if value is None:
        return dict(config)
    image = {**config["modalities"]["image"], "absent": value}
    return {**config, "modalities": {**config["modalities"], "image": image}}
