"""What holds for every view with every writer: all that a document says is written, nothing in a name acts."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from itertools import pairwise
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.cells import cell_len
from sample_gates import check, report_of
from sample_repairs import make_repair
from sample_reports import HOSTILE, make_report, nothing_measured
from test_render_html import ACTIVE, read

from collapsekit.comparison.compare import compare
from collapsekit.errors import ConfigError
from collapsekit.render import document_of, files, formats_of, write
from collapsekit.render.document import TONES, Detail, Document, Span, Table
from collapsekit.render.views.baseline import Update
from collapsekit.report.baseline import Baseline
from collapsekit.report.diagnosis import Report
from tests.conftest import one_figure_drawn

EIGHT = tuple(f"view_{i}" for i in range(8))
NAMES = {"one": ("image",), "two": ("image", "audio"), "eight": EIGHT, "hostile": HOSTILE}
KEPT = (
    "reliance.shapley",
    "reliance.full_metric",
    "reliance.subsets",
    "vif.mean",
    "missing.rates.zeros",
    "calibration.ece",
)


def few(names: tuple[str, ...]) -> Report:
    """A report with some results only."""
    whole = make_report(names)
    kept = tuple(r for r in whole.results if r.name.startswith(KEPT) or r.skipped is not None)
    return whole.model_copy(update={"results": kept})


def repaired(names: tuple[str, ...]) -> Any:
    whole = make_repair(names)
    parts = {}
    for part in ("before", "after", "control"):
        inner = getattr(whole, part)
        parts[part] = inner.model_copy(update={"results": tuple(r for r in inner.results if r.name.startswith(KEPT))})
    return whole.model_copy(update=parts)


def make_baseline(names: tuple[str, ...]) -> Baseline:
    from collapsekit.report.baseline import Run as Kept

    return Baseline.model_construct(runs=(Kept.model_construct(report=few(names), records=None),))


def gated(names: tuple[str, ...]) -> Any:
    found = [
        check(f"use of {names[-1]}", baseline=0.9, found=0.1, difference=0.8, interval=(0.7, 0.9), modality=names[-1]),
        check("verdict != collapsed", "passed", kind="rule"),
        check("accuracy", "inconclusive", needed=3),
    ]
    return report_of(found, names)


SAMPLES: dict[str, Callable[[tuple[str, ...]], Any]] = {
    "diagnosis": few,
    "repair": repaired,
    "gate": gated,
    "comparison": lambda names: compare({names[-1]: few(names), "other": few(names)}, every=True),
    "baseline": make_baseline,
}


@cache
def sample(view: str, who: str) -> Any:
    """A report for the view. A view that is not of the list has ``SAMPLE`` in ``sample_VIEW.py`` beside its test."""
    if view not in SAMPLES and find_spec(f"sample_{view}") is not None:
        SAMPLES[view] = import_module(f"sample_{view}").SAMPLE
    return SAMPLES[view](NAMES[who])


@pytest.fixture(autouse=True, scope="module")
def _one_figure() -> Iterator[None]:
    with one_figure_drawn():
        yield


@cache
def written(view: str, who: str, writer: str, width: int = 80) -> str:
    return write(sample(view, who), writer, width=width)


CASES = [(view, who, writer) for view in files("views") for who in NAMES for writer in files("writers")]
case = pytest.mark.parametrize(("view", "who", "writer"), CASES)


@cache
def make_document(view: str, who: str, detail: Detail) -> Document:
    """What is written of a sample. Its figures are drawn once for all writers and tests."""
    return document_of(sample(view, who), detail)


def detail_of(writer: str) -> Detail:
    found: Detail = import_module(f"collapsekit.render.writers.{writer}").DETAIL
    return found


def runs(value: Any) -> Iterator[Span]:
    """Every run in a document."""
    if isinstance(value, Span):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from runs(part)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from runs(getattr(value, field.name))


def tables(value: Any) -> Iterator[Table]:
    if isinstance(value, Table):
        yield value
    elif isinstance(value, tuple | list):
        for part in value:
            yield from tables(part)
    elif dataclasses.is_dataclass(value):
        for field in dataclasses.fields(value):
            yield from tables(getattr(value, field.name))


def seen(text: str, writer: str) -> str:
    """What a reader sees, without spaces and rules."""
    if writer.startswith("html"):
        text = read(text).text
    elif writer == "markdown":
        text = read(MarkdownIt("commonmark").enable("table").render(text)).text
    return re.sub(r"[\s─`]", "", text)


def _short(run: Span, writer: str) -> bool:
    """Whether a terminal may show a sign of it only, or leave it out, as it says then."""
    return writer == "terminal" and (run.kind in TONES or run.kind == "interval")


@case
def test_every_word_of_the_document_is_written(view: str, who: str, writer: str) -> None:
    document = make_document(view, who, detail_of(writer))
    text = seen(written(view, who, writer, 120 if writer == "terminal" else 80), writer)
    shown = [run.text for run in runs((document.facts, document.sections)) if not _short(run, writer)]
    said = [document.title, *document.warnings, *shown]
    assert len(said) > 5
    for word in said:  # in a narrow column a name is broken, and another column's text stands between its parts
        pieces = re.split(r"[\s─`]|(?<=[_\-./:+])", word) if writer == "terminal" else [re.sub(r"[\s─`]", "", word)]
        for piece in pieces:
            assert piece[:10] in text, (word, piece)


@case
def test_nothing_in_a_name_acts(view: str, who: str, writer: str) -> None:
    text = written(view, who, writer)
    assert not set(text) & set("\x00\x07\x1b\u202e\u2066\u200b\u2028\ud800")
    assert not re.search(r"^\s*::|##\[", text, re.MULTILINE)
    if writer == "html":
        assert not set(read(text).tags) & ACTIVE
    if writer == "html_interactive":  # data, and what reads them
        assert not set(read(text).tags) & (ACTIVE - {"script"})
        assert read(text).tags.count("script") == 2
    if writer == "markdown":
        tokens = MarkdownIt("commonmark").enable("table").parse(text)
        inline = [t for token in tokens for t in token.children or ()]
        assert not {t.type for t in inline} & {"link_open", "image", "em_open", "s_open"}
        assert {t.content for t in inline if t.type == "html_inline"} <= {"<br>", "<code>", "</code>", "<!-- -->"}


@pytest.mark.parametrize("view", files("views"))
@pytest.mark.parametrize("who", NAMES)
@pytest.mark.parametrize("width", [60, 80])
def test_a_terminal_is_not_left_at_its_side(view: str, who: str, width: int) -> None:
    for text in written(view, who, "terminal", width).splitlines():
        assert cell_len(text) <= width


@pytest.mark.parametrize("view", files("views"))
@pytest.mark.parametrize("who", NAMES)
def test_a_page_is_valid_and_its_headings_are_in_order(view: str, who: str) -> None:
    text = written(view, who, "html")
    reader = read(text)  # asserts that tags balance
    levels = [int(tag[1]) for tag in reader.tags if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    ids = [v for _, k, v in reader.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    targets = {v for _, k, v in reader.attributes if k in ("href", "aria-labelledby")}
    assert {t.removeprefix("#") for t in targets} <= set(ids)
    assert all(v for tag, k, v in reader.attributes if (tag, k) == ("svg", "aria-label"))


@pytest.mark.parametrize("view", files("views"))
@pytest.mark.parametrize("detail", Detail)
@pytest.mark.parametrize("who", ["one", "hostile"])
def test_a_document_holds_no_markup_and_every_writer_takes_it(view: str, who: str, detail: Detail) -> None:
    document = make_document(view, who, detail)
    for found in tables(document):
        for row in found.rows:
            assert len(row) == len(found.columns), found.title
    assert not [run for run in runs(document) if re.search(r"</?(b|span|code|td|p)\b|\*\*", run.text) and who == "one"]
    for writer in files("writers"):
        module = import_module(f"collapsekit.render.writers.{writer}")
        text = module.write(document, width=80, color=False)
        if detail == module.DETAIL:  # all of it was made another time, its figures too
            assert text == written(view, who, writer)


@pytest.mark.parametrize("writer", files("writers"))
def test_a_report_without_results_is_shown(writer: str) -> None:
    text = seen(write(nothing_measured(), writer), writer)
    assert "Nothingcouldbemeasured." in text
    assert "thesplitholds3examples" in text


@pytest.mark.parametrize("writer", files("writers"))
def test_an_update_says_what_changed(writer: str) -> None:
    before, now = make_baseline(NAMES["two"]), make_baseline(NAMES["two"])
    text = seen(write(Update(now, before), writer), writer)
    assert "asbefore" in text
    assert "asbefore" not in seen(write(now, writer), writer)


def test_a_format_that_is_not_there_is_refused_with_those_that_are() -> None:
    for view in files("views"):
        for wrong in ("pdf", "sarif") if view != "gate" else ("pdf",):
            with pytest.raises(ConfigError, match=f"format '{wrong}' is not known: use one of json, .*terminal"):
                write(sample(view, "two"), wrong)
        assert {"json", *(name.replace("_", "-") for name in files("writers"))} <= set(formats_of(view))
