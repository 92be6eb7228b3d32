"""The report as one HTML page: no script, nothing fetched, readable in light and dark, on paper and on a phone."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from collapsekit.render.figures import CAPTIONS, FIGURES, inline_svg
from collapsekit.render.numbers import ABSENT, fmt, fmt_estimate, fmt_interval
from collapsekit.render.sanitize import cleaned
from collapsekit.render.tables import (
    MARKS,
    Subset,
    command,
    flatten,
    label,
    sections,
    settings_lines,
    short_name,
    subsets,
    verdicts,
)
from collapsekit.report.diagnosis import Report, Result

_HERE = Path(__file__).parent
# Nothing loads or runs, and of style sheets only our own counts. Attributes hold the figures' colours and the bars'
# lengths; browsers that do not know -elem and -attr (before 2023) go by style-src.
_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; style-src-elem 'sha256-{}'; style-src-attr 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)
_COST = ("reliance", "utilisation")  # the figures on what it costs; the others say why
_MOST_POINTS = 128  # rows of a curve's table; a vector has no reader beyond that, and the JSON has it whole


@dataclass(frozen=True)
class Picture:
    """One figure as the page shows it; ``narrow`` is the same stacked for a phone, where that differs."""

    name: str
    title: str
    about: Result | None
    wide: Markup
    narrow: Markup | None


def render(report: Report) -> str:
    """The report as one self-contained HTML page, the same bytes for the same report.

    All text is escaped by the template; the only markup let through is our own style sheet and figures.
    """
    report = cleaned(report)
    pictures, grouped = list(_pictures(report)), sections(report)
    context: dict[str, Any] = {
        "report": report,
        "subject": report.subject,
        "marks": MARKS,
        "absent": ABSENT,
        "verdicts": verdicts(report),
        "costs": [p for p in pictures if p.name in _COST],
        "reasons": [p for p in pictures if p.name not in _COST],
        "subsets": _bars(subsets(report)),
        "sections": grouped,
        "anchors": _anchors(report),
        "firsts": {r.name: r for s in reversed(grouped) for r in reversed(s.definitions)},
        "estimate": lambda r: fmt_estimate(r.value, r.interval),
        "points": _points,
        "command": command(report),
        "settings": settings_lines(report),
        "environment": flatten(report.environment),
    }
    return fill("template.html.jinja", context)


def fill(template: str, context: dict[str, Any]) -> str:
    """One of our templates with our style sheet and the policy that lets nothing else in; ``context`` is escaped."""
    environment = Environment(
        loader=FileSystemLoader(_HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(number=fmt, interval=fmt_interval, short=short_name, label=label)
    environment.filters.update(breakable=_breakable, percent=_percent)
    style = (_HERE / "style.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    ours = {"style": Markup(style), "policy": Markup(_POLICY.format(digest))}
    return environment.get_template(template).render({**context, **ours})


def _pictures(report: Report) -> Iterator[Picture]:
    for name, draw in FIGURES.items():
        wide = draw(report)
        if wide is None:
            continue
        title, about = CAPTIONS[name]
        result = next(report.named(about), None)
        narrow = draw(report, wide=False) if wide.get_figwidth() > 4 else None
        yield Picture(
            name,
            title,
            result,
            Markup(inline_svg(wide, title)),  # escaped by the XML writer
            Markup(inline_svg(narrow, f"{title}, narrow")) if narrow is not None else None,
        )


def _breakable(name: str) -> Markup:
    """The name, escaped, with leave to break the line after its own separators."""
    return Markup("<wbr>").join(re.findall(r"[^_\-./:+]*[_\-./:+]+|[^_\-./:+]+", name))


def _percent(share: float) -> float:
    """A place on a scale from 0 to 1, in percent; what lies beyond is shown at its end."""
    return 100 * min(1.0, max(0.0, share))


def _bars(rows: list[Subset]) -> list[tuple[Subset, float | None]]:
    """Each subset with the length of its bar in percent: its metric where had, else its loss, zero being none."""
    lengths = [s.metric or s.loss for s in rows]
    most = max((abs(e[0]) for e in lengths if e is not None), default=0.0)
    return [
        (s, round(100 * (abs(e[0]) / most), 1) if e is not None and most > 0 else None)
        for s, e in zip(rows, lengths, strict=True)
    ]


def _anchors(report: Report) -> dict[str, str]:
    """Result name to the id of its definition, which evidence links to."""
    return {name: f"r{i}" for i, name in enumerate(dict.fromkeys(r.name for r in report.results))}


def _points(result: Result) -> list[tuple[str, str, str]]:
    """(x, y, bounds) of a curve as text, evenly thinned to 128 rows where it has more."""
    curve = result.curve
    if curve is None:
        return []
    n = len(curve.y)
    kept = range(n) if n <= _MOST_POINTS else [round(i * (n - 1) / (_MOST_POINTS - 1)) for i in range(_MOST_POINTS)]
    rows = []
    for i in kept:
        x = curve.x[i]
        had = curve.lower is not None and curve.upper is not None
        bounds = (curve.lower[i], curve.upper[i]) if had else None  # type: ignore[index]
        rows.append((x if isinstance(x, str) else fmt(x), fmt(curve.y[i]), fmt_interval(bounds)))
    return rows
