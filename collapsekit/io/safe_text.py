"""Text and JSON of plain data that is safe to show."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any


def quoted(text: str, most: int = 80) -> str:
    """At most ``most`` characters of ``text`` in quotes, what cannot be seen as escapes."""
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def shown(text: str, most: int = 200) -> str:
    """As :func:`quoted` on one line, but without the quotes."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


def json_text(value: Any, *, default: Callable[[Any], Any] | None = None) -> str:
    """``value`` as indented JSON in which nothing acts on a terminal or CI log that shows it; it reads back the same.

    Raises ValueError for NaN and infinities.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=default)
    lines = (line if line.isprintable() else "".join(map(_escape, line)) for line in text.split("\n"))
    return "\n".join(lines).replace("##[", "#\\u0023[")


def _escape(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1].replace("\x7f", "\\u007f")
