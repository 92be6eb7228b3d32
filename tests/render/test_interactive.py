"""html-interactive: one script of ours, which shows recorded answers as text, whatever they are called."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from browsing import run_in
from hypothesis import given
from hypothesis import strategies as st
from sample_repairs import make_repair
from sample_reports import HOSTILE, make_report
from test_render_html import read

from collapsekit.render import write
from collapsekit.render.document import Detail
from collapsekit.render.numbers import fmt, fmt_estimate
from collapsekit.render.views import diagnosis, repair
from collapsekit.render.writers import html_interactive
from collapsekit.report.diagnosis import Report
from collapsekit.report.names import cleaned

TWO = ("image", "audio")
SCRIPT = (Path(html_interactive.__file__).parent / "interactive.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module", params=[TWO, HOSTILE], ids=["two", "hostile"])
def explored(request: pytest.FixtureRequest) -> tuple[Report, str]:
    report = make_report(request.param)
    return report, write(report, "html-interactive")


def rules_of(text: str) -> dict[str, str]:
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    return dict(rule.strip().split(" ", 1) for rule in unescape(policy[1]).split(";"))


def data_of(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="recorded">(.*?)</script>', text, re.DOTALL)
    assert found is not None
    return json.loads(found[1])


# --- what may run


def test_the_only_script_that_may_run_is_ours(explored: tuple[Report, str]) -> None:
    text = explored[1]
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert scripts == [SCRIPT]
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    rules = rules_of(text)
    assert rules["script-src"] == f"'sha256-{digest}'"
    assert rules["default-src"] == "'none'"
    assert (rules["require-trusted-types-for"], rules["trusted-types"]) == ("'script'", "'none'")
    assert {name for name, rule in rules.items() if "unsafe" in rule} == {"style-src", "style-src-attr"}
    assert not [a for a in read(text).attributes if a[1].startswith("on") or a[1] in ("src", "srcset", "action")]


def test_the_page_is_the_inert_one_where_nothing_runs(explored: tuple[Report, str]) -> None:
    text = write(explored[0], "html")
    assert "<script" not in text
    assert "script-src" not in text
    plain, script = (set(read(page).text.split()) for page in (text, explored[1]))
    assert plain <= script


def test_script_and_style_stay_as_they_are_on_any_stream() -> None:
    """A stream that is not UTF-8 gets markup's escapes, which mean nothing within a script or a style sheet."""
    folder = Path(html_interactive.__file__).parent
    assert all(
        path.read_text(encoding="utf-8").isascii() for kind in ("js", "css") for path in folder.glob(f"*.{kind}")
    )


@pytest.mark.parametrize("sink", ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch("])
def test_the_script_makes_no_markup_and_fetches_nothing(sink: str) -> None:
    assert sink not in SCRIPT


@given(st.recursive(st.text() | st.floats(allow_nan=False, allow_infinity=False), st.lists))
def test_data_stay_data(value: Any) -> None:
    text = html_interactive.to_data(value)
    assert text.isascii()
    assert not set(text) & set("<>&")
    assert json.loads(text) == value


def test_names_that_act_are_escaped_in_the_data(explored: tuple[Report, str]) -> None:
    report, text = explored
    names = {part for r in data_of(text) for s in r["series"] for part in s["parts"]}
    assert set(cleaned(report).subject.modalities) <= names
    assert text.count("</script>") == 2


# --- what is recorded


def test_every_curve_is_recorded_with_its_numbers() -> None:
    report = make_report(TWO)
    recorded = diagnosis.view(report, Detail.FULL).recorded
    lines = [s for r in recorded if r.x_label != "modality" for s in r.series]
    curves = [r.curve for r in report.results if r.curve is not None]
    assert sorted(s.y for s in lines) == sorted(c.y for c in curves)
    assert diagnosis.view(report, Detail.SUMMARY).recorded == ()


def test_sets_say_what_the_model_was_given() -> None:
    found = [r for r in diagnosis.view(make_report(TWO), Detail.FULL).recorded if r.sets]
    assert [r.title.rpartition(": ")[2] for r in found] == ["subsets", "subsets metric"]
    assert found[0].sets == ((), ("image",), ("audio",), TWO)


def test_a_repair_records_before_after_and_control() -> None:
    recorded = repair.view(make_repair(TWO), Detail.FULL).recorded
    rates = next(r for r in recorded if r.title.endswith("rates"))
    assert [s.parts for s in rates.series] == [
        (when, fill) for when in ("before", "after", "control") for fill in ("zeros", "neighbour")
    ]


def test_same_report_same_bytes(explored: tuple[Report, str]) -> None:
    assert write(explored[0], "html-interactive") == explored[1]


# --- in a browser


def told(text: str, folder: Path, script: str) -> Any:
    file = folder / "report.html"
    file.write_text(text, encoding="utf-8")
    return json.loads(unescape(run_in(file, script)))


def test_a_slider_shows_what_was_recorded_there(explored: tuple[Report, str], tmp_path: Path) -> None:
    report, text = explored
    report = cleaned(report)
    name = report.subject.modalities[0]
    curve = next(r.curve for r in report.results if r.name == "rank_sweep.metric" and r.modality == name)
    assert curve is not None
    seen = told(
        text,
        tmp_path,
        """const part = [...document.querySelectorAll("#explored h3")].find((h) => h.textContent === "Over \\u03b2");
        const slider = part.nextElementSibling.querySelector("input");
        slider.value = 3;
        slider.dispatchEvent(new window.Event("input"));
        const chart = [...document.querySelectorAll(".chart")].find((c) => c.textContent.includes(": metric"));
        return [slider.nextElementSibling.textContent, chart.querySelector("li").textContent];""",
    )
    assert seen == [fmt(curve.x[3] if isinstance(curve.x[3], float) else None), name + fmt(curve.y[3])]


def test_modalities_that_are_toggled_lead_to_their_recorded_answer(
    explored: tuple[Report, str], tmp_path: Path
) -> None:
    report, text = explored
    report = cleaned(report)
    names, subsets = report.subject.modalities, report.find("reliance.subsets")
    assert subsets is not None
    assert subsets.curve is not None
    at = subsets.curve.x.index("+".join(names[1:]))
    assert subsets.curve.lower is not None
    assert subsets.curve.upper is not None
    seen = told(
        text,
        tmp_path,
        """const cell = () => document.querySelector("#explored td").textContent, first = cell();
        document.querySelector("#explored fieldset input").click();
        return [first, cell()];""",
    )
    curve = subsets.curve
    expected = [fmt_estimate(curve.y[i], (subsets.curve.lower[i], subsets.curve.upper[i])) for i in (-1, at)]
    assert seen == expected


def test_a_table_is_sorted_and_searched(tmp_path: Path) -> None:
    seen = told(
        write(make_report(("a", "b", "c", "d")), "html-interactive"),
        tmp_path,
        """const scroll = document.querySelector(".scroll:has(td.bar)");
        const rows = () => [...scroll.querySelectorAll("tbody tr")];
        const losses = () => rows().map((row) => parseFloat(row.cells[4].textContent)), before = losses();
        const button = scroll.querySelectorAll("th button")[4], ways = [];
        for (let i = 0; i < 3; i++) {
          button.click();
          ways.push([button.parentElement.getAttribute("aria-sort"), losses()]);
        }
        const search = scroll.previousElementSibling.querySelector("input");
        search.value = before[0].toFixed(2);
        search.dispatchEvent(new window.Event("input"));
        return [before, ways, rows().filter((r) => !r.hidden).length, search.nextElementSibling.textContent];""",
    )
    before, ways, left, count = seen
    assert len(before) == 16
    assert ways == [["descending", sorted(before, reverse=True)], ["ascending", sorted(before)], [None, before]]
    assert 1 <= left < 16
    assert count == f"{left} of 16"


def test_pointing_at_a_chart_moves_the_place_of_all(tmp_path: Path) -> None:
    seen = told(
        write(make_report(TWO), "html-interactive"),
        tmp_path,
        """const chart = [...document.querySelectorAll(".chart")].find((c) => c.textContent.includes(": stable rank"));
        const svg = chart.querySelector("svg"), box = svg.getBoundingClientRect();
        const read = () => chart.querySelector(".number").textContent;
        const where = (share) => ({ clientX: box.left + share * box.width, clientY: box.top + 50 });
        const at = (share) => svg.dispatchEvent(new window.PointerEvent("pointermove", where(share)));
        at(1);
        const last = read();
        at(0);
        return [read(), last];""",
    )
    swept = make_report(TWO).find("rank_sweep.stable_rank", "image")
    assert swept is not None
    curve = swept.curve
    assert curve is not None
    assert curve.lower is not None
    assert curve.upper is not None
    ends = zip(curve.lower, curve.upper, strict=True)
    every = [fmt_estimate(y, interval) for y, interval in zip(curve.y, ends, strict=True)]
    assert seen == [every[0], every[-1]]
