"""Every built-in probe has a page that says all it yields, and a picture; and `list probes -v` leads there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from collapsekit import registry
from collapsekit.cli import app
from collapsekit.measures import lookup, measures_of

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "probes"
registry.load_builtins()
BUILTIN = {n: s for n, s in sorted(registry.PROBES.items()) if s.run.__module__.startswith("collapsekit.")}
PAGES = {p.stem: p.read_text(encoding="utf-8") for p in DOCS.glob("*.md")}
PNG = b"\x89PNG\r\n\x1a\n"


def test_there_is_a_page_for_every_probe_and_for_no_other() -> None:
    assert set(PAGES) == {*BUILTIN, "README"}
    assert {p.stem for p in DOCS.glob("*.png")} == {name for name, page in PAGES.items() if "## Picture" in page}


def test_the_index_lists_every_probe_once() -> None:
    assert sorted(re.findall(r"^\| \[(\w+)\]\(\1\.md\)", PAGES["README"], re.M)) == list(BUILTIN)


@pytest.mark.parametrize("probe", BUILTIN)
def test_a_page_names_every_result_and_none_that_is_not(probe: str) -> None:
    names = {m.name.replace("{fill}", "FILL") for m in measures_of(probe)}  # the page says FILL once for all of them
    table = set(re.findall(rf"^\| `({probe}\.[\w.]+)` \|", PAGES[probe].split("## Options")[0], re.M))
    assert table == names


def test_pages_write_rules_about_results_that_there_are() -> None:
    pages = {p: p.read_text(encoding="utf-8") for p in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
    found = {(p.name, name) for p, text in pages.items() for name in re.findall(r"results\[([a-z]\w*\.[\w.]+)", text)}
    assert ("gate.md", "vif.mean") in found
    assert not [(page, name) for page, name in found if lookup(name) is None]


@pytest.mark.parametrize("probe", BUILTIN)
def test_a_page_has_every_option_and_none_that_is_not(probe: str) -> None:
    options = PAGES[probe].split("## Options")[1].split("\n## ")[0]
    listed = set(re.findall(rf"^\| `{probe}\.(\w+)` \|", options, re.M))
    assert listed == set(BUILTIN[probe].options.model_fields)


@pytest.mark.parametrize("probe", BUILTIN)
def test_a_page_names_its_source(probe: str) -> None:
    source = re.sub(r"^(after|noise levels after|collapsekit \S+; Shapley credit as in) ", "", BUILTIN[probe].source)
    first = source.split()[0].rstrip(",")
    assert first[0].isupper(), f"no author at the head of {source!r}"
    assert first in PAGES[probe]
    for year in re.findall(r"\b(?:19|20)\d\d\b", source):
        assert year in PAGES[probe], year


@pytest.mark.parametrize("name", PAGES)
def test_every_link_resolves(name: str) -> None:
    targets = re.findall(r"\]\(([^)#]+)[^)]*\)", PAGES[name])
    assert targets
    for target in targets:
        assert target.startswith("https://") or (DOCS / target).is_file(), target


@pytest.mark.parametrize("probe", BUILTIN)
def test_a_page_is_short_and_its_picture_small(probe: str) -> None:
    if "## Picture" in PAGES[probe]:
        assert f"]({probe}.png)" in PAGES[probe]
        raw = (DOCS / f"{probe}.png").read_bytes()
        assert raw.startswith(PNG)
        assert len(raw) < 60_000
    assert len(PAGES[probe].splitlines()) <= 120
    for part in ("## Definition", "## Results", "## What it can and cannot tell", "looks bad:*", "looks good:*"):
        assert part in PAGES[probe], part


def test_the_verbose_list_says_all_and_leads_to_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["list", "probes", "--verbose"], prog_name="collapsekit")
    assert done.exit_code == 0, done.stderr
    entries = {e.split()[0]: " ".join(e.split()) for e in done.stdout.strip().split("\n\n")}
    assert list(entries) == list(BUILTIN)
    for probe, text in entries.items():
        for part in ("Can tell:", "Cannot tell:", "Definition:", "Source:", "Trains:"):
            assert part in text, (probe, part)
        for measure in measures_of(probe):
            said = re.search(rf"[:;] {re.escape(measure.name)}(?: \(([^)]*)\))?[;.] ", text.replace(" (nats)", ""))
            assert said is not None, measure.name
            assert (f"{measure.better} is better" in (said[1] or "")) == (measure.better is not None)
        for option in BUILTIN[probe].options.model_fields:
            assert f"--set {probe}.{option}=" in text
        assert text.endswith(f"More: docs/probes/{probe}.md")
        assert PAGES[probe].startswith(f"# {probe}\n")
