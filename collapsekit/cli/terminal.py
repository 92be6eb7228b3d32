"""What the commands share: messages and progress on stderr, data on stdout, exit codes."""

from __future__ import annotations

import functools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO, TypeVar

import typer

from collapsekit.cli import output
from collapsekit.cli.child import ROLES, ChildEndedError
from collapsekit.cli.log import LOG
from collapsekit.cli.output import INTERNAL, INTERRUPTED, internal_error
from collapsekit.config.flags import TRUST_PICKLE
from collapsekit.errors import CollapsekitError, ConfigError
from collapsekit.user_code import interrupts
from collapsekit.user_code.exits import exit_refused, is_exit

if TYPE_CHECKING:
    from collapsekit.cli.following import Follower
    from collapsekit.context import Progress
    from collapsekit.render.first_screen import Screened
    from collapsekit.render.views._screen import NextStep
    from collapsekit.render.views.baseline import Update
    from collapsekit.report.base import Contract

TrustPickle = Annotated[str | None, typer.Option(metavar=TRUST_PICKLE.metavar, help=TRUST_PICKLE.help)]


@dataclass(frozen=True)
class Ended:
    """How a command ended: all is computed, all files are written, and its exit code stands. Only then is it shown."""

    code: int = 0
    show: Callable[[], object] = lambda: None


NOTES, MESSAGES = 5, 2  # lines on stderr, before and after a first screen, beside that on the config
_WIDTH = 80  # columns where there is no terminal, and of messages
Command = TypeVar("Command", bound=Callable[..., Ended])


def say(text: str) -> None:
    """Print one message on stderr, made safe to print."""
    output.message(text)


def guarded(command: Command) -> Command:
    """Turn errors into one sentence and the design's exit codes; a traceback only for our own faults.

    The exit code is decided before anything is shown, and nothing that showing meets makes a failure a success.
    """

    @functools.wraps(command)
    def run(*args: Any, **kwargs: Any) -> Any:
        with output.kept_apart():
            code = _code_of(lambda: command(*args, **kwargs))
            LOG.stop()
        raise typer.Exit(code)

    return run  # type: ignore[return-value]


def _code_of(command: Callable[[], Ended]) -> int:
    try:
        ended = command()
        interrupts.check()
    except ChildEndedError as e:
        return e.code
    except BaseException as e:  # noqa: BLE001 - a user's function may raise anything
        return _failed(e)
    ROLES.decide(ended.code)
    try:
        ended.show()
    except BaseException as e:  # noqa: BLE001
        code = INTERRUPTED if _is_interrupt(e) else internal_error(e)
        return code if ended.code == 0 or code == INTERRUPTED else ended.code
    return ended.code


def _failed(error: BaseException) -> int:
    """The exit code of a command that ended with an error, which is said once it is decided."""
    if _is_interrupt(error):
        ROLES.decide(INTERRUPTED)
        say("interrupted: nothing was written after the last finished file.")
        return INTERRUPTED
    if is_exit(error) or not isinstance(error, Exception):
        error = exit_refused(error)
    if not isinstance(error, CollapsekitError):
        ROLES.decide(INTERNAL)
        return internal_error(error)
    ROLES.decide(error.exit_code)
    from collapsekit.distributed.process_group import started_together

    rank = os.environ.get("RANK", "0") if started_together() else "0"
    if rank == "0" or not getattr(error, "told_by_first", False):
        say(f"error: {error}" if rank == "0" else f"error of process {rank}: {error}")
        _show_traceback(error)
    return error.exit_code


def _show_traceback(error: BaseException) -> None:
    """The traceback of the user's own code, to the log and where more is asked for; nothing of ours or of libraries."""
    if LOG.verbose or LOG.file is not None:
        from collapsekit.user_code.frames import user_traceback

        text = user_traceback(error)
        if text and LOG.verbose:
            output.message(text, "trace")
        else:
            LOG.add("trace", text)


def _is_interrupt(error: BaseException) -> bool:
    """Whether somebody pressed Ctrl-C. Where another's program runs the command, only the error can say so."""
    ours = ROLES.arguments is not None
    return interrupts.interrupted() if ours else isinstance(error, KeyboardInterrupt)


def working_directory() -> Path | None:
    """Return the working directory; None where somebody removed it."""
    try:
        return Path.cwd()
    except OSError:
        return None


def need_working_directory() -> None:
    """Raise ConfigError where it is gone: torch, which is about to be imported, would end the process."""
    if working_directory() is None:
        raise ConfigError(
            "the working directory was removed, and torch cannot be imported without one: change to another."
        )


def screen(report: Contract | Update) -> None:
    """Print all of a report of any kind on stdout, in colour and at full width only on a terminal."""
    from collapsekit.render import write

    width, color = _device()
    output.write(write(report, "terminal", width=width, color=color))


def first_screen(report: Screened, steps: tuple[NextStep, ...], ends: tuple[str, ...]) -> None:
    """Print what matters of a report on stdout, in at most as many lines as a screen has.

    Args:
        report: A diagnosis, a repair or a comparison.
        steps: What can be done next.
        ends: Sentences on where the files are.
    """
    from collapsekit.render.first_screen import write_screen

    width, color = _device()
    output.write(write_screen(report, steps, ends, width=width, color=color))


def say_shortly(text: str, most: int) -> None:
    """Print a message on stderr in at most so many lines of 80 columns."""
    say("\n".join(_lines(text, most)))


def _lines(text: str, most: int) -> list[str]:
    from collapsekit.io.safe_text import clean
    from collapsekit.render.first_screen import wrap

    return wrap(clean(text, limit=1000), most, min(_WIDTH, _width(sys.stderr)))


def _device() -> tuple[int, bool]:
    """Columns of what data is printed on, and whether in colour."""
    stream = output.data_stream()
    terminal = stream.isatty()
    width = _width(stream) if terminal else _WIDTH
    color = terminal and "NO_COLOR" not in os.environ and os.environ.get("TERM") != "dumb"
    return min(width, 120), color


def _width(stream: TextIO) -> int:
    """Columns of the terminal that data goes to; $COLUMNS goes before."""
    try:
        if not os.environ.get("COLUMNS"):
            return os.get_terminal_size(stream.fileno()).columns or 80
    except (OSError, ValueError):
        pass
    return shutil.get_terminal_size().columns


class _Room:
    """Lines that there are for notes, one of which says, where they are used up, that there are more."""

    def __init__(self, most: int | None) -> None:
        self.left = most

    def take(self, text: str) -> list[str]:
        """What is printed of a note."""
        if self.left is None:
            return [text]
        lines = _lines(text, 2)
        if len(lines) < self.left:
            self.left -= len(lines)
            return lines
        shown, self.left = ["More notes with --verbose."] * (self.left > 0), 0
        return shown


@contextmanager
def progress(
    quiet: bool, notes: int | None = None, *, verbose: bool = False, log: Path | None = None
) -> Iterator[Progress]:
    """Show progress on stderr: a bar on a terminal, a plain line now and then when piped, nothing when quiet.

    Args:
        quiet: Whether nothing is to be seen of it.
        notes: At most so many lines of notes; None, and where it is verbose: all.
        verbose: Whether it is also said how long each stage took, and where a user's own code raised.
        log: A file for all that is said, to the end of the command; None: none is written.

    Yields:
        The progress.

    Raises:
        ConfigError: Where the log cannot be written.
    """
    LOG.start(log, verbose=verbose)
    with _follower(quiet, _Room(None if verbose else notes)) as follower:
        try:
            yield follower
        finally:
            follower.end()


@contextmanager
def _follower(quiet: bool, room: _Room) -> Iterator[Follower]:
    from collapsekit.cli.following import Lines, Silent, drawn

    if quiet:
        yield Silent()
    elif not sys.stderr.isatty():
        yield Lines(room.take)
    else:
        with drawn(room.take) as bar:
            yield bar
