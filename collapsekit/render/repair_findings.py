"""What methods of a repair noted down of their own, and what they put into the model, as tables of text."""

from __future__ import annotations

from collapsekit.render.numbers import fmt, fmt_interval
from collapsekit.render.repair_compare import whole_label
from collapsekit.render.repair_tables import Cell, Grid
from collapsekit.report.diagnosis import Result
from collapsekit.report.repair import BasisInsert, ExchangeInsert, RepairReport

_HEADERS = (Cell("result"), Cell("value", "number"), Cell("note"))


def finding_grid(report: RepairReport) -> Grid:
    """Each finding of a method with its caveat."""
    rows = tuple(map(_row, report.findings))
    return Grid("Noted by the method", _HEADERS, rows, "Measured while the model was repaired.")


def _row(r: Result) -> tuple[Cell, Cell, Cell]:
    value = Cell("skipped") if r.skipped else Cell(fmt(r.value), "number", fmt_interval(r.interval))
    return Cell(whole_label(r), "name", r.unit or ""), value, Cell(r.skipped or r.note or "")


def new_grid(report: RepairReport) -> Grid:
    """Numbers that only the repaired model has, with no counterpart before."""
    rows = tuple(map(_row, _new(report)))
    said = f"Measured on the {report.after.subject.split} split; the model could not do this before."
    return Grid("New with the repair", _HEADERS, rows, said)


def _new(report: RepairReport) -> list[Result]:
    known = {r.name for r in report.before.results}
    return [r for r in report.after.results if r.name not in known and r.value is not None]


def structure_grid(report: RepairReport) -> Grid:
    """What was put into the model, an insert a line."""
    rows = tuple((Cell(r.path, "name"), Cell(_insert(r))) for r in report.structure)
    said = "Modules that were put into the model; collapsekit.load_repaired puts them into yours."
    return Grid("Put into the model", (Cell("behind"), Cell("what")), rows, said)


def _insert(record: BasisInsert | ExchangeInsert) -> str:
    if isinstance(record, BasisInsert):
        widths = (record.features, record.hidden, record.latent, record.hidden, record.features)
        return f"heads h and h⁻¹ of {record.modality}: {' → '.join(map(str, widths))} channels"
    projected = f", by a projection from {record.given}" if record.given != record.features else ""
    own = f"{len(record.to)} of the {record.features} channels of {record.modality}"
    return f"{own} blended with {record.giver}'s{projected}"


def finding_definitions(report: RepairReport) -> list[tuple[Cell, Cell, Cell]]:
    """Rows of the table of definitions, of what has no counterpart before."""
    found = {(r.name, r.definition, r.source) for r in [*report.findings, *_new(report)]}
    return [(Cell(name, "name"), Cell(definition), Cell(source)) for name, definition, source in sorted(found)]
