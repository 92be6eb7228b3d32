"""A report as text, Markdown, HTML or figures. Everything here reads a ``Report`` or ``RepairReport``, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collapsekit.report.comparison import Comparison
    from collapsekit.report.diagnosis import Report
    from collapsekit.report.gate import GateReport
    from collapsekit.report.repair import RepairReport


def _json(report: Report | RepairReport | GateReport | Comparison) -> str:
    return report.to_json()


def _markdown(report: Report) -> str:
    from collapsekit.render.markdown import render

    return render(report)


def _html(report: Report) -> str:
    from collapsekit.render.html import render

    return render(report)


def _terminal(report: Report, *, width: int | None = None, color: bool = False) -> str:
    from collapsekit.render.terminal import render

    return render(report, width=width, color=color)


FORMATS: dict[str, Callable[..., str]] = {
    "json": _json,
    "md": _markdown,
    "html": _html,
    "terminal": _terminal,
}
"""Format name to ``render(report) -> str``; ``terminal`` also takes ``width`` and ``color``."""


def _repair_markdown(report: RepairReport) -> str:
    from collapsekit.render.repair_markdown import render

    return render(report)


def _repair_html(report: RepairReport) -> str:
    from collapsekit.render.repair_html import render

    return render(report)


def _repair_terminal(report: RepairReport, *, width: int | None = None, color: bool = False) -> str:
    from collapsekit.render.repair_terminal import render

    return render(report, width=width, color=color)


REPAIR_FORMATS: dict[str, Callable[..., str]] = {
    "json": _json,
    "md": _repair_markdown,
    "html": _repair_html,
    "terminal": _repair_terminal,
}
"""The same for a ``RepairReport``."""


def _gate_text(report: GateReport, *, width: int | None = None, color: bool = False) -> str:
    from collapsekit.render.gate_text import render

    return render(report, width=width, color=color)


def _gate_markdown(report: GateReport) -> str:
    from collapsekit.render.gate_markdown import render

    return render(report)


def _gate_junit(report: GateReport) -> str:
    from collapsekit.render.gate_junit import render

    return render(report)


def _gate_sarif(report: GateReport) -> str:
    from collapsekit.render.gate_sarif import render

    return render(report)


def _gate_github(report: GateReport) -> str:
    from collapsekit.render.gate_github import render

    return render(report)


GATE_FORMATS: dict[str, Callable[..., str]] = {
    "text": _gate_text,
    "json": _json,
    "markdown": _gate_markdown,
    "junit": _gate_junit,
    "sarif": _gate_sarif,
    "github": _gate_github,
}
"""The same for a ``GateReport``; ``text`` takes ``width`` and ``color``."""


def _compare_markdown(comparison: Comparison) -> str:
    from collapsekit.render.compare_markdown import render

    return render(comparison)


def _compare_html(comparison: Comparison) -> str:
    from collapsekit.render.compare_html import render

    return render(comparison)


def _compare_terminal(comparison: Comparison, *, width: int | None = None, color: bool = False) -> str:
    from collapsekit.render.compare_terminal import render

    return render(comparison, width=width, color=color)


COMPARE_FORMATS: dict[str, Callable[..., str]] = {
    "json": _json,
    "md": _compare_markdown,
    "html": _compare_html,
    "terminal": _compare_terminal,
}
"""The same for a ``Comparison``."""
