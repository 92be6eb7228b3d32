"""The first screen of a diagnosis: at most 27 lines of 80 columns, with what is worst in them, whatever the report holds."""

from __future__ import annotations

import shlex
import subprocess
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from sample_reports import HOSTILE, LONG, make_report

from collapsekit.io.safe_text import clean
from collapsekit.render.first_screen import LINES, wrap, write_headline, write_screen
from collapsekit.render.views._screen import NextStep, cut, wrap_command
from collapsekit.report.diagnosis import Judged, ModalityVerdict, Report, ReportWarning
from collapsekit.report.names import cleaned
from collapsekit.report.verdicts import FAILED

STATES = ("used", "underused", "collapsed", "uninformative", "inconclusive")
TEXTS = st.text(min_size=1, max_size=300).filter(str.strip)
NAMES = st.sampled_from([*HOSTILE, *LONG, "image", "audio", "a b c"]) | st.text(min_size=1, max_size=60)
SHARE = st.floats(min_value=0, max_value=1)
STEPS = (
    NextStep(
        "the encoders of a, b and c still hold what can be learned alone, so it is the fusion that has to listen.",
        ("collapsekit", "repair", "runs/a model of mine/ckpt.pt", "--config", "conf/c.yaml", "--method", "kd,dropout"),
    ),
    NextStep("the gate for CI, which as it stands exits with 1:", ("collapsekit", "gate", "out/report.json")),
)
ENDS = ("In out: report.html, records.safetensors, report.json, report.md", "All numbers: --verbose")


@st.composite
def verdicts(draw: st.DrawFn, names: list[str]) -> dict[str, ModalityVerdict]:
    found = {}
    for name in names:
        state: Any = draw(st.sampled_from(STATES))
        low, score, high = sorted(draw(st.tuples(SHARE, SHARE, SHARE)))
        found[name] = ModalityVerdict(
            verdict=state,
            at_most="underused" if state == "inconclusive" and draw(st.booleans()) else None,
            score=score if draw(st.booleans()) else None,
            interval=(low, high),
            costs_now=draw(st.none() | SHARE),
            costs_if_missing={n: draw(SHARE) for n in names[:2] if n != name},
            reason=f"The model gives {name} {draw(TEXTS)}. And more is said.",
        )
    return found


@st.composite
def reports(draw: st.DrawFn) -> Report:
    """Reports of one to twelve modalities, with long and hostile names, many warnings, and what is missing."""
    names = draw(st.lists(NAMES, min_size=1, max_size=12, unique=True))
    base = make_report()
    missing = tuple(draw(st.lists(TEXTS, max_size=3)))
    subject = {"modalities": tuple(names), "checkpoint": draw(TEXTS), "split": draw(TEXTS), "metric": draw(TEXTS)}
    kinds = st.sampled_from([FAILED, "copied_rows", "process_state"])
    return base.model_copy(
        update={
            "subject": base.subject.model_copy(update=subject),
            "verdict": draw(st.sampled_from(("collapsed", "underused", "healthy", "inconclusive"))),
            "summary": f"The model ignores {', '.join(names)}, which carry label information. {draw(TEXTS)}",
            "judged": Judged(extent="partly" if missing else "fully", missing=missing),
            "modalities": draw(verdicts(names)),
            "warnings": tuple(
                ReportWarning(name=draw(kinds), sentence=draw(TEXTS)) for _ in range(draw(st.integers(0, 6)))
            ),
            "results": (),
        }
    )


@settings(max_examples=30)
@given(reports())
def test_a_screen_has_its_lines_and_columns_whatever_the_report_holds(report: Report) -> None:
    text = write_screen(report, STEPS, ENDS)
    lines = text.splitlines()
    assert len(lines) <= LINES
    assert max(map(cell_len, lines)) <= 80
    assert all(clean(line, 1000) == line for line in lines)  # nothing in it acts
    assert lines[0].split()[1] == report.verdict.upper()
    shown = [line for line in lines if line.startswith("Warning: ")]
    assert bool(shown) == bool(report.warnings)
    if any(w.name == FAILED for w in report.warnings):  # the gravest is there, in its first words
        worst = next(w for w in cleaned(report).warnings if w.name == FAILED)
        assert worst.sentence.strip().startswith(shown[0][9:15].split("…")[0].split(" (")[0].strip())
    words = " ".join(lines)
    assert "repair" in words
    assert "--method kd,dropout" in words
    assert "gate out/report.json" in words


@settings(max_examples=30)
@given(reports(), st.integers(40, 120))
def test_a_screen_is_as_wide_as_the_terminal(report: Report, width: int) -> None:
    text = write_screen(report, STEPS, ENDS, width=width)
    assert max(map(cell_len, text.splitlines())) <= width


@settings(max_examples=30)
@given(reports())
def test_what_is_worst_stands_in_the_table_and_what_is_left_out_is_counted(report: Report) -> None:
    lines = write_screen(report, STEPS, ENDS).splitlines()
    head = next(i for i, line in enumerate(lines) if line.startswith("modality"))
    first = lines[head + 2].split("  ")[1:]
    ranks = ["collapsed", "underused", "inconclusive", "uninformative", "used"]
    worst = min((v.verdict for v in report.modalities.values()), key=ranks.index)
    assert any(worst in part or (worst == "inconclusive" and "at most underused" in part) for part in first)
    more = [line for line in lines if line.startswith("and ") and " more: " in line]
    rows = sum(
        any(mark in line for mark in ("✗ coll", "◐ under", "✓ used", "○ unin", "? ")) for line in lines[head + 2 :]
    )
    left = int(more[0].split()[1]) if more else 0
    assert rows + left >= len(report.modalities)


def test_a_screen_says_what_matters_of_a_report() -> None:
    report = make_report(("image", "audio", "text", "depth"))
    text = write_screen(report, STEPS, ENDS)
    lines = text.splitlines()
    assert lines[0].startswith("✗ COLLAPSED  The model ignores depth")
    assert "Checkpoint runs/avmnist/ckpt.pt · Data test split, 1000 examples · Judged fully" in lines
    rows = [line.split()[0] for line in lines if "✗ coll" in line or "◐ under" in line or "? incon" in line]
    assert rows == ["depth", "text", "audio"]
    assert any(line.startswith("depth  It alone predicts at 0.71 accuracy") for line in lines)
    assert lines[-2:] == list(ENDS)
    assert "rank_sweep" not in text


def test_a_reason_is_its_first_sentence_in_fewer_words() -> None:
    base = make_report()
    reasons = {
        "image": "The model gives image 24% [23%, 26%] of the credit a balanced reference gives it: it uses image, but for "
        "less than it is worth. That costs no measurable accuracy today.",
        "audio": "audio reaches 0.94 accuracy alone, yet the model gives it only 9% [8%, 9%] of the credit a balanced "
        "reference gives it. Its encoder still holds it.",
    }
    each = {m: v.model_copy(update={"reason": reasons[m]}) for m, v in base.modalities.items()}
    lines = write_screen(base.model_copy(update={"modalities": each}), (), ()).splitlines()
    assert "audio  reaches 0.94 accuracy alone, yet gets only 9% [8%, 9%] of its due." in lines
    assert "image  gets 24% [23%, 26%] of its due: it uses image, but for less than it is…" in lines
    each["audio"] = each["audio"].model_copy(update={"cause": "seen but not believed"})
    lines = write_screen(base.model_copy(update={"modalities": each}), (), ()).splitlines()
    assert "audio  seen but not believed: reaches 0.94 accuracy alone, yet gets only 9%…" in lines


@settings(max_examples=30)
@given(reports())
def test_the_headline_is_one_line(report: Report) -> None:
    text = write_headline(report)
    assert text.count("\n") == 1
    assert text.endswith("\n")
    assert clean(text[:-1], 10_000) == text[:-1]


def test_colour_is_asked_for() -> None:
    assert "\x1b[" in write_screen(make_report(), STEPS, ENDS, color=True)
    assert "\x1b" not in write_screen(make_report(HOSTILE), STEPS, ENDS)


LETTERS = st.characters(blacklist_categories=["C", "Z"]) | st.just(" ")
WORDS = st.lists(st.text(LETTERS, min_size=1, max_size=200), max_size=6)


@given(WORDS, st.integers(40, 120))
def test_a_command_in_several_lines_is_the_command(words: list[str], columns: int) -> None:
    lines = wrap_command(["collapsekit", *words], columns)
    assert max(map(cell_len, lines)) <= columns
    assert shlex.split("\n".join(lines).replace("\\\n", "")) == ["collapsekit", *words]


@pytest.mark.parametrize("words", [["a b", "c'd" * 30, "$HOME", "x" * 200, "音声" * 50, "--last"], ["one"]])
def test_a_shell_reads_a_command_as_it_was(words: list[str]) -> None:
    script = "\n".join(wrap_command(["printf", "%s\\n", *words], 80))
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == words


@given(st.text(max_size=500), st.integers(1, 4), st.integers(40, 100))
def test_a_message_keeps_to_its_lines(text: str, most: int, columns: int) -> None:
    lines = wrap(cut(text, 10_000), most, columns)
    assert len(lines) <= most
    assert all(cell_len(line) <= columns for line in lines)


@given(st.text(max_size=200), st.integers(1, 200))
def test_a_cut_sentence_keeps_to_its_cells(text: str, cells: int) -> None:
    short = cut(text, cells)
    assert cell_len(short) <= max(cells, 1)
    assert short == text or short.endswith("…")
