"""Records of subjects to the tables people read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.planted.competitors import NAMES

STATES = ("used", "underused", "collapsed", "uninformative", "inconclusive")
TRUTHS = ("used", "collapsed", "uninformative")
Record = Mapping[str, Any]


def rows_of(records: Iterable[Record]) -> list[dict[str, Any]]:
    """One row a modality whose truth is one of the three; those between used and ignored have none."""
    return [
        {**{k: v for k, v in r.items() if k != "modalities"}, "modality": m, **row}
        for r in records
        for m, row in r["modalities"].items()
        if row["truth"] in TRUTHS
    ]


def summary(records: Sequence[Record]) -> dict[str, float]:
    """Accuracy of verdicts on decided modalities, share inconclusive, AUROC of the score, errors beside the others'."""
    rows = rows_of(records)
    decided = [r for r in rows if r["verdict"] != "inconclusive"]
    truth = [r["truth"] == "collapsed" for r in decided]
    ours = sum((r["verdict"] == "collapsed") != t for r, t in zip(decided, truth, strict=True)) / len(decided)
    out = {
        "modalities": len(rows),
        "between": sum(row["truth"] == "between" for r in records for row in r["modalities"].values()),
        "accuracy": sum(r["verdict"] == r["truth"] for r in decided) / len(decided),
        "inconclusive": 1 - len(decided) / len(rows),
        "auroc": auroc(
            [r["score"] if r["score"] is not None else 0.0 for r in rows], [r["truth"] == "collapsed" for r in rows]
        ),
        "error": ours,
    }
    for name in NAMES:
        values = [r["others"][name] for r in decided]
        out[f"{name}.auroc"] = max(auroc(values, truth), 1 - auroc(values, truth))
        out[f"{name}.error"] = best_error(values, truth)
    return out


def auroc(scores: Sequence[float], truth: Sequence[bool]) -> float:
    """Share of (collapsed, other) pairs in the right order, ties half (scikit-learn's roc_auc_score); 0.5 without pairs."""
    pairs = [
        (s > o) + 0.5 * (s == o)
        for s, t in zip(scores, truth, strict=True)
        if t
        for o, u in zip(scores, truth, strict=True)
        if not u
    ]
    return sum(pairs) / len(pairs) if pairs else 0.5


def best_error(scores: Sequence[float], truth: Sequence[bool]) -> float:
    """Errors of the best threshold, either way round, chosen with the truth in hand."""
    ordered = sorted(zip(scores, truth, strict=True))
    positives = sum(truth)
    best, below = min(positives, len(truth) - positives), 0
    for i, (score, is_positive) in enumerate(ordered, 1):
        below += is_positive
        if i < len(ordered) and ordered[i][0] == score:
            continue
        wrong = below + (len(truth) - i) - (positives - below)  # collapsed above the threshold
        best = min(best, wrong, len(truth) - wrong)
    return best / len(truth)


def confusion(records: Sequence[Record]) -> str:
    """Truth down, verdict across."""
    count = Counter((r["truth"], r["verdict"]) for r in rows_of(records))
    lines = [f"{'truth':<15}" + "".join(f"{s:>14}" for s in STATES)]
    lines += [f"{t:<15}" + "".join(f"{count[t, s]:>14}" for s in STATES) for t in TRUTHS]
    return "\n".join(lines)


def by(records: Sequence[Record], key: str) -> str:
    """Accuracy on decided modalities and share inconclusive, for each value of one property of the subjects."""
    rows = rows_of(records)
    lines = [f"{key:<22}{'modalities':>11}{'right':>8}{'undecided':>11}"]
    for value in sorted({str(r[key]) for r in rows}):
        own = [r for r in rows if str(r[key]) == value]
        decided = [r for r in own if r["verdict"] != "inconclusive"]
        right = sum(r["verdict"] == r["truth"] for r in decided) / max(1, len(decided))
        lines.append(f"{value:<22}{len(own):>11}{right:>8.1%}{1 - len(decided) / len(own):>11.1%}")
    return "\n".join(lines)


def peers(found: Mapping[str, float]) -> str:
    """Telling collapsed modalities from the rest: the score and verdict beside what people use today."""
    lines = [f"{'collapsed or not, by':<44}{'AUROC':>8}{'error':>9}{'ours is':>10}"]
    lines.append(f"{'collapsekit (score; verdict)':<44}{found['auroc']:>8.3f}{found['error']:>9.1%}{'':>10}")
    for name, what in NAMES.items():
        error = found[f"{name}.error"]
        part = f"{found['error'] / error:.2f} of it" if error else ""
        lines.append(f"{what[:43]:<44}{found[f'{name}.auroc']:>8.3f}{error:>9.1%}{part:>10}")
    return "\n".join(lines)


def wrong(records: Sequence[Record]) -> str:
    """Every decided modality whose verdict is not its truth."""
    rows = [r for r in rows_of(records) if r["verdict"] not in (r["truth"], "inconclusive")]
    best = [
        f" (credit {r['true_ratio']:.2f} of the best possible)" if r["true_ratio"] is not None else "" for r in rows
    ]
    return "\n".join(
        f"{r['subject']} {r['kind']} {r['world']} {r['task']} {r['fusion']} n={r['n']} {r['modality']}: {r['truth']}{more} "
        f"called {r['verdict']}"
        for r, more in zip(rows, best, strict=True)
    )
