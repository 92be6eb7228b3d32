"""What a repair is expected to gain: read off a diagnosis, said before, and kept beside what was gained."""

from __future__ import annotations

from typing import Any

import pytest
from sample_repairs import make_repair
from sample_reports import make_report

from collapsekit import render
from collapsekit.errors import RefusedError
from collapsekit.repairs.forecast import describe_forecasts, forecasts
from collapsekit.repairs.training.estimate import estimate_cost
from collapsekit.repairs.training.job import Stage
from collapsekit.report.diagnosis import Report
from collapsekit.report.names import renamed_repair
from collapsekit.report.repair import Forecast, RepairReport, metric_of
from tests.repairs.making import make_job


def told(**changes: Any) -> Report:
    """A report in which ``costs_now`` of audio, or what it costs without image, is as given: value and interval."""
    report = make_report(("image", "audio"))
    results = []
    for r in report.results:
        change = changes.get(r.name.removeprefix("utilisation.")) if r.modality == "audio" else None
        results.append(r if change is None else r.model_copy(update={"value": change[0], "interval": change[1]}))
    return report.model_copy(update={"results": tuple(results)})


def test_a_forecast_is_what_the_best_readout_would_gain() -> None:
    before = told(costs_now=(0.04, (0.01, 0.07)))
    assert forecasts(before, ("audio",)) == (
        Forecast(modality="audio", split=before.subject.split, gain=0.04, interval=(0.01, 0.07)),
    )
    (said,) = describe_forecasts(before, ("audio",))
    assert said == (
        f"What repairing audio is expected to gain today in {before.subject.metric}: +0.040 [+0.010, +0.070] "
        f"(on {before.subject.split}, by its best readout added to the model)."
    )


def test_where_every_interval_reaches_0_that_is_said_first_and_what_may_be_a_reason() -> None:
    before = told(costs_now=(0.02, (-0.01, 0.05)), costs_if_missing=(0.3, (0.2, 0.4)))
    first, second = describe_forecasts(before, ("audio",))
    assert first.startswith("Nothing to gain today: what repairing audio")
    assert "without image, audio would gain +0.300 [+0.200, +0.400]" in first
    assert second.startswith("What repairing audio is expected to gain")
    both = list(describe_forecasts(before, ("image", "audio")))
    assert both[0].startswith("Nothing to gain today: what repairing image and audio")
    unsure = told(costs_now=(0.02, (-0.01, 0.05)), costs_if_missing=(0.3, (-0.2, 0.4)))
    assert "Nor is it known to gain anything" in next(iter(describe_forecasts(unsure, ("audio",))))


def test_one_that_is_sure_to_gain_is_enough() -> None:
    report = told(costs_now=(0.04, (0.01, 0.07)))
    said = list(describe_forecasts(report, ("image", "audio")))
    assert len(said) == 2
    assert not any("Nothing" in s for s in said)


def test_without_a_number_or_an_interval_nothing_is_made_up() -> None:
    bare = make_report(("image", "audio")).model_copy(update={"results": ()})
    assert forecasts(bare, ("audio",)) == ()
    assert list(describe_forecasts(bare, ("audio",))) == []
    (said,) = describe_forecasts(told(costs_now=(0.04, None)), ("audio",))
    assert "+0.040 (on" in said


def test_what_is_fitted_at_once_has_no_batches_to_time() -> None:
    job = make_job()
    stage = Stage("adding", job.adapter.model, [], lambda _: 1 / 0, lambda: 0.0, fit=lambda: None)  # type: ignore[arg-type, return-value]
    (said,) = estimate_cost(stage, job, "late_fusion", frozenset())
    assert said == "late_fusion begins with adding: nothing is trained, and weights are fitted at once."


# ---- in repair.json


def forecast_of(modality: str = "audio", gain: float = 0.02, interval: Any = (0.0, 0.04)) -> tuple[Forecast, ...]:
    return (Forecast(modality=modality, split="val", gain=gain, interval=interval),)


def expecting(**changes: Any) -> RepairReport:
    """A repair with a forecast, and what was then gained."""
    plain = make_repair()
    before, after = metric_of(plain.before), metric_of(plain.after)
    assert before is not None
    assert after is not None
    return make_repair(**{"forecast": forecast_of(), "gained": after - before, **changes})


def test_a_report_holds_what_was_forecast_beside_what_was_gained() -> None:
    report = expecting()
    assert report.contradiction() is None
    assert RepairReport.from_json(report.to_json()) == report
    for text in (render.write(report, "md"), render.write(report, "html")):
        assert "What was expected" in text
        assert f"on {report.after.subject.split}" in text
    assert "What was expected" not in render.write(make_repair(), "md")
    names = renamed_repair(report, {"image": "A", "audio": "B"})
    assert [f.modality for f in names.forecast] == ["B"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"forecast": forecast_of("image")}, "which was not repaired"),
        ({"forecast": forecast_of("video")}, "video"),
        ({"forecast": forecast_of(gain=0.5)}, "interval"),
        ({"gained": 0.9}, "what was gained is not the difference"),
    ],
)
def test_one_that_contradicts_itself_is_refused(changes: dict[str, Any], words: str) -> None:
    report = expecting(**changes)
    assert words in str(report.contradiction())
    with pytest.raises(RefusedError):
        RepairReport.from_json(report.to_json())
