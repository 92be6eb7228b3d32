"""Text and JSON of plain data that is safe to show."""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

NAME_LIMIT = 80
TEXT_LIMIT = 4000
# Control, format (bidi, zero-width, tags), surrogate, private use, line and paragraph separators.
_HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
# What a CI log would run as a command: "::error::…" at a line's start, "##[…]" anywhere (GitHub Actions).
_COMMAND = re.compile(r"(?<=:):|(?<=#)#(?=\[)")


def quote(text: str, most: int = 80) -> str:
    """Return at most ``most`` characters of ``text`` in quotes, what cannot be seen as escapes."""
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def inline(text: str, most: int = 200) -> str:
    """Quote as :func:`quote` does, on one line, but without the quotes."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)


def _visible(char: str) -> str:
    point = ord(char)
    hidden = unicodedata.category(char) in _HIDDEN or point & 0xFFFE == 0xFFFE or 0xFDD0 <= point <= 0xFDEF
    if not hidden:
        return char
    if point < 0x100:
        return f"\\x{point:02x}"
    return f"\\u{point:04x}" if point < 0x10000 else f"\\U{point:08x}"


def clean(text: str, limit: int = NAME_LIMIT) -> str:
    """Make ``text`` a text with nothing in it that acts instead of being read, at most ``limit`` characters long.

    Control characters (ANSI and OSC escapes, NUL, newlines), bidirectional and zero-width controls, lone
    surrogates and CI log commands become visible escapes such as ``\\x1b``; what is too long ends in ``…``.
    HTML, Markdown and other syntax is left to each sink's own escaping. Cleaning twice changes nothing more.
    """
    escaped = text[: limit + 1]  # bounds the work on a text of any length
    if not escaped.isprintable():  # what str calls printable holds nothing of _HIDDEN
        escaped = "".join(map(_visible, escaped))
    escaped = _COMMAND.sub(lambda m: f"\\x{ord(m[0]):02x}", escaped)
    return escaped if len(escaped) <= limit else escaped[: limit - 1] + "…"


def display_names(names: Iterable[str], limit: int = NAME_LIMIT) -> dict[str, str]:
    """Clean each name, numbered where two names would otherwise look the same."""
    every = list(dict.fromkeys(names))
    return dict(zip(every, distinct_names(every, limit), strict=True))


def distinct_names(names: Iterable[str], limit: int) -> Iterator[str]:
    """Clean each name, numbered where it was there before."""
    used: set[str] = set()
    last: Counter[str] = Counter()
    for name in names:
        base = candidate = clean(name, limit)
        while candidate in used:
            last[base] += 1
            candidate = f"{base} ({last[base] + 1})"
        used.add(candidate)
        yield candidate


def some(names: Sequence[str], limit: int = 3) -> str:
    """Name the first of them, and how many there are more."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
