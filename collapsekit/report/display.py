"""The way from a report's methods to what draws and prints reports.

``render`` reads reports, so it imports this package, and nothing here may import it. The methods of a report that show it
are for whoever has a report in hand; they find ``render`` by name, when they are called. No other module here does.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Library = Literal["pandas", "polars"]  # that makes tables


def first_screen(report: object) -> str:
    """Write what a notebook shows of a report: a piece of HTML."""
    return str(_render("notebook").first_screen(report))


def save_report(report: object, path: str | os.PathLike[str]) -> list[Path]:
    """Write a report of any kind to a file or a folder, and return what was written."""
    written: list[Path] = _render("saving").save_report(report, path)
    return written


def plot_probe(report: object, name: str, *, wide: bool) -> Figure:
    """Draw a figure of a diagnosis.

    Args:
        report: The diagnosis.
        name: Of a probe or a figure.
        wide: Whether panels may stand side by side.

    Returns:
        The figure.
    """
    figure: Figure = _render("plotting").plot_probe(report, name, wide=wide)
    return figure


def result_frame(report: object, library: Library | None) -> Any:
    """Make a table of a diagnosis, one row a result."""
    return _render("frames").result_frame(report, library)


def curve_frame(report: object, library: Library | None) -> Any:
    """Make a table of a diagnosis, one row a point of a curve."""
    return _render("frames").curve_frame(report, library)


def _render(module: str) -> Any:
    return import_module(f"collapsekit.render.{module}")
