"""What a number can be: told by what measures it, written where it is told, and held to when a report is read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from collapsekit import registry
from collapsekit.comparison.compare import compare
from collapsekit.errors import ConfigError
from collapsekit.gating.decide import gate
from collapsekit.measures import LOSS, METRIC, Measure, measures_of
from collapsekit.report.base import sealed
from collapsekit.report.diagnosis import Curve, Report
from collapsekit.stats.inference.bounds import NOT_NEGATIVE, SHARE, UNBOUNDED, Bounds
from collapsekit.tasks.classification import Classification
from collapsekit.tasks.multilabel import Multilabel
from collapsekit.tasks.regression import Regression
from tests.problems import make_problem

# What one loss gains over another has no end of its own.
GAINS = {
    "controls.duplicate",
    "controls.permuted",
    "growing.prefix_gap",
    "prefix_gap.gap",
    "utilisation.alone_gain",
    "utilisation.credit",
    "utilisation.due_at_most",
    "utilisation.joint_gain",
    "utilisation.reference_credit",
}


@pytest.fixture(scope="module")
def perfect(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """Of a model that is right on every example, and loses next to nothing."""
    problem = make_problem(tmp_path_factory.mktemp("perfect"), spread=0.05, steps=150)
    return problem.diagnose(probes=["reliance", "utilisation", "prefix_gap", "missing", "noise", "vif", "spectrum"])


def test_every_interval_lies_within_its_bounds(perfect: Report) -> None:
    checked = 0
    for r in perfect.results:
        if r.bounds is not None:
            low, high = (x if x is not None else end for x, end in zip(r.bounds, (-1e99, 1e99), strict=True))
            assert all(low <= x <= high for x in (r.value, *(r.interval or ()))), r.name
            checked += 1
        if r.curve is not None and r.curve.bounds is not None:
            low, high = (x if x is not None else end for x, end in zip(r.curve.bounds, (-1e99, 1e99), strict=True))
            assert all(low <= x <= high for x in (*r.curve.y, *(r.curve.lower or ()), *(r.curve.upper or ()))), r.name
            checked += 1
    assert checked > 40


def test_all_right_is_not_certain(perfect: Report) -> None:
    n = perfect.subject.examples
    full = perfect.find("reliance.full_metric")
    assert full is not None
    assert full.value == 1.0
    assert full.interval == pytest.approx((n / (n + 1.959964**2), 1.0), abs=1e-6)
    curve = next(perfect.named("reliance.subsets_metric")).curve
    assert curve is not None
    assert curve.lower is not None
    assert curve.y[-1] == 1.0
    assert curve.lower[-1] == full.interval[0]  # type: ignore[index]
    loss = perfect.find("reliance.full_loss")
    assert loss is not None
    assert loss.bounds == (0, None)
    assert 0 < loss.interval[0] < loss.value < loss.interval[1] < 0.1  # type: ignore[index,operator]


def test_measures_in_units_of_the_task_say_what_they_can_be() -> None:
    registry.load_builtins()
    builtin = [n for n, s in registry.PROBES.items() if s.run.__module__.startswith("collapsekit.probes.")]
    measures = [m for name in builtin for m in measures_of(name) if m.unit in (LOSS, METRIC)]
    assert {m.name for m in measures if m.bounds is None} == GAINS


def test_what_reads_intervals_reads_these(perfect: Report) -> None:
    again = Report.from_json(perfect.to_json())
    assert again == perfect
    assert gate(again, require=["results[reliance.full_metric] >= 0.5"]).outcome == "passed"
    rows = {row.name: row for row in compare([again, again]).rows}
    assert rows["reliance.full_metric"].cells[0].interval == perfect.find("reliance.full_metric").interval  # type: ignore[union-attr]


def test_a_report_that_tells_no_bounds_loads_and_stays_as_it_is(perfect: Report) -> None:
    """So were they written before measures told them, with ends beyond."""
    raw = json.loads(perfect.to_json())
    for r in raw["results"]:
        r.pop("bounds", None)
        if r["curve"] is not None:
            r["curve"].pop("bounds", None)
        if r["name"] == "reliance.full_metric":
            r["interval"] = [0.97, 1.01]
    text = json.dumps(sealed(Report, raw), indent=1, ensure_ascii=True) + "\n"
    loaded = Report.from_json(text)
    assert loaded.find("reliance.full_metric").interval == (0.97, 1.01)  # type: ignore[union-attr]
    assert '"bounds"' not in loaded.to_json()


def test_bounds_of_the_task_and_of_differences() -> None:
    def filled(unit: str, bounds: object, task: object) -> Bounds:
        return Measure("a.b", "d", "s", unit=unit, bounds=bounds).fill(task).bounds  # type: ignore[arg-type]

    assert filled(METRIC, "unit", Classification()) == SHARE
    assert filled(METRIC, "difference", Classification()) == Bounds(-1.0, 1.0)
    assert filled(LOSS, "unit", Classification()) == NOT_NEGATIVE
    assert filled(LOSS, "difference", Classification()) == UNBOUNDED
    assert filled(METRIC, "unit", Regression()) == Bounds(high=1.0)
    assert filled(METRIC, None, Classification()) == UNBOUNDED
    assert filled("times", (1.0, None), None) == Bounds(1.0)
    with pytest.raises(ConfigError, match="the least and the most"):
        Measure("a.b", "d", "s", unit="times", bounds="unit")


def test_a_curve_has_the_bounds_of_its_quantity() -> None:
    curve = Curve(x=(1.0,), y=(2.0,), x_label="x", y_label="y")
    assert Measure("a.b", "d", "s", unit="times", bounds=(1.0, None)).curve(curve).curve.bounds == (1.0, None)  # type: ignore[union-attr]
    assert Measure("a.b", "d", "s", unit="times").curve(curve).curve.bounds is None  # type: ignore[union-attr]


def test_how_many_examples_stand_behind_a_metric() -> None:
    y = torch.tensor([0] * 90 + [1] * 10)
    assert Classification().effective_count(y) == 100
    # As uncertain as a mean over classes: p q / n = (p q / 90 + p q / 10) / 4.
    assert Classification("balanced_accuracy").effective_count(y) == pytest.approx(1 / ((1 / 90 + 1 / 10) / 4))
    assert Classification("macro_f1").effective_count(y) == Classification("balanced_accuracy").effective_count(y)
    assert Classification("auroc").effective_count(y) == Classification("average_precision").effective_count(y) == 10
    labels = torch.zeros(100, 3)
    labels[:20, 0], labels[:95, 1] = 1, 1
    for metric in (None, "macro_average_precision", "macro_f1"):  # the third label has one class only
        assert Multilabel(metric).effective_count(labels) == pytest.approx(2 / (1 / 20 + 1 / 5))
    assert Multilabel("micro_average_precision").effective_count(labels) == 95  # five have no label, all lack one
    assert Multilabel("micro_average_precision").effective_count(1 - labels) == 95


def test_patients_count_and_not_their_images(tmp_path: Path) -> None:
    problem = make_problem(tmp_path, spread=0.05, steps=150)
    sizes = {split: len(problem.arrays[f"{split}/label"]) for split in ("train", "val", "test")}
    problem.saved(problem.arrays | {f"{split}/patient": torch.arange(n) // 4 for split, n in sizes.items()})
    problem.config["data"] |= {"group": "patient"}
    full = problem.diagnose(probes=["reliance"]).find("reliance.full_metric")
    assert full is not None
    assert full.value == 1.0
    patients = sizes["test"] / 4
    assert full.interval == pytest.approx((patients / (patients + 1.959964**2), 1.0), abs=1e-6)
