from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import pearsonr

from benchmarks.forecast import __main__ as command
from benchmarks.forecast.subjects import Candidate, ToRepair
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


class Work:
    """In place of training: three models, of which the second has nobody to repair; what was made is counted."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, ends_after: int = 1000) -> None:
        self.made, self.measured, self.ends_after = list[int](), list[tuple[int, str, str]](), ends_after
        monkeypatch.setattr(command, "planted", self.planted)
        monkeypatch.setattr(command, "gains", self.gains)

    def planted(self, sets: Any, noises: Any, seeds: Sequence[int], folder: Path) -> Iterator[Candidate]:
        for seed in seeds:
            yield Candidate("s", seed, lambda seed=seed: self.make(seed, folder))

    def make(self, seed: int, folder: Path) -> ToRepair:
        self.made.append(seed)
        return ToRepair("s", seed, {}, folder, None)

    def gains(self, subject: ToRepair, methods: Sequence[str], split: str) -> Iterator[dict[str, Any]]:
        about = {"subject": subject.name, "seed": subject.seed}
        if subject.seed == 1:
            yield {**about, "method": None}
            return
        yield {**about, "method": "none", "forecast": {"x": [0.1, 0.0, 0.2]}, "full_metric": 0.5}
        for method in methods:
            self.measured.append((subject.seed, method, split))
            if len(self.measured) > self.ends_after:
                raise KeyboardInterrupt
            yield {**about, "method": method, "seconds": 1.0, "full_metric": 0.6}


def test_a_run_goes_on_from_its_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.jsonl"
    asked = ["planted", "--records", str(file), "--seeds", "0", "1", "2", "--methods", "kd", "dropout"]
    Work(monkeypatch, ends_after=3)
    with pytest.raises(KeyboardInterrupt):
        command.main(asked)
    with file.open("a") as f:
        f.write('{"subject": "s", "se')  # a line that was cut off
    rest = Work(monkeypatch)
    command.main(asked)
    assert (rest.made, rest.measured) == ([2], [(2, "dropout", "test")])
    again = Work(monkeypatch)
    command.main(asked)
    assert again.made == []
    found = [json.loads(line) for line in file.read_text().splitlines()]
    assert [r["method"] for r in found] == ["none", "kd", "dropout", None, "none", "kd", "dropout"]
    capsys.readouterr()
    command.main(["table", "--records", str(file)])
    shown = capsys.readouterr().out
    assert "nobody to repair in s 1." in shown
    assert "| kd | 2 | 0.600 (0.000) |" in shown


def test_gains_on_val_and_on_test_are_kept_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "r.jsonl"
    work = Work(monkeypatch)
    old = {"subject": "s", "seed": 0, "method": "kd", "seconds": 1.0, "full_metric": 0.7}  # of test, as it names none
    file.write_text(json.dumps(old) + "\n")
    asked = ["planted", "--records", str(file), "--seeds", "0", "--methods", "kd"]
    command.main(asked)
    assert work.measured == []
    command.main([*asked, "--split", "val"])
    assert work.measured == [(0, "kd", "val")]
    for split, metric in (("test", 0.7), ("val", 0.6)):
        capsys.readouterr()
        command.main(["table", "--records", str(file), "--split", split])
        assert f"| kd | 1 | {metric:.3f} |" in capsys.readouterr().out
