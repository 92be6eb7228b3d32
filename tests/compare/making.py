"""Reports made by hand, and groups of runs of them in files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from collapsekit.report import ModalityVerdict, Report, Result, Subject

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
    state = "inconclusive" if score is None else ("collapsed" if score > 0.85 else "used")
    verdicts = {
        m: ModalityVerdict(
            verdict=state,  # type: ignore[arg-type]
            score=score,
            interval=None if score is None else (score - 0.1, score + 0.1),
            costs_now=0.02,
            costs_if_missing={o: 0.1 * (i + 1) for i, o in enumerate(names) if o != m},
            reason="made by hand",
            evidence=("utilisation.ratio",),
        )
        for m in names
    }
    found = [
        result("reliance.full_metric", accuracy, unit="accuracy", interval=(accuracy - 0.05, accuracy + 0.05)),
        result("reliance.full_loss", 1 - accuracy, unit="nats"),
        *(result("reliance.shapley", 0.4 / (i + 1), m, unit="nats") for i, m in enumerate(names)),
        result("spectrum.effective_rank", rank, unit="dimensions"),
        *(result("spectrum.effective_rank", rank - 1, m, unit="dimensions") for m in names),
        result("vif.median", vif, unit="times"),
        result("utilisation.ratio", 0.5, names[0]),
        result("own.number", 7.0),
    ]
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
        verdict="collapsed" if state == "collapsed" else "healthy",
        summary="made by hand",
        modalities=verdicts,
        results=(*found, *results),
        settings={**kept, **(settings or {})},
    )


def write(folder: Path, report: Report, name: str = "report.json") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(report.to_json(), encoding="utf-8")
    return folder / name
