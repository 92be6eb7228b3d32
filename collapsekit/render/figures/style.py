"""How figures look, and how one becomes part of a page: palette, type, labels, inline SVG."""

from __future__ import annotations

import re
import textwrap
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import StringIO
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN = 3.4  # inches, one column of a two-column paper
PAGE = 6.8
_SPARE = 0.085  # inches around each pair of axes

INK, MUTED, RULE, PAPER = "#1c2024", "#5b6570", "#d4d9df", "#fefefe"
# Okabe & Ito's hues, darkened to at least 3:1 on white; a marker and a dash go with each, never colour alone.
SERIES = ("#0b62a4", "#c24a00", "#00795c", "#a23b84", "#8f6a00", "#3b87b8")
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.5)), (0, (1.5, 1)), (0, (6, 1.5, 1.5, 1.5)), (0, (3, 1)), (0, (8, 2)))
# What style.css calls them, so that a page can show them in light and dark.
VARIABLES = {INK: "--ink", MUTED: "--muted", RULE: "--rule", PAPER: "--paper"} | {
    color: f"--series-{i}" for i, color in enumerate(SERIES, 1)
}

RC: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],  # ships with Matplotlib, so that output does not depend on the machine
    **dict.fromkeys(("font.size", "axes.titlesize", "axes.labelsize"), 8),
    **dict.fromkeys(("xtick.labelsize", "ytick.labelsize", "legend.fontsize"), 7),
    **dict.fromkeys(("text.color", "axes.titlecolor", "axes.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "xtick.labelcolor", "ytick.labelcolor"), MUTED),
    **dict.fromkeys(("axes.facecolor", "figure.facecolor", "svg.fonttype"), "none"),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "legend.frameon"), False),
    "text.parse_math": False,  # a name such as "$x_1$" is a name
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.5,
    "lines.linewidth": 1.3,
    "lines.markersize": 3.2,
    "savefig.dpi": 300,
    "svg.hashsalt": "collapsekit",
    "pdf.fonttype": 42,
}


@contextmanager
def theme() -> Iterator[None]:
    """Our settings, whatever the user's matplotlibrc says, for what is drawn or saved inside."""
    from matplotlib import style

    with style.context(["default", RC]), warnings.catch_warnings():
        # A name in a script the bundled font lacks is drawn as boxes in PNG and PDF, and as itself in SVG.
        warnings.filterwarnings("ignore", message=r"Glyph .* missing", category=UserWarning)
        yield


def panels(
    count: int, *, wide: bool = True, height: float | Sequence[float] = 1.9, beside: int | None = None
) -> tuple[Figure, list[Axes]]:
    """Make a figure of some axes: three abreast on a page's width, or one below the other in a column.

    Args:
        count: How many axes.
        wide: Whether they may stand abreast.
        height: Of each, in inches; those abreast are as tall as the tallest of them.
        beside: How many stand abreast; None: as many as :func:`across` says.

    Returns:
        The figure and its axes.
    """
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    beside = across(count, wide=wide) if beside is None else beside
    heights = [height] * count if isinstance(height, int | float) else list(height)
    rows = [max(heights[i : i + beside]) for i in range(0, count, beside)]
    # Letters are as wide as whole pixels allow, so a line is longer at one resolution than at another.
    layout = ConstrainedLayoutEngine(w_pad=_SPARE, h_pad=_SPARE / 2)
    figure = Figure(figsize=(PAGE if beside > 1 else COLUMN, sum(rows) + 0.15), layout=layout)
    grid = figure.subplots(len(rows), beside, squeeze=False, height_ratios=rows)
    axes = [ax for row in grid for ax in row]
    for unused in axes[count:]:
        unused.set_axis_off()
    return figure, axes[:count]


def across(count: int, *, wide: bool = True) -> int:
    """Tell how many of ``count`` axes stand beside one another."""
    return min(count, 2 if count == 4 else 3) if wide and count > 1 else 1


def settle(fig: Figure) -> None:
    """Lay the figure out now and for good, so that how often it is drawn later changes nothing."""
    from matplotlib.transforms import Bbox

    engine = fig.get_layout_engine()
    if engine is not None:
        engine.execute(fig)
        fig.set_layout_engine("none")
        # The solver's last bits differ from process to process, and ids in an SVG are hashes of places to the last bit.
        for axes in fig.axes:
            axes.set_position(Bbox(axes.get_position(original=True).get_points().round(9)), which="original")


def short_labels(names: Sequence[str], limit: int = 24) -> dict[str, str]:
    """Shorten names for a figure, still distinct: the middle is left out, then a number is added."""
    labels: dict[str, str] = {}
    for name in names:
        half = (limit - 1) // 2
        text = name if len(name) <= limit else f"{name[:half]}…{name[-half:]}"
        # Matplotlib drops legend entries that begin with an underscore.
        text, n = f" {text}" if text.startswith("_") else text, 1
        while text in labels.values():
            n += 1
            text = f"{text.rsplit(' #', 1)[0]} #{n}"
        labels[name] = text
    return labels


def wrapped(text: str, inches: float, *, bold: bool = False) -> str:
    """Break a label of 8 pt into lines.

    Args:
        text: The label.
        inches: How wide its lines may be.
        bold: Whether its letters are.

    Returns:
        The lines.
    """
    return textwrap.fill(text, max(8, int(inches * (13 if bold else 15)))) if text else ""


def say(artist: Any, *texts: str) -> None:
    """Keep what a page shows where it is pointed at: one text for what is drawn, or one a marker of a line."""
    artist._collapsekit_said = texts


def inline_svg(fig: Figure, title: str) -> str:
    """Make ``fig`` an ``<svg>`` element for an HTML page, named ``title`` for those who do not see it.

    What was given words by :func:`say` has them as ``<title>``, which browsers show where it is pointed at. Text stays
    text, colours of the palette become CSS variables, ids are prefixed with a slug of the title so
    that several can stand in one page, and no metadata, style sheet or reference leads out of it. The same
    figure and title give the same bytes.
    """
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    sink = StringIO()
    with theme(), _marked(fig) as said:
        settle(fig)
        canvas: Any = FigureCanvasSVG(fig)  # untyped
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        canvas.print_svg(sink, metadata=nothing)  # savefig would draw it twice
    root = ET.fromstring(sink.getvalue())
    for element in list(root.iter()):
        _name_parts(element, said.get(element.get("id", ""), ()))
    for parent in list(root.iter()):
        for child in [c for c in parent if _local(c.tag) in ("metadata", "style")]:
            parent.remove(child)
    used = {m[1] for e in root.iter() for v in e.attrib.values() for m in re.finditer(r"#([\w.-]+)", v)}
    prefix = re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
    for element in root.iter():
        element.tag = _local(element.tag)
        kept = {_local(k): v for k, v in element.attrib.items() if k != "id" or v in used}
        element.attrib = {k: _page_value(k, v, prefix) for k, v in kept.items()}
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img", "aria-label": title}
    name = ET.Element("title")
    name.text = title
    root.insert(0, name)
    return ET.tostring(root, encoding="unicode")


@contextmanager
def _marked(fig: Figure) -> Iterator[dict[str, tuple[str, ...]]]:
    """Give what has words an id while the figure is written; the words by id."""
    artists = fig.findobj(lambda artist: bool(getattr(artist, "_collapsekit_said", ())))
    by_id: dict[str, Any] = {f"said-{i}": artist for i, artist in enumerate(artists)}
    for name, artist in by_id.items():
        artist.set_gid(name)
    try:
        yield {name: artist._collapsekit_said for name, artist in by_id.items()}
    finally:
        for artist in by_id.values():
            artist.set_gid(None)


def _name_parts(element: ET.Element, texts: Sequence[str]) -> None:
    """Put one text into what was drawn, or one into each marker; where markers lie outside of the axes, none."""
    parts = [e for e in element.iter() if _local(e.tag) == "use"] if len(texts) > 1 else [element]
    if len(parts) == len(texts):
        for part, text in zip(parts, texts, strict=True):
            name = ET.Element("title")
            name.text = text
            part.insert(0, name)


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _page_value(key: str, value: str, prefix: str) -> str:
    if key == "id":
        return f"{prefix}-{value}"
    if key == "style":
        value = re.sub(r"#[0-9a-f]{6}", lambda m: f"var({VARIABLES[m[0]]})" if m[0] in VARIABLES else m[0], value)
        value = re.sub(r"(?<=font-family: )[^;]*", "var(--sans)", value)
    return re.sub(r"^#" if key == "href" else r"(?<=url\()#", f"#{prefix}-", value)
