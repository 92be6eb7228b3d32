"""What docs take from the code is up to date, and every file, module and name that a page mentions is there."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
# What a release said of itself then stays as it was.
NOT_NOW = {"CHANGELOG.md"}


def load_generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate_docs", ROOT / "docs" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


GENERATOR = load_generator()
PAGES = sorted(
    page
    for page in {*GENERATOR.pages(), *(ROOT / "tests").rglob("*.md"), *(ROOT / ".github").rglob("*.md")}
    if page.name not in NOT_NOW and page.is_file()
)
each_page = pytest.mark.parametrize("page", PAGES, ids=lambda p: str(p.relative_to(ROOT)))


@pytest.mark.parametrize("page", GENERATOR.pages(), ids=lambda p: str(p.relative_to(ROOT)))
def test_generated_regions_are_fresh(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert GENERATOR.generate(text) == text, "stale: run `make doc`"


def test_every_region_stands_in_a_page() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in GENERATOR.pages())
    assert set(re.findall(r"<!-- generated: ([\w-]+) -->", text)) == {*GENERATOR.REGIONS, *GENERATOR.error_classes()}


@pytest.mark.parametrize(
    "text",
    [
        "<!-- generated: tasks -->\n",
        "<!-- end: tasks -->\n",
        "<!-- generated: tasks -->\n<!-- end: probes -->\n",
        "<!-- generated: nothing -->\n<!-- end: nothing -->\n",
    ],
)
def test_a_marker_without_its_partner_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match="region"):
        GENERATOR.generate(text)


def test_a_stale_region_is_found_and_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "page.md"
    page.write_text("before\n<!-- generated: exit-codes -->\nold\n<!-- end: exit-codes -->\nafter\n", encoding="utf-8")
    monkeypatch.setattr(GENERATOR, "ROOT", tmp_path)
    monkeypatch.setattr(GENERATOR, "pages", lambda: [page])
    assert GENERATOR.main(["--check"]) == 1
    assert "\nold\n" in page.read_text(encoding="utf-8")
    assert GENERATOR.main([]) == 0
    text = page.read_text(encoding="utf-8")
    assert "\nold\n" not in text
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert GENERATOR.main(["--check"]) == 0


def tracked() -> set[str]:
    """Files and folders of the repository: as git knows them, or what lies there where it is no checkout."""
    done = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode == 0:
        files = {Path(line) for line in done.stdout.splitlines()}
    else:
        files = {p.relative_to(ROOT) for p in ROOT.rglob("*") if p.is_file()}
    return {str(p) for p in files} | {str(parent) for p in files for parent in p.parents}


TRACKED = tracked()
FOLDERS = "collapsekit|tests|benchmarks|docs|plugins|examples"
NAMED_PATH = re.compile(rf"(?<![\w./-])((?:{FOLDERS})/[\w./-]*[\w/])")
NAMED_MODULE = re.compile(r"(?<![\w./-])((?:collapsekit|tests|benchmarks)(?:\.[A-Za-z_]\w*)+)(?!\w*/)")
# Names that begin like a folder of ours and are none: keys that the monitor logs, and files of the user's.
NO_PATH = re.compile(r"collapsekit/(?:share|step|loss|reliance|effective_rank)\b")
NO_MODULE = {"collapsekit.yaml"}


# A block that begins with the path of the file to write is of a walk-through; test_walkthroughs writes and runs it.
WRITTEN = re.compile(r"^```\w+\n(?:# |<!-- )([\w./]+\.\w+)(?: -->)?\n.*?^```$", re.M | re.S)


def prose(page: Path) -> str:
    """A page without the files that it tells to write, and without mentions of them."""
    text = page.read_text(encoding="utf-8")
    for path in WRITTEN.findall(text):
        module = path.removesuffix(".py").replace("/", ".")
        text = re.sub(rf"(?<!\w)({re.escape(path)}|{re.escape(module)})(?!\w)", "", text)
    return re.sub(r"^```\w+\n(?:# |<!-- ) *(?:-->)?\n.*?^```$", "", text, flags=re.M | re.S)


@each_page
def test_every_path_that_a_page_names_is_there(page: Path) -> None:
    named = {m.rstrip("/") for m in NAMED_PATH.findall(prose(page)) if not NO_PATH.match(m)}
    beside = page.parent.relative_to(ROOT)
    assert not {m for m in named if m not in TRACKED and str(beside / m) not in TRACKED}


@each_page
def test_every_module_and_name_that_a_page_names_is_there(page: Path) -> None:
    named = set(NAMED_MODULE.findall(prose(page))) - NO_MODULE
    assert not {name for name in named if not exists(name)}


def exists(dotted: str) -> bool:
    """Whether a dotted name is a module that lies there now, or something in one; old import paths do not count."""
    parts = dotted.split(".")
    for end in range(len(parts), 0, -1):
        place = "/".join(parts[:end])
        if f"{place}.py" in TRACKED or f"{place}/__init__.py" in TRACKED:
            found: object = importlib.import_module(".".join(parts[:end])) if end < len(parts) else None
            for attribute in parts[end:]:
                if not hasattr(found, attribute):
                    return False
                found = getattr(found, attribute)
            return True
    return False


def test_old_paths_and_names_are_found_out() -> None:
    assert exists("collapsekit.diagnosis.diagnose")
    assert not exists("collapsekit.run.diagnose")
    assert not exists("collapsekit.inserts")
    assert NAMED_PATH.findall("see `collapsekit/locks.py` and tests/fuzz/.") == ["collapsekit/locks.py", "tests/fuzz/"]


@each_page
def test_every_link_leads_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", prose(page), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("https://", "http://")):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), target
        if anchor:
            assert anchor in anchors(file), target


def anchors(page: Path) -> set[str]:
    """What headings of a page are called in links, as GitHub makes them."""
    heads = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.M)
    return {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}


def test_the_generator_runs_as_a_command() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "generate.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
