"""What a user's function may not do: end the run. Only a finished verdict gives exit code 0."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from collapsekit.errors import ConfigError
from collapsekit.user_code import interrupts
from collapsekit.user_code.frames import short_path

_PACKAGE = str(Path(__file__).parents[1])
# How command lines made with these libraries exit.
_EXITS, _LIBRARIES = {"Exit", "Abort"}, {"click", "typer"}


@contextmanager
def no_exit() -> Iterator[None]:
    """Run what calls a user's functions, so that an exit() in there becomes an error.

    That, or a KeyboardInterrupt that is no Ctrl-C, becomes a ConfigError that names the function. A Ctrl-C that they
    swallow, or turn into something else, is raised again.
    """
    with interrupts.noticed() as seen:
        try:
            yield
        except BaseException as e:
            if seen() and not isinstance(e, GeneratorExit):
                raise KeyboardInterrupt from e
            if is_exit(e):
                raise exit_refused(e) from e
            raise
        if seen():
            raise KeyboardInterrupt


def is_exit(error: BaseException) -> bool:
    """Tell whether this is how a function ends the process instead of returning."""
    if isinstance(error, SystemExit | KeyboardInterrupt):
        return True
    return any(k.__name__ in _EXITS and k.__module__.partition(".")[0] in _LIBRARIES for k in type(error).__mro__)


def exit_refused(error: BaseException) -> ConfigError:
    """Return the error in the place of an exit, or of another exception that no program catches."""
    text = " ".join(str(error).split())[:200]
    return ConfigError(
        f"{_where(error)} ended the run with {type(error).__name__}{f'({text})' if text else ''}: what a run calls has to "
        "return, or to raise an Exception; take the exit out of it."
    )


def _where(error: BaseException) -> str:
    """The innermost function that is the user's own; else the innermost of a library that is neither torch nor this."""
    frames = list(_frames(error.__traceback__))[::-1]
    torch = getattr(sys.modules.get("torch"), "__file__", None)
    known = [_PACKAGE, *([str(Path(torch).parent)] if torch else [])]
    python = [sysconfig.get_paths()["stdlib"], "<frozen"]
    for installed in (False, True):
        for name, file, line in frames:
            library = "site-packages" in file or "dist-packages" in file
            if file.startswith(tuple(known)) or (library and not installed):
                continue
            if library or not file.startswith(tuple(python)):
                return f"{name} ({short_path(file)}:{line})"
    return "code that the run calls"


def _frames(trace: TracebackType | None) -> Iterator[tuple[str, str, int]]:
    while trace is not None:
        code = trace.tb_frame.f_code
        yield code.co_qualname, code.co_filename, trace.tb_lineno
        trace = trace.tb_next
