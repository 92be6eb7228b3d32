"""A report as text: a view makes a document of it, a writer prints that; formats of CI are written from the report itself.

A new format is a file in ``writers`` or ``ci``, a new kind of report a file in ``views``: neither is named anywhere else.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from collapsekit.errors import ConfigError, did_you_mean

if TYPE_CHECKING:
    from collapsekit.render.document import Detail, Document
    from collapsekit.render.views.baseline import Update
    from collapsekit.report.base import Contract

_HERE = Path(__file__).parent
_ALIASES = {"md": "markdown", "text": "terminal"}


def files(folder: str) -> tuple[str, ...]:
    """Name the views, the writers, or the formats of CI that there are."""
    return tuple(sorted(p.stem for p in (_HERE / folder).glob("*.py") if not p.stem.startswith("_")))


def formats_of(kind: str) -> tuple[str, ...]:
    """Name the formats that reports of a kind (the name of their view) can be written in."""
    writers = (name.replace("_", "-") for name in files("writers"))
    return ("json", *writers, *(files("ci") if kind == "gate" else ()))


def write(report: Contract | Update, format_: str, *, width: int | None = None, color: bool = False) -> str:
    """Write a report in one of its formats.

    Args:
        report: Of a diagnosis, a repair, a gate or a comparison; a baseline, or its update.
        format_: json; terminal (or text), markdown (or md), html, html-interactive; of a gate also junit, sarif, github.
        width: Columns of a terminal; by default those of the one there is, from 40 to 120.
        color: Whether a terminal shows colours.

    Returns:
        The whole text.

    Raises:
        ConfigError: Where the report has no such format.
    """
    name, known = _ALIASES.get(format_, format_).replace("_", "-"), formats_of(_kind(report))
    if name not in known:
        hint = did_you_mean(format_, known)
        raise ConfigError(f"format {format_!r} is not known: use one of {', '.join(known)}{hint}.")
    if name == "json":
        return report.to_json()
    if name in files("ci"):
        return str(import_module(f"collapsekit.render.ci.{name}").write(report))
    writer = import_module(f"collapsekit.render.writers.{name.replace('-', '_')}")
    return str(writer.write(document_of(report, writer.DETAIL), width=width, color=color))


def document_of(report: Contract | Update, detail: Detail) -> Document:
    """Make the document of a report, as the view of its kind does."""
    view: Document = import_module(f"collapsekit.render.views.{_kind(report)}").view(report, detail)
    return view


def _kind(report: object) -> str:
    """The name of the module that holds the report's class, which is its view's, too."""
    return type(report).__module__.rpartition(".")[2]
