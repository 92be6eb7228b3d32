"""The typer application: every command, or only those asked for."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from collapsekit.cli.output import write
from collapsekit.cli.overview import ABOUT, COMMANDS, VERSION, VERSION_HELP, overview

# Where a command is, unless in the module and function of its name.
_ELSEWHERE = {"list": ("list", "list_")}


class _RootGroup(TyperGroup):
    """Whose help is the overview, however it was asked for."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        write(f"{overview()}\n")  # typer prints it too, and shows nothing of the formatter where arguments are missing


def make_app(names: Iterable[str] = COMMANDS) -> typer.Typer:
    """Make the application with these commands; no other is imported."""
    app = typer.Typer(
        name="collapsekit",
        help=ABOUT,
        cls=_RootGroup,
        no_args_is_help=True,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_root)
    for name in names:
        module, function = _ELSEWHERE.get(name, (name, name))
        found = importlib.import_module(f"collapsekit.cli.commands.{module}")
        if hasattr(found, "app"):  # a command of several
            app.add_typer(found.app, name=name)
        else:
            app.command(name)(getattr(found, function))
    return app


def _version(wanted: bool) -> None:
    if wanted:
        write(f"{VERSION}\n")
        raise typer.Exit


def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help=VERSION_HELP)] = False,
) -> None:
    del version
