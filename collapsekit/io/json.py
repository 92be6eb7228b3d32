"""JSON text both ways: written so that nothing in it acts on what shows it, read within bounds."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from collapsekit.errors import RefusedError
from collapsekit.io.files import read_text, reason
from collapsekit.io.safe_text import inline, quote

MAX_BYTES = 64_000_000


_MAX_DIGITS = 100  # digits


def read_json(path: str | Path) -> Any:
    """Return the JSON of a report's file of at most 64 MB. Raises RefusedError where it cannot be read as that."""
    try:
        text = read_text(path, MAX_BYTES)
    except OSError as e:
        raise RefusedError(
            f"{path} cannot be read as a report: {reason(e)}; name a file that collapsekit wrote."
        ) from None
    return parse_json(text, str(path))


def parse_json(text: str, origin: str) -> Any:
    """JSON in which no number is out of range and no key stands twice. Raises RefusedError naming ``origin``."""
    try:
        return json.loads(
            text,
            parse_constant=_reject_constant,
            parse_float=_finite_number,
            parse_int=_short_integer,
            object_pairs_hook=_each_key_once,
        )
    except RecursionError:
        raise RefusedError(f"{origin} is not JSON that collapsekit wrote: it is nested too deeply.") from None
    except ValueError as e:
        raise RefusedError(f"{origin} is not JSON ({e}): give a report.json that collapsekit wrote.") from None


def _reject_constant(name: str) -> float:
    raise ValueError(f"{name} is not allowed")


def _finite_number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {inline(text, 40)} is out of range")
    return value


def _short_integer(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise ValueError(f"a number of {len(text):,} digits is too long")
    return int(text)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        seen: set[str] = set()
        again = next(k for k, _ in pairs if k in seen or seen.add(k))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {quote(again)} stands twice in one object")
    return found


def json_text(value: Any, *, default: Callable[[Any], Any] | None = None) -> str:
    """Return ``value`` as indented JSON in which nothing acts on a terminal or CI log that shows it; it reads back the
    same.

    Raises ValueError for NaN and infinities.
    """
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False, default=default)
    lines = (line if line.isprintable() else "".join(map(_escape, line)) for line in text.split("\n"))
    return "\n".join(lines).replace("##[", "#\\u0023[")


def _escape(char: str) -> str:
    return char if char.isprintable() else json.dumps(char)[1:-1].replace("\x7f", "\\u007f")
