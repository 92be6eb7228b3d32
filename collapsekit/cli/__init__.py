"""The command line: options in, exit code out. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import Any, NoReturn

_EMPTY = "an argument is empty, as where a shell's variable is not set: give a value, or leave it and its option out."


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of ``collapsekit`` and ``python -m collapsekit``."""
    from collapsekit.user_code import interrupts

    heard = interrupts.listen()
    try:
        from collapsekit.cli import output
        from collapsekit.cli.child import ROLES

        held = output.Held()
        ROLES.command_line = main
        ROLES.arguments = sys.argv[1:] if arguments is None else arguments
        code = _code(ROLES.arguments)
        if code != 0 and not ROLES.child_decided:
            _tell_the_others(code)
        heard.instead = lambda: None  # nobody would catch it any more
        code = held.code(code, heard.seen)
        sys.stdout = sys.stderr  # for what a user's functions still print when the process ends
    except KeyboardInterrupt:  # before a command began, or as it ended
        code = 130
    if sys.flags.inspect or "PYTHONINSPECT" in os.environ:  # then Python asks for more on a terminal, and ends with 0
        os._exit(code)
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Return the exit code of ``collapsekit ARGUMENTS``, run in this process and with its sys.stdout and sys.stderr."""
    from collapsekit.cli import output

    held = output.Held()
    try:
        return held.code(_code(arguments), False)
    finally:
        held.release()


def _code(arguments: list[str]) -> int:
    """What the command ends with, whatever happens in it."""
    from collapsekit.cli import output

    try:
        _typed(arguments)
    except SystemExit as e:
        return e.code if isinstance(e.code, int) else int(e.code is not None)
    except KeyboardInterrupt:
        output.message("interrupted.")
        return output.INTERRUPTED
    except BaseException as e:  # noqa: BLE001 - a fault before a command has begun
        return output.internal_error(e)
    return 0


def _tell_the_others(code: int) -> None:
    """Where several processes were started for one job: this one ends before it met them."""
    if os.environ.get("WORLD_SIZE", "1") not in ("", "1"):
        with contextlib.suppress(Exception):  # the code stands, whether or not they can be told
            from collapsekit.distributed.process_group import tell_absent

            tell_absent(code)


def _typed(asked: list[str]) -> None:
    # NumPy's and SciPy's part of the work is small; their idle threads would only slow torch's down.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from collapsekit.cli.output import message, write
    from collapsekit.cli.overview import COMMANDS, VERSION, overview

    # A shell that completes gives no arguments. Where there are some, a variable that was left behind completes nothing,
    # whatever name this was started by: it would print, and exit with 0, in the place of the command.
    completing = not asked and "_COLLAPSEKIT_COMPLETE" in os.environ
    if "" in asked:
        message(f"error: {_EMPTY}")
        raise SystemExit(2)
    known = asked
    # What is asked most often, and to see whether anything works at all, does not wait for typer.
    plain = {"--help": overview, "-h": overview, "--version": lambda: VERSION}
    if len(known) == 1 and known[0] in plain:
        write(f"{plain[known[0]]()}\n")
        return
    from collapsekit.cli.root import make_app

    app = make_app(known[:1] if known and known[0] in COMMANDS else list(COMMANDS))
    app(args=asked, prog_name="collapsekit", **({} if completing else {"complete_var": ""}))


def __getattr__(name: str) -> Any:
    """``app``: the typer application with every command, made when first asked for."""
    if name != "app":
        raise AttributeError(f"module 'collapsekit.cli' has no attribute {name!r}")
    from collapsekit.cli.root import make_app

    globals()[name] = made = make_app()
    return made
