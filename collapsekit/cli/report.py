"""collapsekit report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from collapsekit.cli.diagnose import Format
from collapsekit.cli.terminal import guarded, say, show
from collapsekit.errors import ConfigError


@guarded
def report(
    path: Annotated[Path, typer.Argument(metavar="REPORT.json", help="A report that diagnose wrote.")],
    format_: Annotated[Format, typer.Option("--format", "-f", help="How to render it.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write instead of stdout.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Save every figure as SVG, PDF and PNG in this folder.")] = None,
) -> None:
    """Render a report again; nothing is recomputed."""
    from collapsekit.files import write_atomic
    from collapsekit.render import FORMATS
    from collapsekit.report import Report

    if os.path.isdir(path):  # noqa: PTH112 - Path's own raises for a name too long
        path = path / "report.json"
    if not os.path.lexists(path):
        raise ConfigError(f"{path} is not a file: give the report.json that `collapsekit diagnose` wrote.")
    read = Report.load(path)
    if figures is not None:
        from collapsekit.render.figures import save

        written = save(read, figures)
        say(f"Written: {', '.join(map(str, written))}" if written else "The report has nothing that a figure shows.")
        if output is None and format_ is Format.terminal:
            return
    if output is not None:
        write_atomic(output, FORMATS[format_.value](read))
    elif format_ is Format.terminal:
        show(read)
    else:
        typer.echo(FORMATS[format_.value](read), nl=False)
