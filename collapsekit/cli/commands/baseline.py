"""collapsekit baseline."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapsekit.cli.options import with_options
from collapsekit.cli.terminal import Ended, guarded, say, screen
from collapsekit.config.options import BaselineOptions
from collapsekit.errors import ConfigError

if TYPE_CHECKING:
    from collapsekit.report.baseline import Baseline, Run

app = typer.Typer(help="Keep earlier reports for `collapsekit gate` to compare with.", no_args_is_help=True)
Reports = Annotated[list[Path], typer.Argument(metavar="REPORT.json...", help="Reports, one a training run.")]


@app.command("create")
@guarded
@with_options()
def create(
    reports: Reports,
    output: Annotated[Path, typer.Option("--output", "-o", help="File to write.")] = Path("baseline.json"),
    *,
    options: BaselineOptions,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
) -> Ended:
    """Make a baseline of one report or more."""
    from collapsekit.gating.baseline import make_baseline
    from collapsekit.io.files import write_atomic
    from collapsekit.io.locks import locked
    from collapsekit.io.writable import check_file

    if os.path.lexists(output) and not force:
        raise ConfigError(f"{output} is there already: `collapsekit baseline update` adds to it, --force replaces it.")
    check_file(output, "--output")
    runs = _runs(reports, options)
    with locked(output):
        if os.path.lexists(output) and not force:  # another one may have written it meanwhile
            raise ConfigError(
                f"{output} is there already: `collapsekit baseline update` adds to it, --force replaces it."
            )
        made = make_baseline(runs)
        write_atomic(output, made.to_json())
    return Ended(show=lambda: _show(made, None, f"Written: {output}"))


@app.command("update")
@guarded
@with_options()
def update(
    baseline: Annotated[Path, typer.Argument(metavar="BASELINE.json", help="The baseline to change.")],
    reports: Reports,
    *,
    options: BaselineOptions,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only show what would change.")] = False,
) -> Ended:
    """Add reports to a baseline, in the place of those of the same training run, and show what changes."""
    from collapsekit.gating.baseline import make_baseline
    from collapsekit.io.files import write_atomic
    from collapsekit.io.locks import locked
    from collapsekit.io.writable import check_file
    from collapsekit.report.baseline import Baseline

    before = Baseline.load(baseline)
    if not dry_run:
        check_file(baseline, "the baseline")
    runs = _runs(reports, options)
    if dry_run:
        after = make_baseline(runs, before)
    else:
        with locked(baseline):  # what others added meanwhile stays
            before = Baseline.load(baseline)
            after = make_baseline(runs, before)
            write_atomic(baseline, after.to_json())
    done = f"Not written (--dry-run): {baseline}" if dry_run else f"Written: {baseline}"
    return Ended(show=lambda: _show(after, before, done))


@app.command("show")
@guarded
def show(
    baseline: Annotated[Path, typer.Argument(metavar="BASELINE.json", help="The baseline to show.")],
) -> Ended:
    """Show what a baseline holds."""
    from collapsekit.report.baseline import Baseline

    held = Baseline.load(baseline)
    return Ended(show=lambda: _show(held, None, None))


def _runs(paths: list[Path], options: BaselineOptions) -> list[Run]:
    from collapsekit.gating.baseline import read_run

    found = []
    for path in paths:
        file = path / "report.json" if path.is_dir() else path
        if not file.exists():
            raise ConfigError(f"{path} is not a report: give a report.json that `collapsekit diagnose` wrote.")
        found.append(read_run(file, records=options.records))
    return found


def _show(now: Baseline, before: Baseline | None, done: str | None) -> None:
    from collapsekit.render.views.baseline import Update

    for run in now.runs if done is not None else ():
        if run.report.verdict == "collapsed":
            say(f"warning: {run.report.subject.checkpoint} is collapsed; a gate with this baseline keeps it so.")
    screen(now if before is None else Update(now, before))
    if done is not None:
        say(done)
