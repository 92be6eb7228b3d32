"""Reports made by hand, and groups of runs of them in files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.verdicts import judge
from tests.factories import make_result, make_subject

NAMES = ("audio", "image")


def make(
    score: float | None = 0.5,
    accuracy: float = 0.9,
    *,
    names: Sequence[str] = NAMES,
    rank: float = 12.0,
    vif: float = 4.0,
    seed: int | None = None,
    weights: str | None = None,
    examples: str | None = "the examples",
    results: Sequence[Result] = (),
    settings: Mapping[str, Any] | None = None,
    **subject: Any,
) -> Report:
    """A report whose modalities all have this score."""
    ratio, limits = (
        (0.5, None) if score is not None and score <= 0.85 else (0.1, None if score is not None else (0.0, 0.5))
    )
    ends = None if score is None else (max(0.0, score - 0.1), min(1.0, score + 0.1))
    found = [
        make_result("reliance.full_metric", accuracy, unit="accuracy", interval=(accuracy - 0.05, accuracy + 0.05)),
        make_result("reliance.full_loss", 1 - accuracy, unit="nats"),
        *(make_result("reliance.shapley", 0.4 / (i + 1), m, unit="nats") for i, m in enumerate(names)),
        make_result("spectrum.effective_rank", rank, unit="dimensions"),
        *(make_result("spectrum.effective_rank", rank - 1, m, unit="dimensions") for m in names),
        make_result("vif.median", vif, unit="times"),
        make_result("utilisation.prior_loss", 2.0, unit="nats"),
        *(make_result("utilisation.alone_gain", 1.0, m, unit="nats") for m in names),
        *(make_result("utilisation.reference_trained", 1.0, m) for m in names),
        *(make_result("utilisation.credit", ratio, m, unit="nats") for m in names),
        *(make_result("utilisation.ratio", ratio, m, interval=limits) for m in names),
        *(make_result("utilisation.score", score, m, interval=ends) for m in names if score is not None),
        *(make_result("utilisation.costs_now", 0.02, m, unit="accuracy") for m in names),
        *(
            make_result("utilisation.costs_if_missing", 0.1 * (i + 1), m, versus=o, unit="accuracy")
            for m in names
            for i, o in enumerate(names)
            if o != m
        ),
        make_result("own.number", 7.0),
    ]
    judgement = judge([*found, *results], tuple(names), "accuracy")
    kept: dict[str, Any] = {} if seed is None else {"training_seed": seed}
    kept |= {} if examples is None else {"examples": hashlib.sha256(examples.encode()).hexdigest()}
    about: dict[str, Any] = {
        "checkpoint": "ckpt.pt",
        "sha256": hashlib.sha256(repr((weights, score, accuracy, seed)).encode()).hexdigest(),
        "examples": 500,
    }
    return Report(
        collapsekit="0.1.0",
        subject=make_subject(**{"modalities": names, **about, **subject}),
        **{**judgement.fields, "summary": "made by hand"},
        results=(*found, *results),
        settings={**kept, **(settings or {})},
    )


def write(folder: Path, report: Report, name: str = "report.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(report.to_json(), encoding="utf-8")
    return folder / name
