"""collapsekit compare."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collapsekit.cli.commands.diagnose import Format
from collapsekit.cli.options import HeadlineOnly, Whole, with_options
from collapsekit.cli.output import form_of, write
from collapsekit.cli.terminal import Ended, first_screen, guarded, say, screen
from collapsekit.config.options import CompareOptions


@guarded
@with_options()
def compare(
    reports: Annotated[
        list[str],
        typer.Argument(
            metavar="REPORT|NAME=REPORT,...",
            help="A column each: a report.json or its folder, or a name with the reports of several runs (files, or a "
            "folder that holds RUN/report.json or *.json). A repair.json is three: before, control, after.",
        ),
    ],
    *,
    options: CompareOptions,
    format_: Annotated[Format, typer.Option("--format", "-f", help="How to render it.")] = Format.terminal,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write instead of stdout.")] = None,
    verbose: Whole = False,
    quiet: HeadlineOnly = False,
) -> Ended:
    """Put reports side by side: verdicts and numbers, what changed, the best marked, tests over paired runs."""
    from collapsekit import render
    from collapsekit.comparison.compare import compare_groups
    from collapsekit.comparison.inputs import read_groups
    from collapsekit.comparison.quantities import Choice
    from collapsekit.io.files import write_atomic
    from collapsekit.io.writable import check_file

    if output is not None:
        check_file(output, "--output")

    choice = Choice(options.only, options.every)
    found = compare_groups(read_groups(reports), against=options.against, choice=choice, base=options.base)
    if output is not None:
        write_atomic(output, render.write(found, format_.value))
        return Ended(show=lambda: say(f"Written: {output}"))
    if format_ is Format.terminal:

        def show() -> None:
            if quiet:
                from collapsekit.render.first_screen import write_headline

                write(write_headline(found))
            elif verbose or options.only or options.every:  # what was asked for is shown
                screen(found)
            else:
                from collapsekit.cli.next_steps import after_comparison

                first_screen(found, after_comparison(reports, options), ("All of it here: --verbose",))

        return Ended(show=show)
    text = render.write(found, format_.value)
    return Ended(show=lambda: write(text, form_of(format_.value)))
