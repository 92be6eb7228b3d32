"""The documentation as a site: built without a warning, with every page and public name, and nothing from elsewhere."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from tests.repository.test_generated_docs import GENERATOR

ROOT = Path(__file__).parents[2]
SITE = ROOT / "docs" / "site"


def load_contents() -> ModuleType:
    spec = importlib.util.spec_from_file_location("site_contents", SITE / "contents.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


CONTENTS = load_contents()


# --- what is in it


def test_every_page_of_the_menu_is_there_and_stands_once() -> None:
    pages = [page for pages in CONTENTS.menu().values() for page in pages]
    assert len(pages) == len(set(pages))
    assert not [page for page in pages if not (ROOT / f"{page}.md").is_file()]


def test_a_page_that_nobody_placed_is_in_the_menu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs" / "repairs").mkdir(parents=True)
    (tmp_path / "docs" / "new.md").write_text("# New\n")
    (tmp_path / "docs" / "repairs" / "upper.md").write_text("# upper\n")
    monkeypatch.setattr(CONTENTS, "ROOT", tmp_path)
    assert CONTENTS.menu()[CONTENTS.REST][-2:] == ["docs/new", "docs/repairs/upper"]


def test_every_error_class_has_its_page_with_causes_and_a_remedy() -> None:
    from collapsekit import errors

    classes = GENERATOR.error_classes()
    own = {n: k for n, k in vars(errors).items() if isinstance(k, type) and issubclass(k, errors.CollapsekitError)}
    assert own.items() <= classes.items()
    assert {"ContractError", "UnreadableError"} <= set(classes)  # those that stand elsewhere are found, too
    folder = ROOT / "docs" / "errors"
    assert {page.stem for page in folder.glob("*Error.md")} == set(classes)
    listed = re.findall(r"^\| \[(\w+)\]", (folder / "README.md").read_text(encoding="utf-8"), re.M)
    assert listed == list(classes)
    for name, kind in classes.items():
        text = (folder / f"{name}.md").read_text(encoding="utf-8")
        assert f"**Exit code:** {kind.exit_code}" in text
        assert re.search(r"\*\*Causes:\*\* \S.{20,}", text)
        assert re.search(r"\*\*What to do:\*\* \S.{20,}", text)
        assert getattr(importlib.import_module(kind.__module__), name) is kind
        (line,) = re.findall(r"\*\*From Python:\*\* `(from [\w.]+ import \w+)`", text)
        exec(line, {})


def test_an_error_without_a_remedy_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from collapsekit.errors import CollapsekitError

    class BareError(CollapsekitError):
        """Something went wrong."""

    monkeypatch.setattr(GENERATOR, "error_classes", lambda: {"BareError": BareError})
    with pytest.raises(ValueError, match="docstring of BareError"):
        GENERATOR.error_page("BareError")


# --- the picture with numbers


def test_the_notes_of_the_annotated_report_are_those_of_the_page() -> None:
    text = (ROOT / "docs" / "reading.md").read_text(encoding="utf-8")
    script = (SITE / "annotate.py").read_text(encoding="utf-8")
    drawn = sorted(int(n) for n in re.findall(r"Note\((\d+), ", script))
    assert [int(n) for n in re.findall(r"^(\d+)\. \*\*", text, re.M)] == drawn == list(range(1, len(drawn) + 1))
    for name in re.findall(r'Picture\("([\w.-]+)"', script):
        assert (ROOT / "docs" / name).stat().st_size < 150_000


# --- what is built


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make site` builds it."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed (extra: docs)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-c", str(SITE), "-b", "html", str(ROOT)]
    done = subprocess.run([*command, str(folder)], cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


class Loads(HTMLParser):
    """What a page makes a browser fetch from another host."""

    FETCHED: ClassVar = {
        "script": "src",
        "img": "src",
        "iframe": "src",
        "source": "src",
        "video": "src",
        "embed": "src",
        "link": "href",
    }

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        held = dict(attrs)
        for address in (held.get(self.FETCHED.get(tag, "")), held.get("srcset"), held.get("style")):
            if address and re.search(r"(?:^|[\s,(])(?:https?:)?//", address):
                self.found.append(f"<{tag}> {address}")


def foreign(text: str) -> list[str]:
    parser = Loads()
    parser.feed(text)
    return parser.found


def test_what_is_fetched_from_elsewhere_is_found() -> None:
    assert foreign('<script src="https://example.org/a.js"></script>')
    assert foreign('<link rel="stylesheet" href="//example.org/a.css">')
    assert foreign('<div style="background: url(https://example.org/a.png)"></div>')
    assert not foreign('<a href="https://example.org">a link is no request</a><img src="_images/report.png">')


@pytest.mark.slow
def test_no_page_loads_anything_from_elsewhere(site: Path) -> None:
    pages = sorted(site.rglob("*.html"))
    assert len(pages) > 90
    assert not {p.name: found for p in pages if (found := foreign(p.read_text(encoding="utf-8")))}
    sheets = sorted(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        assert not re.findall(r"(?:url\(|@import\s+)[\"']?(?:https?:)?//[^)\s]*", sheet.read_text(encoding="utf-8")), (
            sheet
        )
    for script in site.rglob("*.js"):
        assert not re.findall(
            r"(?:fetch|import|src\s*=|open)\(?\s*[\"'`]https?://", script.read_text(encoding="utf-8")
        ), script


@pytest.mark.slow
def test_every_page_is_built_and_the_front_leads_to_it(site: Path) -> None:
    for page in (*(ROOT / "docs").rglob("*.md"), *(ROOT / "plugins").rglob("*.md"), ROOT / "CODE_OF_CONDUCT.md"):
        assert (site / page.relative_to(ROOT).with_suffix(".html")).is_file(), page
    front = (site / "README.html").read_text(encoding="utf-8")
    for page in (page for pages in CONTENTS.menu().values() for page in pages):
        assert f'href="{page}.html"' in front, page
    assert "url=README.html" in (site / "index.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_every_public_name_is_documented_from_its_docstring(site: Path) -> None:
    page = (site / "docs" / "api.html").read_text(encoding="utf-8")
    names = list(CONTENTS.public_names())
    for module in CONTENTS.PUBLIC:
        public = importlib.import_module(module).__all__
        assert set(public) <= {name.rpartition(".")[2] for name in names}
    assert not [name for name in names if f'id="{name}"' not in page]
    for said in (
        "A live module in the place of a checkpoint",
        "Raises",
    ):  # arguments and errors of docstrings, not their first lines alone
        assert said in page
