"""What a notebook and a shell show of a report of any kind: one line, and the first screen."""

from __future__ import annotations

import ast
import re
import shlex
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from rich.pretty import pretty_repr
from sample_reports import HOSTILE, make_report, nothing_measured
from test_views import NAMES, few, sample

import collapsekit
from collapsekit.config.options import RepairOptions
from collapsekit.io.safe_text import clean
from collapsekit.render import files
from collapsekit.render.document import MARKS
from collapsekit.render.views._calls import recorded_calls
from collapsekit.render.views.baseline import Update
from collapsekit.report.base import Contract
from collapsekit.report.diagnosis import Judged, Report
from collapsekit.report.parts import Result

LONGEST = tuple(f"{'&<名' * 30}{i}" for i in range(30))
KINDS = pytest.mark.parametrize("kind", files("views"))
WHO = pytest.mark.parametrize("who", NAMES)
TAGS = {"div", "b", "span", "code", "p", "br", "ul", "li", "table", "thead", "tbody", "tr", "th", "td"}
MOST = 20_000  # bytes
WORDS = {"used", "underused", "collapsed", "inconclusive", "uninformative"}


class Page(HTMLParser):
    """Tags, attributes and text of a piece of HTML; every tag that opens closes."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.open: list[str] = []
        self.attributes: set[str] = set()
        self.text = ""
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


@KINDS
@WHO
def test_a_repr_is_one_line_with_nothing_that_acts(kind: str, who: str) -> None:
    report: Contract = sample(kind, who)
    line = repr(report)
    assert line == str(report) == f"{report}"
    assert len(line) <= 200
    assert line.isprintable()
    assert line.startswith(f"<{type(report).__name__}: ")
    assert "schema_version" not in line  # each kind has words of its own
    assert len(pretty_repr(report)) < 400


@KINDS
@WHO
def test_the_first_screen_is_small_whole_and_acts_in_nothing(kind: str, who: str) -> None:
    html = sample(kind, who)._repr_html_()
    page = Page(html)
    assert len(html.encode()) < MOST
    assert set(page.tags) <= TAGS
    assert page.attributes <= {"style", "class"}
    assert "url(" not in html
    assert html == sample(kind, who)._repr_html_()


@pytest.mark.parametrize("names", [HOSTILE, LONGEST], ids=["hostile", "longest"])
def test_no_name_makes_the_first_screen_long(names: tuple[str, ...]) -> None:
    report = few(names[:8])
    summary, warnings = "& " * 5000, make_report(("a",)).warnings
    loud = report.model_copy(update={"summary": summary, "warnings": warnings * 20})
    for each in (report, loud, loud.model_copy(update={"judged": Judged(extent="partly", missing=names)})):
        html = each._repr_html_()
        Page(html)
        assert len(html.encode()) < MOST
        assert len(repr(each)) <= 200


def test_many_modalities_with_much_to_say_are_counted_rather_than_shown() -> None:
    report = make_report(("image", "audio"))
    verdict = report.modalities["audio"].model_copy(update={"reason": "&" * 1000})
    names = tuple(f"{'&' * 60}{i}" for i in range(60))
    subject = report.subject.model_copy(update={"modalities": names})
    loud = report.model_copy(update={"subject": subject, "modalities": dict.fromkeys(names, verdict)})
    html = loud._repr_html_()
    assert len(html.encode()) < MOST
    assert re.search(r"and \d+ more", Page(html).text)
    assert "Next: " in html


def test_a_diagnosis_shows_its_headline_verdicts_reasons_and_what_is_next() -> None:
    report = make_report(("image", "audio"))
    text = Page(report._repr_html_()).text
    assert report.summary in text
    for name, verdict in report.modalities.items():
        assert name in text
        assert clean(verdict.reason, 400) in text
        assert f"{MARKS[verdict.verdict]} {verdict.verdict}" in text
    assert "Next: " in text
    assert 'report.save("report.html")' in text
    assert "<style" not in report._repr_html_()


def with_command(report: Report, command: object, **settings: object) -> Report:
    return report.model_copy(update={"settings": {**report.settings, "command": command, **settings}})


def calls_of(report: Report) -> dict[str, str]:
    """The calls that a first screen names as what is next, by their function."""
    shown = [call for _, call in recorded_calls(report) if call]
    text = Page(report._repr_html_()).text
    assert all(call in text for call in shown)
    return {call.partition("(")[0]: call for call in shown}


def read_call(call: str) -> tuple[list[str], dict[str, object]]:
    """Arguments of a call: names of the caller's own as they stand, other values as what they are."""
    tree = ast.parse(call, mode="eval").body
    assert isinstance(tree, ast.Call)
    keywords = {str(k.arg): ast.unparse(k.value) for k in tree.keywords}
    return [ast.unparse(a) for a in tree.args], {
        name: ast.literal_eval(text) if text[0] in "'\"[{0123456789" else text for name, text in keywords.items()
    }


def test_what_is_next_is_a_call_with_the_words_of_the_diagnosis() -> None:
    line = (
        "collapsekit diagnose 'my runs/c.pt' --config c.yaml --split val --seed 3 --profile full --device cpu --limit 9"
    )
    report = with_command(make_report(("image", "audio")), line)
    calls = calls_of(report)
    given, keywords = read_call(calls["collapsekit.repair"])
    assert given == ["'my runs/c.pt'"]
    method = keywords.pop("method")
    assert keywords == {"config": "c.yaml", "seed": 3, "profile": "full", "limit": 9, "output": "repaired"}
    assert RepairOptions.make(method=method, seed=3, profile="full", limit=9).method == method
    assert calls["collapsekit.gate"] == "collapsekit.gate(report)"
    assert "--" not in Page(report._repr_html_()).text.partition("Next: ")[2]  # no word of a shell


def test_a_report_that_no_command_can_make_names_what_the_caller_has() -> None:
    made = make_report(("image", "audio"))
    live = made.model_copy(
        update={
            "subject": made.subject.model_copy(update={"checkpoint": "live Fusion"}),
            "judged": Judged(extent="partly", missing=("profile quick trains no encoders",)),
        }
    )
    probes = {"reliance": {}, "utilisation": {}}
    live = with_command(live, None, profile="quick", seed=4, limit=None, probes=probes, config={"data": {"path": None}})
    calls = calls_of(live)
    given, keywords = read_call(calls["collapsekit.repair"])
    assert given == ["checkpoint"]
    assert keywords["config"] == "config"
    assert "model.factory" in live._repr_html_()
    assert calls["collapsekit.diagnose"] == "collapsekit.diagnose(model=model, config=config, seed=4, data=data)"
    elsewhere = with_command(
        made, None, config={"data": {"path": "d.npz"}}, limit=100, profile="standard", probes=probes
    )
    elsewhere = elsewhere.model_copy(update={"judged": Judged(extent="partly", missing=("few",))})
    assert calls_of(elsewhere)["collapsekit.diagnose"] == "collapsekit.diagnose(checkpoint, config=config)"


def test_the_gate_that_is_named_ends_as_is_said() -> None:
    rules = {"gate": {"require": ["verdict == healthy"], "allow_partial": True}}
    for config in ({}, rules):
        report = with_command(make_report(("image", "audio")), None, config=config)
        about, call = list(recorded_calls(report))[-1]
        result = eval(call, {"collapsekit": collapsekit, "report": report})
        assert f"exits with {result.exit_code}" in about
        assert ("allow_partial=" in call) == bool(config)


@pytest.mark.parametrize("path", ["x' + __import__('os').name + '", 'a"b', "c d\\", "$(id)", "a\nb"])
def test_words_of_a_strangers_command_stay_texts(path: str) -> None:
    line = shlex.join(["collapsekit", "diagnose", path, "--config", path, "--seed", path, "--device", "cuda"])
    for _, call in recorded_calls(with_command(make_report(("image", "audio")), line)):
        given, keywords = read_call(call)
        assert given == ["report"] or ast.literal_eval(given[0]) == path
        assert set(keywords) <= {"config", "seed", "device", "method", "output"}
        assert given == ["report"] or keywords["seed"] == path


def test_how_far_it_was_judged_is_said() -> None:
    report = make_report(("image", "audio"))
    partly = report.model_copy(update={"judged": Judged(extent="partly", missing=("raw inputs of image",))})
    assert "raw inputs of image" in Page(partly._repr_html_()).text
    assert "partly judged" in repr(partly)
    fully = report.model_copy(update={"judged": Judged(extent="fully")})
    assert "Judged fully." in Page(fully._repr_html_()).text
    assert "partly" not in repr(fully)


def test_a_report_of_nothing_is_shown_too() -> None:
    report = nothing_measured()
    Page(report._repr_html_())
    assert len(repr(report)) <= 200
    assert "plot(" not in report._repr_html_()  # there is nothing to draw


def test_the_worst_modality_stands_first_in_a_repr() -> None:
    report = make_report(tuple(f"view_{i}" for i in range(8)))
    first = repr(report).split("; ")[1].split(",")[0]
    assert first.split()[1] == min((v.verdict for v in report.modalities.values()), key=list(MARKS).index)


def test_methods_that_a_screen_names_are_there() -> None:
    report = make_report(("image", "audio"))
    calls = dict(re.findall(r"report\.(\w+)\((.*?)\)", Page(report._repr_html_()).text))
    assert calls == {"plot": '"reliance"', "to_frame": "", "save": '"report.html"'}
    assert all(callable(getattr(Report, name)) for name in calls)
    assert report.plot("reliance").axes


def test_results_and_curves_are_shown_in_a_line() -> None:
    report = make_report(HOSTILE)
    for r in report.results:
        line = repr(r)
        assert len(line) < 500
        assert line.isprintable()
        assert r.curve is None or len(repr(r.curve)) < 250
    nats = Result(name="p.a", probe="p", value=0.12345, interval=(0.1, 0.2), unit="nats", definition="d", source="s")
    assert repr(nats) == "<Result p.a: 0.1235 [0.1, 0.2] nats>"
    skipped = Result(name="p.a", probe="p", modality="image", skipped="no encoder", definition="d", source="s")
    assert repr(skipped) == "<Result p.a of image: skipped, no encoder>"


@KINDS
def test_dir_lists_fields_and_methods_and_nothing_of_pydantic(kind: str) -> None:
    report = sample(kind, "two")
    listed = {n for n in dir(report) if not n.startswith("_")}
    assert set(type(report).model_fields) <= listed
    assert {"save", "load", "to_json", "from_json", "contradictions"} <= listed
    assert not [n for n in listed if n.startswith("model_") or n in ("dict", "json", "copy", "parse_obj")]
    assert all(hasattr(report, n) for n in listed - set(type(report).model_fields))


def test_dir_of_a_diagnosis_lists_what_the_page_on_notebooks_names() -> None:
    assert {"find", "named", "names", "to_frame", "curves_to_frame", "plot", "save", "records"} <= set(
        dir(make_report(("a",)))
    )


def test_an_update_of_a_baseline_is_no_report() -> None:
    assert not issubclass(Update, Contract)


def test_a_report_is_read_without_what_shows_it() -> None:
    program = (
        "import sys, collapsekit; r = collapsekit.Report\n"
        "heavy = ('collapsekit.render', 'matplotlib', 'pandas', 'polars', 'IPython')\n"
        "print([m for m in sys.modules if m.startswith(heavy)])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.strip() == "[]"
