"""Measures how the package is laid out: modules, what each imports, circles, depths, classes."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2] / "collapsekit"
MODULES = sorted(ROOT.rglob("*.py"))
Graph = Mapping[str, set[str]]


@cache
def tree_of(path: Path) -> ast.Module:
    """The parsed module."""
    return ast.parse(path.read_text())


def dotted(path: Path, root: Path = ROOT) -> str:
    """A module's name: ``collapsekit.stats.linalg`` for ``stats/linalg/__init__.py``."""
    parts = (root.name, *path.relative_to(root).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_between_files(root: Path = ROOT) -> dict[str, set[str]]:
    """Module -> modules of the package that it imports: at the top, in functions and where types are checked alike."""
    paths = {dotted(path, root): path for path in sorted(root.rglob("*.py"))}
    graph: dict[str, set[str]] = {}
    for name, path in paths.items():
        targets = set()
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ImportFrom) and node.module:
                inner = [f"{node.module}.{a.name}" for a in node.names]
                targets |= {i if i in paths else node.module for i in inner}
            elif isinstance(node, ast.Import):
                targets |= {a.name for a in node.names}
        graph[name] = (targets & set(paths)) - {name}
    return graph


def room(module: str) -> str:
    """The top-level folder, or loose module, that a module lies in; of the package itself, its name."""
    return module.split(".")[1] if "." in module else module


def imports_between_rooms(graph: Graph) -> dict[str, set[str]]:
    """Room -> rooms that it imports. The package's own module, through which users enter, is none."""
    rooms: dict[str, set[str]] = defaultdict(set)
    for module, targets in graph.items():
        here = room(module)
        rooms[here] |= {room(t) for t in targets if "." in t} - {here}
    return {name: targets for name, targets in rooms.items() if name not in (ROOT.name, "__main__")}


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that reach one another (Tarjan's strongly connected components of more than one)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    groups: list[list[str]] = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(graph.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            at = stack.index(node)
            group = sorted(stack[at:])
            del stack[at:]
            if len(group) > 1:
                groups.append(group)

    for node in sorted(graph):
        if node not in index:
            visit(node)
    return groups


def longest_chain(graph: Graph) -> list[str]:
    """The longest chain of imports, from who imports to who is imported. ``graph`` has no circles."""

    @cache
    def below(node: str) -> tuple[str, ...]:
        return (node, *max((below(t) for t in sorted(graph.get(node, ()))), key=len, default=()))

    return list(max((below(node) for node in sorted(graph)), key=len, default=()))


def classes(root: Path = ROOT) -> Iterator[tuple[str, str, int]]:
    """Every class: its name, its module's path within the package, and how many lines it has."""
    for path in sorted(root.rglob("*.py")):
        for node in ast.walk(tree_of(path)):
            if isinstance(node, ast.ClassDef):
                yield node.name, path.relative_to(root).as_posix(), (node.end_lineno or 0) - node.lineno + 1


if __name__ == "__main__":
    files = imports_between_files()
    rooms = imports_between_rooms(files)
    for what, graph in (("files", files), ("rooms", rooms)):
        chain = longest_chain(graph)
        print(f"{len(graph)} {what}, {sum(map(len, graph.values()))} imports, {len(chain)} deep: {' > '.join(chain)}")
