"""collapsekit plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapsekit.cli.child import ROLES
from collapsekit.cli.options import ConfigFile, LogTo, Quiet, with_options
from collapsekit.cli.output import write
from collapsekit.cli.terminal import MESSAGES, Ended, guarded, need_working_directory, progress, say_shortly
from collapsekit.config.options import PlanOptions
from collapsekit.errors import ConfigError
from collapsekit.io.safe_text import clean

if TYPE_CHECKING:
    from collapsekit.answers.manifest import Manifest

OUTPUT = Path("questions")


@guarded
@with_options()
def plan(
    config: ConfigFile = None,
    *,
    options: PlanOptions,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the questions.")] = OUTPUT,
    next_: Annotated[
        list[Path] | None,
        typer.Option(
            "--next",
            metavar="ANSWERS.jsonl",
            help="All answers so far; repeatable: add questions, with twice the draws, while a verdict is open.",
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how many questions it would write.")] = False,
    log: LogTo = None,
    quiet: Quiet = False,
) -> Ended:
    """Write the questions that a verdict needs, for a model that runs elsewhere; `score` reads the answers."""
    need_working_directory()
    ROLES.start_child()
    from collapsekit.answers.manifest import NAME
    from collapsekit.answers.planning import make_plan
    from collapsekit.diagnosis import settle_config
    from collapsekit.io.files import is_file
    from collapsekit.io.writable import check_folder

    if next_:
        return _plan_round(output, next_, config, options, dry_run=dry_run, quiet=quiet, log=log)
    if not dry_run:
        if is_file(output / NAME):
            raise ConfigError(f"{output} holds questions already: name another folder with --output.")
        check_folder(output, "--output", [NAME])
    with progress(quiet, MESSAGES, log=log) as shown:
        settled = settle_config(config, None, shown, command="plan")
        made = make_plan(settled, options, progress=shown)
        if not quiet:
            say_shortly(describe_cost(made.manifest), MESSAGES)
        if not dry_run:
            shown.step("writing the questions", 0, None)
            made.save(output)
    told = "" if quiet else f"Written: {output}\n"
    return Ended(show=lambda: write(describe_cost(made.manifest) + "\n" if dry_run else told))


def _plan_round(
    folder: Path,
    answers: list[Path],
    config: Path | None,
    options: PlanOptions,
    *,
    dry_run: bool,
    quiet: bool,
    log: Path | None,
) -> Ended:
    """Add the questions of another round to a folder, where a verdict is open."""
    from collapsekit.answers.rounds import plan_next
    from collapsekit.diagnosis import settle_config
    from collapsekit.session.command_line import words_of

    if options.changed():
        raise ConfigError(f"--next goes on with the plan in {folder}: leave out {', '.join(words_of(options)[::2])}.")
    with progress(quiet, MESSAGES, log=log) as shown:
        made = plan_next(folder, answers, settle_config(config, None, shown, command="plan"), progress=shown)
        if made.plan is not None and not dry_run:
            made.save(folder)
    if made.plan is None:
        why = "more draws there are none" if made.undecided else "every verdict is decided"
        told = f"Nothing more to ask: {why}.\n"
    else:
        told = f"{made.count:,} more questions in {folder}: {', '.join(map(clean, made.undecided))} undecided.\n"
    return Ended(show=lambda: write("" if quiet and not dry_run else told))


def describe_cost(manifest: Manifest) -> str:
    """Say how much is asked, of how many examples, in one sentence."""
    cost, draws = manifest.cost, max(manifest.draws.values())
    examples = ", ".join(f"{one.examples:,} of {split}" for split, one in manifest.data.items())
    by = "`answers.tokenizer`" if cost.tokens_by == "tokenizer" else "words, 4 for 3"
    tokens = "" if cost.tokens is None else f"; about {cost.tokens:,} tokens of text (by {by}), images aside"
    alone = f"; {cost.text_only:,} of them give the text alone" if cost.text_only else ""
    return (
        f"{cost.questions:,} questions, a forward each, about {examples}{alone}; absent modalities come from {draws} other "
        f"examples{tokens}."
    )
