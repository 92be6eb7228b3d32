"""Text and JSON of plain data that is safe to show."""

from __future__ import annotations


def quote(text: str, most: int = 80) -> str:
    """Return at most ``most`` characters of ``text`` in quotes, what cannot be seen as escapes."""
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def inline(text: str, most: int = 200) -> str:
    """Quote as :func:`quote` does, on one line, but without the quotes."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)
