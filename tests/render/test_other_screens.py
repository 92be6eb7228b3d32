"""The first screens of repairs and comparisons: at most 27 lines of 80 columns, whatever the report holds."""

from __future__ import annotations

import random
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from sample_repairs import make_repair
from sample_reports import HOSTILE, LONG, make_report

from collapsekit.cli.next_steps import Request, after_comparison, after_repair
from collapsekit.comparison.compare import compare
from collapsekit.config.options import CompareOptions, RepairOptions
from collapsekit.io.safe_text import clean
from collapsekit.render.first_screen import LINES, write_headline, write_screen
from collapsekit.render.views._screen import NextStep
from collapsekit.repairs.decision import decide_repair
from collapsekit.report.comparison import Comparison
from collapsekit.report.diagnosis import Report
from collapsekit.report.repair import RepairReport

TEXTS = st.text(min_size=1, max_size=300).filter(str.strip)
NAMES = st.sampled_from([*HOSTILE, *LONG, "image", "audio", "a b c"]) | st.text(min_size=1, max_size=60)
STEPS = (
    NextStep("the gate for CI, which as it stands passes:", ("collapsekit", "gate", "out/model.safetensors")),
    NextStep("every number beside before and plain fine-tuning:", ("collapsekit", "compare", "out")),
)
ENDS = ("In out: repair.html, model.safetensors, repair.json, repair.md", "All numbers: --verbose")


@st.composite
def repairs(draw: st.DrawFn) -> RepairReport:
    """Repairs of one to twelve modalities with long and hostile names, accepted or not."""
    names = tuple(draw(st.lists(NAMES, min_size=1, max_size=12, unique=True)))
    base = make_repair(names, accepted=draw(st.booleans()), control=draw(st.booleans()))
    changes: dict[str, Any] = {
        "summary": f"{', '.join(names)} {draw(TEXTS)}",
        "base": draw(TEXTS),
        "repaired": names[-draw(st.integers(1, len(names))) :],
        "checks": tuple(c.model_copy(update={"sentence": draw(TEXTS)}) for c in base.checks for _ in range(3)),
    }
    return base.model_copy(update=changes)


@st.composite
def comparisons(draw: st.DrawFn) -> Comparison:
    """Comparisons of two to eight columns, of one run or of several, of one to twelve modalities."""
    names = tuple(draw(st.lists(NAMES, min_size=1, max_size=12, unique=True)))
    columns = draw(st.lists(NAMES.filter(str.strip), min_size=2, max_size=8, unique=True))
    rng, runs = random.Random(draw(st.integers(0, 99))), draw(st.sampled_from((1, 1, 7)))
    found = compare({name: [_moved(make_report(names), rng) for _ in range(runs)] for name in columns})
    return found.model_copy(update={"notes": tuple(draw(st.lists(TEXTS, max_size=4)))})


def _moved(report: Report, rng: random.Random) -> Report:
    by = rng.gauss(0, 0.1)
    results = tuple(
        r
        if r.value is None or r.probe != "reliance"
        else r.model_copy(update={"value": r.value + by, "interval": None})
        for r in report.results
    )
    return report.model_copy(update={"results": results})


def check(text: str, width: int) -> list[str]:
    lines = text.splitlines()
    assert len(lines) <= max(LINES, LINES * 80 // width)
    assert max(map(cell_len, lines)) <= width
    assert all(clean(line, 1000) == line for line in lines)  # nothing in it acts
    words = " ".join(lines)
    assert "gate out/model.safetensors" in words
    assert "compare out" in words
    assert "All numbers: --verbose" in words
    return lines


@settings(max_examples=25)
@given(repairs(), st.sampled_from((40, 60, 80, 80, 80, 120)))
def test_a_repair_has_its_lines_and_columns(report: RepairReport, width: int) -> None:
    lines = check(write_screen(report, STEPS, ENDS, width=width), width)
    assert lines[0].split()[1] == ("ACCEPTED" if report.accepted else "REJECTED")
    assert any(line.startswith("✗ failed ") for line in lines) == (not report.accepted)
    assert any("No plain fine-tuning" in line for line in lines) == (report.control is None)
    assert any(line.split()[:1] == ["accuracy"] for line in lines)
    if width == 80:
        shown = sum(any(mark in line for mark in ("✗ coll", "◐ under", "✓ used", "○ unin", "? ")) for line in lines)
        more = [int(line.split()[1]) for line in lines if line.startswith("and ") and " more, after it" in line]
        assert shown + sum(more) >= len(report.before.modalities)


@settings(max_examples=25)
@given(comparisons(), st.sampled_from((40, 60, 80, 80, 80, 120)))
def test_a_comparison_has_its_lines_and_columns(found: Comparison, width: int) -> None:
    lines = check(write_screen(found, STEPS, ENDS, width=width), width)
    assert lines[0].startswith("Compared:")
    assert any("whole" in line for line in lines)
    assert any(line.split()[:1] == ["accuracy"] for line in lines)


@settings(max_examples=15)
@given(repairs() | comparisons())
def test_the_headline_is_one_line(report: RepairReport | Comparison) -> None:
    text = write_headline(report)
    assert text.count("\n") == 1
    assert clean(text[:-1], 10_000) == text[:-1]


def test_a_repair_says_what_counts_side_by_side() -> None:
    lines = write_screen(make_repair(("image", "audio", "text"), accepted=False), STEPS, ENDS).splitlines()
    assert lines[0].startswith("✗ REJECTED  text is used again")
    assert "✗ failed Accuracy fell by 0.1 with text repaired." in lines
    head = next(line for line in lines if " before " in line)
    assert head.split() == ["before", "after", "control", "change"]
    rows = [line.split()[0] for line in lines if "✗ coll" in line or "◐ under" in line or "? incon" in line]
    assert rows[0] == "text"  # which was repaired
    assert any("not compared" in line for line in lines)
    assert lines[-2:] == list(ENDS)


def test_a_change_has_the_digits_that_its_intervals_justify() -> None:
    text = write_screen(make_repair(), STEPS, ENDS)
    row = next(line for line in text.splitlines() if line.startswith("audio (repaired)"))
    assert row.split()[-1].lstrip("~").startswith("-0.")
    assert len(row.split()[-1].strip("~")) == len("-0.60")


@pytest.mark.parametrize("count", [2, 3])
def test_a_comparison_says_the_finding_and_what_counts(count: int) -> None:
    rng = random.Random(0)
    found = compare({f"m{i}": _moved(make_report(), rng) for i in range(count)})
    lines = write_screen(found, STEPS, ENDS).splitlines()
    assert sum(" beside m0: " in line for line in lines) == count - 1
    heads = [f"m{i}" for i in range(count)] + ["change"] * (count == 2)
    assert heads in [line.split() for line in lines]
    assert any(line.startswith("and ") and " more numbers" in line for line in lines)


def test_an_accepted_repair_leads_to_its_gate_and_a_rejected_one_to_another_method() -> None:
    request = Request(RepairOptions.make(method="finetune", seed=3), Path("my runs/ckpt.pt"), Path("conf/c.yaml"))
    kept = after_repair(make_repair(), request, Path("my out"))
    assert kept[0].command[:3] == ("collapsekit", "gate", "my out/model.safetensors")
    assert kept[0].command[3:] == ("--config", "conf/c.yaml", "--seed", "3")  # by which the repair was judged
    assert re.search(r"exits with \d|passes", kept[0].about)
    assert kept[1].command == ("collapsekit", "compare", "my out")
    failed = after_repair(make_repair(accepted=False), request, Path("my out"))
    assert failed[0].command[:3] == ("collapsekit", "repair", "my runs/ckpt.pt")
    words = shlex.join(failed[0].command)
    assert "--method finetune" not in words
    assert "--seed 3" in words
    assert words.endswith("--force --output 'my out'")
    again = Request(RepairOptions.make(method="kd,dropout"), Path("my runs/ckpt.pt"), Path("conf/c.yaml"))
    tried = make_repair(accepted=False, method=decide_repair(make_repair().before, None, None).methods)
    assert [step.command[1] for step in after_repair(tried, again, Path("out"))] == ["compare"]


def test_a_comparison_leads_to_its_page() -> None:
    (step,) = after_comparison(["a b", "x=y"], CompareOptions.make(base="x"))
    assert step.command == (
        *["collapsekit", "compare"],
        "a b",
        "x=y",
        *["--base", "x", "-f", "html", "-o", "compare.html"],
    )
