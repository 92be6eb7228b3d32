"""Reports side by side as one HTML page, of the same make as a report's: no script, nothing fetched."""

from __future__ import annotations

from typing import Any

from collapsekit.render.compare_tables import (
    absences,
    blocks,
    cleaned_comparison,
    definitions,
    legend,
    p_blocks,
    runs_of,
)
from collapsekit.render.html import fill
from collapsekit.render.tables import some
from collapsekit.report.comparison import Comparison


def render(comparison: Comparison) -> str:
    """The comparison as one self-contained HTML page, the same bytes for the same one. The template escapes all text."""
    comparison = cleaned_comparison(comparison)
    tested, p_values = p_blocks(comparison)
    context: dict[str, Any] = {
        "comparison": comparison,
        "title": some([c.name for c in comparison.columns]),
        "blocks": blocks(comparison),
        "legend": list(legend(comparison)),
        "tested": tested,
        "p_values": p_values,
        "absences": absences(comparison),
        "definitions": definitions(comparison),
        "runs_of": runs_of,
    }
    return fill("compare.html.jinja", context)
