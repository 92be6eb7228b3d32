"""Imports go one way, modules and functions stay small, and nothing heavy is imported early."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2] / "collapsekit"
# Earlier may not import later.
ORDER = [
    "errors",
    "deprecated",
    "user_code",
    "io",
    "stats",
    "distributed",
    "report",
    "context",
    "registry",
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
    "repairs",
    "gating",
    "comparison",
    "render",
    "demo",
    "cli",
]
ALONE = {
    "stats": {"errors"},
    "io": {"errors"},
    "report": {"errors", "io", "stats"},
    "gating": {"errors", "io", "report", "stats"},
    "comparison": {"errors", "io", "report", "stats"},
    "render": {"errors", "io", "report", "gating", "comparison"},
}
# Runs in a process of its own, which holds the standard library and this.
ALONE_WITHIN = {"checkpoint/formats": {"errors", "io"}}
# Neither of the two knows the other.
APART = (("render/writers", "render.views"), ("render/views", "render.writers"))
MODULES = sorted(p for p in ROOT.rglob("*.py"))


def _layer(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def _imports(path: Path) -> set[str]:
    found = set()
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
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
    others = {i for i in _imports(path) if i not in (layer, "__version__", "deprecated")}
    assert others <= set(ORDER), f"not in the order: {others - set(ORDER)}"
    late = {o for o in others if ORDER.index(o) > ORDER.index(layer)}
    assert not late, f"{layer} imports {late}, which come after it"
    if layer in ALONE:
        assert others <= ALONE[layer]
    for folder, allowed in ALONE_WITHIN.items():
        if path.is_relative_to(ROOT / folder):
            assert {i for i in others if i != "checkpoint"} <= allowed


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
        spellings = [f"{name}.py", f"{name}/"]
        at = [layout.index(s) for s in spellings if s in layout]
        assert at, f"docs/architecture.md does not name {name}"
        places.append(min(at))
    assert places == sorted(places), "docs/architecture.md lists the layers in another order"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_modules_and_functions_stay_small(path: Path) -> None:
    text = path.read_text()
    assert text.count("\n") <= 350
    long = [
        f"{node.name} ({node.end_lineno - node.lineno + 1})"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and _body_lines(node) > 50
    ]
    assert not long


def _body_lines(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Lines of the body: signature and docstring are documentation."""
    body = node.body
    if body and isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0
