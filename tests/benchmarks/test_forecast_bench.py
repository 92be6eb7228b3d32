from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr

from benchmarks.forecast.table import correlation, correlations, gains_table, models_table


def records() -> list[dict[str, Any]]:
    """Six models: the larger of two forecasts is what method a gains, b gains nothing."""
    made: list[dict[str, Any]] = []
    for seed in range(6):
        about = {"subject": "s", "seed": seed, "patterns.zeros": 0.5, "rates.zeros": None}
        told = {"x": [0.02 * (5 - seed), 0.0, 0.1], "y": [0.01 * seed**2, -0.1, 0.2]}
        gain = max(v[0] for v in told.values())
        made.append({**about, "method": "none", "forecast": told, "full_metric": 0.5})
        made.append({**about, "method": "a", "seconds": 2.0, "full_metric": 0.5 + gain})
        made.append({**about, "method": "b", "seconds": 1.0, "full_metric": 0.5 + 0.001 * (-1) ** seed})
    return made


def test_the_interval_of_r_is_scipy_s() -> None:
    g = np.random.default_rng(0)
    x = g.normal(size=30)
    y = x + g.normal(size=30)
    r, ends = correlation(x, y)
    known = pearsonr(x, y)
    interval = known.confidence_interval(0.95)
    assert r == pytest.approx(known.statistic)
    assert ends == pytest.approx((interval.low, interval.high), abs=1e-6)


def test_each_model_s_gain_is_held_against_its_largest_forecast_and_against_their_sum() -> None:
    rows = {line.split(" | ")[0]: line.split(" | ") for line in correlations(records()).splitlines()[2:]}
    assert rows["| a"][1:3] == ["6", "1.00"]
    assert float(rows["| a"][4]) < 1.0
    assert float(rows["| a"][5]) == 0.0
    assert float(rows["| b"][2]) < 0.5
    assert "none" not in "".join(rows)


def test_tables_name_every_model_and_method() -> None:
    lines = models_table(records()).splitlines()
    assert len(lines) == 8
    assert lines[5] == "| s | 3 | x +0.040 (+0.000 to +0.100), y +0.090 (-0.100 to +0.200) | 0.500 | +0.090 | -0.001 |"
    gains = gains_table(records()).splitlines()
    assert gains[3] == "| a | 6 | 0.623 (0.071) | 0.500 (0.000) |  | 2.00 |"
    assert gains[2].startswith("| none | 6 | 0.500 (0.000)")
