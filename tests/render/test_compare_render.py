"""Comparisons on a terminal, in Markdown, in HTML and as JSON."""

from __future__ import annotations

import functools
import html
import json
import math
import random
import re
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.cells import cell_len
from sample_reports import HOSTILE, LONG, make_report, nothing_measured
from test_render_html import ACTIVE, read

from collapsekit import registry
from collapsekit.comparison.compare import compare
from collapsekit.comparison.significance import ALPHA
from collapsekit.errors import CollapsekitError
from collapsekit.io.safe_text import clean
from collapsekit.measures import measures_of
from collapsekit.measures.of_verdict import OF_VERDICT
from collapsekit.render import document_of, formats_of, write
from collapsekit.render.document import Detail, Table, plain
from collapsekit.render.first_screen import write_screen
from collapsekit.render.numbers import fmt
from collapsekit.render.views.comparison import BEST, DIFFERS, without_ties
from collapsekit.report.comparison import Cell, Column, Comparison, Row, RunOf, Test, Testing
from collapsekit.report.diagnosis import Curve, ModalityVerdict, Report, Result
from collapsekit.report.names import cleaned_comparison
from collapsekit.stats.inference.wilcoxon import MAX_EXACT, MIN_PAIRS

NUMBER = st.floats(allow_nan=False, allow_infinity=False)


@functools.cache
def run(seed: int, shift: float = 0.0, names: tuple[str, ...] = ("image", "audio")) -> Report:
    """A report whose numbers are a little different for each seed."""
    rng, whole = random.Random(seed), make_report(names)
    moved = [
        r if r.value is None else r.model_copy(update={"value": r.value + shift + rng.gauss(0, 0.01), "interval": None})
        for r in whole.results
    ]
    subject = whole.subject.model_copy(update={"sha256": f"{seed:064x}"})
    kept = {**whole.settings, "training_seed": seed, "examples": "e" * 64}
    return whole.model_copy(update={"results": tuple(moved), "settings": kept, "subject": subject})


def groups(count: int = 3, names: tuple[str, ...] = ("image", "audio"), **more: Any) -> Comparison:
    """Columns of eight runs each."""
    columns = {f"method {i}": [run(seed, 0.2 * i, names) for seed in range(8)] for i in range(count)}
    return compare(columns, **more)


def singles(labels: tuple[str, ...], names: tuple[str, ...] = ("image", "audio")) -> Comparison:
    return compare({label: run(i, 0.2 * i, names) for i, label in enumerate(labels)})


def hostile_groups() -> Comparison:
    """Names that would act stand in notes and in what is said of the tests."""
    many = {name: [run(seed, 0.1 * i, HOSTILE) for seed in range(4 + 3 * i)] for i, name in enumerate(HOSTILE[2:5])}
    return compare({HOSTILE[0]: run(1, 0, HOSTILE), **many}, only=["reliance.full_metric"], against=HOSTILE[3])


CASES = {
    "two": lambda: singles(("before", "after")),
    "three-groups": groups,
    "six": lambda: singles(tuple("abcdef")),
    "six-groups": lambda: groups(6, only=["reliance.full_*", "verdict"]),
    "tested": lambda: groups(only=["reliance.full_metric", "reliance.shapley"], against="method 2"),
    "hostile-groups": lambda: hostile_groups(),
    "six-long": lambda: singles(LONG, LONG),
    "six-hostile": lambda: singles(HOSTILE, HOSTILE),
    "nothing": lambda: compare({"a": nothing_measured(), "b": nothing_measured()}),
}


@pytest.fixture(scope="module", params=list(CASES))
def comparison(request: pytest.FixtureRequest) -> Comparison:
    return CASES[request.param]()


def terminal(found: Comparison, width: int = 80, color: bool = False) -> str:
    return write(found, "terminal", width=width, color=color)


def tables_of(found: Comparison) -> list[Table]:
    """The tables of values, of changes and of p-values."""
    document = document_of(found, Detail.GLANCE)
    return [b for s in document.sections for b in s.blocks if isinstance(b, Table)]


@pytest.mark.parametrize("width", [60, 80])
def test_terminal_keeps_to_its_width_and_prints_text_only(comparison: Comparison, width: int) -> None:
    text = terminal(comparison, width)
    assert not [line for line in text.splitlines() if cell_len(line) > width]
    assert all(c == "\n" or c.isprintable() for c in text)


def test_every_value_mark_and_name_is_in_every_format(comparison: Comparison) -> None:
    clear = cleaned_comparison(comparison)
    cells = [c for row in without_ties(clear).rows for c in row.cells]
    shown = [[c for row in t.rows for c in row[1:]] for t in tables_of(comparison)]
    values = [c for row in tables_of(comparison)[0].rows for c in row[1 : 1 + len(clear.columns)]]
    for cell, text in zip(cells, values, strict=True):
        assert (BEST in text.marks) == (text.runs[0].kind == "strong") == cell.best
        assert (DIFFERS in text.marks) == (cell.test is not None and cell.test.significant)
    texts = {
        "terminal": terminal(comparison),
        "md": "".join(t.content for t in _inline(write(comparison, "md"))),
        "html": read(write(comparison, "html")).text,
    }
    for name, text in texts.items():
        for cell in (c for table in shown for c in table):
            words = (plain((part,)) for part in cell.runs) if len(cell.runs) > 1 else (plain(cell.runs) + cell.marks,)
            assert all(word.strip() in text for word in words), name
    squeezed = {name: re.sub(r"\s+", "", text) for name, text in texts.items()}
    for name, text in squeezed.items():
        for column in clear.columns:
            assert re.sub(r"\s+", "", column.name) in text, name
        for note in clear.notes:
            assert re.sub(r"\s+", "", note) in text, name


def test_a_row_of_ties_has_no_best() -> None:
    found = compare({"a": run(1), "b": run(1)})
    assert any(cell.best for row in found.rows for cell in row.cells)
    assert not any(cell.best for row in without_ties(found).rows for cell in row.cells)
    for text in (terminal(found), write_screen(found, (), ())):
        assert f"{BEST}" not in text
    told = compare({"a": run(1), "b": run(1), "c": run(1, shift=1.0)})
    assert any(cell.best for row in without_ties(told).rows for cell in row.cells)


def _inline(text: str) -> list[Any]:
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    return [t for token in tokens for t in token.children or () if t.type != "html_inline"]


def test_columns_swap_in_every_format() -> None:
    one, other = run(1), run(2, 0.3)
    there, back = compare({"one": one, "two": other}), compare({"two": other, "one": one})
    for row, turned in zip(tables_of(there)[0].rows, tables_of(back)[0].rows, strict=True):
        assert (row[0], row[1:3]) == (turned[0], turned[2:0:-1])
    assert re.search(r"^number +one +two( +change)?$", terminal(there), re.M)
    assert re.search(r"^number +two +one( +change)?$", terminal(back), re.M)


def test_signs_are_explained_where_they_stand_and_only_there() -> None:
    tested, plain = groups(only=["reliance.full_*"]), singles(("a", "b"))
    for name in ("terminal", "md", "html"):

        def draw(found: Comparison, name: str = name) -> str:
            return html.unescape(write(found, name))

        assert "after Holm's correction" in draw(tested), name
        assert "16" not in "".join(plain.notes)
        assert DIFFERS in draw(tested), name
        assert DIFFERS not in draw(plain), name
        assert "Nothing is tested" in draw(plain), name
    assert f"{BEST} best of the row" in terminal(plain)
    assert f"{BEST} best" not in terminal(compare({"a": run(1), "b": run(2)}, only=["spectrum.*"]))
    assert f"{fmt(0.0078125 * 4)}{DIFFERS}" in terminal(tested)  # 2/2^8, four tests


def test_terminal_tells_verdicts_in_words_in_as_many_tables_as_it_takes() -> None:
    wide, narrow = terminal(CASES["two"]()), terminal(CASES["six"]())
    assert len(re.findall(r"✗ collapsed", wide)) >= 2
    per_table = [len(found) for line in narrow.splitlines() if (found := re.findall("✗ collapsed", line))]
    assert sum(per_table) % 6 == 0
    assert max(per_table) < 6


def test_long_names_get_letters_and_many_columns_more_tables() -> None:
    text = terminal(singles(LONG))
    for letter, name in zip("ABCDEF", LONG, strict=True):
        assert f"{letter} = {name}" in text
    columns = {f"a longer method {i}": [run(seed, 0.0001 * i) for seed in range(8)] for i in range(6)}
    heads = re.findall(r"^number +([A-F](?: +[A-F])*)$", terminal(compare(columns)), re.M)
    values, changes, tests = [list("ABC"), list("DEF")], [list("BCDEF")], [list("BCDEF")]
    assert [h.split() for h in heads] == [*values, *changes, *tests]
    narrow = re.findall(r"^number +([A-F](?: +[A-F])*)$", terminal(compare(columns), 40), re.M)
    assert [h.split() for h in narrow[:6]] == [[letter] for letter in "ABCDEF"]


def test_colour_is_asked_for_and_never_alone() -> None:
    found = singles(HOSTILE, HOSTILE)
    coloured = terminal(found, color=True)
    assert "\x1b[" in coloured
    assert not re.sub(r"\x1b\[[\d;]*m", "", coloured).count("\x1b")
    assert "\x1b" not in terminal(found)
    bare = re.sub(r"\x1b\[[\d;]*m", "", coloured)
    assert [line.rstrip() for line in bare.splitlines()] == terminal(found).splitlines()


@pytest.mark.parametrize("case", ["six-hostile", "hostile-groups"])
def test_names_are_text_wherever_they_are_shown(case: str) -> None:
    found = CASES[case]()
    md = write(found, "md")
    for text in (terminal(found), md, write(found, "json")):
        assert "##[" not in text
        assert not set(text) & set("\x00\x07\x1b\u202e\u2066\u200b\u2028")
    assert "::error" not in md + terminal(found)
    tokens = MarkdownIt("commonmark").enable("table").parse(md)
    inline = [t for token in tokens for t in token.children or ()]
    assert not {t.type for t in inline} & {"link_open", "image", "em_open", "s_open"}
    assert {t.content for t in inline if t.type == "html_inline"} <= {"<br>", "<code>", "</code>", "<!-- -->"}
    html = [t.content for t in tokens if t.type == "html_block"]
    assert all(re.fullmatch(r"(<details><summary>([^<>]|<!-- -->)*</summary>|</details>)\n*", block) for block in html)
    said = "".join(t.content for t in inline if t.type != "html_inline")
    for column in found.columns:
        assert clean(column.name) in said


def test_markdown_tables_are_well_formed(comparison: Comparison) -> None:
    for block in re.findall(r"(?:^\|.*\n)+", write(comparison, "md"), re.M):
        assert len({line.count("|") for line in block.splitlines()}) == 1


def test_page_is_balanced_and_inert(comparison: Comparison) -> None:
    text = write(comparison, "html")
    reader = read(text)
    assert not set(reader.tags) & ACTIVE
    assert not [a for a in reader.attributes if a[1].startswith("on") or a[1] in ("src", "srcset", "action")]
    links = [v for _, k, v in reader.attributes if k == "href"]
    ids = [v for _, k, v in reader.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert "default-src 'none'" in text
    assert text.index("Content-Security-Policy") < text.index("<style>")
    assert "<script" not in text
    assert write(comparison, "html") == text


def test_json_is_the_comparison(comparison: Comparison) -> None:
    text = write(comparison, "json")
    json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert Comparison.model_validate(json.loads(text)) == comparison


def test_every_field_of_the_json_and_every_direction_is_documented() -> None:
    page = (Path(__file__).parents[2] / "docs" / "compare.md").read_text(encoding="utf-8")
    layout = page[page.index("## JSON") :]
    for kind in (Comparison, Column, RunOf, Row, Cell, Test, Testing):
        for field in kind.model_fields:
            assert f"`{field}`" in layout, (kind.__name__, field)
    table = page[page.index("| number | better") : page.index("Ranks have no best")]
    registry.load_builtins()
    made = [*OF_VERDICT, *(m for probe in registry.PROBES if probe != "growing" for m in measures_of(probe))]
    for m in (m for m in made if m.better is not None):  # those of growing are curves
        rows = [line for line in table.splitlines() if f"| {m.better} |" in line]
        names = re.findall(r"`([^`]*)`", " ".join(rows))
        assert any(fnmatchcase(m.name, n) or m.name == f"utilisation.{n}" for n in names), m.name
    assert f"fewer than {MIN_PAIRS} pairs" in page
    assert f"up to {MAX_EXACT} pairs" in page
    assert f"p ≤ {ALPHA:g}" in page


def test_one_look_alike_name_is_numbered() -> None:
    found = compare({"a\x1b": run(1), "a\\x1b": run(2)})
    assert [c.name for c in cleaned_comparison(found).columns] == ["a\\x1b", "a\\x1b (2)"]


@st.composite
def reports(draw: st.DrawFn) -> Report:
    """A report with any numbers, few or no verdicts, and results of any name."""
    base = make_report(("a", "b"))
    names = draw(st.lists(st.sampled_from(["a", "b"]), unique=True))
    interval = st.tuples(NUMBER, NUMBER).map(sorted).map(tuple)
    verdicts = {
        m: ModalityVerdict(
            verdict=draw(st.sampled_from(["used", "collapsed", "inconclusive"])),
            score=draw(st.none() | NUMBER),
            interval=draw(st.none() | interval),
            costs_now=draw(st.none() | NUMBER),
            costs_if_missing=draw(st.dictionaries(st.sampled_from(["a", "b", "c"]), NUMBER, max_size=2)),
            reason="",
        )
        for m in names
    }
    results = []
    for name in draw(
        st.lists(st.sampled_from(["vif.mean", "vif.median", "score", "x", "reliance.full_metric"]), max_size=4)
    ):
        kind = draw(st.sampled_from(["value", "skipped", "curve"]))
        had: dict[str, Any] = {"skipped": "no"}
        if kind == "value":
            had = {"value": draw(NUMBER), "interval": draw(st.none() | interval)}
        elif kind == "curve":
            had = {"curve": Curve(x=(1.0,), y=(draw(NUMBER),), x_label="x", y_label="y")}
        modality = draw(st.sampled_from([None, "a", "c"]))
        results.append(Result(name=name, probe="p", modality=modality, definition="d", source="s", **had))
    seed = draw(st.sampled_from([None, 0, 1, 2, "x", 10**30]))
    kept = {} if seed is None else {"training_seed": seed}
    return base.model_copy(update={"modalities": verdicts, "results": tuple(results), "settings": kept})


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    pool=st.lists(reports(), min_size=1, max_size=3),
    columns=st.dictionaries(
        st.text(max_size=8), st.lists(st.integers(0, 2), min_size=1, max_size=7), min_size=2, max_size=3
    ),
    every=st.booleans(),
    width=st.integers(40, 120),
)
def test_whatever_reports_say_it_is_shown_or_refused_in_a_sentence(
    pool: list[Report], columns: dict[str, list[int]], every: bool, width: int
) -> None:
    try:
        found = compare({n: [pool[i % len(pool)] for i in runs] for n, runs in columns.items()}, every=every)
    except CollapsekitError as e:
        assert str(e).endswith(".")  # noqa: PT017
        return
    assert len(found.columns) == len(columns)
    for row in found.rows:
        for cell in row.cells:
            assert all(v is None or math.isfinite(v) for v in (cell.value, cell.sd))
    for name in formats_of("comparison"):
        text = write(found, name, width=width)
        shown = text.split("<body>")[-1]
        assert not re.findall(r"\b(?:nan|infinity)\b", shown, re.IGNORECASE) or "n" in "".join(columns).lower(), name
