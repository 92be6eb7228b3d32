"""A quantity is declared once, where it is made, and all who show or compare results read it there."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from collapsekit import registry
from collapsekit.comparison.compare import compare
from collapsekit.errors import ConfigError
from collapsekit.measures import LOSS, METRIC, Finding, Measure, Panel, Picture, headings, lookup, measures_of
from collapsekit.measures.catalogue import DECLARED, declare, heading_of, index
from collapsekit.measures.declarations import FACTS, read_declarations
from collapsekit.measures.of_verdict import OF_VERDICT
from collapsekit.render.figures.diagnosis import CAPTIONS
from collapsekit.render.figures.repair import DRAWN
from collapsekit.render.views._results import by_probe
from collapsekit.report.diagnosis import Report, Result
from collapsekit.tasks.classification import Classification
from tests.problems import Problem

registry.load_builtins()
FILES = {name.rpartition(".")[2]: name for name in registry.modules_of("collapsekit.probes")}
PROBES = sorted(n for n, s in registry.PROBES.items() if s.run.__module__.startswith("collapsekit.probes."))
MADE = [m for probe in PROBES for m in measures_of(probe)]

TOY = """
from collapsekit import probe
from collapsekit.measures import Measure, declare

COUNT = declare(Measure("toy.count", definition="how many, times {times}", source="counting", unit="examples",
                        better="higher", why="more is more", headline="whole"))
OTHER = declare(Measure("toy.other", definition="another", source="counting"))

@probe("toy", title="Toys", place=55, summary="s", definition="d", source="s", cannot="c")
def run(adapter, features, *, settings):
    yield COUNT.fill(times=2).result(2.0 * len(features), note="it counts")
    yield OTHER.skipped("there is no other.")
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PROBES", dict(registry.PROBES))
    monkeypatch.setattr(DECLARED, "measures", dict(DECLARED.measures))
    monkeypatch.setattr(registry, "PROBES", dict(registry.PROBES))


def plugin(folder: Path, text: str = TOY) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "toy.py").write_text(text)
    return folder / "toy.py"


# -- what is declared ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("probe", PROBES)
def test_a_file_read_as_text_says_what_it_says_when_it_is_imported(probe: str) -> None:
    """So that a process without torch judges, orders and heads results as one with it."""
    read, head = read_declarations(inspect.getsource(sys.modules[FILES[probe]]))
    assert head == heading_of(probe)
    assert head.title != probe
    assert [m.name for m in read] == [m.name for m in measures_of(probe)]
    for text, made in zip(read, measures_of(probe), strict=True):
        assert {f: getattr(text, f) for f in FACTS} == {f: getattr(made, f) for f in FACTS}, made.name


def test_a_name_has_one_measure_and_one_direction() -> None:
    names = [m.name for m in (*MADE, *OF_VERDICT)]
    assert len(set(names)) == len(names) > 80
    for made in MADE:
        assert lookup(made.name) is made
        assert [m.name for m in MADE if m.names(made.name)] == [made.name]
    assert {m.probe for m in MADE} == set(PROBES)
    assert set(FACTS) | {"name", "definition", "source", "unit", "bounds"} == {f.name for f in fields(Measure)}


def test_quantities_that_are_the_same_have_the_same_direction() -> None:
    """Loss and metric of the model or of its features; costs and scores, in the verdict as in the results."""
    for made in OF_VERDICT[1:]:
        twin = lookup(f"utilisation.{made.name}")
        assert twin is not None
        assert twin.better == made.better == "lower"
    judged = [m for m in MADE if m.better is not None]
    assert {m.better for m in judged if m.unit == METRIC and "costs" not in m.name} == {"higher"}
    assert {m.better for m in judged if m.unit == LOSS and m.name != "utilisation.alone_gain"} == {"lower"}
    assert {m.better for m in MADE if m.unit == "dimensions"} == {None}  # a gain in rank is no gain in the task
    assert {m.better for m in MADE if m.probe == "noise" or "shapley" in m.name} == {None}


def test_sections_stand_as_they_are_placed() -> None:
    order = [h.probe for h in headings(["own", *PROBES, "another"])]
    assert order[:4] == ["reliance", "utilisation", "controls", "prefix_gap"]
    assert order[-3:] == ["growing", "own", "another"]
    assert heading_of("own").title == "own"
    assert index("reliance.full_loss") < index("reliance.shapley") < index("vif.mean") < index("own.number")
    assert len({heading_of(p).place for p in PROBES}) == len({heading_of(p).title for p in PROBES}) == len(PROBES)


def test_what_is_drawn_says_how() -> None:
    drawn = [lookup(name) for name in (*(explained for _, explained in CAPTIONS.values()), *DRAWN)]
    assert all(m is not None and m.figure is not None for m in drawn)
    assert all(m is not None and m.title is not None for m in map(lookup, DRAWN))
    assert not {m.figure for m in MADE if m.side_by_side} & {"profile", "matrix"}  # whose order is each report's own


def test_every_probe_declares_a_picture_of_its_own_measures() -> None:
    names = [p.name for probe in PROBES for p in heading_of(probe).pictures]
    assert len(set(names)) == len(names) >= len(PROBES)
    for probe in PROBES:
        own = {m.name: m for m in measures_of(probe)}
        for picture in heading_of(probe).pictures:
            assert picture.explains in own, picture.name
            for panel in picture.panels:
                for name in (*panel.series.values(), *panel.guides, *filter(None, [panel.unless])):
                    assert name in own, name
                assert own[next(iter(panel.series.values()))].figure is not None, panel.label
            for finding in picture.findings:
                assert {finding.of, finding.other} - {""} <= own.keys(), finding
        assert heading_of(probe).pictures, f"{probe} declares no picture"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Panel("label", {}), "panel 'label' shows no measure: give `series`"),
        (lambda: Picture("../up", "t", (Panel("l", {"": "p.a"}),)), "picture '../up' cannot be a file's name"),
        (lambda: Picture("none", "t", ()), "picture 'none' has no panel"),
        (lambda: Panel("l", {"": "p.a"}, by="other"), "panel 'l' has lines by 'other', expected modality or versus"),
        (lambda: Finding("mots", "p.a", {}), r"asks 'mots': use one of .* \(did you mean 'most'\?\)"),
        (lambda: Finding("share", "p.a", {"clear": "x"}, side="over"), "has the side 'over', expected above or below"),
        (
            lambda: Finding("most", "p.a", {"clear": "x"}),
            "has sentences for clear, expected one each for clear, unclear",
        ),
        (lambda: Finding("share", "p.a", {"clear": "{modalty}"}), "braces around 'modalty', expected one of modality"),
        (lambda: Finding("share", "p.a", {"clear": "{value.__class__}"}), "braces around 'value.__class__'"),
        (lambda: Finding("share", "p.a", {"clear": "{"}), "braces around ''"),
    ],
)
def test_a_picture_that_cannot_be_drawn_is_refused(make: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make()


@pytest.mark.parametrize(
    "picture",
    [
        Picture("shown", "t", (Panel("l", {"": "drawing.share"}, guides={"drawing.sare": "x"}),)),
        Picture("shown", "t", (Panel("l", {"": "drawing.sare"}),)),
        Picture("shown", "t", (Panel("l", {"": "drawing.share"}, unless="drawing.sare"),)),
        Picture(
            "shown", "t", (Panel("l", {"": "drawing.share"}),), (Finding("share", "drawing.sare", {"clear": "x"}),)
        ),
        Picture("shown", "t", (Panel("l", {"": "drawing.share"}),), about="drawing.sare"),
    ],
)
def test_a_picture_of_what_is_not_declared_is_refused(picture: Picture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "PROBES", {})
    declare(Measure("drawing.share", definition="d", source="s", figure="lines"))
    facts: Any = {"summary": "s", "definition": "d", "source": "s", "cannot": "c", "pictures": (picture,)}
    try:
        message = r"picture 'shown' of probe 'drawing' shows 'drawing.sare', .* \(did you mean 'drawing.share'\?\)"
        with pytest.raises(ConfigError, match=message):
            registry.probe("drawing", **facts)(lambda session: ())
        del DECLARED.measures["drawing.share"]
        with pytest.raises(ConfigError, match=r"shows .drawing.sh?are., .*: it declares none"):
            registry.probe("drawing", **facts)(lambda session: ())
    finally:
        DECLARED.measures.pop("drawing.share", None)
    assert registry.PROBES == {}


# -- results of a measure -----------------------------------------------------------------------------------------------


def test_results_say_what_their_measure_does() -> None:
    made = Measure("p.{way}", definition="{metric} by {way}, {rtol:g}", source="us", unit=METRIC)
    quantity = made.fill(Classification(), way="sum", rtol=0.5)
    found = quantity.result(1.0, (0.0, 2.0), modality="a", versus="b", note="n")
    assert found == Result(
        name="p.sum", probe="p", modality="a", versus="b", value=1.0, interval=(0.0, 2.0), unit="accuracy",
        definition="accuracy by sum, 0.5", source="us", note="n",
    )  # fmt: skip
    assert made.fits(found)
    for wrong in ({"name": "q.sum"}, {"definition": "loss"}, {"source": "them"}, {"unit": None}):
        assert not made.fits(found.model_copy(update=wrong))
    assert quantity.skipped("no reason.").skipped == "no reason"
    assert quantity.skipped("no reason").unit is None
    assert quantity.skipped("no reason", unit=True).unit == "accuracy"
    assert made.fits(quantity.skipped("no reason"))
    with pytest.raises(ConfigError, match=r"measure 'p\.\{way\}' has a field \{way\}: give it to `fill`"):
        made.fill(Classification(), rtol=0.5)
    with pytest.raises(ConfigError, match="has a field"):
        made.result(1.0)


def test_a_direction_has_a_reason() -> None:
    with pytest.raises(ConfigError, match="give both `better` and `why`"):
        Measure("p.x", definition="d", source="s", better="lower")
    with pytest.raises(ConfigError, match="give both `better` and `why`"):
        Measure("p.x", definition="d", source="s", why="it is so")
    for text in ("in {0, 1}", "an open { brace", "{}"):
        with pytest.raises(ConfigError, match=r"expected the name of a field: write \{\{ and \}\} for braces"):
            Measure("p.x", definition=text, source="s")
    assert Measure("p.x", definition="in {{0, 1}}", source="s").result(1.0).definition == "in {0, 1}"
    with pytest.raises(ConfigError, match=r"no name: call it PROBE\.NAME"):
        Measure(" ", definition="d", source="s")


# -- one's own ----------------------------------------------------------------------------------------------------------


def test_a_figure_that_there_is_not_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"'p\.x' has the figure 'bar', expected one of bars, .*mean 'bars'"):
        Measure("p.x", definition="d", source="s", figure="bar")  # type: ignore[arg-type]


def test_a_probe_in_one_file_is_titled_placed_judged_and_shown(problem: Problem, tmp_path: Path) -> None:
    report = problem.diagnose(plugins=[plugin(tmp_path)], probes=["toy", "vif", "spectrum"])
    found = {s.probe: s.title for s in by_probe(report)}
    assert list(found) == ["spectrum", "toy", "vif"]
    assert found["toy"] == "Toys"
    toys = [r for r in report.results if r.probe == "toy"]
    assert [(r.name, r.definition, r.unit) for r in toys] == [
        ("toy.count", "how many, times 2", "examples"),
        ("toy.other", "another", None),
    ]
    fewer = report.model_copy(update={"results": tuple(map(_halved, report.results))})
    row = next(r for r in compare({"a": report, "b": fewer}).rows if r.name == "toy.count")
    assert (row.better, row.why, [c.best for c in row.cells]) == ("higher", "more is more", [True, False])


def _halved(found: Result) -> Result:
    return found.model_copy(update={"value": found.value / 2}) if found.name == "toy.count" and found.value else found


def test_where_a_measure_is_not_known_the_report_says_what_it_is(problem: Problem, tmp_path: Path) -> None:
    """A reader of reports loads no plugins."""
    report = problem.diagnose(plugins=[plugin(tmp_path)], probes=["toy"])
    path = tmp_path / "report.json"
    path.write_text(report.to_json())
    del DECLARED.measures["toy.count"], DECLARED.measures["toy.other"], registry.PROBES["toy"]
    again = Report.load(path)
    assert [s.title for s in by_probe(again)] == ["toy"]
    row = next(r for r in compare({"a": again, "b": again}, every=True).rows if r.name == "toy.count")
    assert (row.better, row.unit, row.definition) == (None, "examples", "how many, times 2")
    assert "toy.count" not in {r.name for r in compare({"a": again, "b": again}).rows}


def test_a_name_is_declared_by_one_file(tmp_path: Path) -> None:
    first = registry.load_plugin_file(plugin(tmp_path / "a"))
    _run_again(first)
    with pytest.raises(ConfigError, match=r"measure 'toy\.count' is declared twice, by .*a.toy\.py and .*b.toy\.py"):
        registry.load_plugin_file(plugin(tmp_path / "b"))
    text = TOY.replace('"toy.count"', '"missing.rates.mine"')
    for known in (DECLARED.measures, {}):  # whether the package's own probes are loaded, or not yet
        DECLARED.measures = known
        with pytest.raises(
            ConfigError, match=r"'missing\.rates\.mine' is declared twice, by .*missing\.py and .*c.toy"
        ):
            registry.load_plugin_file(plugin(tmp_path / "c", text))


def _run_again(name: str) -> None:
    """As a notebook does that loads a file again."""
    module = sys.modules[name]
    assert module.__spec__ is not None
    assert module.__spec__.loader is not None
    module.__spec__.loader.exec_module(module)


def test_readers_of_reports_know_the_measures_without_torch() -> None:
    code = (
        "import sys; from collapsekit.render.views import diagnosis; from collapsekit.comparison import quantities\n"
        "from collapsekit.measures import heading_of, lookup\n"
        "print(lookup('vif.mean').better, lookup('missing.rates.zeros').better, lookup('own.x'), heading_of('vif').title)\n"
        "print('torch' in sys.modules)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines() == ["lower higher None Redundancy of fused neurons (VIF)", "False"]
