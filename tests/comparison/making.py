"""Reports made by hand, and groups of runs of them in files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from collapsekit.report.diagnosis import Report, Result, Subject
from collapsekit.report.verdicts import judge

NAMES = ("audio", "image")


def result(name: str, value: float | None, modality: str | None = None, **more: Any) -> Result:
    fields: dict[str, Any] = {
        "name": name,
        "probe": name.split(".")[0],
        "modality": modality,
        "value": value,
        "definition": f"what {name} is",
        "source": "made by hand",
        "skipped": None if value is not None else "it could not be had",
    }
    return Result(**{**fields, **more})


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
        result("reliance.full_metric", accuracy, unit="accuracy", interval=(accuracy - 0.05, accuracy + 0.05)),
        result("reliance.full_loss", 1 - accuracy, unit="nats"),
        *(result("reliance.shapley", 0.4 / (i + 1), m, unit="nats") for i, m in enumerate(names)),
        result("spectrum.effective_rank", rank, unit="dimensions"),
        *(result("spectrum.effective_rank", rank - 1, m, unit="dimensions") for m in names),
        result("vif.median", vif, unit="times"),
        result("utilisation.prior_loss", 2.0, unit="nats"),
        *(result("utilisation.alone_gain", 1.0, m, unit="nats") for m in names),
        *(result("utilisation.credit", ratio, m, unit="nats") for m in names),
        *(result("utilisation.ratio", ratio, m, interval=limits) for m in names),
        *(result("utilisation.score", score, m, interval=ends) for m in names if score is not None),
        *(result("utilisation.costs_now", 0.02, m, unit="accuracy") for m in names),
        *(
            result("utilisation.costs_if_missing", 0.1 * (i + 1), m, versus=o, unit="accuracy")
            for m in names
            for i, o in enumerate(names)
            if o != m
        ),
        result("own.number", 7.0),
    ]
    overall, _, verdicts = judge([*found, *results], tuple(names), "accuracy")
    kept: dict[str, Any] = {} if seed is None else {"training_seed": seed}
    kept |= {} if examples is None else {"examples": hashlib.sha256(examples.encode()).hexdigest()}
    about: dict[str, Any] = {
        "checkpoint": "ckpt.pt",
        "sha256": hashlib.sha256(repr((weights, score, accuracy, seed)).encode()).hexdigest(),
        "modalities": tuple(names),
        "task": "classification",
        "metric": "accuracy",
        "split": "test",
        "examples": 500,
        "seed": 0,
    }
    return Report(
        collapsekit="0.1.0",
        subject=Subject(**{**about, **subject}),
        verdict=overall,
        summary="made by hand",
        modalities=verdicts,
        results=(*found, *results),
        settings={**kept, **(settings or {})},
    )


def write(folder: Path, report: Report, name: str = "report.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(report.to_json(), encoding="utf-8")
    return folder / name
