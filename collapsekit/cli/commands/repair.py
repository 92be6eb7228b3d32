"""collapsekit repair."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapsekit.cli.child import ROLES
from collapsekit.cli.options import Checkpoint, ConfigFile, Detail, LogTo, Quiet, with_options
from collapsekit.cli.output import write
from collapsekit.cli.terminal import Ended, guarded, need_working_directory, progress, say, screen
from collapsekit.config.options import RepairOptions
from collapsekit.distributed.process_group import together

if TYPE_CHECKING:
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
    verbose: Detail = False,
    quiet: Quiet = False,
) -> Ended:
    """Fine-tune a checkpoint so that it uses what it ignored; exits 1 where the result is rejected."""
    need_working_directory()
    ROLES.start_child()
    with (
        together() as world,
        progress(quiet or not world.is_main, verbose=verbose, log=log if world.is_main else None) as shown,
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
                shown.note(f"The same command with --resume goes on from the snapshots in {output}.")
                raise
    if dry_run:
        return Ended(show=lambda: write("\n".join(said) + "\n") if world.is_main else None)
    from collapsekit.probes.runner import fault_code

    code = fault_code(report.before, report.after, report.control) or (0 if report.accepted else 1)
    return Ended(code, lambda: _show(report, output, to_stdout=json_, quiet=quiet) if world.is_main else None)


def _files(report: RepairReport, folder: Path) -> None:
    from collapsekit import render
    from collapsekit.io.files import write_atomic

    for name in ("md", "html"):
        write_atomic(folder / f"repair.{name}", render.write(report, name))


def _show(report: RepairReport, folder: Path, *, to_stdout: bool, quiet: bool) -> None:
    if to_stdout:
        write(report.to_json(), "json")
    elif not quiet:
        screen(report)
    if not quiet:
        weights = "model.safetensors, " if report.exported else ""
        say(f"Written to {folder}: {weights}repair.json, repair.md, repair.html")
    if not report.accepted:
        say("rejected: " + " ".join(check.sentence for check in report.checks if not check.passed))
