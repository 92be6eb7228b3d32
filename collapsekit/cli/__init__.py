"""The command line: one thin file a command. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from collapsekit import __version__
from collapsekit.cli import (
    baseline,
    compare,
    demo,
    diagnose,
    doctor,
    gate,
    init,
    inspect,
    listing,
    repair,
    report,
    schema,
)

app = typer.Typer(
    name="collapsekit",
    help="Find out which modalities a multimodal PyTorch model ignores, how much that costs, and why.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo.demo)
app.command("init")(init.init)
app.command("inspect")(inspect.inspect)
app.command("diagnose")(diagnose.diagnose)
app.command("repair")(repair.repair)
app.command("gate")(gate.gate)
app.add_typer(baseline.app, name="baseline")
app.command("report")(report.report)
app.command("compare")(compare.compare)
app.command("list")(listing.list_)
app.command("schema")(schema.schema)
app.command("doctor")(doctor.doctor)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"collapsekit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    del version


def main() -> None:
    """Entry point of ``collapsekit`` and ``python -m collapsekit``."""
    # NumPy's and SciPy's part of the work is small; their idle threads would only slow torch's down.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    app()
