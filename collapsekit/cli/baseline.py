"""collapsekit baseline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapsekit.cli.terminal import guarded, say
from collapsekit.errors import ConfigError

if TYPE_CHECKING:
    from collapsekit.gate.baseline import Baseline, Run

app = typer.Typer(help="Keep earlier reports for `collapsekit gate` to compare with.", no_args_is_help=True)
Reports = Annotated[list[Path], typer.Argument(metavar="REPORT.json...", help="Reports, one a training run.")]
NoRecords = Annotated[
    bool,
    typer.Option("--no-records", help="Leave out what is known of each example: smaller, but nothing can be paired."),
]


@app.command("create")
@guarded
def create(
    reports: Reports,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("baseline.json"),
    no_records: NoRecords = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> None:
    """Make a baseline of one report or more."""
    from collapsekit.files import write_atomic
    from collapsekit.gate.baseline import make_baseline
    from collapsekit.writable import check_file

    if os.path.lexists(output) and not force:
        raise ConfigError(f"{output} is there already: `collapsekit baseline update` adds to it, --force replaces it.")
    check_file(output, "--output")
    made = make_baseline(_runs(reports, no_records))
    write_atomic(output, made.to_json())
    _warn(made)
    typer.echo(_table(made, None), nl=False)
    say(f"Written: {output}")


@app.command("update")
@guarded
def update(
    baseline: Annotated[Path, typer.Argument(metavar="BASELINE.json", help="The baseline to change.")],
    reports: Reports,
    no_records: NoRecords = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
) -> None:
    """Add reports to a baseline, in the place of those of the same training run, and show what changes."""
    from collapsekit.files import write_atomic
    from collapsekit.gate.baseline import Baseline, make_baseline
    from collapsekit.writable import check_file

    before = Baseline.load(baseline)
    if not dry_run:
        check_file(baseline, "the baseline")
    after = make_baseline(_runs(reports, no_records), before)
    _warn(after)
    typer.echo(_table(after, before), nl=False)
    if dry_run:
        say(f"Not written (--dry-run): {baseline}")
        return
    write_atomic(baseline, after.to_json())
    say(f"Written: {baseline}")


@app.command("show")
@guarded
def show(
    baseline: Annotated[Path, typer.Argument(metavar="BASELINE.json", help="The baseline to show.")],
) -> None:
    """Show what a baseline holds."""
    from collapsekit.gate.baseline import Baseline

    typer.echo(_table(Baseline.load(baseline), None), nl=False)


def _runs(paths: list[Path], no_records: bool) -> list[Run]:
    from collapsekit.gate.baseline import read_run

    found = []
    for path in paths:
        file = path / "report.json" if path.is_dir() else path
        if not file.exists():
            raise ConfigError(f"{path} is not a report: give a report.json that `collapsekit diagnose` wrote.")
        found.append(read_run(file, records=not no_records))
    return found


def _warn(made: Baseline) -> None:
    for run in made.runs:
        if run.report.verdict == "collapsed":
            say(f"warning: {run.report.subject.checkpoint} is collapsed; a gate with this baseline keeps it so.")


def _table(now: Baseline, before: Baseline | None) -> str:
    from collapsekit.render.baseline_text import render

    return render(now, before)
