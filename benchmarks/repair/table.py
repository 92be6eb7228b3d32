"""Records to a table: means over seeds, and each method against plain fine-tuning by Wilcoxon's signed ranks with Holm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

MEASURES = {
    "accuracy": "accuracy",
    "missing_zeros": "missing, zeros",
    "missing_mean": "missing, mean",
    "missing_sample": "missing, sample",
    "patterns_zeros": "all patterns, zeros",
    "noise_curve": "noise curve",
    "vif": "VIF",
    "rank": "effective rank",
    "score": "score of the weak",
}
CONTROL = "finetune"


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (statsmodels' multipletests(method="holm"))."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, most = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = most
    return adjusted


def paired(records: Sequence[dict[str, Any]], measure: str, method: str) -> tuple[np.ndarray, np.ndarray]:
    """The method's and the control's values of the same subjects, where both are known."""
    key = lambda r: (r["data"], r["noise"], r["seed"])  # noqa: E731
    control = {key(r): r[measure] for r in records if r["method"] == CONTROL}
    pairs = [
        (r[measure], control[key(r)])
        for r in records
        if r["method"] == method and r[measure] is not None and control.get(key(r)) is not None
    ]
    return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])


def table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: a row a method, a column a measure: mean (standard deviation), * where it differs from the control at 5 %
    after Holm over the methods of the column."""
    methods = list(dict.fromkeys(r["method"] for r in records))
    marks: dict[tuple[str, str], bool] = {}
    for measure in MEASURES:
        others = [m for m in methods if m != CONTROL]
        p = []
        for method in others:
            ours, theirs = paired(records, measure, method)
            p.append(float(wilcoxon(ours, theirs).pvalue) if len(ours) > 1 and (ours != theirs).any() else 1.0)
        marks |= {(m, measure): a < 0.05 for m, a in zip(others, holm(p), strict=True)}
    lines = ["| method | " + " | ".join(MEASURES.values()) + " |", "|---" * (len(MEASURES) + 1) + "|"]
    for method in methods:
        cells = []
        for measure in MEASURES:
            values = [r[measure] for r in records if r["method"] == method and r[measure] is not None]
            spread = f" ({np.std(values, ddof=1):.3g})" if len(values) > 1 else ""
            star = "*" if marks.get((method, measure)) else ""
            cells.append(f"{np.mean(values):.3f}{spread}{star}" if values else "")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
