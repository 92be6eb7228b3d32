"""Reports of repairs: terminal, Markdown, HTML."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from markdown_it import MarkdownIt
from rich.cells import cell_len
from sample_repairs import make_repair
from sample_reports import HOSTILE, LONG
from test_render_html import ACTIVE, WITNESS, WRAPPER, read

from collapsekit.comparison.delta import judge, repair_delta
from collapsekit.comparison.standing import key_rows, standing
from collapsekit.measures import lookup
from collapsekit.render import document_of, formats_of, write
from collapsekit.render.document import TONES, Detail, Details, Table, plain
from collapsekit.render.figures import repair as drawings
from collapsekit.render.numbers import fmt_estimate, fmt_parts
from collapsekit.render.views._repair_tables import conditions, findings, verdict_table
from collapsekit.render.writers import html
from collapsekit.report.comparison import Better
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.names import cleaned_repair, modality_names, renamed_repair, repair_names, short_name
from collapsekit.report.repair import BasisInsert, ExchangeInsert, RepairReport

PLAIN = ("image", "audio")
NAMES = {"two": PLAIN, "four": ("image", "audio", "text", "depth"), "long": LONG, "hostile": HOSTILE}
TEXTS: dict[str, Callable[[RepairReport], str]] = {
    "md": lambda r: write(r, "md"),
    "html": lambda r: write(r, "html"),
    "terminal": lambda r: write(r, "terminal", width=80),
}


FIGURES = drawings.figures


@pytest.fixture
def drawn() -> None:
    """For tests that look at the page's figures, whose drawing takes longer than all the rest of it."""


@pytest.fixture(autouse=True)
def _figures_where_they_are_looked_at(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "drawn" not in request.fixturenames:
        monkeypatch.setattr(drawings, "figures", lambda *_: ())


def shown(who: str, kind: str, accepted: bool = True, control: bool = True) -> str:
    """A sample in one format, rendered once for all tests."""
    return _shown(who, kind, accepted, control, drawings.figures is FIGURES)


@cache
def _shown(who: str, kind: str, accepted: bool, control: bool, drawn: bool) -> str:
    return TEXTS[kind](make_repair(NAMES[who], accepted=accepted, control=control))


def seen(who: str, kind: str, accepted: bool = True, control: bool = True) -> str:
    """The words a reader sees in it, on one line."""
    return read_off(shown(who, kind, accepted, control), kind)


def words(report: RepairReport, kind: str) -> str:
    """The words a reader sees of a report, on one line."""
    return read_off(TEXTS[kind](report), kind)


@cache
def read_off(text: str, kind: str) -> str:
    if kind == "html":  # without what only leads to the rest, and explains it
        around = r'<nav class="contents".*?</nav>|<section id="glossary".*?</section>'
        return read(re.sub(around, "", text, flags=re.DOTALL)).text
    if kind == "md":
        return read(MarkdownIt("commonmark").enable("table").render(text)).text
    return " ".join(text.split())


def edited(report: Report, name: str, **changes: Any) -> Report:
    """``report`` with fields of all results of that name changed."""
    results = tuple(r.model_copy(update=changes) if r.name == name else r for r in report.results)
    return report.model_copy(update={"results": results})


def test_formats_by_name() -> None:
    report = make_repair()
    assert set(formats_of("repair")) >= {"json", "markdown", "html", "terminal"}
    assert RepairReport.from_json(write(report, "json")) == report
    for kind in ("md", "html"):
        assert write(report, kind) == shown("two", kind)
    assert write(report, "text", width=80, color=False) == shown("two", "terminal")


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("who", NAMES)
def test_every_modality_and_check_is_there(who: str, kind: str) -> None:
    report = cleaned_repair(make_repair(NAMES[who], accepted=False))
    text = seen(who, kind, False)
    squeezed = re.sub(r"\s", "", text)
    for name in report.after.modalities:
        assert re.sub(r"\s", "", name) in squeezed
    for check in report.checks:
        assert re.sub(r"\s", "", check.sentence) in squeezed
    assert text.count("✗ failed") == 1
    assert text.count("✓ passed") == 1


@pytest.mark.parametrize("kind", TEXTS)
def test_a_modality_that_is_at_most_underused_is_called_so(kind: str) -> None:
    report = make_repair()
    m = report.repaired[0]
    before = report.before.modalities[m].model_copy(update={"verdict": "inconclusive", "at_most": "underused"})
    states = {"modalities": {**report.before.modalities, m: before}}
    text = words(report.model_copy(update={"before": report.before.model_copy(update=states)}), kind)
    assert "at most underused" in text
    assert "at most underused" not in seen("two", kind)


@pytest.mark.parametrize("kind", ["md", "html"])
@pytest.mark.parametrize("who", ["two", "hostile"])
def test_every_common_result_is_there(who: str, kind: str) -> None:
    report = cleaned_repair(make_repair(NAMES[who]))
    text = seen(who, kind)
    assert report.control is not None
    common = 0
    for r in report.before.results:
        twins = [other.find(r.name, r.modality, r.versus) for other in (report.after, report.control)]
        if r.value is None or any(t is None or t.value is None for t in twins):
            continue
        common += 1
        estimates = [fmt_estimate(t.value, t.interval) for t in (r, *twins) if t is not None]
        of = f" of {r.modality}" if r.modality is not None else ""
        of += f" versus {r.versus}" if r.versus is not None else ""
        unit = "" if r.unit is None else f" {r.unit}" if kind == "html" else f" ({r.unit})"
        assert " ".join(f"{short_name(r)}{of}{unit}".split()) in text
        row = " ".join(" ".join(estimates).split())
        assert row in text or row in re.sub(r"(?<=\])(?=\d|-)", " ", text), r
    assert common > 40


def test_every_common_curve_is_there_with_sixteen_points_at_most() -> None:
    report, text = make_repair(), seen("two", "html")
    drawn = [r for r in report.before.results if (m := lookup(r.name)) is not None and m.side_by_side and r.curve]
    assert {r.probe for r in drawn} == {"reliance", "rank_sweep", "spectrum", "missing", "noise"}
    for r in drawn:
        twin = report.after.find(r.name, r.modality, r.versus)
        assert r.curve is not None
        assert twin is not None
        assert twin.curve is not None
        for i in (0, -1):
            ends = (twin.curve.lower[i], twin.curve.upper[i]) if twin.curve.lower and twin.curve.upper else None
            assert fmt_estimate(twin.curve.y[i], ends) in text
    tables = re.findall(r"<details>\s*<summary><code>(.*?)</details>", shown("two", "html"), re.DOTALL)
    assert len(tables) == len(drawn)
    assert max(t.count("<tr>") for t in tables) == 17  # 32 points of a spectrum, thinned, and the header


HEADS = {"md": r"# (. \w+): ", "html": r'<header.*?class="state \w+">(.*?)</p>', "terminal": r"(. \w+)  "}


@pytest.mark.parametrize("kind", TEXTS)
@pytest.mark.parametrize("accepted", [True, False])
def test_the_headline_says_the_decision(kind: str, accepted: bool) -> None:
    head = re.search(HEADS[kind], shown("two", kind, accepted), re.DOTALL)
    assert head is not None
    words = re.sub(r"<[^>]*>", "", head[1]).lower()
    assert words == ("✓ accepted" if accepted else "✗ rejected")
    assert ("rejected" in seen("two", kind, accepted).lower()) is not accepted


@pytest.mark.parametrize("kind", TEXTS)
def test_weights_written_all_the_same_are_named(kind: str) -> None:
    text = " ".join(TEXTS[kind](make_repair(accepted=False, exported=True)).split())
    assert "written all the same" in text
    assert "written all the same" not in seen("two", kind, False)


@pytest.mark.parametrize("kind", TEXTS)
def test_without_control_there_is_no_column_for_it(kind: str) -> None:
    assert "control" in seen("two", kind)
    assert re.search("No plain fine-tuning was run", seen("two", kind)) is None
    text = seen("two", kind, True, False)
    assert "control" not in text.lower()
    assert "No plain fine-tuning was run" in text


@pytest.mark.parametrize("kind", TEXTS)
def test_a_control_that_training_did_not_change_is_named(kind: str) -> None:
    said = "The control kept the weights from before training"
    report = make_repair()
    stayed = report.losses[-1].model_copy(update={"kept": 0})
    assert report.losses[-1].kept > 0
    assert said not in seen("two", kind)
    assert said in words(report.model_copy(update={"losses": (*report.losses[:-1], stayed)}), kind)
    # Without a control, the last stage is the method's own.
    alone = make_repair(control=False)
    assert said not in words(alone.model_copy(update={"losses": (stayed,)}), kind)


def test_wins_and_losses_are_shown_alike() -> None:
    """Exchanging after and control turns every better into a worse, and nothing else."""
    report = make_repair()
    assert report.control is not None
    turned = report.model_copy(update={"after": report.control, "control": report.after})
    one, other = standing(report, repair_delta(report))[1], standing(turned, repair_delta(turned))[1]
    counts = [re.findall(r"(\d+) better, (\d+) worse", line)[0] for line in (one, other)]
    assert counts[0] == counts[1][::-1]
    assert counts[0][0] != counts[0][1]
    assert "better in score of audio" in one
    assert "worse in score of audio" in other
    for kind, render in TEXTS.items():
        said = read_off(render(turned), kind)
        assert "Against plain fine-tuning: worse in score of audio" in said, kind
        # What is worse is also named, up to six.
        assert "(reliance.full_loss, reliance.full_metric, " in said, kind


def test_better_is_said_only_where_it_is_known() -> None:
    report = make_repair()
    found = repair_delta(report)
    judged = {p.before.name: p for pairs in found.values.values() for p in pairs if p.numbers.than_before}
    known = {name for name in (r.name for r in report.before.results) if _named(name)}
    assert set(judged) == known
    scores = [p for p in found.values["utilisation"] if p.before.name == "utilisation.score"]
    assert all(p.numbers.than_before for p in scores)  # of those that were not to be repaired, too
    assert {p.before.modality for p in scores} == {"image", "audio"}
    document = document_of(report, Detail.SUMMARY)
    parts = [
        b for s in document.sections if plain(s.title) == "All numbers" for b in s.blocks if isinstance(b, Details)
    ]
    tables = [b for part in parts for b in part.blocks if isinstance(b, Table)]
    changes = 0
    for table, row in ((t, row) for t in tables for row in t.rows):
        name = plain(row[0].runs).split(" of ")[0]
        words = {plain(runs).strip("~") for c in row for runs in (c.runs, c.aside)} & {"better", "worse", "the same"}
        assert not words or any(n.endswith(f".{name}") for n in known)
        heads = [c.head.text for c in table.columns]
        changes += "change" in heads and bool(row[heads.index("change")].aside)
    assert changes == sum(p.numbers.than_before is not None for pairs in found.values.values() for p in pairs)


def _named(name: str) -> bool:
    known = re.compile(
        r"reliance\.full_(metric|loss)|missing\.(patterns|rates)(_loss)?\..*|prefix_gap\.prefix_(metric|loss)"
        r"|utilisation\.(alone_metric|alone_gain|score|costs_now|costs_if_missing)|vif\.(mean|median|max)"
    )
    return known.fullmatch(name) is not None


@pytest.mark.parametrize(
    ("new", "old", "better", "said"),
    [
        ((0.8, None), (0.7, None), "higher", "better"),
        ((0.8, None), (0.7, None), "lower", "worse"),
        ((0.7, (0.6, 0.8)), (0.7, (0.6, 0.8)), "higher", "the same"),
        ((0.8, (0.74, 0.9)), (0.7, (0.6, 0.75)), "higher", "better (intervals overlap)"),
        ((0.6, (0.5, 0.74)), (0.8, (0.7, 0.9)), "higher", "worse (intervals overlap)"),
        ((0.8, (0.76, 0.9)), (0.7, (0.6, 0.75)), "higher", "better"),
        ((0.6, (0.5, 0.65)), (0.8, (0.7, 0.9)), "higher", "worse"),
        ((0.8, (0.6, 0.9)), (0.7, None), "higher", "better (intervals overlap)"),
    ],
)
def test_judgement(new: Any, old: Any, better: Better, said: str) -> None:
    assert str(judge(new, old, better)) == said
    assert judge(new, old, None) is None
    assert judge(None, old, better) is None


@pytest.mark.parametrize("field", ["definition", "source"])
@pytest.mark.parametrize("part", ["after", "control"])
def test_what_is_defined_otherwise_is_left_out_with_the_reason(part: str, field: str) -> None:
    report = make_repair()
    other = edited(getattr(report, part), "vif.mean", **{field: "Something else."}, value=770077.0)
    report = report.model_copy(update={part: other})
    comparison = repair_delta(report)
    assert [n for reason, n in comparison.left.items() if field in reason] == [("vif.mean",)]
    pairs = [p for p in comparison.values["vif"] if p.before.name == "vif.mean"]
    assert len(pairs) == (part == "control")
    assert all(p.control is None for p in pairs)
    for kind in ("md", "html"):
        text = TEXTS[kind](report)
        assert "770077" not in text
        assert f"the {field}" in text


def test_what_was_not_measured_is_said() -> None:
    report = make_repair()
    gone = edited(report.after, "vif.max", value=None, interval=None, skipped="all columns were constant")
    report = report.model_copy(update={"after": gone})
    assert repair_delta(report).left["not measured after: all columns were constant"] == ("vif.max",)
    less = tuple(r for r in report.before.results if r.name != "vif.median")
    report = report.model_copy(update={"before": report.before.model_copy(update={"results": less})})
    assert repair_delta(report).left["not in the report before"] == ("vif.median",)
    for kind in ("md", "html"):
        text = TEXTS[kind](report)
        assert "all columns were constant" in text
        assert "vif.median" in text


@pytest.mark.parametrize("part", ["after", "control"])
def test_other_examples_are_not_judged(part: str) -> None:
    report = make_repair()
    inner = getattr(report, part)
    few = inner.model_copy(update={"subject": inner.subject.model_copy(update={"examples": 900})})
    report = report.model_copy(update={part: few})
    numbers = [row.numbers for row in key_rows(report, repair_delta(report))]
    assert all(n.than_control is None for n in numbers)
    assert all((n.than_before is None) is (part == "after") for n in numbers)
    for kind in TEXTS:
        assert "900 against 1000" in " ".join(TEXTS[kind](report).split()).replace(
            "1000 against 900", "900 against 1000"
        )


@pytest.mark.parametrize("who", NAMES)
@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("control", [True, False])
def test_terminal_keeps_to_its_width(who: str, width: int, control: bool) -> None:
    text = write(make_repair(NAMES[who], control=control), "terminal", width=width)
    assert not [line for line in text.splitlines() if cell_len(line) > width]
    assert all(c == "\n" or c.isprintable() for c in text)


def test_terminal_shows_the_numbers_that_matter_in_line_at_80_columns() -> None:
    text = shown("two", "terminal")
    report = make_repair()
    rows = key_rows(report, repair_delta(report))
    assert [row.label for row in rows] == ["score of audio", "task loss", "accuracy"]
    for row in rows:
        line = next(line for line in text.splitlines() if line.startswith(f"{row.label} "))
        n = row.numbers
        assert n.before is not None
        assert n.after is not None
        assert n.control is not None
        numbers = re.sub(r"^ *\(.*?\)", "", line.removeprefix(row.label)).split()  # a unit may stand beside the name
        assert numbers[:3] == [fmt_parts(*e)[0] for e in (n.before, n.after, n.control)]
        assert line.split()[-1] in ("better", "~better")  # nothing is cut off at the end
    for label in ("drop of image", "drop of audio", "rates.zeros", "rates.neighbour", "feature of image"):
        assert re.search(rf"^{label} .*\d", text, re.MULTILINE)
    assert text.count("held-out loss") == len(report.losses)


def test_methods_keep_their_names_where_they_differ() -> None:
    for report in (make_repair(), make_repair(losses=())):  # however often each is named
        assert cleaned_repair(report).method == report.method
        assert set(cleaned_repair(report).definitions) == set(report.definitions)


def test_numbers_as_long_as_they_get_are_not_cut_off() -> None:
    raw = json.loads(make_repair().to_json())
    for part in ("before", "after", "control"):
        for result in raw[part]["results"]:
            if result["value"] is not None and result["interval"] is not None:
                result |= {"value": 0.01234, "interval": [-0.01234, 0.03456]}
    report = RepairReport.model_validate(raw)
    for line in write(report, "terminal", width=80).splitlines():
        assert not re.search(r"~?(bet|bett|bette|wor|wors|~w|~b|~wo|~be)$", line), line


def test_terminal_colour_is_asked_for() -> None:
    assert "\x1b" not in shown("hostile", "terminal")
    coloured = write(make_repair(HOSTILE), "terminal", width=80, color=True)
    assert "\x1b[" in coloured
    assert not re.sub(r"\x1b\[[\d;]*m", "", coloured).count("\x1b")


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("kind", TEXTS)
def test_hostile_names_do_not_act(kind: str) -> None:
    text = shown("hostile", kind, False)
    assert "::error" not in text
    assert "##[" not in text
    assert "<script" not in text or kind != "html"
    for bad in "\x1b\x07\x00\u202e\u2066\u200b\u2028":
        assert bad not in text


FIXED = {"kind", "verdict", "extent"}
KEYED = {"modalities", "costs_if_missing", "definitions", "settings", "environment"}


def marked(value: Any, mark: str, key: str = "") -> Any:
    """``value`` with ``mark`` at the end of every string in it that a report may hold freely, keys too."""
    if isinstance(value, str):
        return value if key in FIXED else value + mark
    if isinstance(value, dict):
        free = key in KEYED
        return {k + mark * free: marked(v, mark, "" if free else k) for k, v in value.items()}
    return tuple(marked(v, mark, key) for v in value) if isinstance(value, list | tuple) else value


@pytest.mark.parametrize("kind", TEXTS)
def test_every_string_is_cleaned_and_escaped(kind: str) -> None:
    bad = "\x1b]0;x\x07\u202e<script>x</script><img src=x> *x* [x](http://evil.example)"
    report = RepairReport.model_validate(marked(make_repair(accepted=False).model_dump(), bad))
    text = TEXTS[kind](report)
    assert not set(text) & set("\x1b\x07\u202e")
    assert text.count("\\x1b") > 10
    if kind == "html":
        assert not set(read(text).tags) & ACTIVE
    if kind == "md":
        _nothing_but_ours(text)


def test_names_that_look_alike_stay_apart_in_all_reports() -> None:
    names = ("a\x1b", "a\\x1b", "b" * 90, "b" * 91)
    report = cleaned_repair(make_repair(names))
    assert report.control is not None
    own = repair_names(report)
    assert len(set(own)) == 4
    for inner in (report.before, report.after, report.control):
        assert modality_names(inner) == own
        assert list(inner.modalities) == own
    assert report.repaired == (own[3],)
    assert report.checks[1].name == f"score.{own[3]}"
    assert cleaned_repair(report) == report


def test_an_ordinary_report_is_left_as_it_is() -> None:
    for names in (PLAIN, LONG):
        assert cleaned_repair(make_repair(names)) == make_repair(names)


def test_methods_that_look_alike_stay_apart() -> None:
    report = make_repair(method=("m\x1b", "m\\x1b"), definitions={"m\x1b": "one", "m\\x1b": "two"})
    assert list(cleaned_repair(report).definitions.values()) == ["one", "two"]
    assert set(cleaned_repair(report).definitions) == set(cleaned_repair(report).method)


# ---- what methods noted down, and what they put in


SHOWN = [(who, kind) for who in NAMES for kind in TEXTS if kind != "terminal" or who in ("two", "four")]


@pytest.mark.parametrize(("who", "kind"), SHOWN)
def test_what_a_method_noted_is_there(who: str, kind: str) -> None:
    """Value, interval, unit and note of each; in what is no terminal, its definition and source, too."""
    report = cleaned_repair(make_repair(NAMES[who]))
    text = squeezed(seen(who, kind))
    assert text.count("Notedbythemethod") == 1
    for r in report.findings:
        of = (f" of {r.modality}" if r.modality else "") + (f" versus {r.versus}" if r.versus else "")
        assert squeezed(f"{r.name}{of}") in text or squeezed(f"{short_name(r)}{of}") in text
        assert squeezed(r.skipped or r.note or "") in text
        if r.value is not None:
            assert squeezed(fmt_estimate(r.value, r.interval)) in text
        if kind != "terminal":
            parts = f"{r.name}:{r.definition}({r.source})" if kind == "md" else f"{r.name}{r.definition}{r.source}"
            assert squeezed(parts) in text
            assert r.unit is None or r.unit in text
    assert len(report.findings) == len(NAMES[who]) + 2


def noted_as(report: RepairReport, title: str) -> list[str]:
    """The lines of one of the lists of what is new, was noted or put in."""
    return [plain(runs) for name, _, found in findings(report) if name == title for runs in found.lines]


def squeezed(text: str) -> str:
    return re.sub(r"\s", "", text)


@pytest.mark.parametrize(("who", "kind"), SHOWN)
def test_what_was_put_into_the_model_is_there(who: str, kind: str) -> None:
    report = cleaned_repair(make_repair(NAMES[who]))
    text = squeezed(seen(who, kind))
    assert text.count("Putintothemodel") == 1
    names = list(report.before.modalities)
    for i, (name, record) in enumerate(zip(names, report.structure, strict=False)):
        width = 17 + i
        said = f"heads h and h⁻¹ of {name}: {width} → 81 → 40 → 81 → {width} channels"
        assert squeezed(record.path) in text
        assert squeezed(said) in text
    width = 16 + len(names)
    said = f"3 of the {width} channels of {names[-1]} blended with {names[0]}'s, by a projection from 17"
    assert squeezed(said) in text
    assert len(noted_as(report, "Put into the model")) == len(names) + 1


@pytest.mark.parametrize("who", ["long", "hostile"])
def test_long_names_in_a_terminal_are_shortened_in_what_was_noted_and_put_in(who: str) -> None:
    text, count = squeezed(seen(who, "terminal")), len(NAMES[who])
    assert text.count("substitution.similarityof") + text.count("·similarityof") == count
    assert text.count("headshandh⁻¹of") == count
    for i in range(count):
        assert f"{17 + i}→81→40→81→{17 + i}channels" in text
        assert squeezed(f"in its place *stands* <{i}>") in text


@pytest.mark.parametrize("kind", TEXTS)
def test_where_nothing_was_noted_or_put_in_nothing_is_said_of_it(kind: str) -> None:
    for changes, there in (({"findings": ()}, (False, True)), ({"structure": ()}, (True, False))):
        text = TEXTS[kind](make_repair(**changes))
        assert ("Noted by the method" in text, "Put into the model" in text) == there
    bare = make_repair(findings=(), structure=())
    assert list(findings(bare)) == []


def test_a_blend_of_channels_as_wide_is_without_a_projection() -> None:
    record = {"modality": "audio", "path": "a", "features": 9, "giver": "image", "to": (2,), "source": (4,)}
    report = make_repair(structure=(ExchangeInsert(**record, given=9, blend=0.1),))
    assert noted_as(report, "Put into the model") == ["a: 1 of the 9 channels of audio blended with image's"]


def test_findings_and_structure_are_renamed_with_the_rest() -> None:
    """As if the report had been made under the other names, but for the sentences, settings and paths."""
    names = {"image": "sight", "audio": "image"}
    report = make_repair()
    assert set(names) == set(repair_names(report))
    found, expected = renamed_repair(report, names), make_repair(("sight", "image"))
    assert found.findings == expected.findings
    paths = [r.path for r in report.structure]
    kept = [r.model_copy(update={"path": p}) for r, p in zip(expected.structure, paths, strict=True)]
    assert found.structure == tuple(kept)
    assert found.before.modalities == expected.before.modalities
    back = renamed_repair(found, {new: old for old, new in names.items()})
    assert (back.findings, back.structure) == (report.findings, report.structure)
    assert renamed_repair(report, dict(zip(names, names, strict=True))) == report


def test_names_that_only_findings_or_structure_know_are_names() -> None:
    one = make_repair().findings[0].model_copy(update={"modality": "x\x1b", "versus": "x\\x1b"})
    record = make_repair().structure[-1].model_copy(update={"modality": "y" * 90, "giver": "y" * 91})
    report = make_repair(findings=(one,), structure=(record,))
    assert repair_names(report) == ["image", "audio", "x\x1b", "x\\x1b", "y" * 90, "y" * 91]
    clean = cleaned_repair(report)
    assert len(set(repair_names(clean))) == 6
    assert clean.findings[0].modality != clean.findings[0].versus
    assert isinstance(clean.structure[0], ExchangeInsert)
    assert clean.structure[0].modality != clean.structure[0].giver
    assert cleaned_repair(clean) == clean
    given = dict(zip(repair_names(report), "abcdef", strict=True))
    assert repair_names(renamed_repair(report, given)) == list("abcdef")


@pytest.mark.parametrize("kind", TEXTS)
def test_encoders_that_look_alike_stay_apart(kind: str) -> None:
    """Else the cleaned report would name one encoder twice, and be none."""
    widths = {"features": 3, "latent": 3, "hidden": 6}
    for paths in (("a\x1b", "a\\x1b"), ("a\u202e", "a\\u202e"), ("p" * 9000, "p" * 9001)):
        records = [BasisInsert(modality=m, path=p, **widths) for m, p in zip(PLAIN, paths, strict=True)]
        report = make_repair(structure=tuple(records))
        shown_ = [r.path for r in cleaned_repair(report).structure]
        assert len(set(shown_)) == 2
        assert not set("".join(shown_)) & set("\x1b\u202e")
        text = TEXTS[kind](report)
        assert not set(text) & set("\x1b\u202e")
        assert cleaned_repair(cleaned_repair(report)) == cleaned_repair(report)


@pytest.mark.parametrize("kind", ["md", "terminal"])
def test_swapping_two_names_swaps_nothing_else(kind: str) -> None:
    one, other = (TEXTS[kind](make_repair(names)) for names in (("image", "audio"), ("audio", "image")))
    swapped = re.sub("image|audio", lambda m: "audio" if m[0] == "image" else "image", other)
    assert one == swapped
    assert one != other


def test_verdicts_are_those_of_each_report() -> None:
    report = make_repair()
    assert report.control is not None
    for row in verdict_table(report).rows:
        for cell, inner in zip(row[1:], (report.before, report.after, report.control), strict=True):
            v = inner.modalities[plain(row[0].runs)]
            assert v.verdict in plain(cell.runs)
            assert plain(cell.aside) == fmt_estimate(v.score, v.interval)


def test_swapping_two_modalities_swaps_their_rows() -> None:
    """Verdicts given to the other modality are shown in the other row."""
    report = make_repair()
    rows = {plain(row[0].runs): row[1:] for row in verdict_table(report).rows}
    inner = {}
    for part in ("before", "after", "control"):
        old = getattr(report, part)
        verdicts = {"image": old.modalities["audio"], "audio": old.modalities["image"]}
        inner[part] = old.model_copy(update={"modalities": verdicts})
    swapped = verdict_table(report.model_copy(update=inner))
    turned = {plain(row[0].runs): row[1:] for row in swapped.rows}
    assert rows["image"] != rows["audio"]
    assert (turned["image"], turned["audio"]) == (rows["audio"], rows["image"])


@pytest.mark.slow
@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("kind", TEXTS)
def test_same_report_same_bytes(kind: str) -> None:
    assert TEXTS[kind](make_repair()) == shown("two", kind)


def test_markdown_tables_are_well_formed_and_names_are_text() -> None:
    text = shown("hostile", "md")
    for block in re.findall(r"(?:^\|.*\n)+", text, re.MULTILINE):
        assert len({line.count("|") for line in block.splitlines()}) == 1
    _nothing_but_ours(text)


def _nothing_but_ours(text: str) -> None:
    """No markup in Markdown but what the renderer writes itself."""
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    inline = [t for token in tokens for t in token.children or ()]
    assert not {t.type for t in inline} & {"link_open", "image", "em_open", "s_open"}
    assert {t.content for t in inline if t.type == "html_inline"} <= {"<br>", "<code>", "</code>", "<!-- -->"}
    blocks = [t.content for t in tokens if t.type == "html_block"]
    assert all(
        re.fullmatch(r"(<details><summary>([^<>]|<!-- -->)*</summary>|</details>)\n*", block) for block in blocks
    )


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize(("who", "accepted"), [("two", True), ("hostile", False)])
def test_page_is_balanced_and_inert(who: str, accepted: bool) -> None:
    text = shown(who, "html", accepted)
    reader = read(text)
    assert not set(reader.tags) & ACTIVE
    assert not [a for a in reader.attributes if a[1].startswith("on") or a[1] in ("src", "srcset", "action")]
    assert all(v.startswith("#") for _, k, v in reader.attributes if k in ("href", "xlink:href"))
    assert "url(" not in re.sub(r"url\(#[\w-]+\)", "", text)
    ids = [v for _, k, v in reader.attributes if k == "id"]
    assert len(ids) == len(set(ids))
    links = {v[1:] for _, k, v in reader.attributes if k == "href"} | set(re.findall(r"url\(#([\w-]+)\)", text))
    assert links <= set(ids)


def test_page_has_the_policy_of_the_diagnosis() -> None:
    found = [re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', t) for t in _both_pages()]
    assert found[0] == found[1]
    assert len(found[0]) == 1
    assert "default-src 'none'" in found[0][0]
    sheets = [re.findall(r"<style>(.*?)</style>", t, re.DOTALL) for t in _both_pages()]
    assert sheets[0] == sheets[1]
    text = shown("two", "html")
    assert text.index("Content-Security-Policy") < text.index("<style>")


@cache
def _both_pages() -> tuple[str, str]:
    report = make_repair().before
    few = report.model_copy(update={"results": tuple(r for r in report.results if r.probe == "calibration")})
    return write(few, "html"), shown("two", "html")


def test_each_meter_has_the_colour_of_its_own_verdict() -> None:
    """A card has the colour of one verdict and shows others, so the style sheet colours meters by their own class only."""
    report = make_repair()
    order = [
        r.modalities[m].verdict for m in PLAIN for r in (report.before, report.after, report.control) if r is not None
    ]
    assert re.findall(r'<div class="meter (\w+)"', shown("two", "html")) == [TONES[verdict] for verdict in order]
    assert len(set(order)) == 3
    css = (Path(html.__file__).parent / "style.css").read_text(encoding="utf-8")
    rules = [rule.strip() for rule in re.findall(r"[^{}]+(?={)", css) if re.search(r"\.(band|tick)\b", rule)]
    assert [rule for rule in rules if ".meter." not in rule] == [".band", ".tick"]


@pytest.mark.usefixtures("drawn")
def test_figures_of_losses_and_curves_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    reader = read(shown("two", "html"))
    labels = [v for tag, k, v in reader.attributes if tag == "svg" and k == "aria-label"]
    assert len(labels) == reader.tags.count("svg")
    for word in ("Losses of each stage", "Numerical rank", "Task metric as a modality", "noise", "go missing"):
        assert any(word in label for label in labels)
    # All lines of a panel have a key; without control there is none for it.
    rank = "Numerical rank"
    monkeypatch.setattr(drawings, "figures", lambda *given: [f for f in FIGURES(*given) if f[1].startswith(rank)])
    text = TEXTS["html"](make_repair(control=False))
    svg = re.search(rf'<svg[^>]*aria-label="{rank}[^>]*>.*?</svg>', text, re.DOTALL)
    assert svg is not None
    assert "after" in svg[0]
    assert "control" not in svg[0]


def test_checks_grid_and_numbers_say_what_the_report_says() -> None:
    report = make_repair(accepted=False)
    found = conditions(report)
    assert [mark.kind for mark in found.marks] == ["failed", "passed"]
    differences = [re.search(r"difference (\S+)", plain(runs)) for runs in found.lines]
    assert [m and m[1] for m in differences] == ["-0.10", "-0.60"]
    kept = [(c.kept, max(c.epochs)) for c in report.losses]
    for kind in TEXTS:
        assert any(epoch < last for epoch, last in kept)
        for epoch, last in kept:
            assert f"epoch {epoch} of {last}" in seen("two", kind, False)


def test_a_repair_without_anything_measured_is_shown() -> None:
    report = make_repair(checks=(), losses=(), control=None)
    bare = report.before.model_copy(update={"results": (), "modalities": {}})
    report = report.model_copy(update={"before": bare, "after": bare})
    for kind, render in TEXTS.items():
        text = " ".join(re.sub(r"<[^>]*>", "", render(report)).split())
        assert "No condition of acceptance was checked" in text, kind
        assert "not known for score of audio" in text, kind


def _tall(r: Result) -> Result:
    assert r.curve is not None
    return r.model_copy(update={"curve": r.curve.model_copy(update={"y": (1.7e308,) * len(r.curve.y)})})


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("kind", TEXTS)
def test_numbers_at_the_ends_of_their_range_are_shown(kind: str) -> None:
    report = make_repair()
    big = [
        r.model_copy(update={"value": v, "interval": (-1.7e308, 1.7e308)}) if r.value is not None else r
        for v, r in zip([1.7e308, -1.7e308, 5e-324] * 99, report.after.results, strict=False)
    ]
    big = [_tall(r) if r.curve is not None else r for r in big]
    curve = report.losses[0]
    hurt = curve.model_copy(update={"held": (1.7e308,) * len(curve.held)})
    changed = report.model_copy(
        update={"after": report.after.model_copy(update={"results": tuple(big)}), "losses": (hurt, *report.losses[1:])}
    )
    text = TEXTS[kind](RepairReport.model_validate_json(changed.to_json()))
    assert "1.70×10³⁰⁸" in text
    assert not re.findall(r"\b(?:nan|inf|infinity)\b", text, re.IGNORECASE)


def _browse(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if binary is None:
        pytest.skip("no Chromium on the path: the page's layout was not checked")
    flags = ("--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking")
    more = ("--hide-scrollbars", "--allow-file-access-from-files", f"--user-data-dir={folder / 'profile'}")
    return subprocess.run([binary, *flags, *more, *arguments], capture_output=True, text=True, timeout=120, check=True)


@pytest.mark.usefixtures("drawn")
@pytest.mark.parametrize("who", [pytest.param("two", marks=pytest.mark.slow), "hostile"])
def test_in_a_browser_nothing_is_blocked_and_nothing_scrolls_sideways(who: str, tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text(shown(who, "html", False), encoding="utf-8")
    widths = (1280, 360)
    frames = "".join(f'<iframe src="report.html" style="width:{w}px;height:900px;border:0"></iframe>' for w in widths)
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(WRAPPER.format(frames=frames), encoding="utf-8")
    dom = _browse(tmp_path, "--virtual-time-budget=10000", "--dump-dom", wrapper.as_uri()).stdout
    measured = re.findall(r"(\d+):(\d+):(\d+);", dom)
    assert [int(m[0]) for m in measured] == list(widths)
    assert all(int(m[1]) <= int(m[0]) and int(m[2]) <= int(m[0]) for m in measured)
    (tmp_path / "witness.html").write_text(WITNESS, encoding="utf-8")
    address = (tmp_path / "witness.html").as_uri()
    done = _browse(tmp_path, "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom", address)
    assert "block|visible|1" in done.stdout  # the page's heading is styled by our own sheet, and seen
    assert not [line for line in done.stderr.splitlines() if "Content Security Policy" in line]


@pytest.mark.parametrize("kind", TEXTS)
def test_what_only_the_repaired_model_can_is_shown_apart(kind: str) -> None:
    """Numbers without a counterpart before; not what was skipped then, nor what has no value."""
    bare = make_repair()
    about = {"probe": "missing", "definition": "What <only> it can.", "source": "A source of its own"}
    new = Result(name="missing.rates.substitution", value=0.8125, interval=(0.75, 0.875), note="a caveat", **about)
    void = Result(name="missing.rates_loss.substitution", skipped="no reason", **about)
    after = bare.after.model_copy(update={"results": (*bare.after.results, new, void)})
    text = squeezed(words(RepairReport.model_validate(bare.model_dump() | {"after": after.model_dump()}), kind))
    assert text.count("Newwiththerepair") == 1
    assert "Newwiththerepair" not in squeezed(words(bare, kind))
    at = text[text.index("Newwiththerepair") :]
    assert at.index("missing.rates.substitution") < at.index("0.81[0.75,0.88]") < at.index("acaveat")
    assert "missing.rates_loss.substitution" not in at[: at.index("acaveat")]
    if kind != "terminal":
        assert "Asourceofitsown" in text
