"""The report of a repair as one HTML page, of the same make as the diagnosis: no script, nothing fetched."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from collapsekit.render.canvas import inline_svg
from collapsekit.render.html import Picture, fill
from collapsekit.render.repair_compare import Comparison, compare
from collapsekit.render.repair_figures import figures
from collapsekit.render.repair_findings import finding_definitions, finding_grid, new_grid, structure_grid
from collapsekit.render.repair_tables import (
    CONTROL,
    Grid,
    cautions,
    checks_grid,
    curve_grids,
    definition_grid,
    headline,
    key_grid,
    left_grid,
    loss_grid,
    measured,
    note_grid,
    passed,
    section_grids,
    settings_grid,
    signed,
    standing,
)
from collapsekit.render.sanitize import cleaned_repair
from collapsekit.render.tables import MARKS
from collapsekit.report.diagnosis import ModalityVerdict
from collapsekit.report.repair import RepairReport

# Our own classes for what the style sheet has a colour for.
_CLASSES = {
    **dict.fromkeys(("accepted", "passed", "better"), "used"),
    **dict.fromkeys(("rejected", "failed", "worse"), "collapsed"),
}
# A card's colour is that of its verdict after; a class would colour the other verdicts on it too.
_COLORS = {"collapsed": "--bad", "underused": "--warn", "used": "--good", "inconclusive": "--open"}


@dataclass(frozen=True)
class Card:
    """One modality's verdicts: (before, after or control; the verdict)."""

    name: str
    repaired: bool
    verdicts: tuple[tuple[str, ModalityVerdict], ...]
    after: str  # the verdict after, where there is one


def render(report: RepairReport) -> str:
    """The report as one self-contained HTML page, the same bytes for the same report. The template escapes all text."""
    report = cleaned_repair(report)
    comparison = compare(report)
    decision, summary = headline(report)
    context: dict[str, Any] = {
        "report": report,
        "decision": decision,
        "summary": summary,
        "measured": measured(report),
        "marks": MARKS,
        "classes": _CLASSES,
        "colors": _COLORS,
        "standing": standing(report, comparison),
        "cautions": cautions(report),
        "cards": list(_cards(report)),
        "control": CONTROL if report.control is not None else "",
        "checks": [(check, passed(check)) for check in report.checks],
        "checks_about": checks_grid(report).about,
        "key": key_grid(report, comparison),
        "pictures": list(_pictures(report, comparison)),
        "losses": loss_grid(report),
        "noted": [grid for grid in (new_grid(report), finding_grid(report), structure_grid(report)) if grid.rows],
        "sections": section_grids(report, comparison),
        "curves": curve_grids(report, comparison),
        "rest": _rest(report, comparison),
        "signed": signed,
    }
    return fill("repair.html.jinja", context)


def _cards(report: RepairReport) -> Iterator[Card]:
    found = {"before": report.before, "after": report.after}
    if report.control is not None:
        found["control"] = report.control
    for m in dict.fromkeys(m for r in found.values() for m in r.modalities):
        verdicts = tuple((when, r.modalities[m]) for when, r in found.items() if m in r.modalities)
        after = report.after.modalities[m].verdict if m in report.after.modalities else ""
        yield Card(m, m in report.repaired, verdicts, after)


def _pictures(report: RepairReport, comparison: Comparison) -> Iterator[Picture]:
    for name, title, about, draw in figures(report, comparison):
        wide = draw(True)
        narrow = Markup(inline_svg(draw(False), f"{title}, narrow")) if wide.get_figwidth() > 4 else None
        yield Picture(name, title, about, Markup(inline_svg(wide, title)), narrow)  # escaped by the XML writer


def _rest(report: RepairReport, comparison: Comparison) -> list[Grid]:
    grids = [
        left_grid(comparison),
        note_grid(report, comparison),
        definition_grid(report, comparison, finding_definitions(report)),
        settings_grid(report),
    ]
    return [grid for grid in grids if grid.rows]
