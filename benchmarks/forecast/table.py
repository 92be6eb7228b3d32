"""Records to tables: gains by method, and how well the forecast told them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from statistics import mean, stdev
from typing import Any

import numpy as np
from scipy.stats import pearsonr

Records = Sequence[dict[str, Any]]
MEASURES = {
    "full_metric": "metric",
    "patterns.zeros": "every set missing, zeros",
    "rates.zeros": "missing at 50 and 90 %, zeros",
}


def print_tables(found: Records) -> None:
    """Print what each method gained, and the forecast beside it."""
    left_out = [f"{r['subject']} {r['seed']}" for r in found if r["method"] is None]
    if left_out:
        print(f"The diagnosis finds nobody to repair in {', '.join(left_out)}.\n")
    found = [r for r in found if r["method"] is not None]
    print(f"{gains_table(found)}\n\n{correlations(found)}\n\n{models_table(found)}")


def gains_table(found: Records) -> str:
    """Tabulate what each method left on the measured split: mean over models (standard deviation), and seconds."""
    methods = list(dict.fromkeys(r["method"] for r in found))
    lines = [_row(["method", "models", *MEASURES.values(), "seconds"]), _row(["---"] * (len(MEASURES) + 3))]
    for method in methods:
        rows = [r for r in found if r["method"] == method]
        cells = [_spread([r[key] for r in rows if r.get(key) is not None]) for key in MEASURES]
        took = [r["seconds"] for r in rows if "seconds" in r]
        lines.append(_row([method, str(len(rows)), *cells, f"{mean(took):.2f}" if took else ""]))
    return "\n".join(lines)


def correlations(found: Records) -> str:
    """Tabulate Pearson's r of forecasts and gains over models, by method, with an interval by Fisher's z, and the mean
    error; of several modalities to repair, the forecast is the largest, or their sum."""
    lines = [
        _row(["method", "models", "r, largest", "95 %", "r, sum", "gain - forecast (largest), mean", "its deviation"]),
        _row(["---"] * 7),
    ]
    for method in dict.fromkeys(r["method"] for r in found if r["method"] != "none"):
        pairs = [(largest, total, gain) for _, largest, total, gain in _pairs(found, method)]
        if len(pairs) < 4:
            continue
        first, total, gain = (np.array(column) for column in zip(*pairs, strict=True))
        r, ends = correlation(first, gain)
        summed, _ = correlation(total, gain)
        error = gain - first
        cells = [method, str(len(pairs)), f"{r:.2f}", f"{ends[0]:.2f} to {ends[1]:.2f}", f"{summed:.2f}"]
        lines.append(_row([*cells, f"{error.mean():+.3f}", f"{error.std(ddof=1):.3f}"]))
    return "\n".join(lines)


def correlation(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> tuple[float, tuple[float, float]]:
    """Pearson's r of x and y (n,), with a 95 % interval by Fisher's z."""
    r = float(pearsonr(x, y)[0])
    half = 1.959964 / math.sqrt(len(x) - 3)
    z = math.atanh(max(-1 + 1e-12, min(1 - 1e-12, r)))
    return r, (math.tanh(z - half), math.tanh(z + half))


def models_table(found: Records) -> str:
    """Tabulate forecast and gains of each model."""
    methods = list(dict.fromkeys(r["method"] for r in found if r["method"] != "none"))
    lines = [_row(["model", "seed", "to repair: forecast", "before", *methods]), _row(["---"] * (len(methods) + 4))]
    for r in (r for r in found if r["method"] == "none"):
        told = ", ".join(f"{m} {v[0]:+.3f} ({v[1]:+.3f} to {v[2]:+.3f})" for m, v in r["forecast"].items())
        after = {
            o["method"]: o["full_metric"] - r["full_metric"]
            for o in found
            if (o["subject"], o["seed"]) == (r["subject"], r["seed"])
        }
        cells = [f"{after[m]:+.3f}" if m in after else "" for m in methods]
        lines.append(_row([r["subject"], str(r["seed"]), told, f"{r['full_metric']:.3f}", *cells]))
    return "\n".join(lines)


def _pairs(found: Records, method: str) -> list[tuple[str, float, float, float]]:
    """Of each model its name, the largest forecast, their sum, and what the method gained."""
    before = {(r["subject"], r["seed"]): r for r in found if r["method"] == "none"}
    out = []
    for r in found:
        was = before.get((r["subject"], r["seed"]))
        if r["method"] == method and was is not None and was["forecast"]:
            told = [v[0] for v in was["forecast"].values()]
            out.append((r["subject"], max(told), sum(told), r["full_metric"] - was["full_metric"]))
    return out


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    told: Callable[[float], str] = lambda x: f"{x:.3f}"  # noqa: E731
    return f"{told(mean(values))} ({told(stdev(values))})" if len(values) > 1 else told(mean(values))


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
