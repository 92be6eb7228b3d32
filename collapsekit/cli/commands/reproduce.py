"""collapsekit reproduce."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from collapsekit.cli.options import Detail, LogTo, Quiet
from collapsekit.cli.output import write
from collapsekit.cli.terminal import Ended, guarded, need_working_directory, progress, say, screen
from collapsekit.errors import ConfigError, NothingEvaluatedError

if TYPE_CHECKING:
    from collapsekit.report.reproduction import Reproduction
    from collapsekit.reproduce.item import Item

LIST = "list"


@guarded
def reproduce(
    items: Annotated[list[str] | None, typer.Argument(metavar="ITEM", help="list, or names such as s1.table7.")] = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder; a folder an item is made in it.")] = Path(
        "reproduced"
    ),
    seeds: Annotated[int, typer.Option(min=1, max=1000, help="How many seeds, from 0.")] = 5,
    every: Annotated[bool, typer.Option("--all", help="Every item that runs and whose data are here.")] = False,
    quick: Annotated[bool, typer.Option("--quick", help="A smoke run: one seed, few examples and epochs.")] = False,
    log: LogTo = None,
    verbose: Detail = False,
    quiet: Quiet = False,
) -> Ended:
    """Reproduce a table or figure of the two papers, with what the paper has beside it."""
    from collapsekit.reproduce.item import find_items, load_items
    from collapsekit.reproduce.run import run_item

    names = list(items or ())
    if names == [LIST] and not every:
        text = list_items(load_items().values())
        return Ended(show=lambda: write(text))
    if bool(names) == every:
        raise ConfigError(
            "name the items to reproduce (`collapsekit reproduce list` has them), or give --all and no name."
        )
    need_working_directory()
    chosen, left = _available() if every else (list(find_items(dict.fromkeys(names))), [])
    if not chosen:
        raise NothingEvaluatedError("no item could run: " + " ".join(left))
    reports = []
    with progress(quiet, verbose=verbose, log=log) as shown:
        for note in left:
            shown.note(note)
        shown.plan({one.name: 1.0 for one in chosen})
        for one in chosen:
            report = run_item(one, output / one.name, range(1 if quick else seeds), quick=quick, progress=shown)
            _write(report, output / one.name)
            reports.append(report)
    return Ended(show=lambda: _show(reports, output, quiet=quiet))


def _available() -> tuple[list[Item], list[str]]:
    """Items that can run here, and why others that run elsewhere cannot."""
    from collapsekit.reproduce.item import load_items
    from collapsekit.reproduce.studies.datasets import missing

    chosen, left = [], dict[str, list[str]]()
    for item in load_items().values():
        absent = missing(item.data)
        if item.runs and absent is None:
            chosen.append(item)
        elif item.runs:
            left.setdefault(str(absent), []).append(item.name)
    return chosen, [f"{', '.join(names)} left out: {absent}" for absent, names in left.items()]


def _write(report: Reproduction, folder: Path) -> None:
    from io import BytesIO

    from collapsekit import render
    from collapsekit.io.files import write_atomic
    from collapsekit.render.figures.reproduction import draw
    from collapsekit.render.figures.style import theme

    for name in ("md", "html"):
        write_atomic(folder / f"reproduction.{name}", render.write(report, name))
    sink = BytesIO()
    with theme():
        draw(report).savefig(sink, format="png", metadata={"Software": None})
    write_atomic(folder / "figure.png", sink.getvalue())


def _show(reports: list[Reproduction], output: Path, *, quiet: bool) -> None:
    if quiet:
        return
    for report in reports:
        screen(report)
    say(f"Written to {output}, a folder an item: reproduction.json, reproduction.md, reproduction.html, figure.png.")


def list_items(items: Iterable[Item]) -> str:
    """List items with their state and what they are.

    Args:
        items: In the order of the papers.

    Returns:
        Lines of at most 80 columns.
    """
    lines: list[str] = []
    paper = ""
    for item in items:
        if item.paper != paper:
            paper = item.paper
            lines += ["", *textwrap.wrap(f"{item.name.partition('.')[0].upper()}: {paper}", 78)]
        text = f"{item.title}. {item.state}{f': {item.why}' if item.why else ''}"
        lines += textwrap.wrap(text, 78, initial_indent=f"  {item.name:<13}", subsequent_indent=" " * 15)
    return "\n".join(lines).strip() + "\n"
