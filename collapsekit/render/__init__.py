"""A report as text, Markdown, HTML or figures. Everything here reads a ``Report`` and nothing else."""

from __future__ import annotations

from collections.abc import Callable

from collapsekit.report import Report


def _json(report: Report) -> str:
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
