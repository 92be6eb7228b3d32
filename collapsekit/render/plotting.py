"""One probe's picture as a Matplotlib figure, for a notebook or a script of the user's."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from collapsekit.errors import ConfigError
from collapsekit.io.safe_text import clean, quote
from collapsekit.measures import Picture, headings_of_package
from collapsekit.render.figures import style
from collapsekit.render.figures.diagnosis import draw, pictures_of
from collapsekit.report.diagnosis import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 144


def plot_probe(report: Report, name: str, *, wide: bool = True) -> Figure:
    """Draw what a probe found.

    Args:
        report: Of a diagnosis.
        name: Of a probe, or of a figure.
        wide: Whether panels may stand side by side.

    Returns:
        A figure on white, laid out for good; a notebook shows it whether pyplot is imported or not.

    Raises:
        ConfigError: Where no probe or figure has that name, or the report lacks what it would show.
    """
    if not isinstance(name, str):
        raise ConfigError(f"plot takes the name of a probe or a figure, not {type(name).__name__}.")
    figure = draw(report, name, wide=wide)
    if figure is None:
        raise ConfigError(f"the report has nothing that {quote(name)} would show: {_why(report, name)}")
    with style.theme():
        style.settle(figure)
    figure.set_facecolor("white")  # else dark letters would stand on a dark notebook
    # IPython asks an object for this where no formatter is registered for its type: pyplot registers one, as it is imported.
    setattr(figure, "_repr_png_", partial(_png, figure))  # noqa: B010 - Matplotlib's class has no such attribute
    return figure


def drawable(report: Report) -> Iterator[str]:
    """Name the probes whose pictures a report has numbers for, those on what a modality earns first."""
    probes = dict.fromkeys(_probe_of(picture) for picture in pictures_of(report))
    return (probe for probe in probes if draw(report, probe) is not None)


def _probe_of(picture: Picture) -> str:
    return picture.explains.partition(".")[0]


def _why(report: Report, name: str) -> str:
    """What is missing, and what to do."""
    every = [*pictures_of(report), *(p for heading in headings_of_package() for p in heading.pictures)]
    probe = next((_probe_of(p) for p in every if p.name == name and name != _probe_of(p)), name)
    of_probe = [r for r in report.results if r.probe == probe]
    skipped = next((r.skipped for r in of_probe if r.skipped is not None), None)
    if skipped is not None:
        return f"it was skipped ({clean(skipped, 300).rstrip('.')})."
    if of_probe:
        return "its results hold none of that."
    return f"the probe {quote(probe)} was not run; diagnose with it among the probes."


def _png(figure: Figure) -> bytes:
    sink = io.BytesIO()
    with style.theme():
        figure.savefig(sink, format="png", dpi=_DPI, metadata={"Software": "collapsekit"})
    return sink.getvalue()
