"""What the commands share: messages and progress on stderr, data on stdout, exit codes."""

from __future__ import annotations

import functools
import os
import shutil
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from collapsekit.errors import CollapsekitError
from collapsekit.world import started_together

if TYPE_CHECKING:
    from collapsekit.report import Report
    from collapsekit.settings import Progress

Command = TypeVar("Command", bound=Callable[..., Any])
INTERRUPTED, INTERNAL = 130, 4
TrustPickle = Annotated[
    str | None,
    typer.Option(
        metavar="sha256:DIGEST",
        help="RUNS THE FILE'S CODE: unpickle the checkpoint if its SHA-256 is this (`collapsekit inspect` prints it).",
    ),
]


def say(text: str) -> None:
    """One message on stderr, made safe to print."""
    from collapsekit.render.sanitize import clean

    typer.echo("\n".join(clean(line, limit=4000) for line in text.splitlines()), err=True)


def guarded(command: Command) -> Command:
    """Turn errors into one sentence and the design's exit codes; a traceback only for our own faults."""

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        try:
            return command(*args, **kwargs)
        except CollapsekitError as e:
            rank = os.environ.get("RANK", "0") if started_together() else "0"
            if rank == "0" or not getattr(e, "told_by_first", False):
                say(f"error: {e}" if rank == "0" else f"error of process {rank}: {e}")
            raise typer.Exit(e.exit_code) from None
        except KeyboardInterrupt:
            say("interrupted: nothing was written after the last finished file.")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            # The reader (head, less) has gone; Python would complain again while closing stdout.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from None
        except (typer.Exit, typer.Abort):
            raise
        except Exception as e:
            if type(e).__module__.split(".")[0] in ("click", "typer"):  # usage errors print themselves
                raise
            say(f"internal error: {type(e).__name__}: {e}. This is a fault of collapsekit; please report it with this:")
            say(traceback.format_exc())
            raise typer.Exit(INTERNAL) from None

    return run  # type: ignore[return-value]


def show(report: Report) -> None:
    """The report on stdout."""
    from collapsekit.render import FORMATS

    screen(FORMATS["terminal"], report)


def screen(render: Callable[..., str], report: Any) -> None:
    """What ``render`` makes of a report on stdout, in colour and at full width only on a terminal."""
    terminal = sys.stdout.isatty()
    width = shutil.get_terminal_size().columns if terminal else 80
    color = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    typer.echo(render(report, width=min(width, 120), color=color), nl=False, color=True)


@contextmanager
def progress(quiet: bool) -> Iterator[Progress]:
    """Progress on stderr: a bar on a terminal, announcements only when piped, nothing when quiet."""
    from collapsekit.settings import Progress

    class Told(Progress):
        def fault(self, text: str) -> None:
            say(text)

    if quiet:
        yield Told()
        return
    if not sys.stderr.isatty():

        class Announced(Told):
            def note(self, text: str) -> None:
                say(text)

        yield Announced()
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar
    from rich.text import Text

    from collapsekit.render.sanitize import clean

    times = TimeElapsedColumn(), TimeRemainingColumn(compact=True)
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), *times)
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("starting", total=None)

        class Drawn(Told):
            shown = ""

            def step(self, what: str, done: int, total: int | None, said: str = "") -> None:
                if what != self.shown:
                    bar.reset(task)
                    self.shown = what
                text = f"{what} ({said})" if said else what
                bar.update(task, description=clean(text), completed=done, total=total)

            def note(self, text: str) -> None:
                bar.console.print(Text(clean(text, limit=1000)))

        yield Drawn()
