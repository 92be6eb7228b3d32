"""Text and JSON of plain data that is safe to show."""

from __future__ import annotations


def quoted(text: str, most: int = 80) -> str:
    """At most ``most`` characters of ``text`` in quotes, what cannot be seen as escapes."""
    return repr(text if len(text) <= most else text[: most - 1] + "…")


def shown(text: str, most: int = 200) -> str:
    """As :func:`quoted` on one line, but without the quotes."""
    short = text if len(text) <= most else text[: most - 1] + "…"
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in short)
