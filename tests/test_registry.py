"""One door for probes and adapters: built in, by file, by entry point."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from collapsekit import registry
from collapsekit.errors import ConfigError
from collapsekit.measures.catalogue import heading_of
from tests.problems import Problem

PLUGIN = """
from collapsekit import Options, Result, probe

class TinyOptions(Options):
    factor: float = 1.0

@probe("tiny{n}", summary="s", definition="d", source="s", cannot="c", options=TinyOptions, title="Tiny things")
def run(adapter, features, *, settings):
    yield Result(name="tiny{n}.count", probe="tiny{n}", value=len(features) * settings.own(TinyOptions).factor,
                 definition="d", source="s")
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    registry.load_builtins()
    monkeypatch.setattr(registry, "PROBES", dict(registry.PROBES))
    monkeypatch.setattr(registry, "ADAPTERS", dict(registry.ADAPTERS))
    return


def plugin(folder: Path, text: str = PLUGIN, n: int = 1) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / "plugin.py"
    path.write_text(text.replace("{n}", str(n)))
    return path


def test_a_plugin_probe_runs_like_a_built_in_one(problem: Problem, tmp_path: Path) -> None:
    path = plugin(tmp_path / "p")
    report = problem.diagnose(plugins=[path], probes=["tiny1"], options={"tiny1": {"factor": 2.0}})
    assert [r.value for r in report.results] == [320.0]
    assert report.settings["probes"] == {"tiny1": {"factor": 2.0}}
    assert heading_of("tiny1").title == "Tiny things"  # once it has run, pages head its results so
    with pytest.raises(ConfigError, match=r"no option 'facter'.*did you mean 'factor'"):
        problem.diagnose(plugins=[path], probes=["tiny1"], options={"tiny1": {"facter": 2.0}})


def test_a_probe_may_run_by_default_for_some_tasks_alone(problem: Problem, tmp_path: Path) -> None:
    text = PLUGIN.replace('summary="s",', 'summary="s", default=False, tasks=("classification", "ranking"),')
    path = plugin(tmp_path / "p", text, n=3)
    every = [p for p in registry.PROBES if p != "tiny3"]
    chosen = problem.diagnose(plugins=[path], skip=every)  # the problem is a classification
    assert {r.probe for r in chosen.results} == {"tiny3"}
    spec = registry.get_probe("tiny3")
    assert [spec.runs_unasked(task) for task in ("ranking", "regression", None)] == [True, False, False]


NEWER = PLUGIN.replace("def run(adapter, features, *, settings):", "def run(session):")
NEWER = NEWER.replace("len(features) * settings.own(", "len(session.features) * session.options_of('tiny{n}', ")


def test_both_forms_of_a_probe_find_the_same(problem: Problem, tmp_path: Path) -> None:
    paths = [plugin(tmp_path / "older"), plugin(tmp_path / "newer", NEWER, n=2)]
    options = {"tiny1": {"factor": 3.0}, "tiny2": {"factor": 3.0}}
    report = problem.diagnose(plugins=paths, probes=["tiny1", "tiny2"], options=options)
    assert [r.value for r in report.results] == [480.0, 480.0]
    assert [registry.PROBES[name].older for name in ("tiny1", "tiny2")] == [True, False]


@pytest.mark.parametrize(
    ("signature", "older"),
    [
        ("session", False),
        ("session, *, factor=1.0", False),
        ("session, /", False),
        ("adapter, features, *, settings", True),
        ("adapter, features, settings", True),
        ("adapter, features, **about", True),
        ("*parts, **about", True),  # as a decorator makes it
        ("adapter, features", True),  # neither: it fails when it is run, as it always did
        ("", True),
    ],
)
def test_the_form_of_a_probe_is_told_by_its_signature(signature: str, older: bool) -> None:
    names: dict[str, Any] = {}
    exec(f"def run({signature}): ...", names)
    names["run"].__module__ = "somewhere"
    registry.probe("signed", summary="s", definition="d", source="s", cannot="c")(names["run"])
    assert registry.PROBES["signed"].older is older


def test_probes_are_in_the_order_of_their_names_whoever_registers_first(tmp_path: Path) -> None:
    for n in (2, 1):
        registry.load_plugin_file(plugin(tmp_path / f"p{n}", PLUGIN.replace("tiny", "aa_tiny"), n=n))
    assert list(registry.PROBES)[:2] == ["aa_tiny1", "aa_tiny2"]
    assert list(registry.PROBES) == sorted(registry.PROBES)


def test_two_plugins_of_one_file_name_and_one_loaded_twice(tmp_path: Path) -> None:
    for n in (1, 2):
        registry.load_plugin_file(plugin(tmp_path / f"p{n}", n=n))
    assert {"tiny1", "tiny2"} <= registry.PROBES.keys()
    registry.load_plugin_file(tmp_path / "p1" / "plugin.py")


def test_a_probe_says_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="probe 'tiny1' does not say its source and cannot: give them to @probe"):
        registry.load_plugin_file(plugin(tmp_path / "p", PLUGIN.replace('source="s", cannot="c",', "", 1)))


def test_a_name_cannot_be_taken_over(tmp_path: Path) -> None:
    text = PLUGIN.replace("tiny{n}", "vif")
    with pytest.raises(ConfigError, match=r"'vif' is registered twice, by .*vif\.py and .*plugin\.py"):
        registry.load_plugin_file(plugin(tmp_path / "p", text))
    text = "from collapsekit.registry import adapter\n@adapter('module', summary='s')\ndef f(config): ...\n"
    with pytest.raises(ConfigError, match="'module' is registered twice"):
        registry.load_plugin_file(plugin(tmp_path / "q", text))
    assert registry.PROBES["vif"].run.__module__ == "collapsekit.probes.geometry.vif"


@pytest.mark.parametrize(
    ("text", "says"),
    [("1/0", "ZeroDivisionError"), ("def f(:", "SyntaxError"), ("import nothing_there", "nothing_there")],
)
def test_a_broken_plugin_says_why_each_time(text: str, says: str, tmp_path: Path) -> None:
    path = plugin(tmp_path / "p", text)
    for _ in range(2):  # the second time too: a half-loaded module must not pass for a loaded one
        with pytest.raises(ConfigError, match=says):
            registry.load_plugin_file(path)


def test_missing_plugin_and_unknown_names(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file"):
        registry.load_plugin_file(tmp_path / "no.py")
    with pytest.raises(ConfigError, match=r"no probe 'vfi'.*did you mean 'vif'"):
        registry.get_probe("vfi")
    with pytest.raises(ConfigError, match=r"no adapter 'modul'.*did you mean 'module'"):
        registry.get_adapter("modul")


def test_entry_points_are_loaded_by_name_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "regt_ok.py").write_text(PLUGIN.replace("{n}", "9"))
    (tmp_path / "regt_bad.py").write_text("raise RuntimeError('broken install')")
    monkeypatch.syspath_prepend(str(tmp_path))
    points = [EntryPoint("tiny9", "regt_ok", registry.GROUP), EntryPoint("bad", "regt_bad", registry.GROUP)]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    assert [p.name for p in registry.installed_plugins()] == ["bad", "tiny9"]
    assert "tiny9" not in registry.PROBES
    assert registry.get_probe("tiny9").name == "tiny9"
    with pytest.raises(ConfigError, match=r"plugin 'bad'.*broken install"):
        registry.get_probe("bad")
    with pytest.raises(ConfigError, match="did you mean 'tiny9'"):
        registry.get_probe("tiny8")
