"""Names of strangers as YAML: strings that read back the same, and comments that stay in their line."""

from __future__ import annotations

import re

import yaml


def scalar(text: str) -> str:
    """Return ``text`` as one line of YAML that reads back as the same string."""
    if re.fullmatch(r"[A-Za-z_][\w.\-]*(:[A-Za-z_]\w*)?", text, re.ASCII) and yaml.safe_load(text) == text:
        return text
    quoted: str = yaml.safe_dump(text, default_style='"', width=float("inf"), allow_unicode=False)
    return quoted.strip()


def comment(text: str) -> str:
    """Return ``text`` with whatever would end a line spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
