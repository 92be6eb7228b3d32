"""collapsekit diagnose."""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
from collapsekit.config.options import DiagnoseOptions
from collapsekit.errors import ConfigError, NothingEvaluatedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

    from collapsekit.cli.next_steps import Request
    from collapsekit.context import Progress
    from collapsekit.distributed.process_group import ProcessGroup
    from collapsekit.report.cost import CostReport
    from collapsekit.report.diagnosis import Report

OUTPUT = Path("collapsekit-report")
UNFINISHED = "unfinished"  # finished probes, in the folder of the report until that is made

PAGE = 3.0  # seconds that a page and its figures took where this was written


class Format(StrEnum):
    """Formats of a report."""

    json = "json"
    md = "md"
    html = "html"
    interactive = "html-interactive"
    terminal = "terminal"


_DEFAULT = tuple(f for f in Format if f is not Format.interactive)  # whose script is for who asks for it


class FailOn(StrEnum):
    """Verdicts that can fail a run."""

    collapsed = "collapsed"
    underused = "underused"
    uninformative = "uninformative"
    inconclusive = "inconclusive"


# What `score` is asked for in the same words.
Formats = Annotated[
    list[Format] | None,
    typer.Option("--format", "-f", help="What to make; repeatable; default: all but html-interactive."),
]
Json = Annotated[bool, typer.Option("--json", help="report.json to stdout; files only with --output.")]
Full = Annotated[bool, typer.Option("--full", help="Exit 5 where a modality is only partly judged.")]


@guarded
@with_options(training_seed="seed", plugins="fail_on", trust_pickle="plugins")
def diagnose(
    checkpoint: Checkpoint = None,
    config: ConfigFile = None,
    *,
    options: DiagnoseOptions,
    output: Annotated[Path | None, typer.Option("--output", "-o", help=f"Folder for files; default: {OUTPUT}.")] = None,
    format_: Formats = None,
    json_: Json = False,
    figures: Annotated[Path | None, typer.Option(help="Also save every figure as SVG, PDF and PNG here.")] = None,
    fail_on: Annotated[
        list[FailOn] | None,
        typer.Option(
            help="Exit 1 when a modality has this verdict (underused: or is collapsed), 5 when the whole is inconclusive; "
            "repeatable."
        ),
    ] = None,
    full: Full = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what it would run, and what that costs.")
    ] = False,
    resume: Annotated[
        bool, typer.Option("--resume", help="Take up the probes that an interrupted diagnosis finished.")
    ] = False,
    log: LogTo = None,
    verbose: Verbose = False,
    quiet: Headline = False,
) -> Ended:
    """Find out which modality a checkpoint ignores, what that costs, and why."""
    need_working_directory()
    ROLES.start_child()
    from collapsekit.distributed.process_group import together  # not for gate, which starts this file only to diagnose

    with together() as world, _progress(world, quiet=quiet, verbose=verbose, log=log) as shown:
        from collapsekit.diagnosis import diagnose as run

        world.on_main(lambda: check_outputs(output, format_, json_, figures))
        if dry_run:
            from collapsekit.diagnosis import estimate_cost

            cost = estimate_cost(checkpoint, config=config, progress=shown, **options.keywords())
            shown_cost = partial(show_cost, cost, to_stdout=json_, quiet=quiet)
            return Ended(show=shown_cost) if world.is_main else Ended()
        shown.writing = (
            PAGE if figures or {"html", "html-interactive"} & {*wanted_files(output, format_, json_)} else 0.0
        )
        place = unfinished_folder(output, format_, json_, resume=resume)
        with told_how_to_resume(place, shown):
            keep: dict[str, Any] = {"progress": shown, "unfinished": place, "resume": resume}
            report = run(checkpoint, config=config, **keep, **options.keywords())
        world.assert_same(report.to_json(), "results")
        shown.step("writing the report", 0, None)
        written = world.on_main(lambda: write_report(report, output, format_, json_, figures))
    code, why = judge_exit(report, fail_on or [], full=full)

    def shown_last() -> None:
        on_screen = not json_ and (not format_ or Format.terminal in format_)
        if json_:
            write(report.to_json(), "json")
        elif quiet or on_screen:
            from collapsekit.cli.next_steps import Request

            show(report, Request(options, checkpoint, config), written, quiet=quiet, verbose=verbose)
        if written and not quiet and (verbose or not on_screen):
            say(f"Written: {', '.join(str(p) for p in written)}")
        if why is not None:
            say_shortly(why, MESSAGES)

    return Ended(code, shown_last) if world.is_main else Ended(code)


def show(report: Report, typed: Request[DiagnoseOptions], written: list[Path], *, quiet: bool, verbose: bool) -> None:
    """Print a diagnosis: the first screen, all of it, or its headline.

    Args:
        report: The report.
        typed: What was asked for.
        written: The files.
        quiet: Whether to print the headline alone.
        verbose: Whether to print all of it.
    """
    from collapsekit.render.first_screen import write_headline

    if quiet:
        write(write_headline(report))
    elif verbose:
        screen(report)
    else:
        from collapsekit.cli.next_steps import next_steps

        place = next((path for path in written if path.name == "report.json"), None)
        first_screen(report, next_steps(report, typed, place), tuple(_say_where(written)))


def _say_where(written: list[Path]) -> Iterator[str]:
    """Where the files are, and how to see all of the report."""
    for folder in dict.fromkeys(path.parent for path in written):
        names = sorted((path.name for path in written if path.parent == folder), key=lambda name: "html" not in name)
        names = [name for name in names if name.startswith("report.")] or names  # not the records, which go with it
        yield f"In {folder}: {', '.join(names) if len(names) <= len(Format) else f'{len(names)} figures'}"
    report = next((path for path in written if path.name == "report.json"), None)
    rest = "" if report is None else f"{shlex.join(['collapsekit', 'report', str(report.parent)])}, or "
    yield f"All numbers: {rest}--verbose"


def _progress(world: ProcessGroup, *, quiet: bool, verbose: bool, log: Path | None) -> AbstractContextManager[Progress]:
    """Progress of the first process: of the others nothing is seen."""
    return progress(quiet or not world.is_main, NOTES, verbose=verbose, log=log if world.is_main else None)


def unfinished_folder(
    output: Path | None, formats: list[Format] | None, to_stdout: bool, *, resume: bool
) -> Path | None:
    """Name the folder that keeps finished probes until the report is made: beside it, as a repair's snapshots are.

    Args:
        output: The folder that ``--output`` names; None: the default one.
        formats: The formats that ``--format`` names; None or empty: all.
        to_stdout: Whether the report goes to stdout.
        resume: Whether it is to be gone on from.

    Returns:
        The folder; None where no file is written.

    Raises:
        ConfigError: Where there is none to go on from.
    """
    if wanted_files(output, formats, to_stdout):
        return (output or OUTPUT) / UNFINISHED
    if resume:
        raise ConfigError("--resume goes on from what lies in the folder of the report: name it with --output.")
    return None


@contextmanager
def told_how_to_resume(folder: Path | None, shown: Progress) -> Iterator[None]:
    """Say after a Ctrl-C how to go on, where there is something to go on from."""
    try:
        yield
    except KeyboardInterrupt:
        if folder is not None and folder.is_dir():
            shown.announce(f"The same command with --resume goes on from the probes that are finished, in {folder}.")
        raise


def show_cost(cost: CostReport, *, to_stdout: bool, quiet: bool) -> None:
    """Print what a diagnosis would cost.

    Args:
        cost: The report.
        to_stdout: Whether as JSON.
        quiet: Whether to print nothing else.
    """
    if to_stdout:
        write(cost.to_json(), "json")
    elif not quiet:
        screen(cost)


def wanted_files(output: Path | None, formats: list[Format] | None, to_stdout: bool) -> list[str]:
    """List the formats that are written to files, each once.

    Args:
        output: The folder that ``--output`` names; None where it is not named.
        formats: The formats that ``--format`` names; None or empty: all.
        to_stdout: Whether the report goes to stdout.

    Returns:
        Names of formats; none where the report goes to stdout and no folder is named.
    """
    if output is None and to_stdout:
        return []
    return list(dict.fromkeys(f.value for f in formats or _DEFAULT if f is not Format.terminal))


def check_outputs(
    output: Path | None, formats: list[Format] | None, to_stdout: bool, figures: Path | None = None
) -> None:
    """Raise ConfigError, before the work, where ``write_report`` of the same could not write.

    Args:
        output: The folder that ``--output`` names; None: the default one.
        formats: The formats that ``--format`` names; None or empty: all.
        to_stdout: Whether the report goes to stdout.
        figures: The folder that ``--figures`` names; None: no figures.

    Raises:
        ConfigError: Where a folder or a file in it cannot be written.
    """
    from collapsekit.io.writable import check_folder
    from collapsekit.render.saving import file_of
    from collapsekit.report.per_example import NAME

    wanted = wanted_files(output, formats, to_stdout)
    if wanted:
        files = [file_of("report", name) for name in wanted]
        check_folder(output or OUTPUT, "--output", [*files, *([NAME] * ("json" in wanted))])
    if figures is not None:
        check_folder(figures, "--figures")


def write_report(
    report: Report, output: Path | None, formats: list[Format] | None, to_stdout: bool, figures: Path | None
) -> list[Path]:
    """Write the files that the options ask for.

    Args:
        report: The report, with its records where it has any.
        output: The folder that ``--output`` names; None: the default one.
        formats: The formats that ``--format`` names; None or empty: all.
        to_stdout: Whether the report goes to stdout.
        figures: The folder that ``--figures`` names; None: no figures.

    Returns:
        Paths of the files.
    """
    from collapsekit.render.saving import write_folder

    written = write_folder(report, output or OUTPUT, wanted_files(output, formats, to_stdout))
    if figures is not None:
        from collapsekit.render.figures.diagnosis import save

        written += save(report, figures)
    return written


def judge_exit(report: Report, fail_on: list[FailOn], *, full: bool = False) -> tuple[int, str | None]:
    """Return the exit code, and why it is not 0.

    Args:
        report: the diagnosis.
        fail_on: verdicts that fail.
        full: whether full judgement is wanted.

    Returns:
        4 (of a user's own probe 2) when an error ended a probe, 1 when a verdict in ``fail_on`` was given, 5 when the
        evidence does not decide, or where full judgement is wanted and something is missing; never a silent pass.
    """
    from collapsekit.probes.runner import fault_code
    from collapsekit.report.names import some

    if code := fault_code(report):
        return code, None  # said when it happened, and a warning in the report
    if not fail_on:
        return _judge_extent(report, full=full)
    failing = {f.value for f in fail_on}
    if FailOn.underused in fail_on:  # who does not want too little use wants none still less
        failing.add(FailOn.collapsed.value)
    each = report.modalities.items()
    met = [f"{m} is {v.verdict}" for m, v in each if v.verdict in failing]
    met += [f"{m} is at most {v.at_most}" for m, v in each if v.at_most in failing]
    if met:
        return 1, f"failed: {some(met)} (--fail-on)."
    undecided = [m for m, v in report.modalities.items() if v.verdict == "inconclusive"]
    if undecided:
        why = f"error: the evidence does not decide about {some(undecided)}, so this is no pass."
        return NothingEvaluatedError.exit_code, why
    return _judge_extent(report, full=full)


def _judge_extent(report: Report, *, full: bool) -> tuple[int, str | None]:
    """5 where a full judgement is wanted and something is missing."""
    missing = report.judged.missing if report.judged is not None else ()
    if not full or not missing:
        return 0, None
    return NothingEvaluatedError.exit_code, f"error: partly judged ({'; '.join(missing)}), and --full wants all of it."
