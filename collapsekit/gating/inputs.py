"""The report that a gate is about: an object, or what lies at a path."""

from __future__ import annotations

import os
from pathlib import Path

from collapsekit.errors import ConfigError
from collapsekit.io.json import read_json
from collapsekit.report.diagnosis import Report
from collapsekit.report.per_example import NAME, load_records
from collapsekit.report.repair import RepairReport

_WEIGHTS = (".safetensors", ".safetensors.index.json", ".bin", ".pt", ".pth", ".ckpt", ".metadata")


def read_subject(path: Path | None) -> Report | None:
    """Return the report at the path, with the records beside it; None where it is no report, but a checkpoint."""
    if path is not None and os.path.isdir(path) and os.path.lexists(path / "report.json"):  # noqa: PTH112
        there = sorted(p.name for p in path.iterdir())
        weights = next((n for n in there if n.endswith(_WEIGHTS) and n != NAME), None)
        if weights is not None:  # the report may be of other weights than those
            raise ConfigError(
                f"{path} holds a report.json and weights ({weights[:80]!r}): give {path / 'report.json'} to judge the "
                f"report as it is, or {path / weights} to diagnose those weights."
            )
        path = path / "report.json"
    if path is None or path.suffix.lower() != ".json":
        return None
    if not os.path.lexists(path):
        raise ConfigError(
            f"{path} is not a file: give a report.json that `collapsekit diagnose` wrote, or a checkpoint."
        )
    raw = read_json(path)
    if isinstance(raw, dict) and "weight_map" in raw:
        return None  # the index of a sharded checkpoint
    if isinstance(raw, dict) and raw.get("kind") == "repair":
        return _after(RepairReport.from_data(raw, str(path)), str(path))
    report = Report.from_data(raw, str(path))
    records = load_records(report, path)
    return report if records is None else report.with_records(records)


def report_of(report: Report | RepairReport | str | os.PathLike[str]) -> Report:
    """Return the report that a call of :func:`collapsekit.gate` is about.

    Raises ConfigError for what is no report, RefusedError where a file cannot be read as one.
    """
    if isinstance(report, Report):
        return report
    if isinstance(report, RepairReport):
        return _after(report, "the report")
    path = path_of(report, "report")
    read = read_subject(path)
    if read is None:
        raise ConfigError(
            f"{path} is not a report: give a report.json that `collapsekit diagnose` wrote, or diagnose the checkpoint "
            "first with collapsekit.diagnose."
        )
    return read


def path_of(value: object, what: str) -> Path:
    """Return what is called ``what``, as a path. Raises ConfigError where it is none."""
    if not isinstance(value, str | os.PathLike):
        raise ConfigError(f"{what} is {type(value).__name__}, expected a report that was made, or the path of one.")
    return Path(value)


def _after(repair: RepairReport, origin: str) -> Report:
    """The report on a repaired model."""
    if not repair.exported:
        raise ConfigError(
            f"{origin} is of a repair that was rejected and wrote no weights, so there is no model to judge: give the "
            "report.json of the model that is there."
        )
    return repair.after
