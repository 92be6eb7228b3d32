"""collapsekit repair."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapsekit.cli.child import ROLES
from collapsekit.cli.options import Checkpoint, ConfigFile, Headline, LogTo, Verbose, with_options
from collapsekit.cli.output import write
from collapsekit.cli.terminal import (
    MESSAGES,
    NOTES,
    Ended,
    first_screen,
    guarded,
    need_working_directory,
    progress,
    say,
    say_shortly,
    screen,
)
from collapsekit.config.options import RepairOptions
from collapsekit.distributed.process_group import together

if TYPE_CHECKING:
    from collapsekit.cli.next_steps import Request
    from collapsekit.report.repair import RepairReport


@guarded
@with_options(dry_run="force")
def repair(
    checkpoint: Checkpoint = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for weights and reports.")] = Path("repaired"),
    config: ConfigFile = None,
    *,
    options: RepairOptions,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what it is expected to gain, what would be trained, and what that costs."),
    ] = False,
    json_: Annotated[bool, typer.Option("--json", help="repair.json to stdout too.")] = False,
    log: LogTo = None,
    verbose: Verbose = False,
    quiet: Headline = False,
) -> Ended:
    """Fine-tune a checkpoint so that it uses what it ignored; exits 1 where the result is rejected."""
    need_working_directory()
    ROLES.start_child()
    with (
        together() as world,
        progress(quiet or not world.is_main, NOTES, verbose=verbose, log=log if world.is_main else None) as shown,
    ):
        if dry_run:
            from collapsekit.repairs.run import plan

            said = plan(checkpoint, config=config, progress=shown, **options.keywords())
        else:
            from collapsekit.repairs.run import repair as run

            try:
                report = run(checkpoint, output=output, config=config, progress=shown, **options.keywords())
                if world.is_main:
                    _files(report, output)
            except KeyboardInterrupt:
                shown.announce(f"The same command with --resume goes on from the snapshots in {output}.")
                raise
    if dry_run:
        return Ended(show=lambda: write("\n".join(said) + "\n") if world.is_main else None)
    from collapsekit.probes.runner import fault_code

    code = fault_code(report.before, report.after, report.control) or (0 if report.accepted else 1)

    def shown_last() -> None:
        if json_:
            write(report.to_json(), "json")
        else:
            from collapsekit.cli.next_steps import Request

            show(report, Request(options, checkpoint, config), output, quiet=quiet, verbose=verbose)
        if (json_ or verbose) and not quiet:
            say(f"Written to {output}: {', '.join(_written(report))}")
        if not report.accepted:
            failed = "rejected: " + " ".join(check.sentence for check in report.checks if not check.passed)
            say(failed) if verbose or json_ else say_shortly(failed, MESSAGES)

    return Ended(code, shown_last if world.is_main else lambda: None)


def show(report: RepairReport, typed: Request[RepairOptions], folder: Path, *, quiet: bool, verbose: bool) -> None:
    """Print a repair: the first screen, all of it, or its headline.

    Args:
        report: The report.
        typed: What was asked for.
        folder: Where it was written.
        quiet: Whether to print the headline alone.
        verbose: Whether to print all of it.
    """
    from collapsekit.render.first_screen import write_headline

    if quiet:
        write(write_headline(report))
    elif verbose:
        screen(report)
    else:
        from collapsekit.cli.next_steps import after_repair

        files = f"In {folder}: {', '.join(sorted(_written(report), key=lambda name: 'html' not in name))}"
        rest = f"All numbers: {shlex.join(['collapsekit', 'report', str(folder)])}, or --verbose"
        first_screen(report, after_repair(report, typed, folder), (files, rest))


def _written(report: RepairReport) -> list[str]:
    return [*["model.safetensors"] * report.exported, "repair.json", "repair.md", "repair.html"]


def _files(report: RepairReport, folder: Path) -> None:
    from collapsekit import render
    from collapsekit.io.files import write_atomic

    for name in ("md", "html"):
        write_atomic(folder / f"repair.{name}", render.write(report, name))
