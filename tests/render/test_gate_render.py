"""The gate's formats: each read by a parser we did not write, none disagreeing with the outcome, hostile names harmless."""

from __future__ import annotations

import json
import re
import unicodedata
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from junitparser import Error, Failure, JUnitXml
from pydantic import BaseModel
from sarif_pydantic import Sarif

from collapsekit.gate_report import Against, GateCheck, GateReport, outcome_of
from collapsekit.render import GATE_FORMATS
from collapsekit.render.gate_github import MOST, step_summary
from collapsekit.report import Subject

HOSTILE = [
    "\x1b[31mred",
    "a\n::error::x",
    "##[error]y",
    "<script>",
    "]]>",
    "\ud800",
    "\ufffe\0",
    "‮audio",
    "a|b`c",
    "%0A::warning::z",
    ",x:y=",
]
NAMES = st.one_of(
    st.sampled_from(["audio", "use of audio", "modalities.*.score <= 0.3", *HOSTILE]), st.text(max_size=30)
)
NUMBERS = st.none() | st.floats(-1e6, 1e6)


@st.composite
def checks(draw: st.DrawFn) -> GateCheck:
    low, high = sorted((draw(st.floats(-1, 1)), draw(st.floats(-1, 1))))
    return GateCheck(
        name=draw(NAMES),
        kind=draw(st.sampled_from(["rule", "paired", "retrained"])),
        state=draw(st.sampled_from(["passed", "failed", "inconclusive"])),
        sentence=draw(NAMES),
        modality=draw(st.none() | NAMES),
        found=draw(NUMBERS),
        baseline=draw(NUMBERS),
        difference=draw(NUMBERS),
        interval=draw(st.none() | st.just((low, high))),
        p=draw(st.none() | st.floats(0, 1)),
        p_holm=draw(st.none() | st.floats(0, 1)),
        detectable=draw(NUMBERS),
        definition=draw(NAMES),
        source="by hand",
    )


def report_of(found: list[GateCheck], name: str = "audio", checkpoint: str = "ckpt.pt") -> GateReport:
    return GateReport(
        collapsekit="0.1.0",
        outcome=outcome_of([c.state for c in found]),
        summary=f"{len(found)} checks of {name}.",
        subject=Subject(
            checkpoint=checkpoint,
            sha256="0" * 64,
            modalities=(name,),
            task="classification",
            metric="accuracy",
            split="test",
            examples=10,
            seed=0,
        ),
        verdict="healthy",
        modalities={name: "used"},
        checks=tuple(found),
        against=Against(situation="retrained", runs=5, because=name) if any(c.kind != "rule" for c in found) else None,
        notes=(name,),
    )


REPORTS = st.builds(report_of, st.lists(checks(), max_size=4), NAMES, NAMES)


def check(name: str = "use of audio", state: str = "failed", **more: object) -> GateCheck:
    sentence = f"{name} fell."
    return GateCheck(name=name, kind="retrained", state=state, sentence=sentence, definition="d", source="s", **more)  # type: ignore[arg-type]


def decoded(line: str) -> tuple[str, str, str]:
    """A workflow command as the runner reads it: name, title, message (documented escapes, undone in its order)."""
    found = re.fullmatch(r"::(\w+)(?: title=([^:,]*))?::(.*)", line)
    assert found is not None, line
    undo = lambda text, signs: [text := text.replace(code, sign) for code, sign in signs] and text  # noqa: E731
    data = [("%0D", "\r"), ("%0A", "\n")]
    return (
        found[1],
        undo(found[2] or "", [*data, ("%3A", ":"), ("%2C", ","), ("%25", "%")]),
        undo(found[3], [*data, ("%25", "%")]),
    )


@settings(max_examples=25, deadline=None)
@given(REPORTS)
def test_every_format_says_the_outcome_and_none_acts(report: GateReport) -> None:
    made = {name: render(report) for name, render in GATE_FORMATS.items()}
    assert made == {name: render(report) for name, render in GATE_FORMATS.items()}
    assert report.outcome.upper() in made["text"].splitlines()[0]
    assert made["markdown"].startswith("# ")
    assert f"Gate {report.outcome}:" in made["markdown"].splitlines()[0]
    assert GateReport.model_validate(json.loads(made["json"])).outcome == report.outcome
    for name, text in made.items():
        lines = text.split("\n")
        hidden = [c for line in lines for c in line if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")]
        assert not hidden, name
        starts = [line for line in lines if line.lstrip().startswith(("::", "##["))]
        assert not starts or name == "github"
        markup = {"markdown": re.sub(r"`[^`]*`", "", text), "junit": text}  # in code, nothing is markup
        assert "<script" not in markup.get(name, "")
    assert [decoded(line)[0] for line in made["github"].splitlines()][-1] == "notice"


@settings(max_examples=25, deadline=None)
@given(REPORTS)
def test_junit_is_read_by_a_parser_and_counts_what_the_checks_say(report: GateReport) -> None:
    text = GATE_FORMATS["junit"](report)
    ET.fromstring(text.encode())
    suites = list(JUnitXml.fromstring(text.encode()))
    states = [c.state for c in report.checks] or ["inconclusive"]
    assert [(s.tests, s.failures, s.errors, s.skipped) for s in suites] == [
        (len(states), states.count("failed"), states.count("inconclusive"), 0)
    ]
    results = [case.result for case in suites[0]]
    kinds = [
        "failed"
        if any(isinstance(r, Failure) for r in rs)
        else "inconclusive"
        if any(isinstance(r, Error) for r in rs)
        else "passed"
        for rs in results
    ]
    assert kinds == states


def strays(model: BaseModel) -> list[str]:
    """Keys that the format does not have, anywhere in it."""
    found = list(model.model_extra or {})
    for value in model.__dict__.values():
        for inner in value if isinstance(value, list) else [value]:
            found += strays(inner) if isinstance(inner, BaseModel) else []
    return found


@settings(max_examples=25, deadline=None)
@given(REPORTS)
def test_sarif_is_read_by_a_parser_and_has_a_result_for_each_finding(report: GateReport) -> None:
    text = GATE_FORMATS["sarif"](report)
    read = Sarif.model_validate_json(text)
    assert set(strays(read)) <= {
        "$schema",
        "toolExecutionNotifications",
        "exitCode",
    }  # of SARIF 3.20, which it leaves out
    run = read.runs[0]
    levels = {"failed": "error", "inconclusive": "warning"}
    findings = [c for c in report.checks if c.state != "passed"]
    assert [str(r.level.value) for r in run.results or []] == [levels[c.state] for c in findings]
    raw = json.loads(text)["runs"][0]
    rules = raw["tool"]["driver"]["rules"]
    for made, c in zip(raw["results"], findings, strict=True):
        assert rules[made["ruleIndex"]]["id"] == made["ruleId"] == f"gate/{c.kind}"
        uri = made["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert uri
        assert re.fullmatch(r"[\w./%~-]+", uri, re.ASCII)
    assert raw["invocations"][0]["exitCode"] == report.exit_code


def test_fingerprints_are_of_the_check_not_of_the_run() -> None:
    prints = [
        [r["partialFingerprints"] for r in json.loads(GATE_FORMATS["sarif"](report_of(found)))["runs"][0]["results"]]
        for found in ([check(), check("accuracy")], [check(difference=0.5), check("accuracy", "inconclusive")])
    ]
    assert prints[0] == prints[1]
    assert prints[0][0] != prints[0][1]


@pytest.mark.parametrize("count", [0, 1, 9, 10, 11, 40])
def test_github_has_at_most_ten_of_a_kind_and_says_what_is_left_out(count: int) -> None:
    found = [check(f"check {i}", state) for i in range(count) for state in ("failed", "inconclusive")]
    commands = [decoded(line) for line in GATE_FORMATS["github"](report_of(found)).splitlines()]
    for kind in ("error", "warning"):
        texts = [c[2] for c in commands if c[0] == kind]
        assert len(texts) == min(count, MOST)
        if count > MOST:
            assert texts[-1].startswith(f"{count - MOST + 1} more checks")
        else:
            assert texts == [f"check {i} fell." for i in range(count)]


@given(NAMES, NAMES)
def test_github_commands_decode_to_what_was_said(name: str, sentence: str) -> None:
    made = check(name).model_copy(update={"sentence": sentence})
    lines = GATE_FORMATS["github"](report_of([made])).split("\n")
    assert len(lines) == 3
    from collapsekit.render.sanitize import TEXT_LIMIT, clean

    kind, title, said = decoded(lines[0])
    assert kind == "error"
    assert said == clean(sentence, TEXT_LIMIT)
    assert title.startswith("gate failed: ")


@pytest.mark.parametrize(("count", "most"), [(3, 1 << 20), (2000, 1 << 20), (2000, 3000)])
def test_a_step_summary_fits(count: int, most: int) -> None:
    report = report_of([check(f"{i} {'é' * 400}") for i in range(count)])
    text = step_summary(report, most)
    assert len(text.encode()) <= most
    full = GATE_FORMATS["markdown"](report)
    if len(full.encode()) <= most:
        assert text == full
    else:
        assert "left out" in text
        assert text.startswith(full[:500])
        assert all(line in full for line in text.split("\n\nThe rest")[0].splitlines())


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_text_fits_and_names_what_failed(width: int) -> None:
    found = [
        check(
            "use of a_rather_long_modality_name",
            found=0.12,
            baseline=0.93,
            difference=0.81,
            interval=(0.7, 0.92),
            p_holm=1e-9,
        ),
        check(
            "accuracy",
            "passed",
            found=0.9,
            baseline=0.91,
            difference=0.01,
            interval=(-0.01, 0.03),
            p_holm=0.4,
            detectable=0.02,
        ),
    ]
    text = GATE_FORMATS["text"](report_of(found), width=width)
    assert max(map(len, text.splitlines())) <= width
    assert "FAILED" in text.splitlines()[0]
    table = text[text.index("Against the baseline") :]
    assert table.index("✗ use of") < table.index("✓ accuracy")


def test_colour_only_where_asked() -> None:
    report = report_of([check()])
    assert "\x1b" not in GATE_FORMATS["text"](report)
    assert "\x1b[1;31m" in GATE_FORMATS["text"](report, color=True)


def test_an_outcome_that_does_not_follow_is_no_report() -> None:
    raw = report_of([check()]).model_dump()
    with pytest.raises(ValueError, match="does not follow"):
        GateReport.model_validate({**raw, "outcome": "passed"})
