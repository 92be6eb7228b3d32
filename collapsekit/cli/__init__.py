"""The command line: one thin file a command. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
import sys
from typing import Any


def main() -> None:
    """Entry point of ``collapsekit`` and ``python -m collapsekit``."""
    # NumPy's and SciPy's part of the work is small; their idle threads would only slow torch's down.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from collapsekit.cli.overview import COMMANDS, VERSION, overview

    asked = sys.argv[1:]
    if "_COLLAPSEKIT_COMPLETE" in os.environ:  # a shell that completes; what it asks of is not in argv
        asked = []
    # What is asked most often, and to see whether anything works at all, does not wait for typer.
    plain = {"--help": overview, "-h": overview, "--version": lambda: VERSION}
    if len(asked) == 1 and asked[0] in plain:
        sys.stdout.write(f"{plain[asked[0]]()}\n")
        return
    from collapsekit.cli.root import make_app

    try:
        make_app(asked[:1] if asked and asked[0] in COMMANDS else list(COMMANDS))()
    except SystemExit as e:
        from collapsekit.world import tell_absent

        if e.code:
            tell_absent(e.code if isinstance(e.code, int) else 1)
        raise


def __getattr__(name: str) -> Any:
    """``app``: the typer application with every command, made when first asked for."""
    if name != "app":
        raise AttributeError(f"module 'collapsekit.cli' has no attribute {name!r}")
    from collapsekit.cli.root import make_app

    globals()[name] = made = make_app()
    return made
