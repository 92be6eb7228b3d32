"""collapsekit schema."""

from __future__ import annotations

import json

import typer

from collapsekit.cli.terminal import guarded


@guarded
def schema() -> None:
    """Print the JSON Schema of report.json."""
    from collapsekit.report import Report

    typer.echo(json.dumps(Report.model_json_schema(), indent=1, allow_nan=False))
