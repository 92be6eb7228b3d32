"""Terminal and Markdown."""

from __future__ import annotations

import random
import re

import pytest
from markdown_it import MarkdownIt
from markdown_it.token import Token
from rich.cells import cell_len
from sample_reports import HOSTILE, MakeReport

from collapsekit.io.safe_text import clean
from collapsekit.render import formats_of, write
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.names import cleaned


def test_formats_by_name(make_report: MakeReport) -> None:
    report = make_report()
    assert set(formats_of("diagnosis")) >= {"json", "markdown", "html", "terminal"}
    assert Report.from_json(write(report, "json")) == report
    assert write(report, "md") == write(report, "markdown")
    assert write(report, "text", width=80) == write(report, "terminal", width=80)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_terminal_keeps_to_its_width(report: Report, width: int) -> None:
    text = write(report, "terminal", width=width, color=False)
    too_wide = [line for line in text.splitlines() if cell_len(line) > width]
    assert not too_wide
    assert all(c == "\n" or c.isprintable() for c in text)


def test_terminal_cuts_no_word(make_report: MakeReport) -> None:
    report = make_report(("image", "audio", "text", "depth"))
    words = set(write(report, "terminal", width=120, color=False).split())
    assert set(write(report, "terminal", width=80, color=False).split()) - words <= {"…"} | _rules(80)


def _rules(width: int) -> set[str]:
    return {"─" * n for n in range(width + 1)}


def test_terminal_says_the_verdict_first(make_report: MakeReport) -> None:
    text = write(make_report(), "terminal", width=80, color=False)
    assert text.startswith("✗ COLLAPSED  The model ignores audio")
    rows = [line for line in text.splitlines() if re.match(r"(audio|image) ", line)]
    assert rows[0].split()[:7] == ["audio", "✗", "collapsed", "0.93", "[0.84,", "0.98]", "0.41"]
    assert "rank never crosses" in text
    assert "collapsekit diagnose runs/avmnist/ckpt.pt" in text


def test_terminal_colour_is_asked_for(make_report: MakeReport) -> None:
    report = make_report(HOSTILE)
    assert "\x1b" not in write(report, "terminal", width=80, color=False)
    coloured = write(report, "terminal", width=80, color=True)
    assert "\x1b[" in coloured
    # Colours only: no hyperlink, no cursor movement, whatever the names say.
    assert not re.sub(r"\x1b\[[\d;]*m", "", coloured).count("\x1b")


def test_ci_commands_never_reach_a_log(make_report: MakeReport) -> None:
    for text in (
        write(make_report(HOSTILE), "terminal", width=80, color=False),
        write(make_report(HOSTILE), "markdown"),
    ):
        assert "::error" not in text
        assert "##[" not in text


@pytest.mark.parametrize("width", [80, 100])
def test_names_long_for_a_table_get_a_letter(make_report: MakeReport, width: int) -> None:
    names = ("a_very_long_modality_name_one", "a_very_long_modality_name_two")
    text = write(make_report(names), "terminal", width=width, color=False)
    for letter, name in zip("AB", names, strict=True):
        assert f"{letter} = {name}: " in text


def test_every_value_is_in_the_terminal_and_markdown(make_report: MakeReport) -> None:
    report = make_report()
    for text in (write(report, "terminal", width=80, color=False), write(report, "markdown")):
        for r in report.results:
            if r.name not in ("reliance.subsets", "reliance.subsets_metric"):  # shown as a table of their own
                assert r.name.split(".")[1] in text
        assert "14.3 [13.6, 15.1]" in text


def _render(text: str) -> list[Token]:
    return MarkdownIt("commonmark").enable("table").parse(text)


def test_markdown_tables_are_well_formed(report: Report) -> None:
    text = write(report, "markdown")
    tokens = _render(text)
    rows: list[int] = []
    for i, token in enumerate(tokens):
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            end = next(j for j in range(i, len(tokens)) if tokens[j].type == "tr_close")
            rows.append(sum(t.type in ("td_open", "th_open") for t in tokens[i:end]))
            assert rows[-1] == rows[0]
    # GFM pads and drops cells in silence, so the source is counted too.
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        counts = {line.count("|") for line in block.splitlines()}
        assert len(counts) == 1


def test_markdown_names_are_text(make_report: MakeReport) -> None:
    report = cleaned(make_report(HOSTILE))
    tokens = _render(write(make_report(HOSTILE), "markdown"))
    inline = [t for token in tokens for t in token.children or ()]
    assert not {t.type for t in inline} & {"link_open", "image", "em_open", "s_open"}
    allowed = {"<br>", "<code>", "</code>", "<!-- -->"}
    assert {t.content for t in inline if t.type == "html_inline"} <= allowed
    html = [t.content for t in tokens if t.type == "html_block"]
    assert all(re.fullmatch(r"(<details><summary>([^<>]|<!-- -->)*</summary>|</details>)\n*", block) for block in html)
    # A reader sees each name as it is.
    cells = ["".join(t.content for t in token.children or () if t.type != "html_inline") for token in tokens]
    for name in report.modalities:
        assert name in cells


def test_markdown_mentions_nobody(make_report: MakeReport) -> None:
    text = write(make_report(summary="Ask @user about #12 and ask www.evil.example or http://evil.example"), "markdown")
    first = text.splitlines()[0]
    assert "@" not in first
    assert "&#64;<!-- -->user" in first
    assert "&#35;<!-- -->12" in first
    assert "://" not in first
    assert "www." not in first


def test_swapping_two_names_swaps_nothing_else(make_report: MakeReport) -> None:
    for kind in ("markdown", "terminal"):
        one, other = (
            write(make_report(("image", "audio")), kind, width=80),
            write(make_report(("audio", "image")), kind, width=80),
        )
        swapped = re.sub("image|audio", lambda m: "audio" if m[0] == "image" else "image", other)
        assert one == swapped


def test_nothing_measured_is_said(bare: Report) -> None:
    for text in (write(bare, "terminal", width=80, color=False), write(bare, "markdown")):
        assert "not measured" in text
        assert clean("needs 2·d = 128") in " ".join(text.split())


EXTREME = (1.7e308, -1.7e308, 5e-324, -5e-324, 1e300, 1e150, 0.0)


@pytest.mark.parametrize("seed", range(4))
def test_numbers_at_the_ends_of_their_range_are_shown(make_report: MakeReport, seed: int) -> None:
    """Sums and differences of what a report may hold can be more than a number can be."""
    rng = random.Random(seed)
    whole = make_report()

    def hurt(r: Result) -> Result:
        if r.value is not None:
            ends = sorted((rng.choice(EXTREME), rng.choice(EXTREME)))
            return r.model_copy(update={"value": rng.choice(EXTREME), "interval": (ends[0], ends[1])})
        if r.curve is None:
            return r
        ys = tuple(rng.choice(EXTREME) for _ in r.curve.y)
        xs = r.curve.x if seed % 2 else tuple(rng.choice(EXTREME) for _ in r.curve.x)
        return r.model_copy(update={"curve": r.curve.model_copy(update={"x": xs, "y": ys})})

    names = whole.subject.modalities
    verdicts = {
        n: whole.modalities[n].model_copy(
            update={"score": rng.choice(EXTREME), "interval": (-1.7e308, 1.7e308), "costs_now": rng.choice(EXTREME)}
        )
        for n in names
    }
    report = make_report(modalities=verdicts, results=tuple(map(hurt, whole.results)))
    report = Report.model_validate_json(report.to_json())  # as no file may be, where a number leaves its interval
    for name in formats_of("diagnosis"):
        text = write(report, name)
        assert not re.findall(r"\b(?:nan|inf|infinity)\b", text, re.IGNORECASE), name


def test_warnings_stand_below_the_headline_in_every_format(make_report: MakeReport) -> None:
    sentence = "3 of 50 test rows <b> are copies of train rows."
    few = make_report(results=tuple(r for r in make_report().results if r.curve is None))  # to draw takes longer
    raw = few.model_dump() | {"warnings": [{"name": "copied_rows", "sentence": sentence}]}
    report = Report.model_validate(raw)
    text = write(report, "terminal", width=200, color=False)
    assert f"Warning: {sentence}" in text.splitlines()[2]
    assert "- **Warning:** 3 of 50 test rows &lt;b&gt; are copies" in write(report, "md")
    assert '<p class="warning"><b>Warning.</b> 3 of 50 test rows &lt;b&gt; are copies' in write(report, "html")
    assert Report.from_json(write(report, "json")) == report


def test_a_reason_that_many_results_share_is_given_once(make_report: MakeReport) -> None:
    report = make_report()
    about = {
        "probe": "fusion_gain",
        "modality": "image",
        "definition": "a gain",
        "source": "a test",
        "skipped": "no features",
    }
    gone = [Result.model_validate({**about, "name": f"fusion_gain.g{i}"}) for i in range(5)]
    gone.append(Result.model_validate({**about, "name": "fusion_gain.other", "skipped": "of rank 0"}))
    edited = report.model_copy(update={"results": (*report.results, *gone)})
    text = " ".join(write(edited, "terminal", width=80, color=False).split())
    assert "g0 of image, g1 of image, g2 of image and 2 more were not measured: no features" in text
    assert "other of image was not measured: of rank 0" in text
    assert text.count("no features") == 1
    assert "6 not measured" in text
