"""Baselines: what they keep, what they refuse, and that damaged ones are refused in a sentence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from collapsekit.errors import CollapsekitError, ConfigError, RefusedError
from collapsekit.gating.baseline import make_baseline, make_run, read_run
from collapsekit.report.baseline import Baseline, same_run
from collapsekit.report.diagnosis import Curve, Report
from collapsekit.report.per_example import NAME
from tests.factories import make_result
from tests.gating.making import make_records, make_report

USES = {"audio": 0.9, "image": 0.9}


def write(folder: Path, report: Report) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_text(report.to_json())
    if report.records is not None:
        (folder / NAME).write_bytes(report.records)
    return folder / "report.json"


def test_reads_back_what_it_wrote(tmp_path: Path) -> None:
    report = make_report(USES, records=make_records(USES, 0.9), training_seed=1)
    made = make_baseline(
        [read_run(write(tmp_path / "a", report)), make_run(make_report(sha="b", training_seed=2), None)]
    )
    file = tmp_path / "baseline.json"
    file.write_text(made.to_json())
    again = Baseline.load(file)
    assert again == made
    assert again.to_json() == made.to_json()
    records = again.runs[0].read_records()
    assert records is not None
    assert records.to_bytes() == report.records
    assert again.runs[1].read_records() is None


def test_keeps_numbers_and_leaves_out_curves_and_environment() -> None:
    curve = make_result(
        "spectrum.values", None, skipped=None, curve=Curve(x=(1, 2), y=(1, 2), x_label="k", y_label="σ")
    )
    report = make_report(results=(curve,)).model_copy(update={"environment": {"torch": "2.13"}})
    kept = make_run(report, None).report
    assert kept.find("spectrum.values") is None
    assert kept.environment == {}
    assert kept.find("vif.mean") == report.find("vif.mean")
    assert kept.modalities == report.modalities


def test_a_new_report_takes_the_place_of_one_of_the_same_run() -> None:
    first = make_baseline([make_run(make_report(sha="a", training_seed=1), None), make_run(make_report(sha="b"), None)])
    for new in (make_report(accuracy=0.5, sha="c", training_seed=1), make_report(accuracy=0.5, sha="a")):
        made = make_baseline([make_run(new, None)], first)
        assert [r.report.subject.checkpoint for r in made.runs] == ["b.pt", new.subject.checkpoint]
    added = make_baseline([make_run(make_report(sha="c", training_seed=2), None)], first)
    assert len(added.runs) == 3


def test_runs_without_a_seed_are_the_same_by_weights_only() -> None:
    assert same_run(make_report(sha="a"), make_report(sha="a"))
    assert not same_run(make_report(sha="a"), make_report(sha="b"))
    assert same_run(make_report(sha="a", training_seed=1), make_report(sha="b", training_seed=1))


def test_the_same_run_twice_and_other_examples_are_refused() -> None:
    with pytest.raises(ConfigError, match="one training run"):
        make_baseline([make_run(make_report(sha="a"), None), make_run(make_report(sha="a"), None)])
    with pytest.raises(ConfigError, match="different examples"):
        make_baseline([make_run(make_report(sha="a"), None), make_run(make_report(sha="b", content="x"), None)])


def test_records_of_another_report_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, make_report(USES, records=make_records(USES, 0.9)))
    (tmp_path / NAME).write_bytes(make_records(USES, 0.8).to_bytes())
    with pytest.raises(RefusedError, match="was not written with"):
        read_run(path)
    assert read_run(path, records=False).records is None


def test_too_large_a_baseline_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("collapsekit.report.baseline.MAX_BYTES", 1_000)
    with pytest.raises(ConfigError, match="--no-records"):
        make_baseline([make_run(make_report(), None)]).to_json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "not a baseline"),
        ('{"kind": "repair"}', "not a baseline"),
        ('{"kind": "baseline", "schema_version": 9, "runs": []}', "schema_version 9"),
        ('{"kind": "baseline", "schema_version": 1, "collapsekit": "0", "runs": []}', "at least one report"),
        ('{"kind": "baseline", "schema_version": 1, "collapsekit": "0", "runs": [{"report": {}}]}', "runs.0.report in"),
        ('{"kind": "baseline", "schema_version": 1, "collapsekit": "0", "runs": 3}', "runs"),
    ],
)
def test_what_is_no_baseline_is_refused(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "baseline.json"
    file.write_text(text)
    with pytest.raises(RefusedError) as caught:
        Baseline.load(file)
    assert said in str(caught.value)


def test_no_file_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="collapsekit baseline create"):
        Baseline.load(tmp_path / "baseline.json")


PLAIN = json.loads(make_baseline([make_run(make_report(USES, records=make_records(USES, 0.9, n=8)), None)]).to_json())


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(p for k, v in inner for p in places(v, (*path, k)))]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([p for p in places(PLAIN) if p]),
    st.sampled_from([None, True, -1, 1e308, "x", [], {}, [[]], {"a": 1}, "\x1b[31m", float("nan"), 10**30]),
)
def test_any_damage_is_refused_or_harmless(tmp_path: Path, place: tuple[Any, ...], value: Any) -> None:
    damaged = json.loads(json.dumps(PLAIN))
    inner = damaged
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    file = tmp_path / "baseline.json"
    file.write_text(json.dumps(damaged))
    from collapsekit.gating.decide import gate

    report = make_report(USES, sha="new", training_seed=5)
    try:
        found = gate(report, baseline=Baseline.load(file))
    except CollapsekitError:
        return
    assert found.outcome != "passed"  # one run is too few whatever it says
