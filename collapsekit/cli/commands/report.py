"""collapsekit report."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapsekit.cli.commands.diagnose import Format
from collapsekit.cli.output import form_of, write
from collapsekit.cli.terminal import Ended, guarded, say, screen
from collapsekit.errors import ConfigError

if TYPE_CHECKING:
    from collapsekit.report.diagnosis import Report
    from collapsekit.report.repair import RepairReport
    from collapsekit.report.reproduction import Reproduction


@guarded
def report(
    path: Annotated[Path, typer.Argument(metavar="REPORT.json", help="What diagnose, repair or reproduce wrote.")],
    format_: Annotated[Format, typer.Option("--format", "-f", help="How to render it.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write instead of stdout.")] = None,
    figures: Annotated[Path | None, typer.Option(help="Save every figure as SVG, PDF and PNG in this folder.")] = None,
) -> Ended:
    """Render a report again; nothing is recomputed."""
    from collapsekit import render
    from collapsekit.io.files import write_atomic
    from collapsekit.io.writable import check_file, check_folder
    from collapsekit.report.diagnosis import Report

    if output is not None:
        check_file(output, "--output")
    if figures is not None:
        check_folder(figures, "--figures")
    read = _read(path)
    told = ""
    if figures is not None:
        if not isinstance(read, Report):
            raise ConfigError(f"{path} is of no diagnosis, and has no figures to save: its HTML shows them (-f html).")
        from collapsekit.render.figures.diagnosis import save

        written = save(read, figures)
        told = f"Written: {', '.join(map(str, written))}" if written else "The report has nothing that a figure shows."
    if output is not None:
        write_atomic(output, render.write(read, format_.value))
        return Ended(show=lambda: say(told) if told else None)
    if format_ is Format.terminal:
        return Ended(show=lambda: say(told) if told else screen(read))
    text = render.write(read, format_.value)

    def show() -> None:
        if told:
            say(told)
        write(text, form_of(format_.value))

    return Ended(show=show)


def _read(path: Path) -> Report | RepairReport | Reproduction:
    """The report at ``path``, or in a folder: of a diagnosis, a repair or an item of a paper, told by its content."""
    from collapsekit.io.json import read_json
    from collapsekit.report.per_example import load_report

    if os.path.isdir(path):  # noqa: PTH112 - Path's own raises for a name too long
        names = ("report.json", "repair.json", "reproduction.json")
        path = next((path / n for n in names if os.path.lexists(path / n)), path / names[0])
    if not os.path.lexists(path):
        raise ConfigError(f"{path} is not a file: give the report.json that `collapsekit diagnose` wrote.")
    raw = read_json(path)
    kind = raw.get("kind") if isinstance(raw, dict) else None
    if kind == "reproduction":
        from collapsekit.report.reproduction import Reproduction

        return Reproduction.from_data(raw, str(path))
    if kind != "repair":
        return load_report(path, raw)
    from collapsekit.report.repair import RepairReport

    return RepairReport.from_data(raw, str(path))
