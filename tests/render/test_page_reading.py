"""What helps to read a page: terms explained, contents that stay, few sides of paper."""

from __future__ import annotations

import re
from html import unescape
from itertools import pairwise
from pathlib import Path

import pytest
from browsing import count_sides, run_in
from hypothesis import given
from hypothesis import strategies as st
from sample_repairs import make_repair
from sample_reports import make_report
from test_render_html import Page, read
from test_views import NAMES as WHO
from test_views import sample

from collapsekit.gating.decide import gate
from collapsekit.render import document as doc
from collapsekit.render import document_of, files, write
from collapsekit.render.glossary import THEMES, Entry, split_at_terms
from collapsekit.render.writers import html
from collapsekit.report.parts import Result

ENTRIES = [entry for entries in THEMES.values() for entry in entries]
MEANINGS = {form.lower(): e.plain for e in ENTRIES for form in e.forms}
MOST_SIDES = 8
SIX = ("vision", "audio", "text", "depth", "touch", "smell")


def explained(text: str) -> list[tuple[str, str]]:
    """Each term that the page explains where it stands, and its meaning."""
    return [(unescape(w), unescape(m)) for m, w in re.findall(r'<abbr title="([^"]*)">([^<]*)</abbr>', text)]


def of(*blocks: doc.Block, title: str = "One") -> str:
    sections = (doc.section(title, *blocks), doc.section("Two", *blocks))
    return html.write(doc.Document("A report", "A title", sections=sections))


# --- terms


@given(st.text(), st.booleans())
def test_pieces_make_the_text_again(text: str, state: bool) -> None:
    assert "".join(piece for piece, _ in split_at_terms(text, state=state)) == text


def test_no_spelling_stands_for_two_terms() -> None:
    for state in (True, False):
        forms = [f.lower() for e in ENTRIES if e.state is state for f in e.forms]
        assert len(forms) == len(set(forms)) > 5


def test_letters_that_fold_into_others_are_no_fault() -> None:
    """Without regard to case, a pattern takes the long s for an s."""
    text = "\u017fpectrum, \u017fhapley value"
    assert "".join(piece for piece, _ in split_at_terms(text)) == text


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda e: e.forms[0])
def test_each_spelling_is_found_and_no_part_of_a_word(entry: Entry) -> None:
    for form in entry.forms:
        state = entry.state
        found = [e for _, e in split_at_terms(f"so ({form}), then", state=state) if e is not None]
        assert found == [entry]
        for inside in (f"x{form}", f"{form}x", f"a.{form}", f"{form}-like"):
            assert form not in [piece for piece, e in split_at_terms(inside, state=state) if e is not None]


def test_a_term_is_explained_once_a_part_and_in_the_glossary() -> None:
    text = of(doc.sentence("Credit is credit."), doc.Details(doc.line("More"), (doc.sentence("Its credit"),)))
    assert [w for w, _ in explained(text)] == ["Credit", "credit"] * 2
    assert text.count("<div><dt>credit</dt><dd>How much task loss") == 1
    assert 'id="glossary"' not in of(doc.sentence("Nothing to explain."))


def test_a_verdicts_word_is_one_only_as_a_verdict() -> None:
    assert explained(of(doc.sentence("It is used."))) == []
    assert explained(of(doc.Paragraph(doc.line(doc.state("used")))))[0] == ("used", MEANINGS["used"])


@pytest.mark.parametrize("kind", ["name", "label", "command"])
def test_a_name_is_never_a_term(kind: str) -> None:
    assert explained(of(doc.Paragraph(doc.line(doc.Span("credit", kind))))) == []


def test_a_page_explains_each_term_with_the_declared_words(page: Page) -> None:
    found = explained(page[1])
    assert {"collapsed", "credit"} <= {w.lower() for w, _ in found}
    assert all(MEANINGS[word.lower()] == meaning for word, meaning in found)
    listed = re.search(r'<dl class="definitions glossary">(.*?)</dl>', page[1], re.DOTALL)
    assert listed is not None
    terms = [unescape(t) for t in re.findall(r"<dt>(.*?)</dt>", listed[1])]
    assert sorted(terms, key=str.lower) == terms
    assert {MEANINGS[t.lower()] for t in terms} == {meaning for _, meaning in found}


# --- contents


def test_contents_lead_to_every_section_in_order(page: Page) -> None:
    menu = re.search(r'<nav class="contents".*?</nav>', page[1], re.DOTALL)
    assert menu is not None
    links = re.findall(r'href="#([\w-]+)"', menu[0])
    headed = re.findall(r'<section id="([\w-]+)" aria-labelledby', page[1])
    assert links == [*headed, "everything"]


def test_a_page_of_one_section_has_no_contents() -> None:
    document = doc.Document("A report", "A title", sections=(doc.section("One", doc.sentence("A text.")),))
    assert "<nav" not in html.write(document)


def test_contents_stay_while_the_page_moves(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page[1], encoding="utf-8")
    script = """window.scrollTo(0, 3000);
      const box = document.querySelector("nav").getBoundingClientRect();
      return [Math.round(box.top), box.height < 60, window.scrollY > 2000];"""
    assert run_in(file, script) == "[0,true,true]"


# --- paper


def test_a_name_is_no_term() -> None:
    names = ("rank", "credit", "my due x", "<b>")
    said = "It ignores rank; credit and my due x, too. Its due is clear."
    report = make_report(names).model_copy(update={"summary": said})
    report = report.model_copy(update={"subject": report.subject.model_copy(update={"split": "control"})})
    text = write(report, "html")
    marked = {word.casefold() for word, _ in explained(text)}
    assert "effective rank" in marked or "drive" in marked
    assert not marked & {"rank", "credit", "control"}
    assert "my <abbr" not in text


def test_what_a_probe_of_ones_own_says_is_prose() -> None:
    about = {"name": "mine.number", "probe": "mine", "value": 1.0, "source": "mine"}
    own = Result(**about, definition="The effective rank of what I like.")  # type: ignore[arg-type]
    text = write(make_report(("image", "audio")).model_copy(update={"results": (own,)}), "html")
    assert "effective rank" in {word for word, _ in explained(text)}


def test_names_are_cut_out_before_terms_are_looked_for() -> None:
    pieces = list(split_at_terms("the credit of credit x, effective rank", names=("credit x", "the")))
    assert [piece for piece, entry in pieces if entry is not None] == ["credit", "effective rank"]
    assert "".join(piece for piece, _ in pieces) == "the credit of credit x, effective rank"


@pytest.mark.parametrize("kind", files("views"))
@pytest.mark.parametrize("detail", list(doc.Detail))
def test_no_heading_stands_over_nothing(kind: str, detail: doc.Detail) -> None:
    for who in WHO:
        for section in document_of(sample(kind, who), detail).sections:
            assert not section.title or any(map(says, section.blocks)), section.title


@pytest.mark.parametrize("detail", list(doc.Detail))
def test_a_gate_without_a_baseline_speaks_of_none(detail: doc.Detail) -> None:
    document = document_of(gate(make_report(("image", "audio"))), detail)
    assert document.sections
    for section in document.sections:
        assert any(map(says, section.blocks)), section.title
        assert "baseline" not in doc.plain(section.title)


def says(block: doc.Block) -> bool:
    """Whether a reader finds anything in it, beside its own heading."""
    for part in doc.simple((block,)):
        if isinstance(part, doc.Table):
            lines = [c.runs for row in part.rows for c in row]
        elif isinstance(part, doc.Items):
            lines = [*part.lines]
        else:
            lines = [part.runs] if part.kind != "heading" else []
        if any(doc.plain(runs).strip() for runs in lines):
            return True
    return False


def test_what_is_folded_opens_at_an_address(page: Page, tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page[1], encoding="utf-8")
    script = 'return [...document.querySelectorAll("dl.definitions")].map((d) => d.checkVisibility()).every(Boolean);'
    assert run_in(file, script) == "false"
    assert run_in(file, script, "#everything") == "true"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["six", "repair"])
def test_a_page_prints_on_few_sides_and_whole_where_asked(kind: str, tmp_path: Path) -> None:
    report = make_report(SIX) if kind == "six" else make_repair(SIX[:3])
    file = tmp_path / "report.html"
    for format_ in ("html", "html-interactive"):
        file.write_text(write(report, format_), encoding="utf-8")
        sides = count_sides(file)
        assert 1 < sides <= MOST_SIDES
    assert count_sides(file, "#everything") > 2 * MOST_SIDES


@pytest.mark.slow
def test_the_demo_prints_on_few_sides(tmp_path: Path) -> None:
    from collapsekit.context import Progress
    from collapsekit.demo.make import make_demo
    from collapsekit.diagnosis import diagnose

    checkpoint = make_demo(tmp_path, 0, Progress())
    report = diagnose(checkpoint, config=checkpoint.with_name("collapsekit.yaml"))
    file = tmp_path / "report.html"
    file.write_text(write(report, "html"), encoding="utf-8")
    assert 1 < count_sides(file) <= MOST_SIDES


def test_ids_of_sections_are_in_order_without_a_name() -> None:
    found = [int(n) for n in re.findall(r'<section id="part-(\d+)"', of(doc.sentence("A text.")))]
    assert all(after == before + 1 for before, after in pairwise(found))
    assert found[0] == 1
    assert read(of(doc.sentence("A text."))).tags.count("section") == 2
