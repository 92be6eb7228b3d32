"""What the text of a probe's file declares, read without importing the file, which would import torch."""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from collapsekit.measures.measure import Heading, Measure
from collapsekit.measures.picture import Finding, Panel, Picture

# What pictures are made of, by the names that a probe's file calls them by.
PARTS: dict[str, Callable[..., Any]] = {made.__name__: made for made in (Finding, Panel, Picture)}
# What a reader of reports needs and a report does not say. In a probe's file these are written as plain values.
FACTS = ("better", "why", "title", "headline", "cannot", "figure", "side_by_side")


def read_declarations(text: str) -> tuple[list[Measure], Heading | None]:
    """Return the measures that a probe's file declares, in order, and how its results are headed.

    The measures hold their name and FACTS only: definition, source and unit are in the report, as they were in its run.
    Its pictures are all that the file makes at its top. Raises ValueError where one of these is not written as a plain
    value.
    """
    tree = ast.parse(text)
    measures = [_measure(call) for call in _calls(tree, "Measure")]
    pictures = tuple(_value(call) for call in _calls(tree, "Picture"))
    heads = [replace(_heading(call), pictures=pictures) for call in _calls(tree, "probe")]
    return measures, heads[0] if heads else None


def _calls(tree: ast.Module, name: str) -> Iterator[ast.Call]:
    """Calls of that name at the top of a file, decorators included, in order."""
    for statement in tree.body:
        roots: Sequence[ast.AST] = [statement]
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            roots = statement.decorator_list
        for root in roots:
            found = (n for n in ast.walk(root) if isinstance(n, ast.Call))
            called = [n for n in found if isinstance(n.func, ast.Name) and n.func.id == name]
            yield from sorted(called, key=lambda call: (call.lineno, call.col_offset))


def _measure(call: ast.Call) -> Measure:
    return Measure(_first(call), "", "", **_facts(call, FACTS))


def _first(call: ast.Call) -> str:
    return str(ast.literal_eval(call.args[0]))


def _facts(call: ast.Call, names: tuple[str, ...]) -> dict[str, Any]:
    return {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg in names}


def _heading(call: ast.Call) -> Heading:
    return Heading(_first(call), **{"title": _first(call), **_facts(call, ("title", "place", "cannot"))})


def _value(node: ast.expr) -> Any:
    """A plain value, or a part of a picture that is made of plain values."""
    if isinstance(node, ast.Tuple):
        return tuple(_value(item) for item in node.elts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in PARTS:
        named = {k.arg: _value(k.value) for k in node.keywords if k.arg is not None}
        return PARTS[node.func.id](*[_value(a) for a in node.args], **named)
    return ast.literal_eval(node)
