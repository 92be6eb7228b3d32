"""A document as the HTML page with a script of ours: numbers of figures at a glance, modalities to toggle, sliders over what
was recorded, tables to sort and to search. Nothing is fetched, and no other script runs."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from collapsekit.render import document as doc
from collapsekit.render.numbers import fmt, fmt_estimate
from collapsekit.render.writers.html import make_page

DETAIL = doc.Detail.FULL
_HERE = Path(__file__).parent
_DIGITS = 5  # of a coordinate; what is read are texts
_ESCAPED = {ord(c): f"\\u{ord(c):04x}" for c in "<>&"}


def write(document: doc.Document, **screen: object) -> str:
    """Print the document as one self-contained page that can be explored, the same bytes for the same document.

    What was recorded goes along as JSON, which the script shows as text and as lines, never as markup.
    """
    del screen
    script, style = ((_HERE / f"interactive.{kind}").read_text(encoding="utf-8") for kind in ("js", "css"))
    return make_page(document, style=style, script=script, data=to_data([_plain(r) for r in document.recorded]))


def to_data(value: Any) -> str:
    """Write a value as JSON that ends no element and begins none wherever it stands in a page: it is ASCII without <, > and
    &."""
    text = json.dumps(value, ensure_ascii=True, allow_nan=False, separators=(",", ":"))
    return text.translate(_ESCAPED)


def _plain(recording: doc.Recording) -> dict[str, Any]:
    return {
        "title": recording.title,
        "x": recording.x_label,
        "y": recording.y_label,
        "sets": [list(names) for names in recording.sets],
        "series": [_series(s) for s in recording.series],
    }


def _series(series: doc.Series) -> dict[str, Any]:
    ends = [e if e is not None else (y, y) for y, e in zip(series.y, series.intervals, strict=True)]
    estimates = zip(series.y, series.intervals, strict=True)
    return {
        "name": ", ".join(series.parts),
        "parts": list(series.parts),
        "place": series.place,
        "at": [x if isinstance(x, str) else _round(x) for x in series.x],
        "label": [x if isinstance(x, str) else fmt(x) for x in series.x],
        "y": _rounded(series.y),
        "low": _rounded(low for low, _ in ends),
        "high": _rounded(high for _, high in ends),
        "text": [fmt_estimate(y, interval) for y, interval in estimates],
    }


def _rounded(numbers: Iterable[float]) -> list[float]:
    return [_round(n) for n in numbers]


def _round(number: float) -> float:
    return float(f"{number:.{_DIGITS}g}")
