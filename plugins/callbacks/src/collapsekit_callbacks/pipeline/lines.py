"""Lines of the user's own code to look at: FILE:LINE."""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

from torch import nn

from collapsekit.ext import is_user_file, short_path


def calling_line() -> str:
    """Name the line of the user's own code that runs just now, the innermost one; empty where there is none."""
    frame: FrameType | None = sys._getframe(1)
    own = str(Path(__file__).parents[1])
    while frame is not None:
        file = frame.f_code.co_filename
        if is_user_file(file) and not file.startswith(own):
            return f"{short_path(file)}:{frame.f_lineno}"
        frame = frame.f_back
    return ""


def data_line(loader: Any) -> str:
    """Name where a loader's batches are put together: a collate_fn or ``__getitem__`` of the user's own; empty where there
    is none."""
    dataset = getattr(loader, "dataset", loader)
    made = (
        getattr(loader, "collate_fn", None),
        getattr(type(dataset), "__getitem__", None),
        getattr(type(dataset), "__iter__", None),
    )
    for function in made:
        place = _place(function)
        if place:
            return place
    return ""


def reading_line(model: nn.Module, argument: str) -> str:
    """Name the line of forward where an argument is last read, or that it is not read there.

    Args:
        model: The user's module.
        argument: Of its forward.

    Returns:
        A phrase that goes on behind "look at".
    """
    forward = type(model).forward
    place = _place(forward)
    tree, first = _tree(forward)
    if not place or tree is None:
        return f"{type(model).__name__}.forward, at {argument!r}"
    lines = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Name) and node.id == argument and isinstance(node.ctx, ast.Load)
    ]
    if lines:
        return f"{place.rpartition(':')[0]}:{first + max(lines) - 1}, where forward reads {argument!r}"
    if any(isinstance(node, ast.arg) and node.arg == argument for node in ast.walk(tree)):
        return f"{place}, where forward takes {argument!r} and does not read it"
    return f"{place}, forward"


def _tree(function: Callable[..., Any]) -> tuple[ast.AST | None, int]:
    try:
        lines, first = inspect.getsourcelines(function)
        return ast.parse(textwrap.dedent("".join(lines))), first
    except (OSError, TypeError, SyntaxError):
        return None, 0


def _place(function: Any) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    if code is None or not is_user_file(code.co_filename):
        return ""
    return f"{short_path(code.co_filename)}:{code.co_firstlineno}"
