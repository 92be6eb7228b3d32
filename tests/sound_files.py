"""A sound file of every kind that collapsekit writes, and the files that schema version 1 wrote."""

from __future__ import annotations

import gzip
import hashlib
import json
from functools import cache
from pathlib import Path

from collapsekit.comparison.compare import compare
from collapsekit.gating.decide import gate
from collapsekit.report.base import Contract
from collapsekit.report.baseline import Baseline
from collapsekit.report.comparison import Comparison
from collapsekit.report.diagnosis import Report
from collapsekit.report.gate import GateReport
from collapsekit.report.repair import RepairReport

FIRST = Path(__file__).parent / "fixtures" / "version1"
KINDS: dict[str, type[Contract]] = {
    "report": Report,
    "repair": RepairReport,
    "gate": GateReport,
    "comparison": Comparison,
    "baseline": Baseline,
}
RULES = ("verdict == collapsed", "modalities.a.score <= 0.5", "results[no.such] < 1")


@cache
def first(name: str) -> str:
    """The text of a file as schema version 1 wrote it."""
    packed = FIRST / f"{name}.json.gz"
    return gzip.decompress(packed.read_bytes()).decode() if packed.exists() else (FIRST / f"{name}.json").read_text()


def records() -> bytes:
    """What the report says of each example."""
    return (FIRST / "records.safetensors").read_bytes()


@cache
def sound(name: str) -> str:
    """The text of a sound file of that kind, as it is written today."""
    if name == "comparison":
        report = Report.from_json(first("report"))
        return compare({who: [_moved(report, i + 6 * (who == "b")) for i in range(6)] for who in "ab"}).to_json()
    if name == "gate":
        report = Report.from_json(first("report")).with_records(records())
        return gate(report, require=RULES, baseline=Baseline.from_json(first("baseline"))).to_json()
    return KINDS[name].from_json(first(name)).to_json()


def _moved(report: Report, by: int) -> Report:
    """The report of another run, whose ranks and accuracies lie higher."""
    results = tuple(
        r if r.value is None or r.name != "reliance.full_metric" else r.model_copy(update={"value": r.value + by / 1e3})
        for r in report.results
    )
    subject = report.subject.model_copy(update={"sha256": hashlib.sha256(str(by).encode()).hexdigest()})
    settings = {**report.settings, "training_seed": by % 6}
    return report.model_copy(update={"results": results, "subject": subject, "settings": settings})


def raw(name: str) -> dict[str, object]:
    """The JSON of a sound file, to be changed."""
    return dict(json.loads(sound(name)))
