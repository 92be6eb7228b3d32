"""Imports go one way and in no circle, folders and classes stay small, names are unique, nothing heavy is imported early."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.repository.house import (
    MODULES,
    ROOT,
    circles,
    classes,
    imports_between_files,
    imports_between_rooms,
    longest_chain,
    tree_of,
)

MAX_LOOSE, MAX_FILES, MAX_FLOORS, MAX_CLASS_LINES, MAX_BODY_LINES = 9, 12, 14, 200, 50
# Earlier may not import later.
ORDER = [
    "version",
    "errors",
    "deprecated",
    "user_code",
    "io",
    "stats",
    "distributed",
    "report",
    "context",
    "progress",
    "registry",
    "measures",
    "config",
    "checkpoint",
    "data",
    "tasks",
    "adapters",
    "features",
    "interventions",
    "readouts",
    "games",
    "session",
    "autoconfig",
    "probes",
    "diagnosis",
    "answers",
    "repairs",
    "gating",
    "comparison",
    "render",
    "demo",
    "reproduce",
    "cli",
    "ext",
]
ALONE = {
    "stats": {"errors"},
    "io": {"errors"},
    "report": {"errors", "io", "stats"},
    "measures": {"errors", "report", "registry", "stats"},
    "gating": {"errors", "io", "report", "config", "stats", "measures"},
    "comparison": {"errors", "io", "report", "stats", "measures"},
    "render": {"errors", "io", "report", "measures", "gating", "comparison"},
}
# Runs in a process of its own, which holds the standard library and this.
ALONE_WITHIN = {"checkpoint/formats": {"errors", "io"}}
# Neither of the two knows the other.
APART = (("render/writers", "render.views"), ("render/views", "render.writers"))
# Folders of equals, which grow by one file a kind.
EQUALS = {
    "answers/formats": "a format a file, and what they share",
    "checkpoint/formats": "a format a file, and what they share",
    "cli/commands": "a command a file",
    "probes/credit": "a probe a file",
    "probes/geometry": "a probe a file",
    "probes/neurons": "a probe a file",
    "probes/robustness": "a probe a file",
    "render/views": "a view a file, and what they share",
    "render/writers": "a writer a file",
    "repairs/methods": "a method a file",
    "reproduce/items": "a table or figure a file",
    "report": "a kind of file a file, and what they share",
    "tasks": "a task a file",
}


def _layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(tree_of(path)):
        names = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "collapsekit" else [f"collapsekit.{a.name}" for a in node.names]
        elif isinstance(node, ast.Import):
            names = [a.name for a in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("collapsekit.")}
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path: Path) -> None:
    layer = _layer(path)
    if layer in ("__init__", "__main__"):
        return
    others = {i for i in _imports(path) if i not in (layer, "deprecated", "version")}
    assert others <= set(ORDER), f"not in the order: {others - set(ORDER)}"
    late = {o for o in others if ORDER.index(o) > ORDER.index(layer)}
    assert not late, f"{layer} imports {late}, which come after it"
    if layer in ALONE:
        assert others <= ALONE[layer]
    for folder, allowed in ALONE_WITHIN.items():
        if path.is_relative_to(ROOT / folder):
            assert {i for i in others if i != "checkpoint"} <= allowed


def test_one_file_reaches_up_by_name() -> None:
    """What is imported by its name, as text, is seen by no rule above."""
    late = ORDER[ORDER.index("report") + 1 :]
    by_name = re.compile(rf"import_module\(f?\"collapsekit\.({'|'.join(late)})\b")
    found = {p.relative_to(ROOT).as_posix() for p in (ROOT / "report").rglob("*.py") if by_name.search(p.read_text())}
    assert found == {"report/display.py"}


@pytest.mark.parametrize(("folder", "other"), APART)
def test_neither_of_two_rooms_knows_the_other(folder: str, other: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    assert len(files) > 3
    for path in files:
        assert f"collapsekit.{other}" not in path.read_text(), path


def test_the_documented_layout_is_the_order() -> None:
    text = (ROOT.parent / "docs" / "architecture.md").read_text()
    layout = text[text.index("collapsekit/\n") : text.index("plugins/ ")]
    places = []
    for name in ORDER:
        spellings = [f" {name}.py", f" {name}/"]
        at = [layout.index(s) for s in spellings if s in layout]
        assert at, f"docs/architecture.md does not name {name}"
        places.append(min(at))
    assert places == sorted(places), "docs/architecture.md lists the layers in another order"


def test_nothing_imports_in_a_circle() -> None:
    found = circles(imports_between_files())
    assert not found, f"these modules import one another: {found}"


def test_rooms_are_few_floors_high() -> None:
    files = imports_between_files()
    chain, deepest = longest_chain(imports_between_rooms(files)), longest_chain(files)
    print(f"{len(chain)} floors of rooms; between files, which have no limit, {len(deepest)}")
    assert len(chain) <= MAX_FLOORS, (
        f"{len(chain)} floors of rooms ({' > '.join(chain)}), at most {MAX_FLOORS}; "
        f"between files, which have no limit, {len(deepest)}: {' > '.join(deepest)}"
    )


def test_few_modules_lie_loose() -> None:
    loose = sorted(p.name for p in ROOT.glob("*.py") if p.stem not in ("__init__", "__main__"))
    assert len(loose) <= MAX_LOOSE, f"{len(loose)} loose modules, at most {MAX_LOOSE}: {', '.join(loose)}"


def test_folders_are_small() -> None:
    folders = [ROOT, *(p for p in ROOT.rglob("*") if p.is_dir() and p.name != "__pycache__")]
    files = {f.relative_to(ROOT).as_posix(): sum(p.is_file() for p in f.iterdir()) for f in folders}
    full = {name for name, count in files.items() if count > MAX_FILES and name not in EQUALS}
    assert not full, f"more than {MAX_FILES} files in {', '.join(sorted(full))}"
    assert files.keys() >= EQUALS.keys(), f"not there: {EQUALS.keys() - files.keys()}"


def test_a_class_has_a_name_of_its_own() -> None:
    where: dict[str, list[str]] = {}
    for name, path, _ in classes():
        where.setdefault(name, []).append(path)
    shared = {name: paths for name, paths in where.items() if len(paths) > 1}
    assert not shared, f"several classes bear one name: {shared}"


def test_classes_are_short() -> None:
    long = {name: f"{lines} lines in {path}" for name, path, lines in classes() if lines > MAX_CLASS_LINES}
    assert not long, f"more than {MAX_CLASS_LINES} lines: {long}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_functions_are_short(path: Path) -> None:
    long = [
        f"{node.name} ({_body_lines(node)})"
        for node in ast.walk(tree_of(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and _body_lines(node) > MAX_BODY_LINES
    ]
    assert not long


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body: signature and docstring are documentation."""
    body = node.body
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


def test_ruff_limits_complexity_and_parameters() -> None:
    """A function of eleven branches and one of nine parameters, as a module of the package, are both refused."""
    pytest.importorskip("ruff")
    branches = "".join(f"    if x == {i}:\n        return {i}\n" for i in range(10))
    text = f"def f(x):\n{branches}    return x\n\n\ndef g({', '.join('abcdefghi')}):\n    return a\n"
    command = [sys.executable, "-m", "ruff", "check", "--output-format", "concise", "--stdin-filename"]
    done = subprocess.run(
        [*command, str(ROOT / "stats" / "new.py"), "-"], input=text, capture_output=True, text=True, cwd=ROOT.parent
    )
    assert set(re.findall(r"(C901|PLR0913) ", done.stdout)) == {"C901", "PLR0913"}, done.stdout + done.stderr


def test_circles_and_chains_are_those_of_a_graph_by_hand() -> None:
    graph = {"a": {"b"}, "b": {"c"}, "c": {"a", "d"}, "d": set(), "e": {"d"}, "f": {"e", "d"}}
    assert circles(graph) == [["a", "b", "c"]]
    assert circles({k: v - {"a"} for k, v in graph.items()}) == []
    assert longest_chain({k: v - {"a"} for k, v in graph.items()}) == ["a", "b", "c", "d"]
    assert longest_chain({"e": {"d"}, "f": {"d", "e"}, "d": set()}) == ["f", "e", "d"]
