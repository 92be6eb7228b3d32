"""Reports made by hand, with the numbers and records that the gate reads."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.per_example import PerExample, digest
from collapsekit.report.verdicts import judge
from collapsekit.stats.use import floor_of
from collapsekit.stats.use import use as use_of
from tests.factories import make_result, make_subject

PRIOR = 2.0
NAMES = ("audio", "image")


def make_report(
    uses: Mapping[str, float] | None = None,
    accuracy: float = 0.9,
    *,
    due: float = 0.5,
    sha: str = "a",
    training_seed: int | None = None,
    examples: int = 200,
    verdict: str | None = None,
    without: float = 0.6,
    records: PerExample | None = None,
    results: tuple[Result, ...] = (),
    scores: Mapping[str, float | None] | None = None,
    content: str = "the examples",
) -> Report:
    """A report of modalities with these uses; verdicts follow from them, but for what ``verdict`` says of the whole. Of what
    its records say, it says the same."""
    uses = {"audio": 0.9, "image": 0.9} if uses is None else uses
    e, columns = floor_of(PRIOR), {} if records is None else records.columns
    mean = {k: float(v.astype(np.float64).mean()) for k, v in columns.items()}
    accuracy, examples = mean.get("metric", accuracy), examples if records is None else len(records.ids)
    found = [
        make_result("utilisation.prior_loss", PRIOR),
        make_result("reliance.full_metric", accuracy, interval=(accuracy - 0.05, accuracy + 0.05), unit="accuracy"),
        make_result("vif.mean", 4.2, interval=(3.9, 4.6)),
    ]
    for m, use in uses.items():
        drop = accuracy - mean.get(f"metric_without.{m}", without)
        credit = mean.get(f"credit.{m}", use * (due + e) - e)
        score = round(1 - min(1.0, use_of(max(0.0, credit), due, PRIOR)), 12) if scores is None else scores[m]
        ends = None if score is None else (max(0.0, score - 0.1), min(1.0, score + 0.1))
        found += [
            make_result("utilisation.reference_trained", 1.0, m),
            make_result("utilisation.alone_gain", 1.0, m),
            make_result("utilisation.ratio", min(2.0, max(0.0, credit / due)), m),
            make_result("utilisation.score", score, m, interval=ends),
            make_result("utilisation.costs_now", 0.02, m),
            *(make_result("utilisation.costs_if_missing", 0.1, m, versus=o) for o in uses if o != m),
            make_result("utilisation.credit", credit, m),
            make_result("utilisation.reference_credit", due, m),
            make_result("reliance.leave_one_out_metric", drop, m, interval=(drop - 0.05, drop + 0.05)),
        ]
    judgement = judge([*found, *results], tuple(uses), "accuracy")
    data = None if records is None else records.to_bytes()
    settings: dict[str, Any] = {"examples": hashlib.sha256(content.encode()).hexdigest()}
    settings |= {} if training_seed is None else {"training_seed": training_seed}
    settings |= {} if data is None else {"records": digest(data)}
    made = Report(
        collapsekit="0.1.0",
        subject=make_subject(
            tuple(uses), checkpoint=f"{sha}.pt", sha256=hashlib.sha256(sha.encode()).hexdigest(), examples=examples
        ),
        **{**judgement.fields, "verdict": verdict or judgement.overall, "summary": "Made by hand."},
        results=(*found, *results),
        settings=settings,
    )
    return made if data is None else made.with_records(data)


def make_records(
    uses: Mapping[str, float], accuracy: float, *, n: int = 200, due: float = 0.5, noise: float = 0.3, seed: int = 0
) -> PerExample:
    """Records whose means are what ``make_report`` says: credits around theirs, hits as often as the accuracy says."""
    rng, e = np.random.default_rng(seed), floor_of(PRIOR)
    columns = {"loss": rng.gamma(1.0, 0.3, n), "metric": (np.arange(n) >= round((1 - accuracy) * n)).astype(float)}
    for m, use in uses.items():
        spread = rng.normal(0, noise, n)
        columns[f"credit.{m}"] = use * (due + e) - e + spread - spread.mean()
        columns[f"metric_without.{m}"] = (rng.random(n) < 0.6).astype(float)
        columns[f"loss_without.{m}"] = rng.gamma(1.0, 0.6, n)
    return PerExample(
        ids=np.arange(n, dtype=np.int64), units=None, columns={k: v.astype(np.float32) for k, v in columns.items()}
    )
