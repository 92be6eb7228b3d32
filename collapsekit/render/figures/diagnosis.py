"""Figures of a diagnosis: ``Report`` in, Matplotlib ``Figure`` out, or None where the report lacks the results.

What is drawn, each probe declares (:class:`collapsekit.measures.Picture`); one that declares nothing is drawn by what it
yields. Nothing here touches pyplot or a display. :func:`draw` makes one figure, :func:`pictures_of` lists those of a
report, :func:`save` writes them for a paper, and :func:`inline_svg` turns one into part of a page.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collapsekit.errors import ConfigError, did_you_mean
from collapsekit.io.files import write_atomic
from collapsekit.io.safe_text import quote
from collapsekit.measures import Finding, Heading, Panel, Picture, headings, headings_of_package
from collapsekit.render.figures import marks, style
from collapsekit.render.figures.findings import state_finding
from collapsekit.render.figures.plots import arrange, columns_for, plots_of, results_of
from collapsekit.render.figures.style import inline_svg, panels, theme
from collapsekit.report.diagnosis import Report, Result
from collapsekit.report.names import cleaned, modality_names, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["CAPTIONS", "FIGURES", "draw", "explain", "inline_svg", "pictures_of", "save", "state"]

Draw = Callable[..., "Figure | None"]
_MOST_MODALITIES = 64
_MOST_PANELS = 9  # of a picture that no probe declares
_LARGEST = Finding(
    "most",
    "",
    {
        "clear": "Largest for {modality}: {value}.",
        "unclear": "It is not clear for which modality it is largest: {value} for {modality}, {other} for {second}.",
    },
)


def draw(report: Report, name: str, wide: bool = True) -> Figure | None:
    """Draw one figure of a diagnosis.

    Args:
        report: Of a diagnosis.
        name: Of a figure, such as ``beta_curves``, or of a probe, such as ``rank_sweep``, whose first figure it then is.
        wide: Whether panels stand abreast, 6.8 inches wide; else one below the other in one column of 3.4 inches.

    Returns:
        The figure; None where the report has no numbers for it.

    Raises:
        ConfigError: For a name that neither a figure nor a probe has.
    """
    by_name = dict(_BUILT_IN)
    by_probe = {h.probe: h.pictures for h in headings_of_package()}
    for head, pictures in _of_report(report):
        by_name |= {p.name: p for p in pictures}
        by_probe[head.probe] = pictures
    if name in by_name:
        return _drawn(report, by_name[name], wide)
    if name in by_probe:
        return next((f for p in by_probe[name] if (f := _drawn(report, p, wide)) is not None), None)
    known = sorted({*by_name, *by_probe})
    there = dict.fromkeys(p.name for p in pictures_of(report))
    raise ConfigError(
        f"there is no figure {quote(name)}{did_you_mean(name, known)}: name a probe of the report or one of its figures, "
        f"{', '.join(map(quote, there)) or 'of which it has none'}."
    )


def pictures_of(report: Report) -> list[Picture]:
    """List the pictures of the probes that a report has results of, in the order in which they are shown."""
    return [p for _, pictures in _of_report(report) for p in pictures]


def explain(report: Report, picture: Picture) -> Result | None:
    """Find the result whose definition and source explain a picture; None where the report has none."""
    found = results_of(report, picture.explains)
    return next((r for r in found if r.skipped is None), next(iter(found), None))


def state(report: Report, picture: Picture) -> str:
    """Say what a picture shows, in a sentence that the intervals allow; empty where nothing can be said.

    Args:
        report: Of a diagnosis, with clean names.
        picture: One of :func:`pictures_of`.

    Returns:
        The sentence.
    """
    return state_finding(report, picture.findings)


def _of_report(report: Report) -> list[tuple[Heading, tuple[Picture, ...]]]:
    heads = headings(r.probe for r in report.results)
    taken = set(_BUILT_IN)
    return [(h, h.pictures or tuple(_from_results(report, h, taken))) for h in heads]


def _drawn(report: Report, picture: Picture, wide: bool) -> Figure | None:
    """``picture`` with clean names."""
    return draw_picture(cleaned(report), picture, wide)


def draw_picture(report: Report, picture: Picture, wide: bool = True) -> Figure | None:
    """Draw a picture of a report whose names are clean already: to clean a large one takes as long as to draw.

    Args:
        report: Of a diagnosis, as :func:`collapsekit.report.names.cleaned` gives it; what has no place on paper is left out.
        picture: One of :func:`pictures_of`.
        wide: Whether panels stand abreast.

    Returns:
        The figure; None where the report has no numbers for it, or more modalities than have room.
    """
    if len(modality_names(report)) > _MOST_MODALITIES:
        return None
    report = report.model_copy(update={"results": tuple(r for r in report.results if _fits(r))})
    with theme():
        plots = [plot for panel in picture.panels for plot in plots_of(report, panel)]
        if not plots:
            return None
        beside = columns_for(plots, wide=wide)
        fig, axes = panels(len(plots), height=[plot.height for plot in plots], beside=beside)
        arrange(plots, axes, beside)
        marks.legend(fig)
    return fig


def _fits(r: Result) -> bool:
    return marks.fits([] if r.value is None else [r.value], r.interval) and (
        r.curve is None or marks.curve_fits(r.curve)
    )


# --- a probe that declares no picture


def _from_results(report: Report, head: Heading, taken: set[str]) -> Iterator[Picture]:
    """Draw what a probe yields that declares no picture: a panel a name of results, or one for all of the whole model."""
    results = [r for r in report.results if r.probe == head.probe and (r.value is not None or r.curve is not None)]
    names = list(dict.fromkeys(r.name for r in results))
    whole = [n for n in names if all(_of_whole(r) for r in results if r.name == n)]
    shown = [
        Panel(_axis(r), {"": n}, _title(r), _along(r)) for n in names if n not in whole and (r := _first(results, n))
    ]
    by_unit: dict[str, dict[str, str]] = {}
    for n in whole:
        r = _first(results, n)
        by_unit.setdefault(r.unit or "", {})[short_name(r)] = n
    shown += [Panel(unit or "value", series) for unit, series in by_unit.items()]
    if not shown:
        return
    name = re.sub(r"[^A-Za-z0-9]+", "_", head.probe)[:60].strip("_") or "figure"
    while name in taken:
        name += "_2"
    taken.add(name)
    split = next((n for n in names if n not in whole), "")
    finding = Finding(_LARGEST.question, split, _LARGEST.says)
    yield Picture(name, head.title, tuple(shown[:_MOST_PANELS]), (finding,) if split else (), about=names[0])


def _of_whole(r: Result) -> bool:
    return r.value is not None and r.modality is None and r.versus is None


def _first(results: Sequence[Result], name: str) -> Result:
    return next(r for r in results if r.name == name)


def _axis(r: Result) -> str:
    return r.unit or (r.curve.y_label if r.curve is not None else "") or "value"


def _title(r: Result) -> str:
    return short_name(r)


def _along(r: Result) -> str:
    return r.curve.x_label if r.curve is not None and r.value is None else ""


# --- those of the package's own probes

_BUILT_IN: dict[str, Picture] = {p.name: p for h in headings_of_package() for p in h.pictures}
FIGURES: dict[str, Draw] = {name: functools.partial(draw, name=name) for name in _BUILT_IN}
"""Name to ``draw(report, *, wide=True)``; ``wide=False`` stacks panels in one column of a paper, or on a phone."""

CAPTIONS: dict[str, tuple[str, str]] = {name: (p.title, p.explains) for name, p in _BUILT_IN.items()}
"""Name to its title and the measure whose definition and source explain it."""


def save(report: Report, directory: str | Path, formats: Sequence[str] = ("svg", "pdf", "png")) -> list[Path]:
    """Write every figure the report has results for.

    Widths fit a paper (3.4 in, or 6.8 in where there are several panels), text is 8 pt, PNG has 300 dpi, PDF embeds Type 42
    fonts. The same report gives the same bytes.

    Args:
        report: Of a diagnosis.
        directory: Where the files go.
        formats: Of svg, pdf and png.

    Returns:
        The paths, in the order of :func:`pictures_of`.

    Raises:
        ConfigError: For a format not known, and where a file cannot be written: those before it are then whole.
    """
    creator = {"Creator": "collapsekit"}
    known: dict[str, dict[str, Any]] = {
        "svg": {**creator, "Date": None},
        "pdf": {**creator, "CreationDate": None, "Producer": None},
        "png": {"Software": "collapsekit"},
    }
    for wrong in [f for f in formats if f not in known]:
        raise ConfigError(f"figure format {wrong!r} is not known: use svg, pdf or png{did_you_mean(wrong, known)}.")
    written = []
    drawn = ((picture, _drawn(report, picture, True)) for picture in pictures_of(cleaned(report)))
    for picture, fig in ((picture, fig) for picture, fig in drawn if fig is not None):
        for kind in formats:
            sink = io.BytesIO()
            with theme():
                style.settle(fig)
                ground = "white" if kind == "png" else "none"
                fig.savefig(sink, format=kind, metadata={"Title": picture.title, **known[kind]}, facecolor=ground)
            written.append(write_atomic(Path(directory) / f"{picture.name}.{kind}", sink.getvalue()))
    return written
