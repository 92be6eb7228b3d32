"""Records to a table: means over seeds, and each method against plain fine-tuning by Wilcoxon's signed ranks with Holm."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy.stats import wilcoxon

MEASURES = {
    "accuracy": "accuracy",
    "often_missing": "one missing at 80-95 %",
    "missing_zeros": "missing, zeros",
    "missing_own": "missing, own way",
    "patterns_own": "every set missing, own way",
    "noise_curve": "under noise",
    "vif": "VIF",
    "rank": "effective rank",
    "classifier_loss": "classifier CE",
    "score": "score of the weak",
}
FILLS = {
    "patterns_zeros": "zeros",
    "patterns_sample": "random",
    "patterns_neighbour": "nearest neighbour",
    "patterns_mean": "mean",
    "patterns_class": "class mean",
    "patterns_late": "late fusion",
    "patterns_substitution": "substitution",
}
MEDIANS = ("vif",)  # without bound where features are nearly collinear: median and quartiles
SUBSTITUTION = "patterns_substitution"
CONTROL = "finetune"
KEPT = "epoch_kept"


def holm(p: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p values (statsmodels' multipletests(method="holm"))."""
    order = sorted(range(len(p)), key=lambda i: p[i])
    adjusted, most = [0.0] * len(p), 0.0
    for rank, i in enumerate(order):
        most = max(most, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = most
    return adjusted


def paired(
    records: Sequence[dict[str, Any]], measure: str, method: str, against: str = CONTROL
) -> tuple[np.ndarray, np.ndarray]:
    """The method's and the control's values of the same subjects, where both are known."""
    key = lambda r: (r["data"], r.get("kind"), r["noise"], r["seed"])  # noqa: E731
    control = {key(r): r[measure] for r in records if r["method"] == against}
    pairs = [
        (r[measure], control[key(r)])
        for r in records
        if r["method"] == method and r[measure] is not None and control.get(key(r)) is not None
    ]
    return np.array([a for a, _ in pairs]), np.array([b for _, b in pairs])


def table(records: Sequence[dict[str, Any]], control: str = CONTROL) -> str:
    """Markdown: a row a method, a column a measure: mean (standard deviation), of VIF median (quartiles); * where it differs
    from the control at 5 % after Holm over the methods of the column."""
    methods = list(dict.fromkeys(r["method"] for r in records))
    marks: dict[tuple[str, str], bool] = {}
    for measure in MEASURES:
        others = [m for m in methods if m != control]
        p = []
        for method in others:
            ours, theirs = paired(records, measure, method, control)
            p.append(float(wilcoxon(ours, theirs).pvalue) if len(ours) > 1 and (ours != theirs).any() else 1.0)
        marks |= {(m, measure): a < 0.05 for m, a in zip(others, holm(p), strict=True)}
    heads = [*MEASURES.values(), "epoch kept"]
    lines = ["| method | " + " | ".join(heads) + " |", "|---" * (len(heads) + 1) + "|"]
    for method in methods:
        cells = [_cell(records, method, measure, marks.get((method, measure), False)) for measure in MEASURES]
        kept = _kept(records, method)
        cells.append(f"{np.median(kept):g} ({min(kept)}-{max(kept)})" if kept else "")
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def footnote(records: Sequence[dict[str, Any]]) -> str:
    """What the subjects of a data set have in common, which the test takes for independent."""
    said = []
    for data in dict.fromkeys(r["data"] for r in records):
        rows = {(r["drawn"], r["of"]) for r in records if r["data"] == data}
        for drawn, every in sorted(rows):
            share = f"two share {drawn / every:.0%} of them on average" if drawn < every else "the same for all"
            said.append(f"{data}: each subject draws {drawn} of {every} training examples ({share})")
    return "; ".join(said) + ". Validation and test examples are the same for all, so pairs are not wholly independent."


def mostly_untrained(records: Sequence[dict[str, Any]]) -> list[str]:
    """Methods whose row is of models before any training: in most subjects no stage kept a later epoch."""
    found = []
    for method in dict.fromkeys(r["method"] for r in records):
        kept = _kept(records, method)
        if kept and 2 * sum(k == 0 for k in kept) > len(kept):
            found.append(method)
    return found


def _kept(records: Sequence[dict[str, Any]], method: str) -> list[int]:
    """The epochs that a method kept, of all its stages together, a subject each; older records have none."""
    return [r[KEPT] for r in records if r["method"] == method and r.get(KEPT) is not None]


def _cell(records: Sequence[dict[str, Any]], method: str, measure: str, marked: bool) -> str:
    values = [r[measure] for r in records if r["method"] == method and r[measure] is not None]
    if not values:
        return ""
    if measure in MEDIANS:
        low, middle, high = np.percentile(values, [25, 50, 75])
        return f"{middle:.3g} ({low:.3g}-{high:.3g}){'*' if marked else ''}"
    spread = f" ({np.std(values, ddof=1):.3g})" if len(values) > 1 else ""
    return f"{np.mean(values):.3f}{spread}{'*' if marked else ''}"


def fills_table(records: Sequence[dict[str, Any]]) -> str:
    """Markdown: accuracy over every set of absent modalities, a row a method, a column a way to fill; * where substitution
    differs from that fill at 5 % after Holm over the fills of the row."""
    lines = ["| method | " + " | ".join(FILLS.values()) + " |", "|---" * (len(FILLS) + 1) + "|"]
    for method in dict.fromkeys(r["method"] for r in records):
        own = [r for r in records if r["method"] == method and all(r[f] is not None for f in FILLS)]
        others = [f for f in FILLS if f != SUBSTITUTION]
        p = []
        for fill in others:
            a, b = (np.array([r[name] for r in own]) for name in (fill, SUBSTITUTION))
            p.append(float(wilcoxon(a, b).pvalue) if len(own) > 1 and (a != b).any() else 1.0)
        marks = {f: value < 0.05 for f, value in zip(others, holm(p), strict=True)}
        cells = [_cell(records, method, fill, marks.get(fill, False)) for fill in FILLS]
        lines.append(f"| {method} | " + " | ".join(cells) + " |")
    return "\n".join(lines)
