from __future__ import annotations

import io
import sys
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sample_reports import HOSTILE, LONG, MakeReport

from collapsekit.io.safe_text import clean
from collapsekit.report.names import cleaned, modality_names


@given(st.text(alphabet=st.characters(exclude_categories=[])), st.integers(min_value=5, max_value=60))
def test_nothing_that_acts_is_left(text: str, limit: int) -> None:
    shown = clean(text, limit)
    assert len(shown) <= limit
    assert not {unicodedata.category(c) for c in shown} & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    assert "::" not in shown
    assert "##[" not in shown
    shown.encode("utf-8")
    assert clean(shown, limit) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred", "\\x1b[31mred"),
        ("a\nb\x00", "a\\x0ab\\x00"),
        ("\u202eabc", "\\u202eabc"),
        ("\U000e0041", "\\U000e0041"),
        ("::error::x", ":\\x3aerror:\\x3ax"),
        ("##[error]x", "#\\x23[error]x"),
        ("module:callable", "module:callable"),
        ("音声 β é", "音声 β é"),
        ("x" * 100, "x" * 79 + "…"),
    ],
)
def test_examples(text: str, shown: str) -> None:
    assert clean(text) == shown


def test_a_report_is_cleaned_whole(make_report: MakeReport) -> None:
    text = cleaned(make_report(HOSTILE)).to_json()
    for bad in ("\\u001b", "\\u0000", "\u202e", "\u2066", "\u200b", "\u2028", "::error", "##[error"):
        assert bad not in text


def test_an_ordinary_report_is_left_as_it_is(make_report: MakeReport) -> None:
    for names in (("image", "audio"), LONG):
        report = make_report(names)
        assert cleaned(report) == report


def test_names_that_look_alike_stay_apart_and_consistent(make_report: MakeReport) -> None:
    report = cleaned(make_report(("a\x1b", "a\\x1b", "b" * 90, "b" * 91)))
    names = modality_names(report)
    assert len(set(names)) == len(names) == 4
    assert set(names) == set(report.modalities)
    subsets = report.find("reliance.subsets")
    assert subsets is not None
    assert subsets.curve is not None
    assert "+".join(names) in subsets.curve.x


class Screen(io.StringIO):
    """A terminal, for all that rich can tell."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize("name", [*HOSTILE, "[/x]", "[link=http://evil.example]", "\x1b]0;title\x07"])
@pytest.mark.parametrize("terminal", [True, False], ids=["terminal", "piped"])
def test_progress_shows_names_as_they_are(name: str, terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    from collapsekit.cli.terminal import progress

    screen = Screen() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", screen)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "200")
    with progress(quiet=False) as shown:
        shown.step(f"probe {name}", 1, 2)
        shown.note(f"Training {name}")
    text = screen.getvalue()
    if terminal:  # piped, a name of several lines is shown on several
        assert clean(name) in text
    assert "\x1b]" not in text
    assert "\x1b[31mred" not in text
    assert not set(text) & set("\x00\x07\u202e\u2066\u200b\u2028\ud800")
    assert "::error" not in text
    assert "##[" not in text
