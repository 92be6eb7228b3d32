"""What changed, told from noise: over the same examples as SciPy does, by tests over runs, else by intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from collapsekit.comparison.compare import compare
from collapsekit.errors import ConfigError
from collapsekit.render import write as render
from collapsekit.report.comparison import Comparison, Row
from collapsekit.report.diagnosis import Report
from collapsekit.report.per_example import NAME, PerExample, digest
from tests.comparison.making import make, write

N = 500


def row_of(found: Comparison, name: str, modality: str | None = None) -> Row:
    return next(r for r in found.rows if (r.name, r.modality, r.versus) == (name, modality, None))


def with_records(seed: int, accuracy: float, units: np.ndarray[Any, Any] | None = None) -> tuple[Report, PerExample]:
    """A report whose accuracy is the mean of its records."""
    rng = np.random.default_rng(seed)
    right = np.zeros(N, np.float32)
    right[: round(accuracy * N)] = 1
    noisy = right.copy()
    flipped = rng.choice(N, 20, replace=False)
    noisy[flipped] = 1 - noisy[flipped]
    records = PerExample(np.arange(N, dtype=np.int64), units, {"metric": noisy, "loss": 1 - noisy * np.float32(0.5)})
    report = make(0.5, float(noisy.mean()), weights=str(seed))
    results = tuple(
        r.model_copy(update={"value": float(records.columns["loss"].mean()), "interval": None})
        if r.name == "reliance.full_loss"
        else r
        for r in report.results
    )
    data = records.to_bytes()
    return report.model_copy(
        update={"results": results, "settings": {**report.settings, "records": digest(data)}}
    ).with_records(data), records


@pytest.mark.parametrize("grouped", [False, True])
def test_the_interval_of_a_paired_change_is_scipys(grouped: bool, tmp_path: Path) -> None:
    units = np.arange(N, dtype=np.int64) if grouped else None
    one, first = with_records(0, 0.7, units)
    two, second = with_records(1, 0.74, units)
    found = compare({"x": one, "y": two})
    for name, column in (("reliance.full_metric", "metric"), ("reliance.full_loss", "loss")):
        change = row_of(found, name).cells[1].change
        a, b = first.columns[column].astype(float), second.columns[column].astype(float)
        wanted = stats.ttest_rel(b, a).confidence_interval(0.95)
        assert change is not None
        assert change.interval == pytest.approx((wanted.low, wanted.high), abs=1e-6)
        assert change.told_by == "examples"
        assert change.clear == (not wanted.low <= 0 <= wanted.high)
    paths = []
    for name, report in (("x", one), ("y", two)):
        paths.append(str(write(tmp_path / name, report)))
        assert report.records is not None
        (tmp_path / name / NAME).write_bytes(report.records)
    beside = compare(paths)
    assert [r.cells[1].change for r in beside.rows] == [r.cells[1].change for r in found.rows]


def test_records_of_other_examples_or_of_another_report_are_not_paired(tmp_path: Path) -> None:
    one, _ = with_records(0, 0.7)
    two, records = with_records(1, 0.74)
    other = PerExample(records.ids + 1, None, records.columns).to_bytes()
    moved = two.model_copy(update={"settings": {**two.settings, "records": digest(other)}}).with_records(other)
    change = row_of(compare({"x": one, "y": moved}), "reliance.full_metric").cells[1].change
    assert change is not None
    assert change.interval is None
    assert change.told_by == "intervals"
    path = write(tmp_path / "x", one)
    (tmp_path / "x" / NAME).write_bytes(other)
    change = row_of(compare({"x": str(path), "y": two}), "reliance.full_metric").cells[1].change
    assert change is not None
    assert change.told_by == "intervals"


def test_without_records_intervals_tell_and_without_these_nothing_does() -> None:
    found = compare({"x": make(0.2, 0.70), "y": make(0.9, 0.72)})
    far, near, unknown = (
        row_of(found, name, m).cells[1].change
        for name, m in (("score", "audio"), ("reliance.full_metric", None), ("vif.median", None))
    )
    assert far is not None
    assert near is not None
    assert unknown is not None
    assert (far.difference, far.told_by, far.clear) == (pytest.approx(0.7), "intervals", True)
    assert (near.told_by, near.clear) == ("intervals", False)
    assert (unknown.told_by, unknown.clear) == (None, None)
    assert all(c.change is None for r in found.rows for c in r.cells[:1])


def test_runs_are_told_by_their_test_where_the_base_is_its_reference() -> None:
    shifts = {"a": 0.0, "b": 0.1, "c": -0.1}
    columns = {n: [make(0.5 + d, 0.8 + d + 0.001 * s, seed=s) for s in range(8)] for n, d in shifts.items()}
    found = compare({**columns, "one": make(0.5, 0.8)}, only="reliance.full_metric")
    change = row_of(found, "reliance.full_metric").cells[1].change
    assert change is not None
    assert (found.base, change.told_by, change.clear) == ("a", "runs", True)
    turned = compare({**columns, "one": make(0.5, 0.8)}, only="reliance.full_metric", base="b")
    cells = row_of(turned, "reliance.full_metric").cells
    assert turned.base == "b"
    assert cells[1].change is None
    for cell, difference in ((cells[0], -0.1), (cells[2], -0.2)):  # whose test is against a, and not b
        assert cell.change is not None
        assert cell.change.told_by is None
        assert cell.change.difference == pytest.approx(difference)
    with pytest.raises(ConfigError, match=r"--base 'bb' names no column \(did you mean 'b'\?\)"):
        compare(columns, base="bb")


def test_the_finding_is_in_words_of_the_numbers() -> None:
    found = compare({"old": make(0.2, 0.70, names=("a", "b")), "new": make(0.95, 0.72, names=("a", "b"))})
    (said,) = found.finding
    assert (
        said.startswith("new beside old: verdicts that differ: the whole model used to collapsed") or "verdicts" in said
    )
    assert "beyond noise: score of a 0.2 to 0.95 (ignored more), score of b 0.2 to 0.95 (ignored more)" in said
    assert "within noise: accuracy 0.7 to 0.72" in said
    (same,) = compare({"x": make(), "y": make()}).finding
    assert same == (
        "y beside x: the verdicts are the same; the same: score of audio 0.5 to 0.5, score of image 0.5 to 0.5, "
        "accuracy 0.9 to 0.9."
    )
    (nothing,) = compare({"x": make(), "y": make()}, only="vif.median").finding
    assert "no score, task metric or verdict is shown of both" in nothing


ALIKE = {"settings": {"profile": "quick"}}


@pytest.mark.parametrize(
    ("other", "why"),
    [
        ({"settings": {"profile": "standard"}}, "profiles 'quick', 'standard'"),
        ({"settings": {}}, "profiles 'not known', 'quick'"),
        ({**ALIKE, "engine": "vllm"}, "engines 'PyTorch', 'vllm'"),
        ({**ALIKE, "examples": None}, "whether the examples are the same is not known"),
    ],
)
def test_no_best_is_marked_where_reports_were_not_measured_alike(other: dict[str, Any], why: str) -> None:
    one = make(0.2, 0.9, **ALIKE)
    two = make(0.8, 0.7, **other) if "engine" not in other else make(0.8, 0.7, **ALIKE)
    if "engine" in other:
        two = two.model_copy(update={"subject": two.subject.model_copy(update={"engine": other["engine"]})})
    found = compare({"x": one, "y": two})
    assert found.unranked == (why,)
    assert not any(c.best for r in found.rows for c in r.cells)
    assert f"They were not measured alike ({why}), so neither is called better." in found.finding[0]
    assert why in render(found, "terminal", width=200)
    assert found.contradiction() is None
    raw = found.model_dump(mode="json")
    raw["rows"][3]["cells"][0]["best"] = True
    assert str(Comparison.model_validate(raw).contradiction()).startswith("the best of")


def test_the_best_is_marked_where_they_were() -> None:
    found = compare({"x": make(0.2, 0.9, **ALIKE), "y": make(0.8, 0.7, **ALIKE)})
    assert found.unranked == ()
    assert [c.best for c in row_of(found, "reliance.full_metric").cells] == [True, False]
    with pytest.raises(ConfigError, match="diagnose both on one split"):
        compare({"x": make(), "y": make(split="val")})
    with pytest.raises(ConfigError, match="different examples"):
        compare({"x": make(), "y": make(examples="others")})


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"difference": 0.5}, "is not the difference of its values"),
        ({"clear": True}, "clear, which its interval does not give"),
        ({"told_by": "runs"}, "which does not fit what it holds"),
        ({"clear": None}, "which does not fit what it holds"),
    ],
)
def test_changes_that_contradict_their_values_do_not_load(change: dict[str, Any], says: str) -> None:
    one, _ = with_records(0, 0.7)
    two, _ = with_records(1, 0.7)
    raw = compare({"x": one, "y": two}).model_dump(mode="json")
    at = next(i for i, r in enumerate(raw["rows"]) if r["name"] == "reliance.full_metric")
    raw["rows"][at]["cells"][1]["change"].update(change)
    assert says in str(Comparison.model_validate(raw).contradiction())
