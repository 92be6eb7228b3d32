from __future__ import annotations

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from collapsekit.errors import RefusedError
from collapsekit.report import Curve, ModalityVerdict, Report, Result, Subject

numbers = st.floats(allow_nan=False, allow_infinity=False)
text = st.text(max_size=20)


def _report(results: tuple[Result, ...] = (), name: str = "a") -> Report:
    subject = Subject(
        checkpoint="c.pt",
        sha256="0" * 64,
        modalities=(name, "b"),
        task="classification",
        metric="accuracy",
        split="test",
        examples=3,
        seed=0,
    )
    verdicts = {m: ModalityVerdict(verdict="used", score=0.0, reason="r") for m in subject.modalities}
    return Report(
        collapsekit="0", subject=subject, verdict="healthy", summary="s", modalities=verdicts, results=results
    )


@given(value=numbers, width=st.floats(0, 1e6), name=text, definition=text, curve=st.lists(numbers, max_size=4))
def test_json_both_ways(value: float, width: float, name: str, definition: str, curve: list[float]) -> None:
    line = Curve(x=tuple(range(len(curve))), y=tuple(curve), x_label="x", y_label="y")
    low = value - width if math.isfinite(value - width) else value
    result = Result(
        name=name, probe="p", value=value, interval=(low, value), definition=definition, source="s", curve=line
    )
    report = _report((result,))
    again = Report.from_json(report.to_json())
    assert again == report
    assert again.to_json() == report.to_json()


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_not_finite_is_refused_everywhere(bad: float) -> None:
    with pytest.raises(ValidationError):
        Result(name="n", probe="p", value=bad, definition="d", source="s")
    with pytest.raises(ValidationError):
        Result(name="n", probe="p", value=0.0, interval=(0.0, bad), definition="d", source="s")
    with pytest.raises(ValidationError):
        Curve(x=(0.0,), y=(bad,), x_label="x", y_label="y")
    with pytest.raises(ValidationError):
        ModalityVerdict(verdict="used", score=bad, reason="r")


def test_a_result_is_a_value_or_a_reason() -> None:
    with pytest.raises(ValidationError, match="needs either"):
        Result(name="n", probe="p", definition="d", source="s")
    with pytest.raises(ValidationError, match="needs either"):
        Result(name="n", probe="p", value=1.0, skipped="why", definition="d", source="s")
    with pytest.raises(ValidationError, match="swapped"):
        Result(name="n", probe="p", value=1.0, interval=(2.0, 1.0), definition="d", source="s")
    with pytest.raises(ValidationError, match=r"curve\.lower"):
        Curve(x=(1.0,), y=(1.0,), lower=(), x_label="x", y_label="y")


def test_frozen() -> None:
    report = _report()
    with pytest.raises(ValidationError):
        report.verdict = "collapsed"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "not JSON"),
        ("[1]", "schema_version"),
        ("{}", "schema_version"),
        ('{"schema_version": 99}', "99"),
        ('{"schema_version": 1}', "collapsekit"),
        ('{"schema_version": NaN}', "NaN"),
        ("[" * 100_000, "not JSON"),
    ],
)
def test_what_is_no_report_is_refused(text: str, words: str) -> None:
    with pytest.raises(RefusedError, match=words):
        Report.from_json(text)


@given(st.recursive(st.none() | st.booleans() | numbers | text, lambda c: st.lists(c) | st.dictionaries(text, c)))
def test_any_json_is_a_report_or_refused(value: object) -> None:
    raw = json.loads(_report().to_json())
    for key in raw:
        try:
            Report.from_json(json.dumps({**raw, key: value}))
        except RefusedError as e:
            assert str(e)  # noqa: PT017 - either outcome is fine, a traceback is not


def test_find_tells_counterparts_apart() -> None:
    make = {"probe": "p", "definition": "d", "source": "s"}
    results = (
        Result(name="n", modality="a", versus="b", value=1.0, **make),
        Result(name="n", modality="a", value=2.0, **make),
        Result(name="n", value=3.0, **make),
    )
    report = _report(results)
    found = [report.find("n", "a", "b"), report.find("n", "a"), report.find("n"), report.find("n", "b")]
    assert [f.value if f else None for f in found] == [1.0, 2.0, 3.0, None]
    assert [r.value for r in report.named("n")] == [1.0, 2.0, 3.0]


def test_the_schema_accepts_what_the_report_writes() -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed (extra: test)")
    jsonschema.validate(json.loads(_report().to_json()), Report.model_json_schema())
