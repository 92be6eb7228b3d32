"""collapsekit score."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from collapsekit.cli.child import ROLES
from collapsekit.cli.commands.diagnose import (
    PAGE,
    FailOn,
    Formats,
    Full,
    Json,
    check_outputs,
    judge_exit,
    show,
    wanted_files,
    write_report,
)
from collapsekit.cli.options import ConfigFile, Headline, LogTo, Verbose
from collapsekit.cli.output import write
from collapsekit.cli.terminal import MESSAGES, NOTES, Ended, guarded, need_working_directory, progress, say_shortly
from collapsekit.config.options import DiagnoseOptions

Questions = Annotated[Path, typer.Argument(metavar="QUESTIONS", help="The folder that `collapsekit plan` wrote.")]
Answers = Annotated[
    list[Path],
    typer.Argument(metavar="ANSWERS.jsonl...", help="Files of answers, JSON lines or Parquet, in any order."),
]


@guarded
def score(
    questions: Questions,
    answers: Answers,
    config: ConfigFile = None,
    missing: Annotated[
        Path | None, typer.Option("--missing", help="Write the questions that still have no answer here.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Folder for files.")] = None,
    format_: Formats = None,
    json_: Json = False,
    fail_on: Annotated[
        list[FailOn] | None, typer.Option(help="Exit 1 when a modality has this verdict; as for diagnose; repeatable.")
    ] = None,
    full: Full = False,
    log: LogTo = None,
    verbose: Verbose = False,
    quiet: Headline = False,
) -> Ended:
    """Judge a model by its answers to the questions of `collapsekit plan`; exits 5 where answers are missing."""
    need_working_directory()
    ROLES.start_child()
    from collapsekit.answers.scoring import score as run
    from collapsekit.io.writable import check_file

    check_outputs(output, format_, json_)
    if missing is not None:
        check_file(missing, "--missing")
    with progress(quiet, NOTES, verbose=verbose, log=log) as shown:
        shown.writing = PAGE if {"html", "html-interactive"} & {*wanted_files(output, format_, json_)} else 0.0
        report = run(questions, answers, config=config, progress=shown, missing=missing)
        shown.step("writing the report", 0, None)
        written = write_report(report, output, format_, json_, None)
    code, why = judge_exit(report, fail_on or [], full=full)

    def shown_last() -> None:
        if json_:
            write(report.to_json(), "json")
        else:
            from collapsekit.cli.next_steps import Request

            show(report, Request(DiagnoseOptions(), None, config), written, quiet=quiet, verbose=verbose)
        if why is not None:
            say_shortly(why, MESSAGES)

    return Ended(code, shown_last)
