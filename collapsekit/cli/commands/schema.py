"""collapsekit schema."""

from __future__ import annotations

import importlib
import json
from enum import StrEnum
from typing import Annotated

import typer

from collapsekit.cli.output import write
from collapsekit.cli.terminal import Ended, guarded


class SchemaKind(StrEnum):
    """Files that collapsekit writes as JSON."""

    report = "report"
    repair = "repair"
    gate = "gate"
    baseline = "baseline"
    compare = "compare"
    reproduction = "reproduction"


# Imported when asked for: the schema of a report needs no NumPy.
_MODELS = {
    SchemaKind.report: ("collapsekit.report.diagnosis", "Report"),
    SchemaKind.repair: ("collapsekit.report.repair", "RepairReport"),
    SchemaKind.gate: ("collapsekit.report.gate", "GateReport"),
    SchemaKind.baseline: ("collapsekit.report.baseline", "Baseline"),
    SchemaKind.compare: ("collapsekit.report.comparison", "Comparison"),
    SchemaKind.reproduction: ("collapsekit.report.reproduction", "Reproduction"),
}


@guarded
def schema(
    kind: Annotated[
        SchemaKind,
        typer.Argument(help="Which file: what diagnose, repair, gate, baseline, compare or reproduce writes."),
    ] = SchemaKind.report,
) -> Ended:
    """Print the JSON Schema of report.json, or of another file."""
    module, name = _MODELS[kind]
    model = getattr(importlib.import_module(module), name)
    text = json.dumps(model.model_json_schema(), indent=1, allow_nan=False)
    return Ended(show=lambda: write(f"{text}\n", "json"))
